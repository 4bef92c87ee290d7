//! Where a database is, for whoever must find it.

use core::fmt;
use std::path::{Path, PathBuf};

/// Where a database is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// In a file.
    File(PathBuf),
    /// On a server.
    Server(Box<Address>),
}

/// A database on a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// Name or address of its machine, or the folder of its socket.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// The database's name on it.
    pub database: String,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Server(address) => address.fmt(f),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port, database } = self;
        if host.starts_with('/') {
            write!(f, "postgres:///{database}?host={host}&port={port}")
        } else if host.contains(':') {
            write!(f, "postgres://[{host}]:{port}/{database}")
        } else {
            write!(f, "postgres://{host}:{port}/{database}")
        }
    }
}

impl From<&Path> for Place {
    fn from(path: &Path) -> Self {
        Self::File(path.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_written_as_its_path_or_address() {
        let server = |host: &str| {
            let address = Address { host: host.into(), port: 5432, database: "ledger".into() };
            Place::Server(Box::new(address)).to_string()
        };
        assert_eq!(Place::from(Path::new("/a/b.db")).to_string(), "/a/b.db");
        assert_eq!(server("db.example"), "postgres://db.example:5432/ledger");
        assert_eq!(server("::1"), "postgres://[::1]:5432/ledger");
        assert_eq!(server("/run/postgresql"), "postgres:///ledger?host=/run/postgresql&port=5432");
    }
}
