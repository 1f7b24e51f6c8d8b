//! The one table of request fields: where each may stand, its type and range, and what becomes of it.
//!
//! `screen` runs it over a request before anything else looks at it. What passes has the type and
//! range of the table, so the code behind may read fields without checking them again.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use serde_json::{Map, Value};

use super::error::ApiError;
use super::json::{integer, shown, type_name};

/// Which endpoints know a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Endpoint {
    Chat,
    Completions,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum On {
    Both,
    Chat,
    Completions,
}

/// JSON type and range of a field.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Kind {
    Bool,
    Int(i128, i128),
    /// As `Int`, or `false` as a way to say nothing.
    IntOrFalse(i128, i128),
    Num(f64, f64),
    /// A string of at most so many characters.
    Str(usize),
    List,
    Map,
    /// Several types are possible: looked at where it is read.
    Any,
}

/// What becomes of a field.
#[derive(Clone, Copy)]
pub(super) enum Rule {
    /// Read by `validate`.
    Honoured,
    /// Accepted, has no effect here.
    Ignored,
    /// Only values that change nothing pass; any other is a 400.
    Neutral(fn(&Value, &Map<String, Value>) -> bool),
}

/// One row.
pub(super) struct Field {
    pub(super) name: &'static str,
    pub(super) on: On,
    pub(super) kind: Kind,
    pub(super) rule: Rule,
}

const fn field(name: &'static str, on: On, kind: Kind, rule: Rule) -> Field {
    Field { name, on, kind, rule }
}

const NEVER: Rule = Rule::Neutral(|_, _| false);
const EMPTY: Rule = Rule::Neutral(|v, _| match v {
    Value::Array(a) => a.is_empty(),
    Value::Object(o) => o.is_empty(),
    Value::String(s) => s.is_empty(),
    _ => false,
});
const FALSE: Rule = Rule::Neutral(|v, _| v == &Value::Bool(false));
const TRUE: Rule = Rule::Neutral(|v, _| v == &Value::Bool(true));
const ZERO: Rule = Rule::Neutral(|v, _| v.as_f64() == Some(0.0));
const ONE: Rule = Rule::Neutral(|v, _| v.as_f64() == Some(1.0));
const NO_TOOL: Rule = Rule::Neutral(|v, _| v == "none" || v == "auto");
const AS_N: Rule = Rule::Neutral(|v, map| integer(v) == map.get("n").map_or(Some(1), integer));
const PLAIN_TEXT: Rule =
    Rule::Neutral(|v, _| v.as_object().is_some_and(|o| o.is_empty() || o.get("type").is_some_and(|t| t == "text")));
const TEXT_ONLY: Rule = Rule::Neutral(|v, _| v.as_array().is_some_and(|a| a.iter().all(|m| m == "text")));

const TOKENS: Kind = Kind::Int(0, u32::MAX as i128);
const LONG: Kind = Kind::Str(usize::MAX);
use Kind::{Any, Bool, Int, IntOrFalse, List, Map as Object, Num, Str};
use On::{Both, Chat, Completions};
use Rule::{Honoured, Ignored};

/// Every field that this server knows.
#[rustfmt::skip]
pub(super) static FIELDS: &[Field] = &[
    // What to answer.
    field("model", Both, Str(512), Honoured),
    field("messages", Chat, List, Honoured),
    field("prompt", Completions, Any, Honoured),
    // OpenAI's parameters.
    field("max_tokens", Both, TOKENS, Honoured),
    field("max_completion_tokens", Both, TOKENS, Honoured),
    field("n", Both, Int(1, 128), Honoured),
    field("temperature", Both, Num(0.0, 2.0), Honoured),
    field("top_p", Both, Num(0.0, 1.0), Honoured),
    field("presence_penalty", Both, Num(-2.0, 2.0), Honoured),
    field("frequency_penalty", Both, Num(-2.0, 2.0), Honoured),
    field("logit_bias", Both, Object, Honoured),
    field("seed", Both, Int(i64::MIN as i128, u64::MAX as i128), Honoured),
    field("stop", Both, Any, Honoured),
    field("stream", Both, Bool, Honoured),
    field("stream_options", Both, Object, Honoured),
    field("logprobs", Chat, Bool, Honoured),
    field("top_logprobs", Chat, Int(0, 20), Honoured),
    // Routers add the `false` that only a chat request knows.
    field("logprobs", Completions, IntOrFalse(0, 5), Honoured),
    field("echo", Completions, Bool, Honoured),
    // vLLM's extensions.
    field("top_k", Both, Int(-1, i32::MAX as i128), Honoured),
    field("min_p", Both, Num(0.0, 1.0), Honoured),
    field("repetition_penalty", Both, Num(0.01, 100.0), Honoured),
    field("min_tokens", Both, TOKENS, Honoured),
    field("stop_token_ids", Both, List, Honoured),
    field("ignore_eos", Both, Bool, Honoured),
    field("bad_words", Both, List, Honoured),
    field("include_stop_str_in_output", Both, Bool, Honoured),
    field("skip_special_tokens", Both, Bool, Honoured),
    field("add_special_tokens", Completions, Bool, Honoured),
    // The beginning-of-sequence token stands exactly once whatever a client says.
    field("add_special_tokens", Chat, Bool, Ignored),
    field("prompt_logprobs", Both, Int(0, 20), Honoured),
    field("add_generation_prompt", Chat, Bool, Honoured),
    field("continue_final_message", Chat, Bool, Honoured),
    field("chat_template_kwargs", Chat, Object, Honoured),
    field("reasoning_effort", Chat, Str(32), Honoured),
    field("cache_salt", Both, Str(1024), Honoured),
    // No effect here: about billing, storage, routing, or fields that routers add to every request.
    field("store", Both, Bool, Ignored),
    field("service_tier", Both, Str(64), Ignored),
    field("prompt_cache_key", Both, Str(1024), Ignored),
    field("prompt_cache_retention", Both, Str(64), Ignored),
    field("prompt_cache_options", Both, Object, Ignored),
    field("verbosity", Both, Str(32), Ignored),
    field("prediction", Both, Object, Ignored),
    field("web_search_options", Both, Object, Ignored),
    field("metadata", Both, Object, Ignored),
    field("user", Both, Str(4096), Ignored),
    field("safety_identifier", Both, Str(64), Ignored),
    field("request_id", Both, Str(1024), Ignored),
    field("separate_reasoning", Both, Bool, Ignored),
    field("stream_reasoning", Both, Bool, Ignored),
    field("include_reasoning", Both, Bool, Ignored),
    // Known, but only a value that changes nothing can be honoured.
    field("tools", Chat, List, EMPTY),
    field("tool_choice", Chat, Any, NO_TOOL),
    field("parallel_tool_calls", Chat, Bool, Ignored),
    field("functions", Chat, List, EMPTY),
    field("function_call", Chat, Any, NO_TOOL),
    field("response_format", Both, Object, PLAIN_TEXT),
    field("modalities", Chat, List, TEXT_ONLY),
    field("audio", Chat, Object, NEVER),
    field("moderation", Both, Any, NEVER),
    field("suffix", Completions, LONG, EMPTY),
    field("best_of", Both, Int(0, 20), AS_N),
    field("use_beam_search", Both, Bool, FALSE),
    field("length_penalty", Both, Num(-1e3, 1e3), ONE),
    field("early_stopping", Both, Bool, FALSE),
    field("echo", Chat, Bool, FALSE),
    field("priority", Both, Int(i64::MIN as i128, i64::MAX as i128), ZERO),
    field("truncate_prompt_tokens", Both, Any, NEVER),
    field("prompt_embeds", Both, Any, NEVER),
    field("allowed_token_ids", Both, List, EMPTY),
    field("logits_processors", Both, Any, EMPTY),
    field("spaces_between_special_tokens", Both, Bool, TRUE),
    field("return_tokens_as_token_ids", Both, Bool, FALSE),
    field("return_token_ids", Both, Bool, FALSE),
    field("return_hidden_states", Both, Bool, FALSE),
    field("no_stop_trim", Both, Bool, FALSE),
    field("chat_template", Chat, LONG, NEVER),
    field("documents", Chat, List, EMPTY),
    field("mm_processor_kwargs", Both, Object, EMPTY),
    field("kv_transfer_params", Both, Object, EMPTY),
    field("vllm_xargs", Both, Object, EMPTY),
    field("lora_path", Both, Any, NEVER),
    // Constraints: silently dropping one would give an answer that breaks it.
    field("structured_outputs", Both, Object, EMPTY),
    field("guided_json", Both, Any, NEVER),
    field("guided_regex", Both, LONG, NEVER),
    field("guided_choice", Both, List, EMPTY),
    field("guided_grammar", Both, LONG, NEVER),
    field("guided_decoding_backend", Both, Str(64), Ignored),
    field("guided_whitespace_pattern", Both, LONG, Ignored),
    field("json_schema", Both, Any, NEVER),
    field("regex", Both, LONG, NEVER),
    field("ebnf", Both, LONG, NEVER),
    field("grammar", Both, LONG, EMPTY),
];

fn lookup(name: &str, endpoint: Endpoint) -> Option<&'static Field> {
    FIELDS.iter().find(|f| {
        f.name == name
            && match f.on {
                Both => true,
                Chat => endpoint == Endpoint::Chat,
                Completions => endpoint == Endpoint::Completions,
            }
    })
}

/// Names of unknown fields that were logged already. Bounded, so that clients can't fill it.
#[derive(Debug, Default)]
pub(super) struct UnknownFields(Mutex<HashSet<String>>);

const MOST_NAMES_LOGGED: usize = 256;

impl UnknownFields {
    pub(super) fn log_once(&self, name: &str) {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.len() < MOST_NAMES_LOGGED && seen.insert(shown(name)) {
            tracing::warn!(field = shown(name), "a request field that nobody knows is ignored");
        }
    }
}

/// Drops nulls (they mean absence), ignored and unknown fields, and checks the rest. Returns how many
/// fields were unknown.
///
/// # Errors
/// 400 naming the field for a wrong type or range, a value that can't be honoured, or, when
/// `strict`, a field nobody knows.
pub(super) fn screen(
    map: &mut Map<String, Value>,
    endpoint: Endpoint,
    strict: bool,
    unknown: &UnknownFields,
) -> Result<u64, ApiError> {
    map.retain(|_, v| !v.is_null());
    let mut count = 0;
    for (name, value) in map.iter() {
        let Some(field) = lookup(name, endpoint) else {
            if strict {
                return Err(ApiError::unknown_field(&shown(name)));
            }
            unknown.log_once(name);
            count += 1;
            continue;
        };
        check_kind(field, value)?;
        if let Rule::Neutral(passes) = field.rule
            && !passes(value, map)
        {
            return Err(ApiError::unsupported(field.name, " beyond its neutral value"));
        }
    }
    if let Some(metadata) = map.get("metadata") {
        check_metadata(metadata)?;
    }
    map.retain(|name, _| lookup(name, endpoint).is_some_and(|f| matches!(f.rule, Honoured)));
    Ok(count)
}

fn check_kind(field: &Field, value: &Value) -> Result<(), ApiError> {
    let name = field.name;
    let wrong = |expected: &str| Err(ApiError::wrong_type(name, expected, type_name(value)));
    let range = |low: String, high: String| {
        Err(ApiError::value(name, format!("Invalid '{name}': it must be between {low} and {high}.")))
    };
    match field.kind {
        Bool if !value.is_boolean() => wrong("a boolean"),
        IntOrFalse(..) if value == &Value::Bool(false) => Ok(()),
        Int(low, high) | IntOrFalse(low, high) => match integer(value) {
            None if value.as_f64().is_some_and(|f| f.fract() == 0.0) => range(low.to_string(), high.to_string()),
            None => wrong("an integer"),
            Some(n) if n < low || n > high => range(low.to_string(), high.to_string()),
            Some(_) => Ok(()),
        },
        Num(low, high) => match value.as_f64() {
            None => wrong("a number"),
            Some(n) if !(low..=high).contains(&n) => range(low.to_string(), high.to_string()),
            Some(_) => Ok(()),
        },
        Str(most) => match value.as_str() {
            None => wrong("a string"),
            Some(s) if s.len() > most && s.chars().count() > most => {
                Err(ApiError::value(name, format!("Invalid '{name}': it may have at most {most} characters.")))
            }
            Some(_) => Ok(()),
        },
        List if !value.is_array() => wrong("an array"),
        Object if !value.is_object() => wrong("an object"),
        _ => Ok(()),
    }
}

fn check_metadata(metadata: &Value) -> Result<(), ApiError> {
    let Some(map) = metadata.as_object() else { return Ok(()) };
    if map.len() > 16 {
        return Err(ApiError::value("metadata", "Invalid 'metadata': it may have at most 16 pairs."));
    }
    for (key, value) in map {
        let path = format!("metadata.{}", shown(key));
        let Some(text) = value.as_str() else {
            return Err(ApiError::wrong_type(&path, "a string", type_name(value)));
        };
        if key.chars().count() > 64 || text.chars().count() > 512 {
            let message = "Invalid 'metadata': keys have at most 64 characters, values at most 512.";
            return Err(ApiError::value(&path, message));
        }
    }
    Ok(())
}
