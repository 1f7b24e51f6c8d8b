//! Sampling on the host: the rows of a batch whose logits came back.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::sampler::{RowContext, Sampler, logprobs};
use crate::scheduler::Scheduler;
use crate::types::{Batch, Masks, SampledToken, StepOutput, TokenLogprobs};

/// Samples every row of `batch` that wants it. A row's fault is that row's alone.
pub(super) fn sample_batch(
    sampler: &mut Sampler,
    scheduler: &Scheduler,
    (batch, masks): (&Batch, &Masks),
    logits: &mut [f32],
    vocab_size: usize,
) -> StepOutput {
    let mut output = StepOutput { step: batch.step, ..StepOutput::default() };
    let mut rest = logits;
    for row in &batch.rows {
        let (rows, tail) = rest.split_at_mut(row.num_logits * vocab_size);
        rest = tail;
        // A sequence that was aborted while the step ran has nothing to sample.
        let Some(sequence) = scheduler.sequence(row.seq) else { continue };
        let context = RowContext {
            params: &sequence.params,
            choice: sequence.choice,
            tokens: &sequence.tokens,
            num_prompt: sequence.num_prompt,
            allowed: masks.of(row.seq),
        };
        if let Some(top) = sequence.params.prompt_logprobs {
            let first = row.start + row.tokens.len() - row.num_logits + 1;
            let entries: Vec<TokenLogprobs> = rows
                .chunks(vocab_size)
                .zip(sequence.tokens.get(first..sequence.num_prompt).unwrap_or_default())
                .map(|(logits, &token)| logprobs(logits, token, top as usize))
                .collect();
            if !entries.is_empty() {
                output.prompt_logprobs.push((row.seq, first, entries));
            }
        }
        if row.samples {
            let last = rows.len() - vocab_size;
            let drawn = catch_unwind(AssertUnwindSafe(|| sampler.sample(&context, &mut rows[last..])));
            let (token, logprobs) = match drawn {
                Ok(Ok((token, logprobs))) => (Ok(token), logprobs),
                Ok(Err(error)) => (Err(error.to_string()), None),
                Err(_) => {
                    *sampler = Sampler::default();
                    (Err("the sampler panicked".to_owned()), None)
                }
            };
            output.sampled.push(SampledToken { seq: row.seq, token, logprobs });
        }
    }
    output
}
