//! One end of a link: what comes, what goes, and who is at the other end.

use crate::error::{Error, SendError};
use crate::fate::{CloseCode, Fate, Part, Reason};
use crate::frame::{Down, Frame, RefuseCode, Up};
use crate::limits::{FRAME_BYTES_MAX, FrameError, Limits};
use futures_util::{Stream, StreamExt as _};
use ol_protocol::{GatewayId, NodeId};
use prost::Message as _;
use std::error::Error as _;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, Sleep, sleep, timeout};
use tonic::{Code, Status, Streaming};

/// A link as the gateway holds it.
pub type GatewayLink = Link<NodeId, Up, Down>;

/// A link as the node holds it.
pub type NodeLink = Link<GatewayId, Down, Up>;

/// One end of a link. The link ends when the receiver is dropped, or all senders.
#[derive(Debug)]
pub struct Link<Peer, In: Frame, Out: Frame> {
    /// Who is at the other end, as TLS has proved.
    pub peer: Peer,
    /// From where.
    pub remote: SocketAddr,
    /// What comes.
    pub receiver: Receiver<In>,
    /// What goes.
    pub sender: Sender<Out>,
    /// Whether the socket sends small frames at once (TCP_NODELAY), asked when the link began.
    pub nodelay: bool,
}

impl<Peer, In: Frame, Out: Frame> Link<Peer, In, Out> {
    /// Lets go out what is queued, then ends; waits for that at most `Limits::linger`. A gateway's reason reaches the node
    /// as the status of the stream.
    pub async fn close(mut self, reason: Reason) {
        self.sender.close(reason);
        // A stream that is not read to its end would be reset, and what is queued be lost.
        let rest = async { while let Some(Ok(_)) = self.receiver.stream.next().await {} };
        let _ = timeout(self.sender.queue.linger, rest).await;
    }
}

/// What comes. It is bounded by the HTTP/2 flow control window: a frame that nobody asks for is not read.
pub struct Receiver<F: Frame> {
    stream: Streaming<F::Wire>,
    fate: Arc<Fate>,
    opening: Option<Pin<Box<Sleep>>>,
    over: bool,
}

impl<F: Frame> std::fmt::Debug for Receiver<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Receiver").field("fate", &self.fate).finish_non_exhaustive()
    }
}

impl<F: Frame> Receiver<F> {
    pub(crate) fn new(stream: Streaming<F::Wire>, fate: Arc<Fate>, limits: &Limits) -> Self {
        Self { stream, fate, opening: Some(Box::pin(sleep(limits.opening))), over: false }
    }

    /// The next frame, checked against all limits. After an error, or when the other end is done or gone, `None`.
    ///
    /// The first frame is one that a link begins with, and comes in time, or there is an error. Cancel safe.
    pub async fn recv(&mut self) -> Option<Result<F, Error>> {
        poll_fn(|cx| self.poll_recv(cx)).await
    }

    /// As `recv`.
    pub fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<F, Error>>> {
        if self.over {
            return Poll::Ready(None);
        }
        let next = ready!(self.poll_frame(cx));
        if !matches!(next, Some(Ok(_))) {
            self.over = true;
        }
        Poll::Ready(next)
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<F, Error>>> {
        self.fate.watch(Part::Incoming, cx);
        // After an ordinary end, what came before it is still read.
        if let Some(error) = closed(&self.fate) {
            return Poll::Ready(Some(Err(error)));
        }
        let Poll::Ready(next) = Pin::new(&mut self.stream).poll_next(cx) else {
            return self.poll_opening(cx).map(|error| Some(Err(error)));
        };
        Poll::Ready(match next {
            None => {
                self.fate.close(Reason::new(CloseCode::Ended, "the other end is done"));
                None
            }
            Some(Ok(wire)) => Some(self.read(wire)),
            Some(Err(status)) => self.broken(status).map(Err),
        })
    }

    fn poll_opening(&mut self, cx: &mut Context<'_>) -> Poll<Error> {
        let Some(opening) = &mut self.opening else { return Poll::Pending };
        ready!(opening.as_mut().poll(cx));
        let reason = Reason::new(CloseCode::TimedOut, format!("no {} in time", F::OPENING));
        self.fate.close(reason.clone());
        Poll::Ready(Error::Closed { reason })
    }

    fn read(&mut self, wire: F::Wire) -> Result<F, Error> {
        self.fate.traffic.received.frame();
        let frame = F::from_wire(wire).map_err(|cause| self.malformed(cause))?;
        if frame.opens() != self.opening.take().is_some() {
            return Err(self.malformed(FrameError::Order { opening: F::OPENING }));
        }
        Ok(frame)
    }

    fn malformed(&self, cause: FrameError) -> Error {
        self.fate.close(Reason::new(CloseCode::Malformed, text(&cause)));
        Error::Malformed { cause }
    }

    // A status of the stream: made here from bytes that are no frame, sent by the other end, or a connection that broke.
    fn broken(&self, status: Status) -> Option<Error> {
        if status.source().is_none() {
            if matches!(status.code(), Code::OutOfRange | Code::Internal | Code::Unimplemented) {
                return Some(self.malformed(FrameError::Undecodable(status.message().into())));
            }
            if let Some(reason) = Reason::from_status(&status) {
                self.fate.close(reason.clone());
                return Some(Error::Closed { reason });
            }
        }
        self.fate.cut(Reason::new(CloseCode::Ended, "the connection was lost"));
        closed(&self.fate).or_else(|| Some(Error::Lost { cause: Box::new(status) }))
    }
}

impl<F: Frame> Drop for Receiver<F> {
    fn drop(&mut self) {
        self.fate.close(Reason::new(CloseCode::Ended, "nobody listens any more"));
    }
}

fn closed(fate: &Fate) -> Option<Error> {
    let reason = fate.reason().filter(|reason| reason.code != CloseCode::Ended)?;
    Some(Error::Closed { reason: reason.clone() })
}

// A frame error and its cause in one line, for the other end.
fn text(error: &FrameError) -> String {
    error.source().map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"))
}

// Room that a queued frame takes beyond its bytes.
const FRAME_ROOM: u32 = 256;

#[derive(Debug)]
struct Queue {
    fate: Arc<Fate>,
    room: Semaphore,
    room_all: usize,
    stall: Duration,
    linger: Duration,
    begin: Instant,
    // Milliseconds since `begin` at which a frame was last taken, or the first one came into an empty queue.
    moved_ms: AtomicU64,
}

impl Queue {
    fn move_on(&self) {
        self.moved_ms.store(self.now_ms(), Ordering::Relaxed);
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.begin.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn stalls(&self) -> bool {
        let waited = self.now_ms().saturating_sub(self.moved_ms.load(Ordering::Relaxed));
        Duration::from_millis(waited) > self.stall
    }
}

type Queued<F> = (<F as Frame>::Wire, u32);

/// What goes: a bounded queue, cheap to clone.
pub struct Sender<F: Frame> {
    frames: mpsc::UnboundedSender<Queued<F>>,
    queue: Arc<Queue>,
}

impl<F: Frame> Clone for Sender<F> {
    fn clone(&self) -> Self {
        Self { frames: self.frames.clone(), queue: Arc::clone(&self.queue) }
    }
}

impl<F: Frame> std::fmt::Debug for Sender<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sender").field("queue", &self.queue).finish_non_exhaustive()
    }
}

impl<F: Frame> Sender<F> {
    /// Queues a frame, without waiting. A link whose queue is full, or does not move for `Limits::stall`, is cut.
    pub fn try_send(&self, frame: F) -> Result<(), SendError> {
        let (wire, room) = self.prepare(frame)?;
        match self.queue.room.try_acquire_many(room) {
            Ok(permit) => permit.forget(),
            Err(_) => return Err(self.stalled()),
        }
        self.push(wire, room)
    }

    /// Queues a frame, waiting for room. A link without room for `Limits::stall` is cut.
    pub async fn send(&self, frame: F) -> Result<(), SendError> {
        let (wire, room) = self.prepare(frame)?;
        match timeout(self.queue.stall, self.queue.room.acquire_many(room)).await {
            Ok(Ok(permit)) => permit.forget(),
            Ok(Err(_)) => return Err(SendError::Closed),
            Err(_) => return Err(self.stalled()),
        }
        self.push(wire, room)
    }

    /// Lets go out what is queued, then ends the link. A gateway's reason reaches the node as the stream's status.
    pub fn close(&self, reason: Reason) {
        self.queue.fate.close(reason);
    }

    /// Whether the link is over.
    pub fn is_over(&self) -> bool {
        self.queue.fate.is_over()
    }

    fn prepare(&self, frame: F) -> Result<Queued<F>, SendError> {
        if self.is_over() {
            return Err(SendError::Closed);
        }
        let invalid = |cause| SendError::Invalid { cause };
        frame.check().map_err(invalid)?;
        let wire = frame.into_wire();
        let bytes = wire.encoded_len();
        match u32::try_from(bytes) {
            Ok(small) if bytes <= FRAME_BYTES_MAX => Ok((wire, small + FRAME_ROOM)),
            _ => Err(invalid(FrameError::TooLarge { bytes })),
        }
    }

    fn push(&self, wire: F::Wire, room: u32) -> Result<(), SendError> {
        let queue = &self.queue;
        if queue.room.available_permits() + room as usize >= queue.room_all {
            queue.move_on();
        } else if queue.stalls() {
            return Err(self.stalled());
        }
        self.frames.send((wire, room)).map_err(|_| SendError::Closed)
    }

    fn stalled(&self) -> SendError {
        let reason = Reason::new(CloseCode::Stalled, "the other end does not take its frames");
        self.queue.fate.cut(reason);
        SendError::Stalled
    }
}

impl Sender<Down> {
    /// Refuses the node: a frame that says why, and the same as the status of the stream.
    pub fn refuse(&self, code: RefuseCode, message: impl Into<String>) {
        let message = message.into();
        let refused = Down::Refused { code, message: message.clone() };
        if self.try_send(refused).is_ok() {
            self.close(Reason::new(CloseCode::Refused, message));
        }
    }
}

/// The queue's other end, as HTTP/2 takes it.
pub(crate) struct Outgoing<F: Frame> {
    frames: mpsc::UnboundedReceiver<Queued<F>>,
    queue: Arc<Queue>,
    over: bool,
}

impl<F: Frame> Outgoing<F> {
    fn last(&mut self) -> Option<Result<F::Wire, Status>> {
        self.over = true;
        self.queue.fate.reason().and_then(Reason::to_status).map(Err)
    }
}

impl<F: Frame> Stream for Outgoing<F> {
    type Item = Result<F::Wire, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.over {
            return Poll::Ready(None);
        }
        self.queue.fate.watch(Part::Outgoing, cx);
        match self.frames.poll_recv(cx) {
            Poll::Ready(Some((wire, room))) => {
                self.queue.fate.traffic.sent.frame();
                self.queue.room.add_permits(room as usize);
                self.queue.move_on();
                Poll::Ready(Some(Ok(wire)))
            }
            Poll::Pending if !self.queue.fate.is_over() => Poll::Pending,
            Poll::Ready(None) | Poll::Pending => Poll::Ready(self.last()),
        }
    }
}

impl<F: Frame> Drop for Outgoing<F> {
    fn drop(&mut self) {
        self.queue.fate.close(Reason::new(CloseCode::Ended, "nothing more goes out"));
        self.queue.room.close();
    }
}

/// A queue towards the other end.
pub(crate) fn queue<F: Frame>(fate: Arc<Fate>, limits: &Limits) -> (Sender<F>, Outgoing<F>) {
    let (frames, taken) = mpsc::unbounded_channel();
    let room_all = limits.queue_bytes as usize;
    let queue = Arc::new(Queue {
        fate,
        room: Semaphore::new(room_all),
        room_all,
        stall: limits.stall,
        linger: limits.linger,
        begin: Instant::now(),
        moved_ms: AtomicU64::new(0),
    });
    (Sender { frames, queue: Arc::clone(&queue) }, Outgoing { frames: taken, queue, over: false })
}
