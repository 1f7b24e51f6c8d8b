//! One sequence with its scheduling state, and the counts derived from it.
//!
//! ```text
//! tokens      p p p p p p p p | o o o | ?          ? = pending: sampled by a batch in flight
//!             ^num_computed committed   ^num_known
//!                  ^num_scheduled: committed or in flight; the next row starts here
//! ```

use super::NewSequence;
use super::turn::Turn;
use crate::kv::BlockHash;
use crate::types::{Claim, SeqId, Sequence};

/// Most tokens that prompt and output of a sequence can have.
pub(super) fn most_tokens(new: &NewSequence, max_model_len: usize) -> usize {
    prompt_and_output(new.prompt.len(), new.params.max_tokens, max_model_len)
}

fn prompt_and_output(num_prompt: usize, max_tokens: u32, max_model_len: usize) -> usize {
    num_prompt.saturating_add(max_tokens as usize).min(max_model_len)
}

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) seq: Sequence,
    /// Its place in both queues.
    pub(super) turn: Turn,
    pub(super) claim: Claim,
    /// Tokens that its tenant was charged for it.
    pub(super) charged: u64,
    pub(super) salt: u64,
    pub(super) leader: Option<SeqId>,
    pub(super) running: bool,
    /// Has been admitted before.
    pub(super) started: bool,
    /// Its whole prompt was computed and published once.
    pub(super) prompt_computed: bool,
    /// Leading tokens computed or in flight.
    pub(super) num_scheduled: usize,
    /// Uncommitted batches with a row of this sequence.
    pub(super) in_flight: usize,
    /// Of those, the ones that sample.
    pub(super) pending: usize,
    /// Hashes of the full blocks of committed tokens, as far as needed yet.
    pub(super) hashes: Vec<BlockHash>,
    /// Leading prompt positions whose logits were delivered (with `prompt_logprobs`).
    pub(super) num_scored: usize,
    pub(super) num_preemptions: u32,
    /// Others admitted before it since it first didn't fit.
    pub(super) num_bypassed: usize,
}

impl Entry {
    /// Most tokens that prompt and output can have.
    pub(super) fn most_tokens(&self, max_model_len: usize) -> usize {
        prompt_and_output(self.seq.num_prompt, self.seq.params.max_tokens, max_model_len)
    }

    /// Tokens to compute next; 0 when only a batch in flight can tell.
    pub(super) fn remaining(&self, max_model_len: usize) -> usize {
        let known = self.seq.tokens.len() + self.pending;
        if self.pending > 0 && known >= self.most_tokens(max_model_len) {
            return 0; // the pending token is the last
        }
        known.saturating_sub(self.num_scheduled)
    }

    /// Wants logits of prompt positions that aren't scheduled yet.
    pub(super) fn is_scoring(&self) -> bool {
        self.seq.params.prompt_logprobs.is_some()
            && self.num_scored < self.seq.num_prompt
            && self.num_scheduled < self.seq.num_prompt
    }

    /// Whether a row that ends before position `end` samples the next token.
    pub(super) fn samples(&self, end: usize) -> bool {
        self.seq.params.max_tokens > 0 && end == self.seq.tokens.len() + self.pending
    }

    /// Logits rows wanted of the tokens up to `end`, of those not scheduled yet.
    pub(super) fn num_logits(&self, end: usize) -> usize {
        self.num_prompt_logits(end).max(usize::from(self.samples(end)))
    }

    /// Of these, the ones that score the prompt.
    pub(super) fn num_prompt_logits(&self, end: usize) -> usize {
        if self.is_scoring() { end.saturating_sub(self.num_scheduled.max(self.num_scored)) } else { 0 }
    }

    /// The end of a row that begins at `num_scheduled`: `end`, or earlier for want of `max_prompt_logits`.
    pub(super) fn last_end(&self, end: usize, max_prompt_logits: usize) -> usize {
        if self.is_scoring() {
            end.min(self.num_scheduled.max(self.num_scored).saturating_add(max_prompt_logits))
        } else {
            end
        }
    }

    /// Most tokens that a prefix hit may cover: the last token is always computed, for its logits,
    /// and so are the prompt positions whose logits are still to be delivered.
    pub(super) fn max_hit_tokens(&self) -> usize {
        let unscored = if self.seq.params.prompt_logprobs.is_some() { self.num_scored } else { self.seq.num_prompt };
        if unscored < self.seq.num_prompt { unscored } else { self.seq.tokens.len() - 1 }
    }

    /// Must get all it may still need when admitted, and keeps it until it ends.
    pub(super) fn is_reserved(&self, max_preemptions: u32) -> bool {
        self.num_preemptions >= max_preemptions
    }
}
