//! Where a log's files are: under an address, or in a folder.

use super::mirror::Mirror;
use crate::client::Client;
use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use std::path::{Path, PathBuf};

/// Longest file of a log: a tile of the longest records.
const FILE_BYTES_MAX: u64 = 256 * (2 + 65_535);

/// A log's place.
pub(crate) enum Source {
    /// On this machine, as files.
    Folder(PathBuf),
    /// At a gateway, or wherever its files were copied to.
    Address(Client),
    /// In one of these, with a copy in a folder that grows.
    Mirror(Box<Mirror>),
}

impl Source {
    /// From what a person writes.
    pub(crate) fn new(text: &str) -> anyhow::Result<Self> {
        if text.starts_with("http://") {
            return Ok(Self::Address(Client::to(text.trim_end_matches('/'))));
        }
        let is_other = text.split_once("://").is_some();
        ensure!(!is_other, "{text} is no http:// address: copy the log's files to a folder and name that");
        ensure!(Path::new(text).is_dir(), "{text} is no folder, and no http:// address");
        Ok(Self::Folder(text.into()))
    }

    /// A file of the log.
    pub(crate) async fn get(&self, path: &str) -> anyhow::Result<Bytes> {
        match self {
            Self::Folder(folder) => {
                let path = folder.join(path);
                let size = std::fs::metadata(&path).with_context(|| format!("cannot read {}", path.display()))?.len();
                ensure!(size <= FILE_BYTES_MAX, "{} has {size} bytes, more than any tile", path.display());
                Ok(std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?.into())
            }
            Self::Address(client) => {
                let response = client.get(&format!("/{path}")).await.with_context(|| format!("cannot fetch {path}"))?;
                match response.status {
                    200 => Ok(response.body),
                    410 => bail!("{path} was pruned there: name a copy of the log that was made before"),
                    status => bail!("{path} can't be had: the server says {status}"),
                }
            }
            Self::Mirror(mirror) => mirror.get(path).await,
        }
    }
}
