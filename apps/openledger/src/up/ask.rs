//! Requests of the process to its own public API.

use crate::client::Client;
use crate::cpu;
use crate::gateway::{Running, THREADS};
use anyhow::Context as _;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// What the first request asks.
const QUESTION: &str = "In one sentence: what is a ledger?";

/// Wait for a receipt: a batch is signed within a second of the answer, and written at once.
const RECEIPT_LIMIT: Duration = Duration::from_secs(60);

/// An answer with everything that is told about it.
pub(super) struct Asked {
    pub(super) task: String,
    pub(super) question: String,
    pub(super) answer: Value,
    pub(super) request: Vec<u8>,
    pub(super) response: Vec<u8>,
    pub(super) took: Duration,
    pub(super) coordination_us: u64,
}

/// Asks one real chat request through the public API.
pub(super) async fn one(running: &Running, model: &str) -> anyhow::Result<Asked> {
    let body = json!({
        "model": model,
        "messages": [{"role": "user", "content": QUESTION}],
        "max_tokens": 64,
        "temperature": 0.7,
    });
    chat(running, body, QUESTION).await
}

/// Asks one chat request.
pub(super) async fn chat(running: &Running, body: Value, question: &str) -> anyhow::Result<Asked> {
    let client = Client::new(running.address, running.key()?);
    let request = body.to_string().into_bytes();
    let (cpu_before, began) = (coordination(), Instant::now());
    let response = client.post("/v1/chat/completions", request.clone()).await?;
    let took = began.elapsed();
    let answer = response.json().context("the network's own request failed")?;
    let task = answer["openledger"]["receipt"].as_str().context("the answer names no receipt")?.to_owned();
    Ok(Asked {
        task,
        question: question.to_owned(),
        answer,
        request,
        response: response.body.to_vec(),
        took,
        coordination_us: coordination().saturating_sub(cpu_before),
    })
}

/// CPU time so far of everything that coordinates: the gateway's threads and its committer's.
pub(super) fn coordination() -> u64 {
    cpu::of_threads(&[THREADS, "committer"])
}

/// The receipt of a task, once it is in the log.
pub(super) async fn receipt(running: &Running, task: &str) -> anyhow::Result<Value> {
    poll(running, task, |document| document["status"] == "ready").await
}

/// The receipt of a task, once it is under a checkpoint.
pub(super) async fn final_receipt(running: &Running, task: &str) -> anyhow::Result<Value> {
    poll(running, task, |document| document["receipt"]["attempts"][0]["log"].is_object()).await
}

/// Whether the receipt of a task is in the log.
pub(super) async fn is_logged(running: &Running, task: &str) -> anyhow::Result<bool> {
    let client = Client::new(running.address, running.key()?);
    let document = client.get(&format!("/v1/receipts/{task}")).await?.json()?;
    Ok(document["status"] == "ready")
}

async fn poll(running: &Running, task: &str, enough: impl Fn(&Value) -> bool) -> anyhow::Result<Value> {
    let client = Client::new(running.address, running.key()?);
    let began = Instant::now();
    loop {
        let document = client.get(&format!("/v1/receipts/{task}")).await?.json()?;
        if enough(&document) {
            return Ok(document);
        }
        anyhow::ensure!(began.elapsed() < RECEIPT_LIMIT, "the receipt of {task} did not come in time");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
