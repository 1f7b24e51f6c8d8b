//! Logit processors that may change the best token, in vLLM's order: bad words, minimum length, bias, penalties.

use super::RowContext;

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
    pub(super) fn apply(&mut self, row: &RowContext<'_>, logits: &mut [f32]) {
        let params = row.params;
        for word in &params.bad_words {
            if let Some((&last, prefix)) = word.split_last()
                && row.output().ends_with(prefix)
            {
                mask(logits, last);
            }
        }
        if (row.output().len() as u32) < params.min_tokens {
            params.eos_token_ids.iter().chain(&params.stop_token_ids).for_each(|&t| mask(logits, t));
        }
        for &(token, bias) in &params.logit_bias {
            if let Some(x) = logits.get_mut(token as usize) {
                *x += bias;
            }
        }
        if params.has_penalties() {
            self.penalties(row, logits);
        }
    }

    /// Repetition over prompt and output; frequency and presence over the output alone.
    fn penalties(&mut self, row: &RowContext<'_>, logits: &mut [f32]) {
        let params = row.params;
        self.counts.resize(logits.len(), 0);
        self.seen.resize(logits.len(), false);
        for (i, &t) in row.tokens.iter().enumerate() {
            let Some(seen) = self.seen.get_mut(t as usize) else { continue };
            if !*seen {
                *seen = true;
                self.touched.push(t);
            }
            if i >= row.num_prompt {
                self.counts[t as usize] += 1;
            }
        }
        for t in self.touched.drain(..) {
            let t = t as usize;
            let count = std::mem::take(&mut self.counts[t]);
            self.seen[t] = false;
            let x = &mut logits[t];
            *x = if *x > 0.0 { *x / params.repetition_penalty } else { *x * params.repetition_penalty };
            *x -= params.frequency_penalty * count as f32;
            if count > 0 {
                *x -= params.presence_penalty;
            }
        }
    }
}

fn mask(logits: &mut [f32], token: u32) {
    if let Some(x) = logits.get_mut(token as usize) {
        *x = f32::NEG_INFINITY;
    }
}
