//! The vocabulary every layer shares: plain data, no behaviour beyond invariants.
//!
//! `ids` names things, `sampling` says what a client asked of the sampler, `batch` is what one
//! engine step computes, `event` is what a request hears back.

mod batch;
mod event;
mod ids;
mod sampling;

pub use batch::{Batch, BatchRow, GroupTable, SampledToken, StepOutput};
pub use event::{EngineEvent, FinishReason, RequestError, TokenLogprobs, TopLogprob};
pub use ids::{BlockId, SeqId};
pub use sampling::SamplingParams;
