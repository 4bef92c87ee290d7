//! A connection that ends when its link does, and that does not wait for ever for one to be opened.

use crate::fate::{Fate, Part, Stage};
use crate::limits::Limits;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

/// `IO` with a link's fate over it.
pub(crate) struct Guard<IO> {
    io: IO,
    fate: Arc<Fate>,
    linger: Duration,
    timer: Pin<Box<Sleep>>,
    lingers: bool,
}

impl<IO> Guard<IO> {
    pub(crate) fn new(io: IO, fate: Arc<Fate>, limits: &Limits) -> Self {
        Self { io, fate, linger: limits.linger, timer: Box::pin(sleep(limits.opening)), lingers: false }
    }

    fn count(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(bytes)) = written {
            self.fate.traffic.sent.bytes(bytes);
        }
        written
    }

    // The timer runs while the stream is not open, and again from the moment that the link is closed.
    fn check(&mut self, part: Part, cx: &mut Context<'_>) -> io::Result<()> {
        let stage = self.fate.watch(part, cx);
        if stage == Stage::Closing && !self.lingers {
            self.lingers = true;
            self.timer.as_mut().reset(Instant::now() + self.linger);
        }
        match stage {
            Stage::Open => Ok(()),
            Stage::Cut => Err(io::ErrorKind::ConnectionAborted.into()),
            Stage::Connected | Stage::Closing => match self.timer.as_mut().poll(cx) {
                Poll::Ready(()) => Err(io::ErrorKind::TimedOut.into()),
                Poll::Pending => Ok(()),
            },
        }
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Guard<IO> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.check(Part::Read, cx)?;
        let before = buf.filled().len();
        let read = Pin::new(&mut self.io).poll_read(cx, buf);
        self.fate.traffic.received.bytes(buf.filled().len() - before);
        read
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Guard<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.check(Part::Write, cx)?;
        let written = Pin::new(&mut self.io).poll_write(cx, buf);
        self.count(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check(Part::Write, cx)?;
        let written = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.count(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(Part::Write, cx)?;
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(Part::Write, cx)?;
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
