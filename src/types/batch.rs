//! One engine step: what to compute, and what came of it.

use super::{BlockId, Follow, SeqId, TokenLogprobs};

/// The block table of one sequence in one cache group. Entry `i` holds tokens
/// `[i * block_size, (i + 1) * block_size)`; entries below the window are [`BlockId::NULL`].
pub type GroupTable = Vec<BlockId>;

/// What one forward pass computes: rows of several sequences, prefill and decode alike.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Batch {
    /// Counts scheduled batches from 1.
    pub step: u64,
    /// One entry a sequence, in scheduling order.
    pub rows: Vec<BatchRow>,
    /// Block copies (group, from, to) to perform before the pass; empty today, reserved for forks.
    pub copies: Vec<(usize, BlockId, BlockId)>,
}

/// The part of one sequence that a batch computes.
#[derive(Clone, Debug, PartialEq)]
pub struct BatchRow {
    /// Whose tokens these are.
    pub seq: SeqId,
    /// Position of the first token computed (= tokens whose KV already lies in the cache).
    pub start: usize,
    /// The tokens computed, at positions `start..start + tokens.len()`. The last one may be a
    /// placeholder: see `token_from_previous`.
    pub tokens: Vec<u32>,
    /// The last token isn't known on the host yet: it is what the previous, uncommitted batch
    /// sampled for this sequence. Never set when the runner's depth is 0.
    pub token_from_previous: bool,
    /// Logits are wanted for the last `num_logits` of `tokens`: 1 when the row samples, more when
    /// prompt log-probabilities were asked for, 0 for a prefill chunk that isn't the last.
    pub num_logits: usize,
    /// True when a token is sampled from the last logits row.
    pub samples: bool,
    /// One table a cache group, covering at least `start + tokens.len()` tokens.
    pub tables: Vec<GroupTable>,
}

impl Batch {
    /// Tokens over all rows: the M of every GEMM in the step.
    pub fn num_tokens(&self) -> usize {
        self.rows.iter().map(|r| r.tokens.len()).sum()
    }

    /// Logits rows over all rows of the batch.
    pub fn num_logits(&self) -> usize {
        self.rows.iter().map(|r| r.num_logits).sum()
    }

    /// True when there is nothing to compute.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}

/// What the sampler made of one sampling row.
#[derive(Clone, Debug, PartialEq)]
pub struct SampledToken {
    /// Whose next token this is.
    pub seq: SeqId,
    /// The token, or why sampling this row failed (that request alone fails).
    pub token: Result<u32, String>,
    /// Present when the request asked for log-probabilities.
    pub logprobs: Option<TokenLogprobs>,
}

/// The outcome of one batch.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StepOutput {
    /// The batch this answers.
    pub step: u64,
    /// One entry a row with `samples`, in batch order.
    pub sampled: Vec<SampledToken>,
    /// Log-probabilities of prompt tokens: (sequence, position of the first token described, one
    /// entry a token).
    pub prompt_logprobs: Vec<(SeqId, usize, Vec<TokenLogprobs>)>,
    /// What constraints add to the sampled tokens, in batch order.
    pub follows: Vec<Follow>,
}
