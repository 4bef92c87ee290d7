//! Clients that keep asking, whatever becomes of the gateway, and write down what they got.

use super::random::Random;
use crate::http::{Api, Response, chat};
use crate::process::eventually;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const CLIENTS: u64 = 3;

/// A client's longest pause after an answer: the nodes are never idle for long, and the log grows slowly enough to be read
/// again and again.
const PAUSE_MS: u64 = 150;

/// An answer that a client has in whole.
#[derive(Debug, Clone)]
pub(super) struct Answer {
    pub(super) task: String,
    pub(super) node: String,
    pub(super) attempts: u64,
    pub(super) charge: u64,
    pub(super) at: Instant,
}

#[derive(Default)]
struct Seen {
    answers: Vec<Answer>,
    // How many refusals there were with a status and a message.
    refusals: BTreeMap<(u16, String), u64>,
}

/// Clients at work.
pub(super) struct Traffic {
    seen: Arc<Mutex<Seen>>,
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<()>>,
}

impl Traffic {
    pub(super) fn start(api: &Api, random: &mut Random) -> Self {
        let (seen, stop) = (Arc::new(Mutex::new(Seen::default())), Arc::new(AtomicBool::new(false)));
        let clients = (0..CLIENTS)
            .map(|client| {
                let (api, seen, stop) = (api.clone(), Arc::clone(&seen), Arc::clone(&stop));
                let mut random = Random::of(random.next(), client);
                std::thread::spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        ask(&api, &seen, &mut random);
                        random.pause(PAUSE_MS);
                    }
                })
            })
            .collect();
        Self { seen, stop, clients }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        lock(&self.seen)
    }

    /// Waits for so many answers more.
    pub(super) fn more(&self, count: usize) {
        let enough = self.seen().answers.len() + count;
        eventually(&format!("{count} answers more"), || (self.seen().answers.len() >= enough).then_some(()));
    }

    /// The first answer.
    pub(super) fn any(&self) -> Answer {
        self.seen().answers[0].clone()
    }

    /// Refusals so far whose message has this in it.
    pub(super) fn refusals(&self, text: &str) -> u64 {
        self.seen().refusals.iter().filter(|((_, message), _)| message.contains(text)).map(|(_, count)| count).sum()
    }

    /// Lets the clients finish; returns the answers.
    pub(super) fn stop(mut self) -> Vec<Answer> {
        self.stop.store(true, Ordering::Relaxed);
        self.clients.drain(..).for_each(|client| client.join().unwrap());
        let seen = self.seen();
        for (status, message) in seen.refusals.keys() {
            // All else is nothing to be tried again.
            assert!(*status == 503, "a client got {status}: {message}");
            assert!(!message.is_empty(), "a refusal without a word: {status}");
        }
        seen.answers.clone()
    }
}

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

fn ask(api: &Api, seen: &Mutex<Seen>, random: &mut Random) {
    let mut body = chat(&format!("question {}", random.next()), random.between(4, 48) as u32, random.next() >> 1);
    if random.one_in(2) {
        body["stream"] = json!(true);
    }
    // A gateway that isn't there, or goes in the midst, gives no answer.
    let Ok(response) = api.try_send("POST", "/v1/chat/completions", body.to_string().as_bytes()) else {
        return std::thread::sleep(Duration::from_millis(20));
    };
    match (response.status, answer(&response)) {
        (200, answer) => lock(seen).answers.extend(answer),
        (status, _) => {
            let message = serde_json::from_slice::<Value>(&response.body).unwrap_or_default();
            let message = message["error"]["message"].as_str().unwrap_or_default().to_owned();
            *lock(seen).refusals.entry((status, message)).or_default() += 1;
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

// The answer, if all of it is there: in one body, or in events up to the last.
fn answer(response: &Response) -> Option<Answer> {
    let text = std::str::from_utf8(&response.body).ok()?;
    let events: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
    let last = match events.last() {
        None => serde_json::from_str::<Value>(text).ok()?["openledger"].clone(),
        Some(&"[DONE]") => events
            .iter()
            .filter_map(|event| Some(serde_json::from_str::<Value>(event).ok()?["openledger"].clone()))
            .rfind(Value::is_object)?,
        Some(_) => return None,
    };
    Some(Answer {
        task: last["receipt"].as_str()?.to_owned(),
        node: last["node"].as_str()?.to_owned(),
        attempts: last["attempts"].as_u64()?,
        charge: last["charge_micro_credits"].as_u64()?,
        at: Instant::now(),
    })
}
