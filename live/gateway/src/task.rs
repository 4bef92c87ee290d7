//! A task on its way to a client: its events, what they cost, and the digest of what the client got.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use ol_protocol::TaskId;
use ol_protocol::digest::{Domain, digest};
use tokio::time::{Instant, timeout};

use crate::backend::{Backend, Finished, Reply, ResponseDigest, Running};
use crate::limits::Reservation;
use crate::metrics::Metrics;
use crate::refusal::{Kind, Refusal};

/// Bytes of text that one answer may have: beyond any model's context.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// A task, from its submission to its last event.
#[derive(Debug)]
pub(crate) struct Task {
    running: Running,
    reservation: Reservation,
    metrics: Arc<Metrics>,
    stall: Duration,
    arrived: Instant,
    first_token: Option<Instant>,
    prompt_tokens: u32,
    output_tokens: u32,
    text_bytes: usize,
}

impl Task {
    pub(crate) fn new(
        running: Running,
        reservation: Reservation,
        metrics: Arc<Metrics>,
        stall: Duration,
        arrived: Instant,
    ) -> Self {
        metrics.running.fetch_add(1, Ordering::Relaxed);
        Self {
            running,
            reservation,
            metrics,
            stall,
            arrived,
            first_token: None,
            prompt_tokens: 0,
            output_tokens: 0,
            text_bytes: 0,
        }
    }

    /// The next event; a silent or lost backend counts as a failure.
    pub(crate) async fn next(&mut self) -> Reply {
        let reply = match timeout(self.stall, self.running.events.recv()).await {
            Ok(Some(reply)) => reply,
            Ok(None) => failed("the task ended without an answer"),
            Err(_) => failed("the task made no progress"),
        };
        self.count(reply)
    }

    /// Waits until a finished answer may go out.
    pub(crate) async fn released(&mut self) -> Result<(), Refusal> {
        loop {
            // No stall is too long here: the network ends the wait by the request's deadline.
            match self.running.events.recv().await {
                Some(Reply::Released) => return Ok(()),
                Some(Reply::Failed(refusal)) => return Err(refusal),
                Some(Reply::Started { .. } | Reply::Delta { .. } | Reply::Finished(_)) => {}
                None => return Err(Refusal::new(Kind::NodeFailed, "the task ended without an answer")),
            }
        }
    }

    /// The next event if it is there already.
    pub(crate) fn try_next(&mut self) -> Option<Reply> {
        self.running.events.try_recv().ok().map(|reply| self.count(reply))
    }

    fn count(&mut self, reply: Reply) -> Reply {
        match &reply {
            Reply::Started { prompt_tokens, .. } => self.prompt_tokens = *prompt_tokens,
            Reply::Delta { count, text, .. } => {
                self.output_tokens = self.output_tokens.saturating_add(*count);
                self.text_bytes += text.len();
                if self.text_bytes > ANSWER_BYTES_MAX {
                    return failed("the answer is longer than any answer may be");
                }
                self.note_first_token();
            }
            Reply::Finished(finished) => self.finish(finished),
            Reply::Released | Reply::Failed(_) => {}
        }
        self.reservation.used = u64::from(self.prompt_tokens) + u64::from(self.output_tokens);
        reply
    }

    fn note_first_token(&mut self) {
        if self.first_token.is_none() {
            let now = Instant::now();
            self.first_token = Some(now);
            self.metrics.first_token.observe(now - self.arrived);
        }
    }

    fn finish(&mut self, finished: &Finished) {
        (self.prompt_tokens, self.output_tokens) = (finished.prompt_tokens, finished.output_tokens);
        self.metrics.input_tokens.fetch_add(u64::from(finished.prompt_tokens), Ordering::Relaxed);
        self.metrics.output_tokens.fetch_add(u64::from(finished.output_tokens), Ordering::Relaxed);
        if let Some(first) = self.first_token
            && finished.output_tokens > 1
        {
            self.metrics.per_token.observe(first.elapsed() / (finished.output_tokens - 1));
        }
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.metrics.running.fetch_sub(1, Ordering::Relaxed);
        self.metrics.duration.observe(self.arrived.elapsed());
    }
}

fn failed(message: &str) -> Reply {
    Reply::Failed(Refusal::new(Kind::NodeFailed, message))
}

/// The body that a client got so far. Dropping it reports the digest, once.
#[derive(Debug)]
pub(crate) struct Sent<B: Backend> {
    backend: Arc<B>,
    task: TaskId,
    body: Vec<Bytes>,
    complete: bool,
    is_reported: bool,
}

impl<B: Backend> Sent<B> {
    pub(crate) fn new(backend: Arc<B>, task: TaskId) -> Self {
        Self { backend, task, body: Vec::new(), complete: false, is_reported: false }
    }

    /// Reports a body that is kept back: its receipt has to be there before its audit, and names it.
    pub(crate) fn report(&mut self, body: &[u8]) {
        self.is_reported = true;
        let digest = digest(Domain::Response, &[body]);
        self.backend.closed(self.task, ResponseDigest { digest, body_bytes: body.len(), complete: true });
    }

    /// More bytes went to the socket.
    pub(crate) fn push(&mut self, bytes: Bytes) {
        self.body.push(bytes);
    }

    /// The socket took the last byte.
    pub(crate) fn complete(&mut self) {
        self.complete = true;
    }
}

impl<B: Backend> Drop for Sent<B> {
    fn drop(&mut self) {
        if self.is_reported {
            return;
        }
        let body = self.body.concat();
        let digest = digest(Domain::Response, &[&body]);
        self.backend.closed(self.task, ResponseDigest { digest, body_bytes: body.len(), complete: self.complete });
    }
}
