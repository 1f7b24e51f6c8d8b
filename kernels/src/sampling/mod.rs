//! Logits to tokens: processors, filters and a seeded draw. The reference that the CUDA kernels repeat.
//!
//! Order, as in vLLM: bad words; minimum length; bias; penalties; a grammar's mask; then greedy, or temperature,
//! min-p, top-k, top-p and a draw. The draw is Gumbel-max written as an exponential race: the token with the largest
//! `exp(logit) / E` wins, where `E = -ln(1 - v)` and `v` comes from Philox keyed by (seed, choice, position, token).
//!
//! - `process`: the edits of the logits
//! - `filter`: which tokens may be drawn
//! - `philox`: the random stream
//! - `logprobs`: log-probabilities of the raw distribution

mod filter;
mod logprobs;
mod philox;
mod process;
#[cfg(test)]
mod tests;

pub use filter::Filters;
pub use logprobs::{LogProbs, logprobs};
pub use philox::{Stream, open_unit, philox4x32};
pub use process::Penalties;

/// Below this temperature decoding is greedy, as in vLLM: its inverse would overflow.
pub const GREEDY_BELOW: f32 = 1e-5;

/// What one sequence asks of the sampler, validated; the same for all of its tokens but for `allowed`.
#[derive(Clone, Copy, Debug)]
pub struct SampleSpec<'a> {
    /// Below [`GREEDY_BELOW`] decoding is greedy; otherwise logits are divided by it.
    pub temperature: f32,
    /// Which tokens may be drawn.
    pub filters: Filters,
    /// What the tokens so far cost.
    pub penalties: Penalties,
    /// Added to the logit of a token.
    pub logit_bias: &'a [(u32, f32)],
    /// Token sequences that must never be completed.
    pub bad_words: &'a [Vec<u32>],
    /// `stop_tokens` are masked until this many tokens are generated.
    pub min_tokens: u32,
    /// End-of-sequence tokens and the client's stop tokens.
    pub stop_tokens: [&'a [u32]; 2],
    /// What a grammar allows next: bit `t % 32` of word `t / 32` set for token `t`; missing words forbid.
    pub allowed: Option<&'a [u32]>,
    /// Key of the random stream.
    pub seed: u64,
    /// Which of the `n` continuations; part of the key.
    pub choice: u32,
}

impl Default for SampleSpec<'_> {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            filters: Filters::default(),
            penalties: Penalties::default(),
            logit_bias: &[],
            bad_words: &[],
            min_tokens: 0,
            stop_tokens: [&[]; 2],
            allowed: None,
            seed: 0,
            choice: 0,
        }
    }
}

/// The tokens of a sequence so far; the token to draw has position `tokens.len()`.
#[derive(Clone, Copy, Debug)]
pub struct History<'a> {
    /// Prompt and output.
    pub tokens: &'a [u32],
    /// How many of `tokens` are prompt.
    pub num_prompt: usize,
}

impl History<'_> {
    /// Tokens generated so far.
    pub fn output(&self) -> &[u32] {
        self.tokens.get(self.num_prompt..).unwrap_or_default()
    }
}

/// Why no token could be drawn; the request fails, its neighbours go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SampleError {
    /// A NaN or a positive infinity among the logits.
    #[error("the model produced logits that are not finite")]
    NotFinite,
    /// Bias, bad words and minimum length leave nothing.
    #[error("every token is forbidden by logit_bias, bad_words or min_tokens")]
    NothingLeft,
}

/// Draws tokens; holds scratch only, no state that outlives a call.
#[derive(Debug, Default)]
pub struct Sampler {
    processor: process::Processor,
    filter: filter::Filter,
}

impl Sampler {
    /// Draws the token that follows `history`. `logits` `[vocab]` are raw and are overwritten.
    ///
    /// # Errors
    /// [`SampleError`] when the logits aren't finite or nothing may be drawn.
    pub fn sample(
        &mut self,
        spec: &SampleSpec<'_>,
        history: &History<'_>,
        logits: &mut [f32],
    ) -> Result<u32, SampleError> {
        self.processor.apply(spec, history, logits);
        let (best, max) = argmax(logits)?;
        if spec.temperature < GREEDY_BELOW {
            return Ok(best);
        }
        let inverse = 1.0 / spec.temperature;
        for x in logits.iter_mut() {
            // The maximum maps to 0, so that no temperature overflows.
            *x = (*x - max) * inverse;
        }
        let stream = Stream::new(spec.seed, spec.choice, history.tokens.len() as u32);
        Ok(if self.filter.apply(&spec.filters, logits, 0.0) {
            race(&stream, self.filter.kept.iter().copied(), logits)
        } else {
            race(&stream, 0..logits.len() as u32, logits)
        })
    }
}

/// The winner of the exponential race among `tokens` (ascending); `logits` have maximum 0.
fn race(stream: &Stream, tokens: impl Iterator<Item = u32>, logits: &[f32]) -> u32 {
    let (mut best, mut winner) = (-1.0f32, 0);
    let (mut group, mut words) = (u32::MAX, [0; 4]);
    for t in tokens {
        let weight = logits[t as usize].exp();
        if t / 4 != group {
            group = t / 4;
            words = stream.words(group);
        }
        let v = open_unit(words[(t % 4) as usize]);
        // -ln(1 - v) >= v: a token that can't win is passed over without the logarithm.
        if weight <= best * v {
            continue;
        }
        let score = weight / -(-v).ln_1p();
        if score > best {
            (best, winner) = (score, t);
        }
    }
    winner
}

/// The largest logit and its token, the lowest id among equals.
fn argmax(logits: &[f32]) -> Result<(u32, f32), SampleError> {
    let (mut token, mut max) = (0, f32::NEG_INFINITY);
    let mut finite = true;
    for (t, &x) in logits.iter().enumerate() {
        finite &= x < f32::INFINITY;
        if x > max {
            (token, max) = (t as u32, x);
        }
    }
    match (finite, max > f32::NEG_INFINITY) {
        (false, _) => Err(SampleError::NotFinite),
        (true, false) => Err(SampleError::NothingLeft),
        (true, true) => Ok((token, max)),
    }
}
