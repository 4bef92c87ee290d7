//! A server in this process that answers as llama-server does, over the tiny model, until it is told to misbehave.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::thread;

use ol_engine::{Engine, Event, Flow, Frontend, GenerateTask, Model, Prompt, Sampling, Seed};
use serde_json::{Value, json};

use crate::support::tiny;

/// What a server does with a request.
#[derive(Clone, Debug)]
pub(crate) enum Reply {
    /// Answers well.
    Good,
    /// Answers with this status.
    Status(u16),
    /// Answers with this text.
    Text(String),
    /// Promises this many bytes, and sends zeros.
    Huge(usize),
    /// Never answers.
    Silence,
    /// Closes the connection.
    Close,
    /// Leaves this many of a step's probabilities out.
    Fewer(usize),
}

/// What it does, by path and the number of earlier requests of that path.
type Script = dyn Fn(&str, u32) -> Reply + Send + Sync;

/// A server.
pub(crate) struct Fake {
    pub(crate) address: String,
    pub(crate) seen: Arc<Seen>,
}

/// What a server has seen.
#[derive(Default)]
pub(crate) struct Seen {
    steps: AtomicU32,
    others: AtomicU32,
    /// Slots asked for.
    pub(crate) slots: Mutex<Vec<u64>>,
    /// Whether each step was to use what the server keeps.
    pub(crate) cached: Mutex<Vec<bool>>,
}

impl Fake {
    /// A server that does what the script says.
    pub(crate) fn start(script: impl Fn(&str, u32) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let seen = Arc::new(Seen::default());
        let engine = ol_engine::start(Arc::new(Model::tiny(1).unwrap()), ol_engine::Options::default());
        let server = Server { engine, frontend: tiny().frontend, script: Box::new(script), seen: seen.clone() };
        let server = Arc::new(server);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let server = server.clone();
                thread::spawn(move || server.serve(&stream.unwrap()));
            }
        });
        Self { address, seen }
    }

    /// A server that answers well.
    pub(crate) fn good() -> Self {
        Self::start(|_, _| Reply::Good)
    }
}

struct Server {
    engine: Arc<dyn Engine>,
    frontend: Frontend,
    script: Box<Script>,
    seen: Arc<Seen>,
}

impl Server {
    /// Serves one connection until it is closed.
    fn serve(&self, stream: &TcpStream) {
        let mut reader = BufReader::new(stream);
        while let Some((path, body)) = read(&mut reader) {
            let count = if path == "/completion" { &self.seen.steps } else { &self.seen.others };
            let reply = (self.script)(&path, count.fetch_add(1, Ordering::Relaxed));
            let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
            let (status, text) = match reply {
                Reply::Good => (200, self.answer(&path, &body, 0).to_string()),
                Reply::Fewer(fewer) => (200, self.answer(&path, &body, fewer).to_string()),
                Reply::Status(status) => (status, r#"{"error":{"message":"no"}}"#.to_owned()),
                Reply::Text(text) => (200, text),
                Reply::Huge(bytes) => (200, "0".repeat(bytes)),
                // The client gives up first, which ends the wait.
                Reply::Silence => return drop(reader.read(&mut [0])),
                Reply::Close => return,
            };
            let head = format!("HTTP/1.1 {status} x\r\ncontent-length: {}\r\n\r\n", text.len());
            if (&*stream).write_all(format!("{head}{text}").as_bytes()).is_err() {
                return;
            }
        }
    }

    fn answer(&self, path: &str, body: &Value, fewer: usize) -> Value {
        match path {
            "/health" => json!({ "status": "ok" }),
            "/props" => json!({ "total_slots": 2, "default_generation_settings": { "n_ctx": 128 } }),
            "/v1/models" => json!({ "data": [{ "meta": { "n_vocab": 259, "size": 0 } }] }),
            "/tokenize" => json!({ "tokens": self.frontend.encode(body["content"].as_str().unwrap()).unwrap() }),
            "/completion" => self.step(body, fewer),
            other => panic!("nobody asks for {other}"),
        }
    }

    /// The likeliest tokens as the embedded engine tells them, which is one less than are asked for.
    fn step(&self, body: &Value, fewer: usize) -> Value {
        assert_eq!((&body["n_predict"], &body["n_probs"]), (&json!(1), &json!(256)));
        self.seen.slots.lock().unwrap().push(body["id_slot"].as_u64().unwrap());
        self.seen.cached.lock().unwrap().push(body["cache_prompt"].as_bool().unwrap());
        let ids = body["prompt"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32);
        let task = GenerateTask {
            prompt: Prompt::Tokens(ids.collect()),
            sampling: Sampling::GREEDY,
            seed: Seed([0; 32]),
            max_tokens: 1,
            stop: Vec::new(),
            top_logprobs: u8::MAX,
            resume: Vec::new(),
            scope: None,
        };
        let (sender, receiver) = channel();
        let sink = move |event| if sender.send(event).is_ok() { Flow::Continue } else { Flow::Stop };
        self.engine.generate(task, Box::new(sink));
        let token = receiver.iter().find_map(|event| match event {
            Event::Tokens(tokens) => tokens.into_iter().next(),
            Event::Started { .. } | Event::Finished(_) | Event::Failed(_) => None,
        });
        let top = token.unwrap().top;
        let rest = (0..259).find(|id| top.iter().all(|(other, ..)| other != id)).unwrap();
        let least = top.last().unwrap().2;
        let entry = |id: u32, log_prob: f32| json!({ "id": id, "token": "", "bytes": [], "logprob": log_prob });
        let mut entries: Vec<Value> = top.iter().map(|(id, _, log_prob)| entry(*id, *log_prob)).collect();
        entries.push(entry(rest, least));
        entries.truncate(256 - fewer);
        json!({ "completion_probabilities": [{ "id": 81, "logprob": -9.5, "top_logprobs": entries }] })
    }
}

/// The path and body of the next request; `None` if the connection is closed.
fn read(reader: &mut BufReader<&TcpStream>) -> Option<(String, Vec<u8>)> {
    let mut first = String::new();
    reader.read_line(&mut first).ok().filter(|count| *count > 0)?;
    let path = first.split(' ').nth(1)?.to_owned();
    let mut bytes = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        match line.trim_end().to_ascii_lowercase().strip_prefix("content-length:") {
            Some(length) => bytes = length.trim().parse().ok()?,
            None if line.trim_end().is_empty() => break,
            None => {}
        }
    }
    let mut body = vec![0; bytes];
    reader.read_exact(&mut body).ok()?;
    Some((path, body))
}
