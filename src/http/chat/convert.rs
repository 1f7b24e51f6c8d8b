//! A checked chat request to a job: render, tokenise, fit the context.

use std::sync::Arc;

use super::validate::ChatRequest;
use crate::http::error::ApiError;
use crate::http::generate::{Job, Prompt, StopRule};
use crate::http::sampling::{Limits, bad_word_tokens, fit_context};
use crate::http::text::{TextService, text_error};
use crate::text::answer::AnswerRules;
use crate::types::SamplingParams;

/// The conversation as the model reads it, and the job.
///
/// # Errors
/// 400 when the template refuses the conversation or it doesn't fit the context.
pub(in crate::http) fn render(
    request: &ChatRequest,
    text: &dyn TextService,
    limits: &Limits,
) -> Result<(String, Job), ApiError> {
    let common = &request.common;
    let failed = |e| text_error("messages", e);
    let style = text.style();
    if !request.tools.known.is_empty() && style.tool_parser().is_none() {
        return Err(ApiError::unsupported("tools", ": this model's chat template knows none"));
    }
    let rendered = text.render_chat(&request.messages, &request.options).map_err(failed)?;
    limits.check_bytes("messages", rendered.len())?;
    let ids = text.encode_rendered(&rendered).map_err(failed)?;
    if ids.is_empty() {
        return Err(ApiError::value("messages", "Invalid 'messages': the rendered conversation is empty."));
    }
    let default = limits.defaults.max_tokens.map_or(usize::MAX, |n| n as usize);
    let max_tokens = fit_context("messages", ids.len(), common, default, limits.max_model_len)?;
    let params = SamplingParams {
        max_tokens,
        bad_words: bad_word_tokens(text, &common.bad_words)?,
        logprobs: request.logprobs,
        prompt_logprobs: common.prompt_logprobs,
        ..common.params.clone()
    };
    let rules = AnswerRules {
        tools: request.tools.known.clone(),
        calls: !request.tools.known.is_empty(),
        parallel: request.tools.parallel,
        opening: style.opening(&rendered),
    };
    let job = Job {
        reading: request.reads(style).then(|| (style.clone(), Arc::new(rules))),
        prompts: vec![(Prompt::new(ids, common.prompt_logprobs.is_some()), params)],
        n: common.n,
        stop: StopRule::new(&common.stop, common.include_stop),
        skip_special: common.skip_special,
        continuation: request.options.continue_final_message,
        cache_salt: common.cache_salt,
        constraint: common.wanted.as_ref().map(|wanted| wanted.compile(text)).transpose()?,
    };
    Ok((rendered, job))
}
