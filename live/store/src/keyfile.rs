//! Files that hold one secret of 32 bytes, as hexadecimal, readable by their owner only.

use ol_protocol::id::{hex, unhex};
use ol_protocol::key::SecretKey;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

// 64 digits and a line end, with room to notice that there is more.
const FILE_BYTES_MAX: u64 = 128;

/// Why a key file can't be used.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// Others than its owner may read or change it.
    #[error("key file {path} has mode {mode:o}: others may read or change it, set it to 600")]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// It holds something else than a key.
    #[error("key file {path} does not hold 64 hexadecimal digits")]
    Malformed {
        /// The file.
        path: PathBuf,
    },
    /// It is not there.
    #[error("key file {path} is missing")]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// It can't be read.
    #[error("cannot read key file {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        cause: Arc<io::Error>,
    },
    /// It can't be made.
    #[error("cannot create key file {path}")]
    Create {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        cause: Arc<io::Error>,
    },
}

/// The signing key in a file, made there if there is none.
pub fn load_or_create(path: &Path) -> Result<SecretKey, Error> {
    secret_file(path).map(|bytes| SecretKey::from_bytes(&bytes))
}

/// The 32 secret bytes in a file, made there if there is none: for secrets that sign nothing.
pub fn secret_file(path: &Path) -> Result<[u8; 32], Error> {
    match load(path) {
        Err(Error::Missing { .. }) => create(path),
        other => other,
    }
}

/// The 32 secret bytes in a file that must be there.
pub fn load(path: &Path) -> Result<[u8; 32], Error> {
    let failed = |cause: io::Error| match cause.kind() {
        io::ErrorKind::NotFound => Error::Missing { path: path.into() },
        _ => Error::Read { path: path.into(), cause: Arc::new(cause) },
    };
    let file = File::open(path).map_err(failed)?;
    let mode = mode(&file.metadata().map_err(failed)?);
    if mode & 0o077 != 0 {
        return Err(Error::Exposed { path: path.into(), mode });
    }
    let mut text = Vec::new();
    file.take(FILE_BYTES_MAX).read_to_end(&mut text).map_err(failed)?;
    parse(&text).ok_or_else(|| Error::Malformed { path: path.into() })
}

fn parse(text: &[u8]) -> Option<[u8; 32]> {
    let text = core::str::from_utf8(text).ok()?;
    let mut bytes = [0; 32];
    unhex(text.strip_suffix('\n').unwrap_or(text), &mut bytes).map(|()| bytes)
}

// A reader sees the whole file or none, and of two creators one wins and the other takes the winner's secret.
fn create(path: &Path) -> Result<[u8; 32], Error> {
    let failed = |cause: io::Error| Error::Create { path: path.into(), cause: Arc::new(cause) };
    let mut secret = [0; 32];
    let mut tag = [0; 8];
    let random = getrandom::fill(&mut secret).and_then(|()| getrandom::fill(&mut tag));
    random.map_err(|_| failed(io::Error::other("no randomness from the system")))?;
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let draft = folder.join(format!(".key-{}", hex(&tag)));
    let linked = write_draft(&draft, &secret).and_then(|()| fs::hard_link(&draft, path));
    // The draft is gone when this returns, whatever came of the link.
    let removed = fs::remove_file(&draft);
    match linked {
        Ok(()) => removed.and_then(|()| File::open(folder)?.sync_all()).map(|()| secret).map_err(failed),
        Err(cause) if cause.kind() == io::ErrorKind::AlreadyExists => load(path),
        Err(cause) => Err(failed(cause)),
    }
}

fn write_draft(path: &Path, secret: &[u8; 32]) -> io::Result<()> {
    let mut file = private(OpenOptions::new().write(true).create_new(true)).open(path)?;
    file.write_all(format!("{}\n", hex(secret)).as_bytes())?;
    file.sync_all()
}

/// Makes new files readable by their owner only.
#[cfg(unix)]
pub(crate) fn private(options: &mut OpenOptions) -> &mut OpenOptions {
    std::os::unix::fs::OpenOptionsExt::mode(options, 0o600)
}

#[cfg(unix)]
fn mode(metadata: &fs::Metadata) -> u32 {
    std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o7777
}

/// Makes new files readable by their owner only.
#[cfg(not(unix))]
pub(crate) fn private(options: &mut OpenOptions) -> &mut OpenOptions {
    options
}

#[cfg(not(unix))]
fn mode(_: &fs::Metadata) -> u32 {
    0o600
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn folder() -> tempfile::TempDir {
        tempfile::tempdir().expect("a folder")
    }

    fn written(folder: &tempfile::TempDir, text: &str, mode: u32) -> PathBuf {
        let path = folder.path().join("key");
        fs::write(&path, text).expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("mode");
        path
    }

    #[test]
    fn a_made_key_is_private_and_read_again() {
        let folder = folder();
        let path = folder.path().join("key");
        let made = load_or_create(&path).expect("made").public();
        assert_eq!(load_or_create(&path).expect("read").public(), made);
        assert_eq!(mode(&fs::metadata(&path).expect("there")), 0o600);
        assert_eq!(fs::read_dir(folder.path()).expect("read").count(), 1, "no draft is left");
    }

    #[test]
    fn two_creators_at_once_get_the_same_secret() {
        let folder = folder();
        let path = folder.path().join("key");
        let secrets: Vec<[u8; 32]> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| secret_file(&path).expect("a secret"))).collect();
            threads.into_iter().map(|thread| thread.join().expect("joined")).collect()
        });
        assert_eq!(secrets, [secrets[0]; 8]);
    }

    #[test]
    fn a_key_that_others_may_read_is_refused() {
        let folder = folder();
        let path = written(&folder, &"ab".repeat(32), 0o640);
        let error = load_or_create(&path).expect_err("refused").to_string();
        assert_eq!(
            error,
            format!("key file {} has mode 640: others may read or change it, set it to 600", path.display())
        );
    }

    #[test]
    fn other_content_is_refused_and_kept() {
        for text in ["", "ab", &"zz".repeat(32), &"ab".repeat(33), &format!("{}\n\n", "ab".repeat(32))] {
            let folder = folder();
            let path = written(&folder, text, 0o600);
            assert!(matches!(secret_file(&path), Err(Error::Malformed { .. })), "{text:?}");
            assert_eq!(fs::read_to_string(&path).expect("read"), text);
        }
    }

    #[test]
    fn a_folder_that_is_not_there_is_named() {
        let path = folder().path().join("nowhere/key");
        let error = secret_file(&path).expect_err("no folder").to_string();
        assert_eq!(error, format!("cannot create key file {}", path.display()));
    }
}
