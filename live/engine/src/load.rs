//! Why a model can't be opened.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// Why a model can't be opened.
#[derive(Debug, Error)]
pub enum Error {
    /// The file can't be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        cause: io::Error,
    },
    /// The file is larger than any model this engine can hold.
    #[error("{path} has {bytes} bytes, more than {bytes_max}")]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
        /// The limit.
        bytes_max: u64,
    },
    /// The file doesn't start as its format does.
    #[error("not a {format} file")]
    Format {
        /// The format expected.
        format: &'static str,
    },
    /// The file ends within something that its header promises.
    #[error("file ends within {what}")]
    Truncated {
        /// What is cut off.
        what: String,
    },
    /// A number in the header is impossible.
    #[error("{what} is {value}, at most {limit}")]
    Limit {
        /// Which number.
        what: String,
        /// Its value.
        value: u64,
        /// The limit.
        limit: u64,
    },
    /// Something the model needs is not in the file.
    #[error("the file has no {what}")]
    Missing {
        /// What is missing.
        what: String,
    },
    /// Something is there but can't be right.
    #[error("{what} can't be {found}")]
    Invalid {
        /// What is wrong.
        what: String,
        /// What was found.
        found: String,
    },
    /// Legal, but not something this engine can run.
    #[error("{what} {found} is not supported")]
    Unsupported {
        /// Which property.
        what: &'static str,
        /// Its value.
        found: String,
    },
    /// The description of the tokenizer is not usable.
    #[error("the tokenizer can't be built: {detail}")]
    Tokenizer {
        /// What the tokenizer library says.
        detail: String,
    },
    /// The chat template is not usable.
    #[error("the chat template can't be compiled")]
    Template(#[source] minijinja::Error),
    /// A JSON file is not usable.
    #[error("{what} is not the JSON expected")]
    Json {
        /// Which file or part.
        what: &'static str,
        /// Why.
        #[source]
        cause: serde_json::Error,
    },
}

impl Error {
    pub(crate) fn invalid(what: impl Into<String>, found: impl Into<String>) -> Self {
        Self::Invalid { what: what.into(), found: found.into() }
    }

    pub(crate) fn missing(what: impl Into<String>) -> Self {
        Self::Missing { what: what.into() }
    }
}

/// Largest model file: beyond it the weights in f32 fit no common machine's memory.
pub(crate) const FILE_BYTES_MAX: u64 = 16 << 30;

/// The whole file, if it is not too large.
pub(crate) fn read(path: &std::path::Path) -> Result<Vec<u8>, Error> {
    let cause = |cause| Error::Read { path: path.to_path_buf(), cause };
    let bytes = std::fs::metadata(path).map_err(cause)?.len();
    if bytes > FILE_BYTES_MAX {
        return Err(Error::TooLarge { path: path.to_path_buf(), bytes, bytes_max: FILE_BYTES_MAX });
    }
    std::fs::read(path).map_err(cause)
}
