//! What a request asks, told to the sampler of the kernels: requests know parameters, kernels know logits.
//!
//! Log-probabilities are of the raw distribution, so they are taken from a copy made before the sampler edits.

#[cfg(test)]
mod tests;

pub use sconce_kernels::sampling::SampleError;
use sconce_kernels::sampling::{self, Filters, History, Penalties, SampleSpec};

use crate::types::{SamplingParams, TokenLogprobs, TopLogprob};

/// What the sampler knows of a sequence.
#[derive(Clone, Copy, Debug)]
pub struct RowContext<'a> {
    /// What the client asked for.
    pub params: &'a SamplingParams,
    /// Which of the `n` continuations.
    pub choice: u32,
    /// Prompt and output so far; the token to draw has position `tokens.len()`.
    pub tokens: &'a [u32],
    /// How many of `tokens` are prompt.
    pub num_prompt: usize,
    /// What a constraint allows next: bit `t % 32` of word `t / 32` is set for token `t`.
    pub allowed: Option<&'a [u32]>,
}

/// `params` of choice `choice` as the kernels take them.
pub fn spec(params: &SamplingParams, choice: u32) -> SampleSpec<'_> {
    SampleSpec {
        temperature: params.temperature,
        filters: Filters { top_k: params.top_k, top_p: params.top_p, min_p: params.min_p },
        penalties: Penalties {
            repetition: params.repetition_penalty,
            presence: params.presence_penalty,
            frequency: params.frequency_penalty,
        },
        logit_bias: &params.logit_bias,
        bad_words: &params.bad_words,
        min_tokens: params.min_tokens,
        stop_tokens: [&params.eos_token_ids, &params.stop_token_ids],
        allowed: None,
        seed: params.seed,
        choice,
    }
}

/// Draws tokens; holds scratch only, no state that outlives a call.
#[derive(Debug, Default)]
pub struct Sampler(sampling::Sampler);

impl Sampler {
    /// Draws the next token of `row`. `logits` `[vocab]` are raw and are overwritten.
    ///
    /// # Errors
    /// [`SampleError`] when the logits aren't finite or nothing may be drawn.
    pub fn sample(
        &mut self,
        row: &RowContext<'_>,
        logits: &mut [f32],
    ) -> Result<(u32, Option<TokenLogprobs>), SampleError> {
        let raw = row.params.logprobs.map(|top| (logits.to_vec(), top));
        let history = History { tokens: row.tokens, num_prompt: row.num_prompt };
        let spec = SampleSpec { allowed: row.allowed, ..spec(row.params, row.choice) };
        let token = self.0.sample(&spec, &history, logits)?;
        Ok((token, raw.map(|(raw, top)| logprobs(&raw, token, top as usize))))
    }
}

/// The log-probability of `token` and of the `top` most likely tokens, from raw logits `[vocab]`.
pub fn logprobs(logits: &[f32], token: u32, top: usize) -> TokenLogprobs {
    let found = sampling::logprobs(logits, token, top);
    let top = found.top.into_iter().map(|(token, logprob)| TopLogprob { token, logprob }).collect();
    TokenLogprobs { token, logprob: found.logprob, rank: found.rank, top }
}
