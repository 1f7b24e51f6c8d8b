//! The scheduler's limits, what it takes in and what it tells.

use std::sync::Arc;

use crate::kv::KvUsage;
use crate::types::{Claim, FinishReason, SamplingParams, SeqId, TokenLogprobs};

/// Limits of the scheduler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SchedulerConfig {
    /// Sequences that run at once; lowered to `max_batch_tokens`, so that every one can decode in each step.
    pub max_num_seqs: usize,
    /// Tokens that one batch computes, at least 1.
    pub max_batch_tokens: usize,
    /// Rows of logits that one batch computes to score prompts (`prompt_logprobs`), at least 1. Each is as wide as the
    /// vocabulary (1 MiB at 262144 tokens), so prompts that are scored go in smaller chunks than others.
    pub max_prompt_logits: usize,
    /// Longest prompt plus output of a sequence.
    pub max_model_len: usize,
    /// Batches that may be uncommitted when another is scheduled: 0, or 1 where the device runs ahead.
    pub depth: usize,
    /// Prefills that share a batch's tokens when several are at hand: a long prompt leaves at least
    /// `1 - 1/max_shared_prefills` of them to those behind it.
    pub max_shared_prefills: usize,
    /// A waiting sequence that doesn't fit is overtaken by at most this many others; then it is next.
    pub max_bypass: usize,
    /// A sequence that was preempted this often is admitted again only when everything it may
    /// still need can be promised to it. 0 promises it to every sequence at once.
    pub max_preemptions: u32,
}

impl Default for SchedulerConfig {
    fn default() -> Self {
        Self {
            max_num_seqs: 256,
            max_batch_tokens: 512,
            max_prompt_logits: 64,
            max_model_len: 4096,
            depth: 0,
            max_shared_prefills: 4,
            max_bypass: 16,
            max_preemptions: 2,
        }
    }
}

/// A sequence to compute.
#[derive(Clone, Debug)]
pub struct NewSequence {
    /// Unique for the life of the scheduler.
    pub id: SeqId,
    /// Prompt token ids, at least one.
    pub prompt: Arc<[u32]>,
    /// What the client asked of the sampler.
    pub params: Arc<SamplingParams>,
    /// Separates tenants in the prefix cache.
    pub salt: u64,
    /// Which of the request's continuations this is.
    pub choice: u32,
    /// A sibling with the same prompt: this one waits until the leader's prompt is computed, and
    /// then finds it in the prefix cache.
    pub leader: Option<SeqId>,
    /// Its tokens are drawn under masks.
    pub constrained: bool,
    /// Who it is computed for.
    pub claim: Claim,
}

/// Why a sequence can't be computed, ever.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddError {
    /// There is nothing to start from.
    #[error("the prompt is empty: at least one token is needed")]
    EmptyPrompt,
    /// No room for even one output token.
    #[error("the prompt has {prompt} tokens but prompt and output together are limited to {limit}: shorten it")]
    TooLong {
        /// Prompt tokens.
        prompt: usize,
        /// The limit.
        limit: usize,
    },
    /// The whole KV cache is too small for it.
    #[error("the sequence needs KV cache for {needed} tokens but all of it holds {capacity}: lower max_tokens")]
    NeverFits {
        /// Tokens needed.
        needed: usize,
        /// Tokens that one sequence alone can hold.
        capacity: usize,
    },
    /// The id is taken.
    #[error("{0} exists already")]
    Duplicate(SeqId),
}

/// Something that happened to a sequence, in order.
#[derive(Clone, Debug, PartialEq)]
pub enum SeqEvent {
    /// It was admitted for the first time.
    Started {
        /// Which sequence.
        seq: SeqId,
        /// Prompt tokens found in the prefix cache.
        cached_tokens: usize,
    },
    /// Log-probabilities of prompt tokens from position `first` on.
    PromptLogprobs {
        /// Which sequence.
        seq: SeqId,
        /// Position of the first token described.
        first: usize,
        /// One entry a token.
        entries: Vec<TokenLogprobs>,
    },
    /// A token was generated; a stop token too, followed by `Finished`.
    Token {
        /// Which sequence.
        seq: SeqId,
        /// Token id.
        token: u32,
        /// Present when asked for.
        logprobs: Option<TokenLogprobs>,
    },
    /// It is complete and forgotten.
    Finished {
        /// Which sequence.
        seq: SeqId,
        /// Why.
        reason: FinishReason,
        /// The stop token that ended it.
        stop_token: Option<u32>,
    },
    /// It can't be computed and is forgotten.
    Failed {
        /// Which sequence.
        seq: SeqId,
        /// The fault.
        message: String,
    },
    /// It gave way to others and waits to be computed again; nothing is lost for the client.
    Preempted {
        /// Which sequence.
        seq: SeqId,
    },
}

/// Counts for metrics. Totals grow from the scheduler's start.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct SchedulerStats {
    /// Sequences in execution.
    pub num_running: usize,
    /// Sequences that wait.
    pub num_waiting: usize,
    /// Prompt tokens of sequences that were never admitted yet.
    pub queued_prompt_tokens: usize,
    /// The KV cache's blocks.
    pub kv: KvUsage,
    /// Batches scheduled, in total.
    pub steps: u64,
    /// Tokens computed by committed batches, in total.
    pub computed_tokens: u64,
    /// Preemptions, in total.
    pub preemptions: u64,
    /// Computed tokens that preempted sequences gave up, in total.
    pub preempted_tokens: u64,
    /// Of the preemptions, those without which nothing could have gone on, in total; rare.
    pub stalls: u64,
    /// Prompt tokens looked up in the prefix cache at first admission, in total.
    pub prefix_queries: u64,
    /// Prompt tokens found there, in total.
    pub prefix_hits: u64,
}
