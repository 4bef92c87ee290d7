//! From a task's events to the body of a response, whole or as server-sent events.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::{Body, HttpBody};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::response::Response;
use bytes::Bytes;
use futures_util::stream;
use hyper::body::{Frame, SizeHint};
use ol_protocol::TaskId;

use crate::answer::Head;
use crate::backend::{Backend, Finished, Reply, TokenLogProb};
use crate::idempotency::Slot;
use crate::refusal::{Kind, Refusal};
use crate::request::{Api, Encoding};
use crate::task::{Sent, Task};

/// Bytes that one write to the socket gathers from events that are there already.
const FRAME_BYTES: usize = 16 << 10;

/// How embeddings are to look.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Vectors {
    pub(crate) encoding: Encoding,
    pub(crate) dimensions: Option<usize>,
}

/// Waits for the whole answer; the headers and body of a success.
pub(crate) async fn whole<B: Backend>(
    head: &Head,
    task: &mut Task,
    vectors: Vectors,
    sent: &mut Sent<B>,
) -> Result<(HeaderMap, Bytes), Refusal> {
    let mut text = String::new();
    let mut logprobs = Vec::new();
    let finished = loop {
        match task.next().await {
            Reply::Started { .. } | Reply::Released => {}
            Reply::Delta { text: more, logprobs: more_logprobs, .. } => {
                text.push_str(&more);
                logprobs.extend(more_logprobs);
            }
            Reply::Finished(finished) => break finished,
            Reply::Failed(refusal) => return Err(refusal),
        }
    };
    let body = match head.api {
        Api::Chat | Api::Text => head.whole(&text, &logprobs, &finished),
        Api::Embeddings => embeddings(head, &finished, vectors)?,
    };
    if finished.waits {
        sent.report(&body);
        task.released().await?;
    }
    let mut headers = evidence(head.task, &finished);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok((headers, Bytes::from(body)))
}

fn embeddings(head: &Head, finished: &Finished, vectors: Vectors) -> Result<Vec<u8>, Refusal> {
    if finished.vectors.is_empty() || finished.vectors.iter().flatten().any(|value| !value.is_finite()) {
        return Err(Refusal::new(Kind::NodeFailed, "the node sent no usable vectors"));
    }
    let native = finished.vectors[0].len();
    match vectors.dimensions {
        Some(wanted) if wanted != native => {
            let message = format!("`dimensions` must be {native}, which is what this model gives");
            Err(Refusal { billed: finished.charge.0 > 0, ..Refusal::invalid("dimensions", message) })
        }
        _ => Ok(head.vectors(finished, vectors.encoding)),
    }
}

/// Headers of a whole answer, so that their map is made once as large as it gets.
const HEADERS: usize = 24;

pub(crate) const RECEIPT: HeaderName = HeaderName::from_static("x-openledger-receipt");
const NODE: HeaderName = HeaderName::from_static("x-openledger-node");
const REGION: HeaderName = HeaderName::from_static("x-openledger-region");
const TRUST: HeaderName = HeaderName::from_static("x-openledger-trust");
const ASSURANCE: HeaderName = HeaderName::from_static("x-openledger-assurance");
const CHARGE: HeaderName = HeaderName::from_static("x-openledger-charge-micro-credits");
const ATTEMPTS: HeaderName = HeaderName::from_static("x-openledger-attempts");
const PRICE: HeaderName = HeaderName::from_static("x-openledger-price");

/// What stands behind an answer, as headers.
fn evidence(task: TaskId, finished: &Finished) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(HEADERS);
    place(task, &finished.node, &finished.region, &mut headers);
    let price = finished.price;
    put(&mut headers, TRUST, &finished.trust.to_string());
    headers.insert(ASSURANCE, HeaderValue::from_static(finished.assurance));
    headers.insert(CHARGE, HeaderValue::from(finished.charge.0));
    headers.insert(ATTEMPTS, HeaderValue::from(finished.attempts));
    put(&mut headers, PRICE, &format!("{}/{}", price.prompt_per_million.0, price.output_per_million.0));
    headers
}

/// Who works on a task, as headers.
fn place(task: TaskId, node: &str, region: &str, headers: &mut HeaderMap) {
    put(headers, RECEIPT, &task.to_string());
    put(headers, NODE, node);
    put(headers, REGION, region);
}

fn put(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value)
        && !value.is_empty()
    {
        headers.insert(name, value);
    }
}

/// A body in one piece, reported when the socket has taken it.
pub(crate) struct Whole<B: Backend> {
    body: Option<Bytes>,
    sent: Sent<B>,
}

impl<B: Backend> Whole<B> {
    pub(crate) fn body(body: Bytes, sent: Sent<B>) -> Body {
        Body::new(Self { body: Some(body), sent })
    }
}

impl<B: Backend> HttpBody for Whole<B> {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let body = self.body.take();
        if let Some(body) = &body {
            self.sent.push(body.clone());
            self.sent.complete();
        }
        Poll::Ready(body.map(|body| Ok(Frame::data(body))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.body.as_ref().map_or(0, |body| body.len() as u64))
    }
}

/// Waits for the first token, so that a failure before it is an ordinary error; then streams. What may be kept back goes out in one piece.
pub(crate) async fn stream<B: Backend>(
    head: Head,
    mut task: Task,
    sent: Sent<B>,
    usage: bool,
    slot: Option<Slot>,
    keeps_back: bool,
) -> Result<Response, (Refusal, Sent<B>)> {
    let mut headers = HeaderMap::new();
    put(&mut headers, RECEIPT, &head.task.to_string());
    let first = loop {
        match task.next().await {
            Reply::Started { node, region, .. } => place(head.task, &node, &region, &mut headers),
            Reply::Released => {}
            Reply::Delta { text, logprobs, .. } if text.is_empty() && logprobs.is_empty() => {}
            Reply::Failed(refusal) => return Err((refusal, sent)),
            first @ (Reply::Delta { .. } | Reply::Finished(_)) => break first,
        }
    };
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    let events =
        Events { head, task, sent, usage, first: Some(first), opened: false, ended: None, characters: 0, _slot: slot };
    if keeps_back {
        return events.in_one_piece(headers).await;
    }
    let frames = stream::unfold(events, |mut events| async move {
        events.frame().await.map(|frame| (Ok::<_, Infallible>(frame), events))
    });
    let mut response = Response::new(Body::from_stream(frames));
    *response.headers_mut() = headers;
    Ok(response)
}

/// The events of one stream.
struct Events<B: Backend> {
    head: Head,
    /// Keeps the idempotency key taken while the stream runs; a streamed answer is not kept after it.
    _slot: Option<Slot>,
    // Before `sent`: the task is cancelled before its response is reported.
    task: Task,
    sent: Sent<B>,
    usage: bool,
    first: Option<Reply>,
    opened: bool,
    ended: Option<End>,
    characters: usize,
}

/// How a stream ended.
#[derive(Debug, Clone)]
enum End {
    Finished { waits: bool },
    Failed(Refusal),
}

impl<B: Backend> Events<B> {
    /// All events at once, when the answer may go out; a failure is an ordinary error.
    async fn in_one_piece(mut self, headers: HeaderMap) -> Result<Response, (Refusal, Sent<B>)> {
        let mut out = Vec::new();
        let end = loop {
            let reply = match self.first.take() {
                Some(first) => first,
                None => self.task.next().await,
            };
            self.write(reply, &mut out);
            if let Some(end) = self.ended.take() {
                break end;
            }
        };
        let body = Bytes::from(out);
        let refused = match end {
            End::Failed(refusal) => Some(refusal),
            End::Finished { waits: false } => None,
            End::Finished { waits: true } => {
                self.sent.report(&body);
                self.task.released().await.err()
            }
        };
        if let Some(refusal) = refused {
            return Err((refusal, self.sent));
        }
        let mut response = Response::new(Whole::body(body, self.sent));
        *response.headers_mut() = headers;
        Ok(response)
    }

    /// The next bytes for the socket; `None` after the last.
    async fn frame(&mut self) -> Option<Bytes> {
        if self.ended.is_some() {
            self.sent.complete();
            return None;
        }
        let mut out = Vec::new();
        while out.is_empty() {
            let reply = match self.first.take() {
                Some(first) => first,
                None => self.task.next().await,
            };
            self.write(reply, &mut out);
        }
        while self.ended.is_none()
            && out.len() < FRAME_BYTES
            && let Some(reply) = self.task.try_next()
        {
            self.write(reply, &mut out);
        }
        let frame = Bytes::from(out);
        self.sent.push(frame.clone());
        Some(frame)
    }

    fn write(&mut self, reply: Reply, out: &mut Vec<u8>) {
        match reply {
            Reply::Started { .. } | Reply::Released => {}
            Reply::Delta { text, logprobs, .. } => self.write_delta(&text, &logprobs, out),
            Reply::Finished(finished) => {
                self.open(out);
                event(&self.head.ending(&finished, self.usage), out);
                if self.usage {
                    event(&self.head.usage(&finished), out);
                }
                event(b"[DONE]", out);
                self.ended = Some(End::Finished { waits: finished.waits });
            }
            Reply::Failed(refusal) => {
                event(&refusal.to_json(), out);
                self.ended = Some(End::Failed(refusal));
            }
        }
    }

    fn write_delta(&mut self, text: &str, logprobs: &[TokenLogProb], out: &mut Vec<u8>) {
        if text.is_empty() && logprobs.is_empty() {
            return;
        }
        self.open(out);
        event(&self.head.delta(text, logprobs, self.characters, self.usage), out);
        self.characters += text.chars().count();
    }

    fn open(&mut self, out: &mut Vec<u8>) {
        if !self.opened && self.head.api == Api::Chat {
            event(&self.head.opening(self.usage), out);
        }
        self.opened = true;
    }
}

fn event(data: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(b"data: ");
    out.extend_from_slice(data);
    out.extend_from_slice(b"\n\n");
}
