//! A screened completions request in, a checked one out. Errors name the path of the field.

use serde_json::{Map, Value};

use crate::http::error::ApiError;
use crate::http::json::{integer, token_id, type_name};
use crate::http::sampling::{Common, Fields, Limits, read};

/// One prompt as the client sent it.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum PromptInput {
    Text(String),
    Tokens(Vec<u32>),
}

pub(in crate::http) struct CompletionRequest {
    pub(super) common: Common,
    pub(super) prompts: Vec<PromptInput>,
    pub(super) echo: bool,
    pub(super) logprobs: Option<u32>,
}

pub(super) fn validate(map: &Map<String, Value>, limits: &Limits) -> Result<CompletionRequest, ApiError> {
    let prompts = read_prompts(map.get("prompt"), limits)?;
    let common = read(map, limits)?;
    let fields = Fields(map);
    let echo = fields.flag("echo").unwrap_or(false);
    if common.max_tokens == Some(0) && !echo {
        let message = "Invalid 'max_tokens': it must be at least 1, or 0 together with 'echo'.";
        return Err(ApiError::value("max_tokens", message));
    }
    Ok(CompletionRequest { prompts, echo, logprobs: fields.count("logprobs"), common })
}

fn read_prompts(value: Option<&Value>, limits: &Limits) -> Result<Vec<PromptInput>, ApiError> {
    const EXPECTED: &str = "a string, an array of strings, an array of token ids or an array of those";
    let items = match value {
        None => return Err(ApiError::missing("prompt")),
        Some(Value::String(text)) => return Ok(vec![PromptInput::Text(text.clone())]),
        Some(Value::Array(items)) => items,
        Some(other) => return Err(ApiError::wrong_type("prompt", EXPECTED, type_name(other))),
    };
    // The first item tells which of the three kinds of array this is.
    match items.first() {
        None => Err(ApiError::value("prompt", "Invalid 'prompt': the array must not be empty.")),
        Some(first) if integer(first).is_some() => Ok(vec![PromptInput::Tokens(tokens(items, "prompt", limits)?)]),
        Some(first) => {
            if items.len() > limits.max_batch_prompts {
                let message = format!("Invalid 'prompt': at most {} prompts.", limits.max_batch_prompts);
                return Err(ApiError::value("prompt", message));
            }
            let text = first.is_string();
            let item = |(i, item): (usize, &Value)| match item {
                Value::String(s) if text => Ok(PromptInput::Text(s.clone())),
                Value::Array(ids) if !text => Ok(PromptInput::Tokens(tokens(ids, &format!("prompt[{i}]"), limits)?)),
                other => {
                    let expected = if text { "a string like the first one" } else { "an array of token ids" };
                    Err(ApiError::wrong_type(&format!("prompt[{i}]"), expected, type_name(other)))
                }
            };
            items.iter().enumerate().map(item).collect()
        }
    }
}

fn tokens(items: &[Value], path: &str, limits: &Limits) -> Result<Vec<u32>, ApiError> {
    if items.is_empty() {
        return Err(ApiError::value(path, format!("Invalid '{path}': at least one token is needed.")));
    }
    if items.len() > limits.max_model_len {
        return Err(ApiError::context_length("prompt", limits.max_model_len, items.len(), 0));
    }
    items.iter().enumerate().map(|(i, v)| token_id(v, || format!("{path}[{i}]"), limits.vocab_size)).collect()
}
