//! `POST /tokenize` and `POST /detokenize`, in vLLM's shape.

use std::sync::Arc;

use axum::body::Bytes;
use axum::response::Response;
use http::Request;
use hyper::body::Incoming;
use serde::Serialize;
use serde_json::{Map, Value};

use super::app::App;
use super::body::read_json;
use super::chat::read_messages;
use super::error::ApiError;
use super::fields::{Unknown, screen_messages};
use super::generate::json_response;
use super::json::{parse_object, token_id, type_name};
use super::sampling::Limits;
use super::text::{TextService, decode, text_error, token_display};
use super::usage::to_json;

/// Fields that `/tokenize` reads.
const TOKENIZE: &[&str] = &[
    "model",
    "prompt",
    "messages",
    "add_special_tokens",
    "add_generation_prompt",
    "continue_final_message",
    "chat_template_kwargs",
    "return_token_strs",
];
/// Fields that `/detokenize` reads.
const DETOKENIZE: &[&str] = &["model", "tokens"];
/// Fields of vLLM's that would change the ids and can't be honoured: only empty ones pass.
const UNSUPPORTED: &[&str] = &["tools", "chat_template", "mm_processor_kwargs"];

#[derive(Serialize)]
struct Tokenized {
    count: usize,
    max_model_len: usize,
    tokens: Vec<u32>,
    token_strs: Option<Vec<String>>,
}

#[derive(Serialize)]
struct Detokenized {
    prompt: String,
}

pub(super) async fn tokenize(app: Arc<App>, request: Request<Incoming>) -> Result<Response, ApiError> {
    on_text_thread(app, request, |app, bytes| {
        let serving = app.serving()?;
        let map = read_map(app, bytes, TOKENIZE)?;
        if map.contains_key("prompt") && map.contains_key("messages") {
            return Err(ApiError::value("messages", "Give either 'prompt' or 'messages', not both."));
        }
        Ok(to_json(&tokenized(&map, &*serving.text, &serving.limits)?))
    })
    .await
}

pub(super) async fn detokenize(app: Arc<App>, request: Request<Incoming>) -> Result<Response, ApiError> {
    on_text_thread(app, request, |app, bytes| {
        let serving = app.serving()?;
        let map = read_map(app, bytes, DETOKENIZE)?;
        let ids = match map.get("tokens") {
            None => return Err(ApiError::missing("tokens")),
            Some(Value::Array(ids)) => ids,
            Some(other) => return Err(ApiError::wrong_type("tokens", "an array", type_name(other))),
        };
        let vocab_size = serving.limits.vocab_size;
        let ids = ids.iter().enumerate().map(|(i, v)| token_id(v, || format!("tokens[{i}]"), vocab_size));
        let prompt = decode(&*serving.text, &ids.collect::<Result<Vec<_>, _>>()?, false);
        Ok(to_json(&Detokenized { prompt }))
    })
    .await
}

/// Answers with the JSON that `work` makes of the body.
async fn on_text_thread(
    app: Arc<App>,
    request: Request<Incoming>,
    work: fn(&App, &Bytes) -> Result<String, ApiError>,
) -> Result<Response, ApiError> {
    app.serving()?;
    let bytes = read_json(request, &app.config).await?;
    let shared = app.clone();
    let json = app.pools.of(bytes.len()).run(move || work(&shared, &bytes)).await?;
    Ok(json_response(json))
}

fn read_map(app: &App, bytes: &Bytes, known: &[&str]) -> Result<Map<String, Value>, ApiError> {
    let mut map = parse_object(bytes, app.config.max_json_depth)?;
    map.retain(|_, v| !v.is_null());
    let mut unknown = Unknown::new(app.config.strict_fields, &app.unknown_fields);
    for (name, value) in map.iter().filter(|(name, _)| !known.contains(&name.as_str())) {
        if UNSUPPORTED.contains(&name.as_str()) {
            let empty =
                matches!(value, Value::Array(a) if a.is_empty()) || matches!(value, Value::Object(o) if o.is_empty());
            if !empty {
                return Err(ApiError::unsupported(name, ""));
            }
        } else {
            unknown.meet("", name)?;
        }
    }
    screen_messages(&map, &mut unknown)?;
    app.telemetry.unknown_fields(unknown.count);
    match map.get("model") {
        None => Ok(map),
        Some(Value::String(name)) if app.config.served_names.contains(name) => Ok(map),
        Some(Value::String(name)) => Err(ApiError::model(name)),
        Some(other) => Err(ApiError::wrong_type("model", "a string", type_name(other))),
    }
}

fn flag(map: &Map<String, Value>, name: &str, default: bool) -> Result<bool, ApiError> {
    match map.get(name) {
        None => Ok(default),
        Some(Value::Bool(b)) => Ok(*b),
        Some(other) => Err(ApiError::wrong_type(name, "a boolean", type_name(other))),
    }
}

/// Nothing here needs to fit the context, but the work is bounded as for generation.
fn check_bytes(param: &str, bytes: usize, limits: &Limits) -> Result<(), ApiError> {
    let Some(tokens) = limits.overflow(bytes) else { return Ok(()) };
    let limit = limits.max_model_len;
    let message = format!(
        "Invalid '{param}': it has at least {tokens} tokens, more than the model's context of {limit}; send less text.",
    );
    Err(ApiError::value(param, message))
}

fn tokenized(map: &Map<String, Value>, text: &dyn TextService, limits: &Limits) -> Result<Tokenized, ApiError> {
    let tokens = match map.get("prompt") {
        Some(Value::String(prompt)) => {
            let add_special = flag(map, "add_special_tokens", true)?;
            check_bytes("prompt", prompt.len(), limits)?;
            text.encode(prompt, add_special).map_err(|e| text_error("prompt", e))?
        }
        Some(other) => return Err(ApiError::wrong_type("prompt", "a string", type_name(other))),
        None if map.contains_key("messages") => {
            flag(map, "add_generation_prompt", true)?;
            flag(map, "continue_final_message", false)?;
            let (messages, options) = read_messages(map)?;
            let failed = |e| text_error("messages", e);
            let rendered = text.render_chat(&messages, &options).map_err(failed)?;
            check_bytes("messages", rendered.len(), limits)?;
            text.encode_rendered(&rendered).map_err(failed)?
        }
        None => return Err(ApiError::missing("prompt")),
    };
    let token_strs = flag(map, "return_token_strs", false)?
        .then(|| tokens.iter().map(|id| token_display(&text.token_bytes(*id))).collect());
    Ok(Tokenized { count: tokens.len(), max_model_len: limits.max_model_len, tokens, token_strs })
}
