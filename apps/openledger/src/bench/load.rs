//! A closed loop of requests over connections that stay open. Its own small client, so that it takes little of the
//! machine from what it measures.

use anyhow::{Context as _, bail};
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// Longest wait for an answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// Longest answer.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// Bytes of the requests' bodies.
const BODY_BYTES: usize = 1_024;

/// What the first token looks like in a stream: the chunk before it says who speaks.
const FIRST_TOKEN: &[u8] = b"\"delta\":{\"content\":";

/// The end of a body in chunks.
const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// What is asked.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    /// Of whom.
    pub(super) address: SocketAddr,
    /// The whole request.
    pub(super) request: Vec<u8>,
}

/// What came back.
#[derive(Debug, Default)]
pub(super) struct Answers {
    /// From the request's first byte to the answer's last, in microseconds.
    pub(super) latency_us: Vec<u64>,
    /// From the request's first byte to the first token of a stream, in microseconds.
    pub(super) first_token_us: Vec<u64>,
    /// From the first request to the last answer.
    pub(super) took: Duration,
    /// Why connections ended before time.
    pub(super) failures: Vec<String>,
}

/// A chat request with a body of 1 KB.
pub(super) fn chat(address: SocketAddr, key: &str, tokens: u32, streamed: bool) -> Asked {
    let body = |content: &str| {
        format!(
            "{{\"model\":\"instant\",\"messages\":[{{\"role\":\"user\",\"content\":\"{content}\"}}],\"max_tokens\":{tokens},\
             \"stream\":{streamed}}}"
        )
    };
    let content = "x".repeat(BODY_BYTES - body("").len());
    let body = body(&content);
    let request = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {key}\r\ncontent-type: \
         application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    Asked { address, request: request.into_bytes() }
}

/// Fetches a page.
pub(super) async fn get(address: SocketAddr, path: &str) -> anyhow::Result<String> {
    let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\n\r\n").into_bytes();
    let mut connection = Connection::open(Asked { address, request }).await?;
    connection.ask().await?;
    Ok(connection.received())
}

/// `in_flight` connections that have each asked once.
pub(super) async fn open(asked: &Asked, in_flight: usize) -> anyhow::Result<Vec<Connection>> {
    let mut opening = JoinSet::new();
    for _ in 0..in_flight {
        let asked = asked.clone();
        opening.spawn(async move {
            let mut connection = Connection::open(asked).await?;
            connection.ask().await?;
            anyhow::Ok(connection)
        });
    }
    opening.join_all().await.into_iter().collect()
}

/// Each connection asks, waits for the answer, and asks again, for a time.
pub(super) async fn run(connections: Vec<Connection>, time: Duration) -> Answers {
    let began = Instant::now();
    let mut asking = JoinSet::new();
    for mut connection in connections {
        asking.spawn(async move {
            let mut answers = Answers::default();
            while began.elapsed() < time {
                match connection.ask().await {
                    Ok(answer) => answers.add(answer),
                    Err(error) => {
                        answers.failures.push(format!("{error:#}"));
                        break;
                    }
                }
            }
            answers
        });
    }
    let mut all = Answers::default();
    while let Some(Ok(answers)) = asking.join_next().await {
        all.latency_us.extend(answers.latency_us);
        all.first_token_us.extend(answers.first_token_us);
        all.failures.extend(answers.failures);
    }
    all.took = began.elapsed();
    all
}

impl Answers {
    fn add(&mut self, answer: Answer) {
        let us = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.latency_us.push(us(answer.took));
        self.first_token_us.extend(answer.first_token.map(us));
    }
}

/// One answer's times, from the request's first byte.
pub(super) struct Answer {
    /// To the last byte.
    pub(super) took: Duration,
    /// To the first token of a stream.
    pub(super) first_token: Option<Duration>,
}

/// A connection that asks the same again and again.
pub(super) struct Connection {
    socket: TcpStream,
    request: Vec<u8>,
    buffer: Vec<u8>,
}

// How the end of a body is known.
enum Body {
    Length(usize),
    Chunks,
}

impl Connection {
    /// To whom it is asked.
    pub(super) async fn open(asked: Asked) -> anyhow::Result<Self> {
        let socket = TcpStream::connect(asked.address).await.context("cannot connect")?;
        socket.set_nodelay(true)?;
        Ok(Self { socket, request: asked.request, buffer: Vec::with_capacity(16 << 10) })
    }

    /// Asks, and waits for the whole answer.
    pub(super) async fn ask(&mut self) -> anyhow::Result<Answer> {
        tokio::time::timeout(ANSWER_LIMIT, self.exchange()).await.context("no answer in time")?
    }

    /// The last answer, with its head and the marks of its chunks.
    pub(super) fn received(&self) -> String {
        String::from_utf8_lossy(&self.buffer).into_owned()
    }

    async fn exchange(&mut self) -> anyhow::Result<Answer> {
        let began = Instant::now();
        self.socket.write_all(&self.request).await.context("cannot send")?;
        self.buffer.clear();
        let (mut body, mut first_token) = (None, None);
        loop {
            if self.socket.read_buf(&mut self.buffer).await.context("cannot receive")? == 0 {
                bail!("the connection was closed");
            }
            if body.is_none() {
                body = head(&self.buffer)?;
            }
            let Some((start, kind)) = &body else { continue };
            let rest = &self.buffer[*start..];
            let whole = match kind {
                Body::Length(length) => rest.len() >= *length,
                Body::Chunks => rest.ends_with(LAST_CHUNK),
            };
            if first_token.is_none() && matches!(kind, Body::Chunks) && contains(rest, FIRST_TOKEN) {
                first_token = Some(began.elapsed());
            }
            if whole {
                return Ok(Answer { took: began.elapsed(), first_token });
            }
            if self.buffer.len() > ANSWER_BYTES_MAX {
                bail!("an answer without end");
            }
        }
    }
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

// Where the body starts and how it ends, once the whole head is there.
fn head(bytes: &[u8]) -> anyhow::Result<Option<(usize, Body)>> {
    let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else { return Ok(None) };
    let text = std::str::from_utf8(&bytes[..end]).context("a head that is no text")?;
    let mut lines = text.split("\r\n");
    let status = lines.next().unwrap_or_default();
    if !status.starts_with("HTTP/1.1 200") {
        bail!("{status}: {}", String::from_utf8_lossy(&bytes[end..]).trim());
    }
    let mut body = Body::Length(0);
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        if name.eq_ignore_ascii_case("content-length") {
            body = Body::Length(value.trim().parse().context("a length that is no number")?);
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            body = Body::Chunks;
        }
    }
    Ok(Some((end + 4, body)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_has_a_body_of_one_kilobyte() {
        let asked = chat("127.0.0.1:1".parse().unwrap(), "ol-key", 16, false);
        let text = String::from_utf8(asked.request).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.ends_with("content-length: 1024"));
        assert_eq!(body.len(), 1_024);
        assert!(serde_json::from_str::<serde_json::Value>(body).is_ok());
    }

    #[test]
    fn a_refusal_is_an_error_with_its_text() {
        assert!(head(b"HTTP/1.1 429 Too Many Requests\r\n").unwrap().is_none());
        let refused = head(b"HTTP/1.1 429 Too Many Requests\r\n\r\nslower").err().unwrap();
        assert_eq!(refused.to_string(), "HTTP/1.1 429 Too Many Requests: slower");
    }

    #[test]
    fn the_floor_answers_every_request() {
        let address = super::super::floor::start().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let answers = runtime.block_on(async {
            let connections = open(&chat(address, "", 1, false), 2).await.unwrap();
            run(connections, Duration::from_millis(500)).await
        });
        assert_eq!(answers.failures, Vec::<String>::new());
        assert!(answers.latency_us.len() >= 2);
    }
}
