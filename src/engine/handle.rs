//! What the rest of the server holds of the engine: submit a request, hear its events, abort by dropping.
//!
//! The engine thread owns scheduler, runner and sampler by value; this file is the only way in.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use crossbeam::channel;
use tokio::sync::mpsc;

use crate::types::{Claim, Constraint, EngineEvent, SamplingParams};

/// A validated request: token ids in, events out.
#[derive(Clone, Debug)]
pub struct EngineRequest {
    /// For logs (the `x-request-id`).
    pub request_id: String,
    /// Prompt token ids; at least one, fewer than the context length.
    pub prompt: Arc<[u32]>,
    /// Shared by all choices; each draws from its own random stream.
    pub params: Arc<SamplingParams>,
    /// Number of continuations (the API's `n`), at least 1.
    pub num_choices: u32,
    /// Separates tenants in the prefix cache; equal salts share.
    pub cache_salt: u64,
    /// Who it is computed for.
    pub claim: Claim,
    /// What each continuation must look like.
    pub constraint: Option<Arc<dyn Constraint>>,
    /// When the request reached the server.
    pub arrival: Instant,
    /// When it must be answered or fail with [`crate::types::RequestError::Timeout`].
    pub deadline: Option<Instant>,
}

/// What is fixed about a running engine.
#[derive(Clone, Debug, PartialEq)]
pub struct EngineInfo {
    /// Longest prompt plus output, in tokens.
    pub max_model_len: usize,
    /// Rows of the output head: valid token ids are below it.
    pub vocab_size: usize,
    /// Tokens the KV cache holds for one sequence alone: a request that needs more never fits.
    pub kv_capacity_tokens: usize,
    /// Most prompt tokens that may wait; above it submissions are refused.
    pub max_queued_tokens: usize,
    /// Sequences that may run at once.
    pub max_num_seqs: usize,
    /// Tokens in a KV block.
    pub block_size: usize,
    /// Blocks of the KV cache, over all groups.
    pub num_blocks: usize,
}

/// Why a request was not accepted.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum SubmitError {
    /// Too much is queued; try again later.
    #[error("the queue is full ({queued_tokens} tokens are waiting, the limit is {limit})")]
    QueueFull {
        /// Tokens that wait now.
        queued_tokens: usize,
        /// The limit.
        limit: usize,
        /// Estimated wait.
        retry_after: Duration,
    },
    /// It could never run, even alone.
    #[error("the request needs KV cache for {needed} tokens but all of it holds {capacity}")]
    NeverFits {
        /// Tokens needed.
        needed: usize,
        /// Tokens available in all.
        capacity: usize,
    },
    /// The engine thread has ended.
    #[error("the engine stopped")]
    EngineDead,
}

/// A message to the engine thread.
#[derive(Debug)]
pub enum Command {
    /// Start a request; its events go to `events`.
    Add {
        /// Number of the request, unique in this process.
        id: u64,
        /// What to compute.
        request: EngineRequest,
        /// Where its events go.
        events: mpsc::UnboundedSender<EngineEvent>,
    },
    /// Forget a request and free what it holds.
    Abort {
        /// Number of the request.
        id: u64,
    },
    /// One choice met a stop string: end it, without an event.
    StopChoice {
        /// Number of the request.
        id: u64,
        /// Which continuation.
        choice: u32,
    },
    /// Tell every open request that the server shuts down, and end the thread.
    Shutdown,
}

/// Live numbers, written by the engine thread once a step and read by anyone.
#[derive(Debug, Default)]
pub struct EngineStats {
    /// Sequences in execution.
    pub num_running: AtomicU64,
    /// Sequences that wait.
    pub num_waiting: AtomicU64,
    /// Prompt tokens submitted and not yet scheduled for the first time.
    pub queued_tokens: AtomicU64,
    /// Sequences submitted and not yet scheduled for the first time.
    pub queued_sequences: AtomicU64,
    /// Milliseconds that a sequence is in execution, of late, for wait estimates.
    pub residence_ms: AtomicU64,
    /// Blocks that hold tokens of live sequences.
    pub used_blocks: AtomicU64,
    /// Recent prompt tokens computed per second, for wait estimates.
    pub prefill_tokens_per_second: AtomicU64,
    /// Milliseconds since the engine started at which the loop last made progress or was idle.
    pub heartbeat_ms: AtomicU64,
    /// True from the first step of work until none is left.
    pub busy: AtomicBool,
    /// Steps executed.
    pub steps: AtomicU64,
}

impl EngineStats {
    /// Sequences join the queue; gives the tokens that were in it.
    fn enter_queue(&self, sequences: u64, tokens: u64) -> u64 {
        self.queued_sequences.fetch_add(sequences, Ordering::Relaxed);
        self.queued_tokens.fetch_add(tokens, Ordering::Relaxed)
    }

    /// Sequences leave the queue, for whatever reason.
    pub(super) fn leave_queue(&self, sequences: u64, tokens: u64) {
        self.queued_sequences.fetch_sub(sequences, Ordering::Relaxed);
        self.queued_tokens.fetch_sub(tokens, Ordering::Relaxed);
    }

    /// How long until the queue is empty: its prompts must be computed, and its sequences need seats, of which one
    /// becomes free each time that a running sequence ends (by Little's law, residence / running apart).
    fn estimated_wait(&self) -> Duration {
        let load = |value: &AtomicU64| value.load(Ordering::Relaxed) as f64;
        // Nothing is known of either before the first has been measured.
        let rate = load(&self.prefill_tokens_per_second);
        let prefill = if rate > 0.0 { load(&self.queued_tokens) / rate } else { 0.0 };
        let interval = load(&self.residence_ms) / 1000.0 / load(&self.num_running).max(1.0);
        let seats = load(&self.queued_sequences) * interval;
        Duration::from_secs_f64(prefill.max(seats).ceil().clamp(1.0, 60.0))
    }
}

#[derive(Debug)]
struct Shared {
    info: EngineInfo,
    stats: EngineStats,
    alive: AtomicBool,
    started: Instant,
    next_id: AtomicU64,
}

/// Cheap to clone; the engine runs until it is told to stop or every handle is gone.
#[derive(Clone, Debug)]
pub struct EngineHandle {
    commands: channel::Sender<Command>,
    shared: Arc<Shared>,
}

/// The engine thread's end: marks the engine dead when dropped, also by a panic.
#[derive(Debug)]
pub struct EngineEnd {
    /// Commands from the handles.
    pub commands: channel::Receiver<Command>,
    shared: Arc<Shared>,
}

/// Makes the two ends of an engine.
pub fn engine_channel(info: EngineInfo) -> (EngineHandle, EngineEnd) {
    let (tx, rx) = channel::unbounded();
    let shared = Arc::new(Shared {
        info,
        stats: EngineStats::default(),
        alive: AtomicBool::new(true),
        started: Instant::now(),
        next_id: AtomicU64::new(1),
    });
    (EngineHandle { commands: tx, shared: shared.clone() }, EngineEnd { commands: rx, shared })
}

impl EngineEnd {
    /// Limits and sizes.
    pub fn info(&self) -> &EngineInfo {
        &self.shared.info
    }

    /// The numbers this thread keeps up to date.
    pub fn stats(&self) -> &EngineStats {
        &self.shared.stats
    }

    /// Nothing is accepted any more, and the engine's health is gone.
    pub fn close(&self) {
        self.shared.alive.store(false, Ordering::Release);
    }

    /// Says that the loop is alive now.
    pub fn beat(&self) {
        let ms = self.shared.started.elapsed().as_millis() as u64;
        self.shared.stats.heartbeat_ms.store(ms, Ordering::Relaxed);
    }
}

impl Drop for EngineEnd {
    fn drop(&mut self) {
        self.close();
    }
}

impl EngineHandle {
    /// Limits and sizes.
    pub fn info(&self) -> &EngineInfo {
        &self.shared.info
    }

    /// Live numbers.
    pub fn stats(&self) -> &EngineStats {
        &self.shared.stats
    }

    /// False once the engine thread has ended, or when it has had work but made no progress for `stall`.
    pub fn is_healthy(&self, stall: Duration) -> bool {
        if !self.is_alive() {
            return false;
        }
        let beat = Duration::from_millis(self.shared.stats.heartbeat_ms.load(Ordering::Relaxed));
        !self.shared.stats.busy.load(Ordering::Relaxed) || self.shared.started.elapsed().saturating_sub(beat) < stall
    }

    /// False once the engine thread has ended.
    pub fn is_alive(&self) -> bool {
        self.shared.alive.load(Ordering::Acquire)
    }

    /// Queues a request. The engine never blocks on the returned stream.
    ///
    /// # Errors
    /// [`SubmitError`] when the queue is full, the request can never fit, or the engine is gone.
    pub fn submit(&self, request: EngineRequest) -> Result<RequestStream, SubmitError> {
        let info = &self.shared.info;
        let stats = &self.shared.stats;
        if !self.is_alive() {
            return Err(SubmitError::EngineDead);
        }
        let needed = request.prompt.len().saturating_add(request.params.max_tokens as usize);
        if needed > info.kv_capacity_tokens {
            return Err(SubmitError::NeverFits { needed, capacity: info.kv_capacity_tokens });
        }
        let tokens = (request.prompt.len() as u64).saturating_mul(u64::from(request.num_choices));
        let sequences = u64::from(request.num_choices);
        let queued = stats.enter_queue(sequences, tokens);
        // An empty queue takes any request that fits, however long.
        if queued > 0 && queued.saturating_add(tokens) > info.max_queued_tokens as u64 {
            stats.leave_queue(sequences, tokens);
            return Err(SubmitError::QueueFull {
                queued_tokens: queued as usize,
                limit: info.max_queued_tokens,
                retry_after: stats.estimated_wait(),
            });
        }
        let id = self.shared.next_id.fetch_add(1, Ordering::Relaxed);
        let (events, rx) = mpsc::unbounded_channel();
        if self.commands.send(Command::Add { id, request, events }).is_err() {
            return Err(SubmitError::EngineDead);
        }
        Ok(RequestStream { id, events: rx, commands: self.commands.clone(), done: false })
    }

    /// Asks the engine to end after telling every open request.
    pub fn shutdown(&self) {
        // A dead engine has nothing left to stop.
        let _ = self.commands.send(Command::Shutdown);
    }
}

/// The events of one request. Dropping it before the end aborts the request.
#[derive(Debug)]
pub struct RequestStream {
    id: u64,
    events: mpsc::UnboundedReceiver<EngineEvent>,
    commands: channel::Sender<Command>,
    done: bool,
}

impl RequestStream {
    /// The next event; `None` when the engine died without a word.
    pub async fn next(&mut self) -> Option<EngineEvent> {
        self.events.recv().await
    }

    /// As `next`, for those who watch several streams.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<EngineEvent>> {
        self.events.poll_recv(cx)
    }

    /// As `next`, for threads outside an async runtime.
    pub fn blocking_next(&mut self) -> Option<EngineEvent> {
        self.events.blocking_recv()
    }

    /// Events that are ready now, without waiting.
    pub fn try_next(&mut self) -> Option<EngineEvent> {
        self.events.try_recv().ok()
    }

    /// Ends one choice because its text met a stop string. Events already under way may still arrive.
    pub fn stop_choice(&self, choice: u32) {
        let _ = self.commands.send(Command::StopChoice { id: self.id, choice });
    }

    /// Every choice has finished: dropping the stream need not tell the engine.
    pub fn complete(&mut self) {
        self.done = true;
    }
}

impl Drop for RequestStream {
    fn drop(&mut self) {
        if !self.done {
            // The engine may be gone already; then there is nothing to free.
            let _ = self.commands.send(Command::Abort { id: self.id });
        }
    }
}
