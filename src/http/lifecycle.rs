//! Where the server is in its life, and which generation requests are open.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// The states, in the order in which they may follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum State {
    /// The model is loading: alive, not ready.
    Loading = 0,
    /// Requests are served.
    Ready = 1,
    /// A stop signal came: not ready, but requests are still taken until load balancers have noticed.
    Draining = 2,
    /// New requests are refused; open ones go on.
    Refusing = 3,
    /// Open requests are being cut.
    Dead = 4,
}

/// Shared by the server and its handlers.
#[derive(Debug, Default)]
pub struct Lifecycle {
    state: AtomicU8,
    open: AtomicUsize,
    idle: Notify,
    cut: CancellationToken,
}

impl Lifecycle {
    /// The state now.
    pub fn state(&self) -> State {
        match self.state.load(Ordering::Acquire) {
            0 => State::Loading,
            1 => State::Ready,
            2 => State::Draining,
            3 => State::Refusing,
            _ => State::Dead,
        }
    }

    /// Moves forward to `state`; never back.
    pub fn advance(&self, state: State) {
        self.state.fetch_max(state as u8, Ordering::AcqRel);
        if state == State::Dead {
            self.cut.cancel();
        }
    }

    /// Cancelled when open requests must end.
    pub fn cut(&self) -> &CancellationToken {
        &self.cut
    }

    /// Counts an open generation request until the guard is dropped.
    pub fn open(self: &Arc<Self>) -> OpenRequest {
        self.open.fetch_add(1, Ordering::AcqRel);
        OpenRequest(self.clone())
    }

    /// Returns when no generation request is open.
    pub async fn idle(&self) {
        loop {
            let notified = self.idle.notified();
            if self.open.load(Ordering::Acquire) == 0 {
                return;
            }
            notified.await;
        }
    }
}

/// One open generation request.
#[derive(Debug)]
pub struct OpenRequest(Arc<Lifecycle>);

impl Drop for OpenRequest {
    fn drop(&mut self) {
        if self.0.open.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.idle.notify_waiters();
        }
    }
}
