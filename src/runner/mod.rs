//! From a `Batch` to logits: flat buffers, the model, and a scripted fake for tests.
//!
//! A runner knows nothing of scheduling: it computes what it is told, in the order it is told.

mod cpu;
mod fake;
mod flat;
mod gpu;

pub use cpu::CpuRunner;
pub use fake::FakeRunner;
pub use gpu::{GpuLimits, GpuRunner};

use crate::types::{Batch, Masks, SeqId, Sequence, StepOutput};

/// A fault that concerns a whole batch (out of memory, a panic in a kernel, a lost device).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct RunnerError {
    /// One line for the log; clients are told less.
    pub message: String,
    /// True when no later batch can succeed either.
    pub fatal: bool,
}

/// What a runner hands back for the oldest launched batch.
#[derive(Debug)]
pub enum Collected<'a> {
    /// Raw logits on the host, `[num_logits, vocab]` in batch order, for the caller to sample (and overwrite).
    Logits {
        /// Row-major f32.
        data: &'a mut [f32],
        /// Width of a row.
        vocab_size: usize,
    },
    /// The device sampled already.
    Sampled(StepOutput),
}

/// The sequences of a batch, for a runner that samples: `None` for one that has gone.
pub type Sequences<'a> = &'a dyn Fn(SeqId) -> Option<&'a Sequence>;

/// Executes batches in order.
pub trait Runner: Send {
    /// How many batches may be uncommitted when the next one is scheduled: 0 when sampling happens on the host,
    /// 1 when the device feeds its own samples to the next step.
    fn depth(&self) -> usize;

    /// Starts the forward pass of `batch`; may return before it is done. While it computes, `alive` is called every now
    /// and then. [`Self::sample`] comes next.
    ///
    /// # Errors
    /// [`RunnerError`] when the batch can't be computed; nothing is then owed to `collect`.
    fn launch(&mut self, batch: &Batch, sequences: Sequences<'_>, alive: &dyn Fn()) -> Result<(), RunnerError>;

    /// Starts the sampling of the batch launched last, if the runner samples. Each of its constrained sequences that
    /// samples has a row in `masks`, unless it is gone. They come late, since they are made while the pass runs.
    ///
    /// # Errors
    /// [`RunnerError`] when it can't be done; nothing is then owed to `collect`.
    fn sample(&mut self, _masks: &Masks) -> Result<(), RunnerError> {
        Ok(())
    }

    /// Waits for the oldest launched batch.
    ///
    /// # Errors
    /// [`RunnerError`] when that batch failed; it counts as collected.
    fn collect(&mut self) -> Result<Collected<'_>, RunnerError>;

    /// Allocations of device memory since the runner was made: none, if all is right.
    fn late_allocations(&self) -> u64 {
        0
    }
}
