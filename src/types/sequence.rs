//! One sequence as the sampler and the engine see it.

use std::sync::Arc;

use super::{SamplingParams, SeqId};

/// A prompt and the tokens generated after it. The scheduler owns and changes it; others read.
#[derive(Clone, Debug)]
pub struct Sequence {
    /// Its name.
    pub id: SeqId,
    /// Prompt tokens, then the output tokens that are committed.
    pub tokens: Vec<u32>,
    /// Leading `tokens` that are the prompt.
    pub num_prompt: usize,
    /// Leading `tokens` whose keys and values lie in the cache, committed batches only. Always
    /// chases `tokens.len()`: prefill, decode and a resumed preemption only differ in the distance.
    pub num_computed: usize,
    /// What the client asked of the sampler.
    pub params: Arc<SamplingParams>,
    /// Which of the request's continuations this is; part of the key of its random stream.
    pub choice: u32,
    /// A token is drawn only among those of a mask that comes with the step.
    pub constrained: bool,
}

impl Sequence {
    /// The prompt's tokens.
    pub fn prompt(&self) -> &[u32] {
        &self.tokens[..self.num_prompt]
    }

    /// The output tokens so far.
    pub fn output(&self) -> &[u32] {
        &self.tokens[self.num_prompt..]
    }

    /// Number of output tokens so far.
    pub fn num_output(&self) -> usize {
        self.tokens.len() - self.num_prompt
    }
}
