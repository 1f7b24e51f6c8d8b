//! A checked completions request to a job: tokenise each prompt, fit the context.

use super::validate::{CompletionRequest, PromptInput};
use crate::http::error::ApiError;
use crate::http::generate::{Job, Prompt, StopRule};
use crate::http::sampling::{Limits, bad_word_tokens, fit_context};
use crate::http::text::{TextService, text_error};
use crate::types::SamplingParams;

/// What OpenAI generates when a completions request doesn't say how much.
const DEFAULT_MAX_TOKENS: usize = 16;

pub(super) fn convert(request: &CompletionRequest, text: &dyn TextService, limits: &Limits) -> Result<Job, ApiError> {
    let common = &request.common;
    // An echoed prompt is scored like the answer.
    let echo_logprobs = request.logprobs.filter(|_| request.echo);
    let prompt_logprobs = common.prompt_logprobs.max(echo_logprobs);
    let base = SamplingParams {
        bad_words: bad_word_tokens(text, &common.bad_words)?,
        logprobs: request.logprobs,
        prompt_logprobs,
        ..common.params.clone()
    };
    let mut prompts = Vec::with_capacity(request.prompts.len());
    let mut queued = 0_usize;
    for (i, input) in request.prompts.iter().enumerate() {
        let path = if request.prompts.len() > 1 { format!("prompt[{i}]") } else { "prompt".to_owned() };
        let (ids, original) = match input {
            PromptInput::Tokens(ids) => (ids.clone(), None),
            PromptInput::Text(s) => {
                limits.check_bytes("prompt", s.len())?;
                (text.encode(s, common.add_special).map_err(|e| text_error(&path, e))?, Some(s.clone()))
            }
        };
        if ids.is_empty() {
            return Err(ApiError::value(&path, format!("Invalid '{path}': the prompt has no tokens.")));
        }
        // The engine's queue takes any single request, but several only within its limit.
        queued = queued.saturating_add(ids.len().saturating_mul(common.n as usize));
        if request.prompts.len() > 1 && queued > limits.max_queued_tokens {
            return Err(ApiError::batch_never_fits(queued, limits.max_queued_tokens));
        }
        let max_tokens = fit_context("prompt", ids.len(), common, DEFAULT_MAX_TOKENS, limits.max_model_len)?;
        let mut prompt = Prompt::new(ids, prompt_logprobs.is_some());
        if request.echo {
            prompt = prompt.echoed(original, text);
        }
        prompts.push((prompt, SamplingParams { max_tokens, ..base.clone() }));
    }
    Ok(Job {
        reading: None,
        prompts,
        n: common.n,
        stop: StopRule::new(&common.stop, common.include_stop),
        skip_special: common.skip_special,
        continuation: true,
        cache_salt: common.cache_salt,
        constraint: common.wanted.as_ref().map(|wanted| wanted.compile(text)).transpose()?,
    })
}
