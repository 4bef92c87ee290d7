//! How far a link has come, shared by everything that holds a part of it.

use crate::traffic::Traffic;
use futures_util::task::AtomicWaker;
use std::fmt;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::Context;
use tonic::{Code, Status};

/// Why a link ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason {
    /// What kind of end.
    pub code: CloseCode,
    /// For people.
    pub message: String,
}

/// What kind of end a link has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CloseCode {
    /// One end is done.
    Ended,
    /// The node was not admitted.
    Refused,
    /// A frame was none, over a limit, or out of order.
    Malformed,
    /// The other end did not take its frames.
    Stalled,
    /// The first frame did not come in time.
    TimedOut,
    /// The gateway is going away, or has no room.
    Stopping,
}

impl Reason {
    /// A reason with its message.
    pub fn new(code: CloseCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    pub(crate) fn to_status(&self) -> Option<Status> {
        let code = match self.code {
            CloseCode::Ended => return None,
            CloseCode::Refused => Code::PermissionDenied,
            CloseCode::Malformed => Code::InvalidArgument,
            CloseCode::Stalled => Code::ResourceExhausted,
            CloseCode::TimedOut => Code::DeadlineExceeded,
            CloseCode::Stopping => Code::Unavailable,
        };
        Some(Status::new(code, self.message.clone()))
    }

    pub(crate) fn from_status(status: &Status) -> Option<Self> {
        let code = match status.code() {
            Code::PermissionDenied => CloseCode::Refused,
            Code::InvalidArgument => CloseCode::Malformed,
            Code::ResourceExhausted => CloseCode::Stalled,
            Code::DeadlineExceeded => CloseCode::TimedOut,
            Code::Unavailable => CloseCode::Stopping,
            _ => return None,
        };
        Some(Self::new(code, status.message()))
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.code {
            CloseCode::Ended => "ended",
            CloseCode::Refused => "refused",
            CloseCode::Malformed => "malformed frame",
            CloseCode::Stalled => "stalled",
            CloseCode::TimedOut => "timed out",
            CloseCode::Stopping => "stopping",
        };
        write!(f, "{kind}: {}", self.message)
    }
}

/// How far a link has come. It only goes forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stage {
    /// Connected, the stream is not open.
    Connected,
    /// The stream is open.
    Open,
    /// What is queued may still go out.
    Closing,
    /// Nothing goes any more.
    Cut,
}

/// The parts that sleep until the link goes on.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Part {
    Read,
    Write,
    Outgoing,
    Incoming,
}

const PARTS: [Part; 4] = [Part::Read, Part::Write, Part::Outgoing, Part::Incoming];

#[derive(Debug, Default)]
pub(crate) struct Fate {
    pub(crate) traffic: Arc<Traffic>,
    stage: AtomicU8,
    reason: OnceLock<Reason>,
    wakers: [AtomicWaker; PARTS.len()],
}

impl Fate {
    /// Of a link whose traffic is counted there.
    pub(crate) fn counted(traffic: Arc<Traffic>) -> Self {
        Self { traffic, ..Self::default() }
    }

    pub(crate) fn stage(&self) -> Stage {
        match self.stage.load(Ordering::Acquire) {
            0 => Stage::Connected,
            1 => Stage::Open,
            2 => Stage::Closing,
            _ => Stage::Cut,
        }
    }

    /// The stage, seen by a part that is woken when it changes.
    pub(crate) fn watch(&self, part: Part, cx: &Context<'_>) -> Stage {
        self.wakers[part as usize].register(cx.waker());
        self.stage()
    }

    /// Whether the stream was opened by this call, and not before.
    pub(crate) fn open(&self) -> bool {
        self.stage
            .compare_exchange(Stage::Connected as u8, Stage::Open as u8, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }

    /// Lets go out what is queued, then ends. The first reason counts.
    pub(crate) fn close(&self, reason: Reason) {
        self.end(Stage::Closing, reason);
    }

    /// Ends at once. The first reason counts.
    pub(crate) fn cut(&self, reason: Reason) {
        self.end(Stage::Cut, reason);
    }

    fn end(&self, stage: Stage, reason: Reason) {
        let _ = self.reason.set(reason);
        if self.stage.fetch_max(stage as u8, Ordering::AcqRel) < stage as u8 {
            for waker in &self.wakers {
                waker.wake();
            }
        }
    }

    pub(crate) fn is_over(&self) -> bool {
        self.stage() >= Stage::Closing
    }

    pub(crate) fn reason(&self) -> Option<&Reason> {
        self.reason.get()
    }
}
