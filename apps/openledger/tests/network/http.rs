//! A small HTTP client over a plain socket: what an API's user sees, byte for byte.

use crate::process::{LIMIT, eventually};
use serde_json::{Value, json};
use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};

/// Lets clients go on until it is dropped, also by a test that failed.
pub(crate) struct Demand<'a>(pub(crate) &'a AtomicBool);

impl Drop for Demand<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// One gateway with one key.
#[derive(Clone)]
pub(crate) struct Api {
    address: SocketAddr,
    key: String,
}

/// A response in whole.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    // In lower case.
    head: String,
    pub(crate) body: Vec<u8>,
}

impl Response {
    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("no JSON: {}", self.text()))
    }

    /// A header of it.
    pub(crate) fn header(&self, name: &str) -> String {
        header(&self.head, name)
    }

    /// A success's body.
    pub(crate) fn good(self) -> Value {
        assert_eq!(self.status, 200, "{}", self.text());
        self.json()
    }
}

fn header(head: &str, name: &str) -> String {
    let line = head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    line.unwrap_or_else(|| panic!("no {name} in {head}")).to_owned()
}

/// A request for text; the same seed gives the same text.
pub(crate) fn chat(question: &str, max_tokens: u32, seed: u64) -> Value {
    json!({
        "model": "tiny",
        "messages": [{"role": "user", "content": question}],
        "max_tokens": max_tokens,
        "seed": seed,
        "temperature": 1.0,
    })
}

/// A usage but for what a node had of the prompt: that depends on what it was asked before.
pub(crate) fn counted(mut usage: Value) -> Value {
    usage.as_object_mut().unwrap().remove("prompt_tokens_details").unwrap();
    usage
}

impl Api {
    pub(crate) fn new(address: SocketAddr, key: &str) -> Self {
        Self { address, key: key.to_owned() }
    }

    fn open(&self, method: &str, path: &str, body: &[u8]) -> std::io::Result<(u16, Body)> {
        let mut socket = TcpStream::connect(self.address)?;
        socket.set_read_timeout(Some(LIMIT))?;
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {}\r\ncontent-type: application/json\r\n\
             content-length: {}\r\nconnection: close\r\n\r\n",
            self.address,
            self.key,
            body.len()
        );
        socket.write_all(&[head.as_bytes(), body].concat())?;
        let mut reader = BufReader::new(socket);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if reader.read_line(&mut head)? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
        }
        let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).ok_or(std::io::ErrorKind::InvalidData)?;
        let head = head.to_ascii_lowercase();
        let chunked = head.contains("transfer-encoding: chunked");
        Ok((status, Body { reader, head, chunked, left: 0 }))
    }

    /// Sends a request; an error if the gateway goes away.
    pub(crate) fn try_send(&self, method: &str, path: &str, body: &[u8]) -> std::io::Result<Response> {
        let (status, mut body) = self.open(method, path, body)?;
        let mut bytes = Vec::new();
        body.read_to_end(&mut bytes)?;
        Ok(Response { status, head: body.head.clone(), body: bytes })
    }

    pub(crate) fn get(&self, path: &str) -> Response {
        self.try_send("GET", path, b"").unwrap()
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> Response {
        self.try_send("POST", path, body.to_string().as_bytes()).unwrap()
    }

    /// A chat request, answered in whole.
    pub(crate) fn chat(&self, body: &Value) -> Response {
        self.post("/v1/chat/completions", body)
    }

    /// A chat request, answered piece by piece.
    pub(crate) fn stream(&self, body: &Value) -> Stream {
        let mut body = body.clone();
        body["stream"] = json!(true);
        body["stream_options"] = json!({"include_usage": true});
        let (status, mut body) = self.open("POST", "/v1/chat/completions", body.to_string().as_bytes()).unwrap();
        if status != 200 {
            let mut text = String::new();
            body.read_to_string(&mut text).unwrap();
            panic!("status {status}: {text}");
        }
        Stream {
            head: body.head.clone(),
            lines: BufReader::new(body),
            text: String::new(),
            pieces: 0,
            events: Vec::new(),
        }
    }

    /// The receipt of a task once it is in the log.
    pub(crate) fn receipt(&self, task: &str) -> Value {
        self.receipt_when(task, |_| true)
    }

    /// The receipt once it is in the log and is as wanted.
    pub(crate) fn receipt_when(&self, task: &str, enough: impl Fn(&Value) -> bool) -> Value {
        let mut last = Value::Null;
        let asked = std::panic::AssertUnwindSafe(|| {
            eventually(&format!("the receipt of {task}"), || {
                let document = self.get(&format!("/v1/receipts/{task}")).good();
                last = document.clone();
                (document["status"] == "ready" && enough(&document["receipt"])).then_some(document)
            })
        });
        std::panic::catch_unwind(asked).unwrap_or_else(|_| panic!("the last one was {last:#}"))
    }
}

/// The body of a response as it comes.
pub(crate) struct Body {
    reader: BufReader<TcpStream>,
    head: String,
    chunked: bool,
    left: usize,
}

impl Read for Body {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if !self.chunked {
            return self.reader.read(buffer);
        }
        if self.left == 0 {
            let mut line = String::new();
            self.reader.read_line(&mut line)?;
            self.left = usize::from_str_radix(line.trim(), 16).map_err(|_| std::io::ErrorKind::UnexpectedEof)?;
            if self.left == 0 {
                return Ok(0);
            }
        }
        let most = buffer.len().min(self.left);
        let count = self.reader.read(&mut buffer[..most])?;
        self.left -= count;
        if self.left == 0 {
            self.reader.read_line(&mut String::new())?;
        }
        Ok(count)
    }
}

/// An answer that comes piece by piece. Dropping it closes the connection.
pub(crate) struct Stream {
    head: String,
    lines: BufReader<Body>,
    pub(crate) text: String,
    pub(crate) pieces: usize,
    pub(crate) events: Vec<Value>,
}

impl Stream {
    /// Reads one event more; false at the end.
    pub(crate) fn more(&mut self) -> bool {
        let mut line = String::new();
        while self.lines.read_line(&mut line).unwrap() > 0 {
            if let Some(data) = line.strip_prefix("data: ") {
                if data.trim() == "[DONE]" {
                    return false;
                }
                let event: Value = serde_json::from_str(data).unwrap();
                assert!(event["error"].is_null(), "the stream failed: {event}");
                if let Some(text) = event["choices"][0]["delta"]["content"].as_str().filter(|text| !text.is_empty()) {
                    self.text.push_str(text);
                    self.pieces += 1;
                }
                self.events.push(event);
                return true;
            }
            line.clear();
        }
        panic!("the stream ended without [DONE] after {:?}", self.text);
    }

    /// Reads until so many pieces of text are there.
    pub(crate) fn until(&mut self, pieces: usize) {
        while self.pieces < pieces {
            assert!(self.more(), "the answer ended after {} pieces", self.pieces);
        }
    }

    /// Reads to the end.
    pub(crate) fn finish(&mut self) -> String {
        while self.more() {}
        self.text.clone()
    }

    /// What the events say of a name, the last word.
    pub(crate) fn last(&self, name: &str) -> Value {
        self.events.iter().rev().map(|event| &event[name]).find(|value| !value.is_null()).cloned().unwrap_or_default()
    }

    fn header(&self, name: &str) -> String {
        header(&self.head, name)
    }

    /// The task that the stream belongs to.
    pub(crate) fn task(&self) -> String {
        self.header("x-openledger-receipt")
    }

    /// The node that began it.
    pub(crate) fn node(&self) -> String {
        self.header("x-openledger-node")
    }
}
