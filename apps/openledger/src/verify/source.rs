//! Where a log's files are: under an address, or in a folder.

use super::mirror::Mirror;
use crate::client::Client;
use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Longest file of a log: a tile of the longest records.
const FILE_BYTES_MAX: u64 = 256 * (2 + 65_535);

/// How often a file is asked for again after the server said to wait, and the longest such wait.
const WAITS_MAX: u32 = 20;
const WAIT_MAX: Duration = Duration::from_secs(60);

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
            Self::Address(client) => fetch(client, path).await,
            Self::Mirror(mirror) => mirror.get(path).await,
        }
    }
}

// A gateway limits how fast its log is read, and says when to go on.
async fn fetch(client: &Client, path: &str) -> anyhow::Result<Bytes> {
    for _ in 0..=WAITS_MAX {
        let response = client.get(&format!("/{path}")).await.with_context(|| format!("cannot fetch {path}"))?;
        match (response.status, response.retry_after) {
            (200, _) => return Ok(response.body),
            (429, Some(wait)) => tokio::time::sleep(wait.min(WAIT_MAX)).await,
            (410, _) => bail!("{path} was pruned there: name a copy of the log that was made before"),
            (status, _) => bail!("{path} can't be had: the server says {status}"),
        }
    }
    bail!("{path} can't be had: the server said {WAITS_MAX} times to ask later")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};
    use std::net::{SocketAddr, TcpListener};

    // Gives these answers, one on each connection.
    fn serve(answers: Vec<&'static str>) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        std::thread::spawn(move || {
            for answer in answers {
                let (mut socket, _) = listener.accept().expect("a client");
                let _ = socket.read(&mut [0; 4_096]);
                socket.write_all(answer.as_bytes()).expect("the client reads");
            }
        });
        address
    }

    #[tokio::test]
    async fn whoever_is_asked_to_slow_down_does_and_goes_on() {
        let later =
            "HTTP/1.1 429 Too Many Requests\r\nretry-after: 0\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
        let found = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nhi";
        let address = serve(vec![later, later, found]);
        let source = Source::new(&format!("http://{address}")).expect("an address");
        assert_eq!(source.get("checkpoint").await.expect("it is there"), "hi");
    }

    #[tokio::test]
    async fn a_refusal_that_says_nothing_of_later_is_final() {
        let address = serve(vec!["HTTP/1.1 429 Too Many Requests\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"]);
        let source = Source::new(&format!("http://{address}")).expect("an address");
        let error = source.get("checkpoint").await.expect_err("it is refused");
        assert_eq!(error.to_string(), "checkpoint can't be had: the server says 429");
    }
}
