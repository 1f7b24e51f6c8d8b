//! A client's socket with the time limits that HTTP needs: for the head of a request, between
//! requests, and for a client that does not read its answer.
//!
//! The HTTP library's own head timer also runs between requests and would close idle connections
//! of client pools; here the two limits differ.

use std::future::Future;
use std::io::{Error, ErrorKind, IoSlice, Result};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep_until};

/// The limits.
#[derive(Clone, Copy, Debug)]
pub(super) struct IoLimits {
    pub(super) head: Duration,
    pub(super) idle: Duration,
    pub(super) write: Duration,
}

/// Where a connection is between requests and answers; kept by the service.
#[derive(Debug, Default)]
pub(super) struct Progress {
    answering: AtomicBool,
    requests: AtomicU64,
}

impl Progress {
    /// A request came; its answer is complete when the guard is dropped.
    pub(super) fn answering(self: &Arc<Self>) -> Answering {
        self.requests.fetch_add(1, Ordering::AcqRel);
        self.answering.store(true, Ordering::Release);
        Answering(self.clone())
    }
}

/// An answer under way.
#[derive(Debug)]
pub(super) struct Answering(Arc<Progress>);

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.answering.store(false, Ordering::Release);
    }
}

/// The socket.
pub(super) struct LimitedIo {
    socket: TcpStream,
    limits: IoLimits,
    progress: Arc<Progress>,
    /// Requests seen at the last read.
    requests: u64,
    /// Runs while a head is awaited or arriving.
    read_timer: Option<Pin<Box<Sleep>>>,
    head_begun: bool,
    /// Runs while the socket takes no more bytes.
    write_timer: Option<Pin<Box<Sleep>>>,
}

impl LimitedIo {
    pub(super) fn new(socket: TcpStream, limits: IoLimits, progress: Arc<Progress>) -> Self {
        // The first head counts from the connection's start: no idle time before it.
        let read_timer = Some(Box::pin(sleep_until(Instant::now() + limits.head)));
        Self { socket, limits, progress, requests: 0, read_timer, head_begun: true, write_timer: None }
    }

    /// An error once the head is late.
    fn poll_head_limit(&mut self, cx: &mut Context<'_>) -> Result<()> {
        let limit = self.limits.idle;
        let timer = self.read_timer.get_or_insert_with(|| Box::pin(sleep_until(Instant::now() + limit)));
        match timer.as_mut().poll(cx) {
            Poll::Ready(()) => Err(Error::new(ErrorKind::TimedOut, "the client sent no request in time")),
            Poll::Pending => Ok(()),
        }
    }

    fn poll_write_limit<T>(&mut self, cx: &mut Context<'_>, result: Poll<Result<T>>) -> Poll<Result<T>> {
        if result.is_ready() {
            self.write_timer = None;
            return result;
        }
        let limit = self.limits.write;
        let timer = self.write_timer.get_or_insert_with(|| Box::pin(sleep_until(Instant::now() + limit)));
        ready!(timer.as_mut().poll(cx));
        Poll::Ready(Err(Error::new(ErrorKind::TimedOut, "the client does not read its answer")))
    }
}

impl AsyncRead for LimitedIo {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<Result<()>> {
        let answering = self.progress.answering.load(Ordering::Acquire);
        let requests = self.progress.requests.load(Ordering::Acquire);
        if self.requests != requests {
            // The head that was awaited is complete.
            self.requests = requests;
            self.read_timer = None;
            self.head_begun = false;
        }
        let before = buf.filled().len();
        let result = Pin::new(&mut self.socket).poll_read(cx, buf);
        if answering {
            return result;
        }
        if result.is_pending() {
            self.poll_head_limit(cx)?;
        } else if buf.filled().len() > before && !self.head_begun {
            self.head_begun = true;
            let deadline = Instant::now() + self.limits.head;
            self.read_timer = Some(Box::pin(sleep_until(deadline)));
        }
        result
    }
}

impl AsyncWrite for LimitedIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<Result<usize>> {
        let result = Pin::new(&mut self.socket).poll_write(cx, buf);
        self.poll_write_limit(cx, result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<Result<usize>> {
        let result = Pin::new(&mut self.socket).poll_write_vectored(cx, bufs);
        self.poll_write_limit(cx, result)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}
