//! The vocabulary every layer shares: plain data, no behaviour beyond invariants.
//!
//! `ids` names things, `claim` says for whom, `sampling` says what a client asked of the sampler, `batch` is what one
//! engine step computes, `event` is what a request hears back, `sequence` is all tokens of one choice, `constraint` is what
//! they must look like.

mod batch;
mod claim;
mod constraint;
mod event;
mod ids;
mod sampling;
mod sequence;

pub use batch::{Batch, BatchRow, GroupTable, SampledToken, StepOutput};
pub use claim::Claim;
pub use constraint::{Constraint, ConstraintError, ConstraintState, Follow, Masks};
pub use event::{EngineEvent, FinishReason, RequestError, TokenLogprobs, TopLogprob};
pub use ids::{BlockId, SeqId};
pub use sampling::SamplingParams;
pub use sequence::Sequence;
