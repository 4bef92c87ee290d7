//! The event log of a machine: its setup, every input with its time, and a running digest of its outputs, so that the
//! same core can be fed the same events again and must answer the same.
//!
//! Format: the magic, then frames. A frame is a kind byte, a four-byte little-endian length, and as many bytes. Inputs
//! carry their time in eight bytes in front. After each [`DIGEST_EVERY`] inputs, and at the end, a frame carries the
//! SHA-256 over the debug text of all outputs so far.

use ol_protocol::Timestamp;
use sha2::{Digest as _, Sha256};
use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

const MAGIC: &[u8; 8] = b"olevent1";

/// How many inputs lie between two digests.
pub const DIGEST_EVERY: u64 = 256;

/// Longest frame, in bytes: a setup with a ledger of a million accounts stays below.
const FRAME_BYTES_MAX: u32 = 256 << 20;

/// Why a log can't be written or read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file can't be opened, read or written.
    #[error("event log {path}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why not.
        #[source]
        cause: io::Error,
    },
    /// The file is no event log.
    #[error("{path} is not an event log")]
    NotALog {
        /// Which file.
        path: PathBuf,
    },
    /// A frame is cut off or unknown.
    #[error("{path} is damaged in frame {frame}")]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// Counted from 0.
        frame: u64,
    },
}

/// One frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// What the machine was made from; the first frame.
    Setup(Vec<u8>),
    /// An input.
    Input(Timestamp, Vec<u8>),
    /// Digest of the outputs so far.
    Outputs([u8; 32]),
}

/// Digests outputs one after another.
#[derive(Debug, Clone, Default)]
pub struct OutputDigest(Sha256);

impl OutputDigest {
    /// Adds an output.
    pub fn add(&mut self, output: &impl std::fmt::Debug) {
        let text = format!("{output:?}");
        self.0.update((text.len() as u64).to_le_bytes());
        self.0.update(text.as_bytes());
    }

    /// Over all outputs so far.
    pub fn value(&self) -> [u8; 32] {
        self.0.clone().finalize().into()
    }
}

/// Writes a log. Readable by its owner only: the setup holds the gateway's draw secret.
#[derive(Debug)]
pub struct Writer {
    path: PathBuf,
    file: BufWriter<File>,
    digest: OutputDigest,
    inputs: u64,
}

impl Writer {
    /// Begins a new log. An existing file is not overwritten.
    pub fn create(path: &Path, setup: &[u8]) -> Result<Self, Error> {
        let failed = |cause| Error::Io { path: path.to_path_buf(), cause };
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
        let mut writer =
            Self { path: path.to_path_buf(), file: BufWriter::new(file), digest: OutputDigest::default(), inputs: 0 };
        writer.file.write_all(MAGIC).map_err(failed)?;
        writer.frame(0, &[setup])?;
        Ok(writer)
    }

    /// Adds an input.
    pub fn input(&mut self, now: Timestamp, bytes: &[u8]) -> Result<(), Error> {
        if self.inputs > 0 && self.inputs.is_multiple_of(DIGEST_EVERY) {
            self.mark()?;
        }
        self.inputs += 1;
        self.frame(1, &[&now.0.to_le_bytes(), bytes])
    }

    /// Adds an output to the digest.
    pub fn output(&mut self, output: &impl std::fmt::Debug) {
        self.digest.add(output);
    }

    /// Writes the digest of the outputs so far, and everything to the file.
    pub fn mark(&mut self) -> Result<(), Error> {
        let value = self.digest.value();
        self.frame(2, &[&value])?;
        self.file.flush().map_err(|cause| Error::Io { path: self.path.clone(), cause })
    }

    fn frame(&mut self, kind: u8, parts: &[&[u8]]) -> Result<(), Error> {
        let length: usize = parts.iter().map(|part| part.len()).sum();
        let length = u32::try_from(length).unwrap_or(u32::MAX);
        let write = |file: &mut BufWriter<File>| {
            file.write_all(&[kind])?;
            file.write_all(&length.to_le_bytes())?;
            parts.iter().try_for_each(|part| file.write_all(part))
        };
        write(&mut self.file).map_err(|cause| Error::Io { path: self.path.clone(), cause })
    }
}

/// Reads a log frame by frame.
#[derive(Debug)]
pub struct Reader {
    path: PathBuf,
    file: BufReader<File>,
    frame: u64,
}

impl Reader {
    /// Opens a log.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let failed = |cause| Error::Io { path: path.to_path_buf(), cause };
        let mut file = BufReader::new(File::open(path).map_err(failed)?);
        let mut magic = [0; 8];
        if file.read_exact(&mut magic).is_err() || magic != *MAGIC {
            return Err(Error::NotALog { path: path.to_path_buf() });
        }
        Ok(Self { path: path.to_path_buf(), file, frame: 0 })
    }

    /// The next frame, or `None` at the end. A last frame that a crash cut off is damage.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, Error> {
        let mut kind = [0; 1];
        match self.file.read(&mut kind) {
            Ok(0) => return Ok(None),
            Ok(_) => {}
            Err(cause) => return Err(Error::Io { path: self.path.clone(), cause }),
        }
        let damaged = Error::Damaged { path: self.path.clone(), frame: self.frame };
        self.frame += 1;
        self.body(kind[0]).map(Some).ok_or(damaged)
    }

    fn body(&mut self, kind: u8) -> Option<Frame> {
        let mut length = [0; 4];
        self.file.read_exact(&mut length).ok()?;
        let length = u32::from_le_bytes(length);
        if length > FRAME_BYTES_MAX {
            return None;
        }
        let mut bytes = Vec::new();
        let read = (&mut self.file).take(u64::from(length)).read_to_end(&mut bytes).ok()?;
        if read != length as usize {
            return None;
        }
        match kind {
            0 => Some(Frame::Setup(bytes)),
            1 => {
                let (time, input) = bytes.split_first_chunk::<8>()?;
                Some(Frame::Input(Timestamp(u64::from_le_bytes(*time)), input.to_vec()))
            }
            2 => bytes.try_into().ok().map(Frame::Outputs),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_reads_as_it_was_written() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("events");
        let mut writer = Writer::create(&path, b"setup").expect("new file");
        writer.input(Timestamp(7), b"one").expect("write");
        writer.output(&"out");
        writer.mark().expect("write");
        let mut digest = OutputDigest::default();
        digest.add(&"out");
        let mut reader = Reader::open(&path).expect("a log");
        let frames: Vec<Frame> = std::iter::from_fn(|| reader.next_frame().expect("sound")).collect();
        let wanted = [
            Frame::Setup(b"setup".to_vec()),
            Frame::Input(Timestamp(7), b"one".to_vec()),
            Frame::Outputs(digest.value()),
        ];
        assert_eq!(frames, wanted);
        assert!(matches!(Writer::create(&path, b""), Err(Error::Io { .. })), "an existing log is kept");
    }

    #[test]
    fn a_cut_log_says_where() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("events");
        let mut writer = Writer::create(&path, b"setup").expect("new file");
        writer.input(Timestamp(7), b"one").expect("write");
        writer.mark().expect("write");
        let bytes = std::fs::read(&path).expect("read");
        std::fs::write(&path, &bytes[..bytes.len() - 40]).expect("write");
        let mut reader = Reader::open(&path).expect("a log");
        assert!(reader.next_frame().expect("the setup").is_some());
        assert!(matches!(reader.next_frame(), Err(Error::Damaged { frame: 1, .. })));
    }
}
