//! A client's socket with the time limits that HTTP needs: for the head of a request, between
//! requests, and for a client that does not read its answer.
//!
//! The HTTP library's own head timer also runs between requests and would close idle connections
//! of client pools; here the two limits differ.

use std::future::Future;
use std::io::{Error, ErrorKind, IoSlice, Result};
use std::net::Shutdown;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use socket2::SockRef;
#[cfg(target_os = "linux")]
use tokio::io::Interest;
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
    /// Whether an answer is under way.
    pub(super) fn is_answering(&self) -> bool {
        self.answering.load(Ordering::Acquire)
    }

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
    socket: Arc<TcpStream>,
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
    pub(super) fn new(socket: Arc<TcpStream>, limits: IoLimits, progress: Arc<Progress>) -> Self {
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

/// Returns when the client's side has ended while an answer is under way. The HTTP library sees the end of what it reads,
/// but reads nothing while bytes after the request (a second request, a stray line end) lie in its buffer.
pub(super) async fn client_gone(socket: &TcpStream, progress: &Progress) {
    if read_closed(socket).await.is_err() {
        return std::future::pending().await;
    }
    // Between answers the library finds out by itself.
    while !progress.is_answering() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Waits for the end of what can be read, however much lies unread before it.
#[cfg(target_os = "linux")]
async fn read_closed(socket: &TcpStream) -> Result<()> {
    // Of the interests that a socket reports, this one wakes for the end alone: nobody sends urgent data.
    while !socket.ready(Interest::PRIORITY).await?.is_read_closed() {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    Ok(())
}

#[cfg(not(target_os = "linux"))]
async fn read_closed(_socket: &TcpStream) -> Result<()> {
    std::future::pending().await
}

fn read(socket: &TcpStream, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<Result<()>> {
    loop {
        ready!(socket.poll_read_ready(cx))?;
        match socket.try_read(buf.initialize_unfilled()) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            result => return Poll::Ready(result.map(|len| buf.advance(len))),
        }
    }
}

fn write(
    socket: &TcpStream,
    cx: &mut Context<'_>,
    mut attempt: impl FnMut(&TcpStream) -> Result<usize>,
) -> Poll<Result<usize>> {
    loop {
        ready!(socket.poll_write_ready(cx))?;
        match attempt(socket) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            result => return Poll::Ready(result),
        }
    }
}

impl AsyncRead for LimitedIo {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<Result<()>> {
        let answering = self.progress.is_answering();
        let requests = self.progress.requests.load(Ordering::Acquire);
        if self.requests != requests {
            // The head that was awaited is complete.
            self.requests = requests;
            self.read_timer = None;
            self.head_begun = false;
        }
        let before = buf.filled().len();
        let result = read(&self.socket, cx, buf);
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
        let result = write(&self.socket, cx, |socket| socket.try_write(buf));
        self.poll_write_limit(cx, result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<Result<usize>> {
        let result = write(&self.socket, cx, |socket| socket.try_write_vectored(bufs));
        self.poll_write_limit(cx, result)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<Result<()>> {
        // The system has the bytes already.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<Result<()>> {
        Poll::Ready(SockRef::from(self.socket.as_ref()).shutdown(Shutdown::Write))
    }
}
