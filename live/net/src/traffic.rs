//! What links carry, counted.

use std::sync::atomic::{AtomicU64, Ordering};

/// What a server's links have carried since it began, opened and closed ones.
#[derive(Debug, Default)]
pub struct Traffic {
    pub(crate) sent: Way,
    pub(crate) received: Way,
}

impl Traffic {
    /// What went to the other ends.
    pub fn sent(&self) -> Carried {
        self.sent.carried()
    }

    /// What came from them.
    pub fn received(&self) -> Carried {
        self.received.carried()
    }
}

/// What went one way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Carried {
    /// Messages.
    pub frames: u64,
    /// Bytes of HTTP/2 with these and all that it takes, before TLS.
    pub bytes: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Way {
    frames: AtomicU64,
    bytes: AtomicU64,
}

impl Way {
    pub(crate) fn frame(&self) {
        self.frames.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn bytes(&self, count: usize) {
        self.bytes.fetch_add(count as u64, Ordering::Relaxed);
    }

    fn carried(&self) -> Carried {
        Carried { frames: self.frames.load(Ordering::Relaxed), bytes: self.bytes.load(Ordering::Relaxed) }
    }
}
