//! Logits to tokens: processors, filters and a seeded draw. The reference that a device sampler repeats.
//!
//! Order, as in vLLM: raw log-probabilities; bad words; minimum length; bias; penalties; then greedy, or temperature,
//! min-p, top-k, top-p and a draw. The draw is Gumbel-max written as an exponential race: the token with the largest
//! `exp(logit) / E` wins, where `E = -ln(1 - v)` and `v` comes from Philox keyed by (seed, choice, position, token).

mod filter;
mod logprobs;
mod philox;
mod process;
#[cfg(test)]
mod tests;

pub use logprobs::logprobs;
pub use philox::{Stream, philox4x32};

use crate::types::{SamplingParams, TokenLogprobs};

/// Below this temperature decoding is greedy, as in vLLM: its inverse would overflow.
const GREEDY_BELOW: f32 = 1e-5;

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
}

impl RowContext<'_> {
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
    /// Draws the next token of `row`. `logits` `[vocab]` are raw and are overwritten.
    ///
    /// # Errors
    /// [`SampleError`] when the logits aren't finite or nothing may be drawn.
    pub fn sample(
        &mut self,
        row: &RowContext<'_>,
        logits: &mut [f32],
    ) -> Result<(u32, Option<TokenLogprobs>), SampleError> {
        let raw = row.params.logprobs.map(|_| logits.to_vec());
        self.processor.apply(row, logits);
        let (best, max) = argmax(logits)?;
        let token = if row.params.temperature < GREEDY_BELOW { best } else { self.draw(row, logits, max) };
        let entry = raw.map(|raw| logprobs(&raw, token, row.params.logprobs.unwrap_or(0) as usize));
        Ok((token, entry))
    }

    fn draw(&mut self, row: &RowContext<'_>, logits: &mut [f32], max: f32) -> u32 {
        let inverse = 1.0 / row.params.temperature;
        for x in logits.iter_mut() {
            // The maximum maps to 0, so that no temperature overflows.
            *x = (*x - max) * inverse;
        }
        let stream = Stream::new(row.params.seed, row.choice, row.tokens.len() as u32);
        if self.filter.apply(row.params, logits, 0.0) {
            race(&stream, self.filter.kept.iter().copied(), logits)
        } else {
            race(&stream, 0..logits.len() as u32, logits)
        }
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
        let v = philox::open_unit(words[(t % 4) as usize]);
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
