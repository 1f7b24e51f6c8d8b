//! What a step's sampling brings back: which of the device's results are whose, and what they say.

use sconce_kernels::gpu::logprobs::ScoreRecord;
use sconce_kernels::gpu::pod::record;
use sconce_kernels::gpu::sample_rows::{DRAWN, NOT_FINITE, SampleResult};
use sconce_kernels::sampling::LogProbs;

use super::sampling::SamplerSizes;
use crate::sampler::SampleError;
use crate::types::{SampledToken, SeqId, StepOutput, TokenLogprobs, TopLogprob};

/// Which tokens a step brings, in the order of the device's results.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// One a row with `samples`: the sequence, and why it wasn't even asked for.
    pub(super) sampled: Vec<(SeqId, Result<Drawn, String>)>,
    /// Tokens of prompts.
    pub(super) prompts: Vec<Scored>,
}

/// Tokens of a prompt that are scored.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scored {
    pub(super) seq: SeqId,
    /// Position of the first.
    pub(super) first: usize,
    /// First of their score rows.
    pub(super) score: usize,
    /// How many.
    pub(super) len: usize,
}

/// Where a drawn token is found.
#[derive(Clone, Copy, Debug)]
pub(super) struct Drawn {
    pub(super) result: usize,
    pub(super) score: Option<usize>,
}

impl Plan {
    /// What the step brought, from the bytes that came back.
    ///
    /// # Errors
    /// When they are too few: a bug of the device.
    pub(super) fn output(&self, step: u64, bytes: &[u8], sizes: SamplerSizes) -> Result<StepOutput, String> {
        let mut output = StepOutput { step, ..StepOutput::default() };
        for (seq, drawn) in &self.sampled {
            let (token, logprobs) = match drawn {
                Ok(drawn) => token(*drawn, bytes, sizes)?,
                Err(error) => (Err(error.clone()), None),
            };
            output.sampled.push(SampledToken { seq: *seq, token, logprobs });
        }
        for scored in &self.prompts {
            let entries = (scored.score..scored.score + scored.len).map(|index| score(index, bytes, sizes));
            output.prompt_logprobs.push((scored.seq, scored.first, entries.collect::<Result<_, _>>()?));
        }
        Ok(output)
    }
}

type Token = (Result<u32, String>, Option<TokenLogprobs>);

fn token(drawn: Drawn, bytes: &[u8], sizes: SamplerSizes) -> Result<Token, String> {
    let result: SampleResult = record(bytes, drawn.result).ok_or("the device gave no result")?;
    Ok(match result.status {
        DRAWN => (Ok(result.token), drawn.score.map(|index| score(index, bytes, sizes)).transpose()?),
        NOT_FINITE => (Err(SampleError::NotFinite.to_string()), None),
        _ => (Err(SampleError::NothingLeft.to_string()), None),
    })
}

fn score(index: usize, bytes: &[u8], sizes: SamplerSizes) -> Result<TokenLogprobs, String> {
    let records = bytes.get(sizes.records_offset()..).unwrap_or_default();
    let found: ScoreRecord = record(records, index).ok_or("the device gave no log-probabilities")?;
    let LogProbs { logprob, rank, top } = found.log_probs();
    let top = top.into_iter().map(|(token, logprob)| TopLogprob { token, logprob }).collect();
    Ok(TokenLogprobs { token: found.token, logprob, rank, top })
}
