//! Logit processors that may change the best token, in vLLM's order: bad words, minimum length, bias, penalties.

use super::{History, SampleSpec};

/// What tokens of the history cost.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Penalties {
    /// Divides positive and multiplies negative logits of tokens seen in prompt or output; 1 is neutral.
    pub repetition: f32,
    /// Subtracted once from the logit of every token of the output; 0 is neutral.
    pub presence: f32,
    /// Subtracted per occurrence in the output; 0 is neutral.
    pub frequency: f32,
}

impl Default for Penalties {
    fn default() -> Self {
        Self { repetition: 1.0, presence: 0.0, frequency: 0.0 }
    }
}

impl Penalties {
    /// True when they need the history of the sequence.
    pub fn is_active(&self) -> bool {
        *self != Self::default()
    }
}

/// Counts of tokens in a sequence, reused between rows.
#[derive(Debug, Default)]
pub(super) struct Processor {
    /// Occurrences in the output, by token.
    counts: Vec<u32>,
    /// Tokens whose entry of `counts` or `seen` must be reset.
    touched: Vec<u32>,
    seen: Vec<bool>,
}

impl Processor {
    /// Edits `logits` `[vocab]` in place.
    pub(super) fn apply(&mut self, spec: &SampleSpec<'_>, history: &History<'_>, logits: &mut [f32]) {
        for word in spec.bad_words {
            if let Some((&last, prefix)) = word.split_last()
                && history.output().ends_with(prefix)
            {
                mask(logits, last);
            }
        }
        if (history.output().len() as u32) < spec.min_tokens {
            spec.stop_tokens.into_iter().flatten().for_each(|&t| mask(logits, t));
        }
        for &(token, bias) in spec.logit_bias {
            if let Some(x) = logits.get_mut(token as usize) {
                *x += bias;
            }
        }
        if spec.penalties.is_active() {
            self.penalise(&spec.penalties, history, logits);
        }
        if let Some(allowed) = spec.allowed {
            for (t, x) in logits.iter_mut().enumerate() {
                if allowed.get(t / 32).is_none_or(|word| word >> (t % 32) & 1 == 0) {
                    *x = f32::NEG_INFINITY;
                }
            }
        }
    }

    /// Repetition over prompt and output; frequency and presence over the output alone.
    fn penalise(&mut self, penalties: &Penalties, history: &History<'_>, logits: &mut [f32]) {
        self.counts.resize(logits.len(), 0);
        self.seen.resize(logits.len(), false);
        for (i, &t) in history.tokens.iter().enumerate() {
            let Some(seen) = self.seen.get_mut(t as usize) else { continue };
            if !*seen {
                *seen = true;
                self.touched.push(t);
            }
            if i >= history.num_prompt {
                self.counts[t as usize] += 1;
            }
        }
        for t in self.touched.drain(..) {
            let t = t as usize;
            let count = std::mem::take(&mut self.counts[t]);
            self.seen[t] = false;
            let x = &mut logits[t];
            *x = if *x > 0.0 { *x / penalties.repetition } else { *x * penalties.repetition };
            *x -= penalties.frequency * count as f32;
            if count > 0 {
                *x -= penalties.presence;
            }
        }
    }
}

fn mask(logits: &mut [f32], token: u32) {
    if let Some(x) = logits.get_mut(token as usize) {
        *x = f32::NEG_INFINITY;
    }
}
