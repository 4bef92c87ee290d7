//! A database file as the power left it: what a process wrote is recorded by strace, and of what it wrote after its last
//! flush any part may be there.

use super::random::Random;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What a disk writes at once.
const SECTOR: usize = 512;

/// Beyond the longest write of SQLite, so that no string of the trace is cut.
const STRING_MAX: &str = "9000000";

/// Bytes of a trace that hold its last writes.
const TAIL: u64 = 100_000;

/// When the power goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Moment {
    /// Whenever the test ends the process; a flush takes longer than usual, so that this is often in its midst.
    Any,
    /// With a write of the process, counted from its start.
    Write(u64),
    /// With a flush of the process, counted from its start: it wrote everything, and nothing is certain.
    Flush(u64),
}

impl Moment {
    /// Within a gateway's first seconds: it writes some 20 pages twice a second.
    pub(super) fn of_gateway(random: &mut Random) -> Self {
        match random.between(0, 3) {
            0 => Self::Any,
            1 => Self::Write(random.between(40, 240)),
            _ => Self::Flush(random.between(5, 16)),
        }
    }

    /// Within a node's first seconds: it keeps a batch a second, and its acknowledgement.
    pub(super) fn of_node(random: &mut Random) -> Self {
        match random.between(0, 3) {
            0 => Self::Any,
            1 => Self::Write(random.between(20, 70)),
            _ => Self::Flush(random.between(4, 9)),
        }
    }

    /// How long to wait for it.
    pub(super) fn limit(self, random: &mut Random) -> Duration {
        match self {
            Self::Any => Duration::from_millis(random.between(100, 3_000)),
            Self::Write(_) | Self::Flush(_) => Duration::from_secs(5),
        }
    }

    fn injections(self) -> Vec<String> {
        let slow = "inject=fsync:delay_enter=50000".to_owned();
        match self {
            Self::Any => vec![slow],
            Self::Write(nth) => vec![slow, format!("inject=pwrite64:signal=KILL:when={nth}")],
            Self::Flush(nth) => vec![format!("inject=fsync:signal=KILL:when={nth}")],
        }
    }
}

/// Records what a process will do to a database.
pub(super) struct Recorder {
    files: Vec<File>,
    trace: PathBuf,
}

#[derive(Clone)]
struct File {
    path: PathBuf,
    // What is certain to be on the disk; nothing if the file isn't.
    flushed: Option<Vec<u8>>,
    // What was done since, and may be there or not.
    later: Vec<Change>,
}

#[derive(Clone)]
enum Change {
    Write { at: usize, bytes: Vec<u8> },
    Length(usize),
    Removed,
}

/// A database and its log beside it. SQLite's third file is made anew by whoever opens them.
pub(super) fn files_of(database: &Path) -> [PathBuf; 2] {
    let mut log = OsString::from(database);
    log.push("-wal");
    [database.to_path_buf(), log.into()]
}

impl Recorder {
    /// Of a database that nobody has open; what is there now is taken to be on the disk.
    pub(super) fn new(database: &Path, trace: &Path) -> Self {
        let file = |path: PathBuf| File { flushed: std::fs::read(&path).ok(), path, later: Vec::new() };
        Self { files: files_of(database).map(file).into(), trace: trace.to_path_buf() }
    }

    /// What runs the process.
    pub(super) fn runner(&self, moment: Moment) -> Vec<String> {
        let calls = "trace=pwrite64,write,fsync,fdatasync,ftruncate,unlink";
        let mut all: Vec<String> =
            ["strace", "-D", "-f", "-y", "-xx", "-s", STRING_MAX, "-e", calls].map(str::to_owned).into();
        // Faster, and then strace 6.1 injects no signals.
        if moment == Moment::Any {
            all.push("--seccomp-bpf".to_owned());
        }
        for file in &self.files {
            all.extend(["-P".to_owned(), file.path.to_str().unwrap().to_owned()]);
        }
        for injection in moment.injections() {
            all.extend(["-e".to_owned(), injection]);
        }
        all.extend(["-o".to_owned(), self.trace.to_str().unwrap().to_owned()]);
        all
    }

    /// Whether the process is carrying its log over into the database.
    pub(super) fn carries_over(&self) -> bool {
        let path = format!("<{}>", hex(self.files[0].path.to_str().unwrap().as_bytes()));
        let Ok(mut trace) = std::fs::File::open(&self.trace) else { return false };
        let end = trace.seek(SeekFrom::End(0)).unwrap();
        trace.seek(SeekFrom::Start(end.saturating_sub(TAIL))).unwrap();
        let mut tail = String::new();
        trace.read_to_string(&mut tail).unwrap();
        tail.lines().any(|line| line.contains("pwrite64(") && line.contains(&path))
    }

    /// What is certain and what is not, after the process's end.
    pub(super) fn power_lost(mut self) -> Lost {
        let text = std::fs::read_to_string(&self.trace).unwrap();
        std::fs::remove_file(&self.trace).unwrap();
        for (path, what) in calls(&text) {
            if let Some(file) = self.files.iter_mut().find(|file| file.path == path) {
                file.take(what);
            }
        }
        Lost { files: self.files }
    }
}

/// A database after the power was lost.
pub(super) struct Lost {
    files: Vec<File>,
}

impl Lost {
    /// Changes that may or may not be on the disk.
    pub(super) fn uncertain(&self) -> usize {
        self.files.iter().map(|file| file.later.len()).sum()
    }

    /// Writes the files as they may be found, into a folder; each time others.
    pub(super) fn leave(&self, folder: &Path, random: &mut Random) {
        std::fs::create_dir_all(folder).unwrap();
        let how = *random.pick(&[Kept::Nothing, Kept::Whole, Kept::Sectors, Kept::Sectors]);
        for file in &self.files {
            let path = folder.join(file.path.file_name().unwrap());
            match file.found(how, random) {
                Some(bytes) => std::fs::write(path, bytes).unwrap(),
                None => drop(std::fs::remove_file(path)),
            }
        }
        let database = folder.join(self.files[0].path.file_name().unwrap());
        drop(std::fs::remove_file(format!("{}-shm", database.display())));
    }
}

enum What {
    Change(Change),
    Flush,
}

// What is there of the changes since the last flush.
#[derive(Clone, Copy)]
enum Kept {
    Nothing,
    // Each whole or not at all.
    Whole,
    // Any of their sectors.
    Sectors,
}

impl Kept {
    fn keeps(self, random: &mut Random) -> bool {
        match self {
            Self::Nothing => false,
            Self::Whole | Self::Sectors => random.one_in(2),
        }
    }
}

impl File {
    fn take(&mut self, what: What) {
        match what {
            What::Change(change) => self.later.push(change),
            What::Flush => {
                for change in std::mem::take(&mut self.later) {
                    change.apply(&mut self.flushed);
                }
            }
        }
    }

    fn found(&self, how: Kept, random: &mut Random) -> Option<Vec<u8>> {
        let mut bytes = self.flushed.clone();
        for change in &self.later {
            match (how, change) {
                (Kept::Sectors, Change::Write { at, bytes: written }) => {
                    for (at, sector) in sectors(*at, written).filter(|_| random.one_in(2)).collect::<Vec<_>>() {
                        Change::Write { at, bytes: sector.to_vec() }.apply(&mut bytes);
                    }
                }
                _ if how.keeps(random) => change.clone().apply(&mut bytes),
                _ => {}
            }
        }
        bytes
    }
}

// The parts of a write, cut where the disk's sectors end.
fn sectors(at: usize, bytes: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let first = (SECTOR - at % SECTOR).min(bytes.len());
    let (head, rest) = bytes.split_at(first);
    let rest = rest.chunks(SECTOR).enumerate().map(move |(n, part)| (at + first + n * SECTOR, part));
    std::iter::once((at, head)).chain(rest)
}

impl Change {
    fn apply(self, file: &mut Option<Vec<u8>>) {
        match self {
            Self::Write { at, bytes } => {
                let file = file.get_or_insert_default();
                file.resize(file.len().max(at + bytes.len()), 0);
                file[at..at + bytes.len()].copy_from_slice(&bytes);
            }
            Self::Length(length) => file.get_or_insert_default().resize(length, 0),
            Self::Removed => *file = None,
        }
    }
}

// A line of the trace: a thread's number, the call, its answer. A change that the process's end cut short has no answer, and
// may have been carried out; a flush without an answer is none.
fn calls(trace: &str) -> Vec<(PathBuf, What)> {
    // Threads in a flush that another one's line interrupts.
    let mut flushing: BTreeMap<&str, PathBuf> = BTreeMap::new();
    let mut all = Vec::new();
    for (thread, call) in trace.lines().filter_map(|line| line.split_once(' ')) {
        let call = call.trim_start();
        let is_good = call.contains(") = 0");
        if call.starts_with("<... f") && call.contains("sync resumed>") {
            all.extend(flushing.remove(thread).filter(|_| is_good).map(|path| (path, What::Flush)));
        } else if call.starts_with("fsync(") || call.starts_with("fdatasync(") {
            let path = between(call, '<', '>').expect("strace names the file");
            match is_good {
                true => all.push((path_of(&path), What::Flush)),
                false => drop(flushing.insert(thread, path_of(&path))),
            }
        } else {
            all.extend(change(call).map(|(path, change)| (path, What::Change(change))));
        }
    }
    all
}

fn change(call: &str) -> Option<(PathBuf, Change)> {
    let (name, rest) = call.split_once('(')?;
    match name {
        "pwrite64" => {
            let (path, bytes) = (between(rest, '<', '>')?, between(rest, '"', '"')?);
            let (_, numbers) = rest.rsplit_once("\", ")?;
            let at = leading(numbers.split_once(", ")?.1)?;
            Some((path_of(&path), Change::Write { at, bytes }))
        }
        "ftruncate" => {
            let length = leading(rest.split_once(">, ")?.1)?;
            Some((path_of(&between(rest, '<', '>')?), Change::Length(length)))
        }
        "unlink" => Some((path_of(&between(rest, '"', '"')?), Change::Removed)),
        "write" => panic!("a database that is written without a place: {call}"),
        _ => None,
    }
}

fn path_of(bytes: &[u8]) -> PathBuf {
    String::from_utf8_lossy(bytes).into_owned().into()
}

fn between(text: &str, from: char, to: char) -> Option<Vec<u8>> {
    unhex(text.split_once(from)?.1.split_once(to)?.0)
}

fn leading(text: &str) -> Option<usize> {
    text.split(|it: char| !it.is_ascii_digit()).next()?.parse().ok()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    text.as_bytes()
        .chunks(4)
        .map(|byte| u8::from_str_radix(std::str::from_utf8(byte).ok()?.strip_prefix("\\x")?, 16).ok())
        .collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("\\x{byte:02x}")).collect()
}

#[test]
fn what_was_flushed_is_there_and_of_the_rest_any_part() {
    let path = "\\x61";
    let write =
        |at: usize, byte: &str| format!("7 pwrite64(3<{path}>, \"{}\", 1024, {at}) = 1024\n", byte.repeat(1_024));
    let trace = [
        write(0, "\\x01"),
        format!("7 fsync(3<{path}> <unfinished ...>\n8 +++ exited with 0 +++\n7 <... fsync resumed>) = 0 (DELAYED)\n"),
        write(512, "\\x02"),
        format!("7 ftruncate(3<{path}>, 100 <unfinished ...>\n7 fsync(3<{path}>) = ?\n"),
    ];
    let calls = calls(&trace.concat());
    let mut file = File { path: "a".into(), flushed: None, later: Vec::new() };
    calls.into_iter().for_each(|(path, what)| {
        assert_eq!(path, file.path);
        file.take(what);
    });
    assert_eq!(file.flushed, Some(vec![1; 1_024]));
    assert_eq!(file.later.len(), 2);
    let mut found: BTreeMap<(usize, u8, u8), u64> = BTreeMap::new();
    let mut random = Random::of(1, 1);
    for _ in 0..200 {
        let bytes = file.found(Kept::Sectors, &mut random).unwrap();
        *found.entry((bytes.len(), *bytes.get(512).unwrap_or(&0), *bytes.get(1_024).unwrap_or(&0))).or_default() += 1;
    }
    let all: Vec<(usize, u8, u8)> = found.into_keys().collect();
    assert_eq!(all, [(100, 0, 0), (1_024, 1, 0), (1_024, 2, 0), (1_536, 1, 2), (1_536, 2, 2)]);
}
