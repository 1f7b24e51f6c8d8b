//! `POST /tokenize` and `POST /detokenize`, in vLLM's shape.

use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::response::Response;
use http::Request;
use serde::Serialize;
use serde_json::{Map, Value};

use super::app::App;
use super::body::read_json;
use super::chat::read_messages;
use super::error::ApiError;
use super::fields::{Unknown, screen_messages};
use super::generate::json_response;
use super::json::{parse_object, token_id, type_name};
use super::sampling::{Fields, Limits};
use super::text::{TextService, decode, text_error, token_display};
use super::usage::to_json;

/// Fields that `/tokenize` reads, with their types.
const TOKENIZE: &[(&str, &str)] = &[
    ("model", "a string"),
    ("prompt", "a string"),
    ("messages", "an array"),
    // Of a conversation too: the beginning-of-sequence token stands exactly once whatever a client says.
    ("add_special_tokens", "a boolean"),
    ("add_generation_prompt", "a boolean"),
    ("continue_final_message", "a boolean"),
    ("chat_template_kwargs", "an object"),
    ("return_token_strs", "a boolean"),
];
/// Fields that `/detokenize` reads.
const DETOKENIZE: &[(&str, &str)] = &[("model", "a string"), ("tokens", "an array")];
/// Fields of vLLM's that would change the ids and can't be honoured: only empty ones pass.
const UNSUPPORTED: &[&str] = &["tools", "chat_template", "mm_processor_kwargs", "media_io_kwargs"];

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

pub(super) async fn tokenize(app: Arc<App>, request: Request<Body>) -> Result<Response, ApiError> {
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

pub(super) async fn detokenize(app: Arc<App>, request: Request<Body>) -> Result<Response, ApiError> {
    on_text_thread(app, request, |app, bytes| {
        let serving = app.serving()?;
        let map = read_map(app, bytes, DETOKENIZE)?;
        let ids = map.get("tokens").and_then(Value::as_array).ok_or_else(|| ApiError::missing("tokens"))?;
        let vocab_size = serving.limits.vocab_size;
        let ids = ids.iter().enumerate().map(|(i, v)| token_id(v, || format!("tokens[{i}]"), vocab_size));
        let prompt = decode(&*serving.text, &ids.collect::<Result<Vec<_>, _>>()?, false);
        Ok(to_json(&Detokenized { prompt }))
    })
    .await
}

/// Answers with the JSON that `work` makes of the body.
pub(super) async fn on_text_thread(
    app: Arc<App>,
    request: Request<Body>,
    work: fn(&App, &Bytes) -> Result<String, ApiError>,
) -> Result<Response, ApiError> {
    app.serving()?;
    let bytes = read_json(request, &app.config).await?;
    let shared = app.clone();
    let json = app.pools.of(bytes.len()).run(move || work(&shared, &bytes)).await?;
    Ok(json_response(json))
}

/// The fields of the body that are `known`, of the right types.
fn read_map(app: &App, bytes: &Bytes, known: &[(&str, &str)]) -> Result<Map<String, Value>, ApiError> {
    let mut map = parse_object(bytes, app.config.max_json_depth)?;
    map.retain(|_, v| !v.is_null());
    let mut unknown = Unknown::new(app.config.strict_fields, &app.unknown_fields);
    let expected = |name: &str| known.iter().find(|(field, _)| *field == name).map(|(_, kind)| *kind);
    for (name, value) in &map {
        match expected(name) {
            Some(kind) if type_name(value) != kind => return Err(ApiError::wrong_type(name, kind, type_name(value))),
            Some(_) => {}
            None if !UNSUPPORTED.contains(&name.as_str()) => unknown.meet("", name)?,
            None if value.as_array().is_some_and(Vec::is_empty) || value.as_object().is_some_and(Map::is_empty) => {}
            None => return Err(ApiError::unsupported(name, "")),
        }
    }
    map.retain(|name, _| expected(name).is_some());
    screen_messages(&map, &mut unknown)?;
    app.telemetry.unknown_fields(unknown.count);
    match map.get("model").and_then(Value::as_str) {
        Some(name) if !app.config.served_names.iter().any(|served| served == name) => Err(ApiError::model(name)),
        _ => Ok(map),
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
    let fields = Fields(map);
    let tokens = match fields.text("prompt") {
        Some(prompt) => {
            check_bytes("prompt", prompt.len(), limits)?;
            let add_special = fields.flag("add_special_tokens").unwrap_or(true);
            text.encode(prompt, add_special).map_err(|e| text_error("prompt", e))?
        }
        None if map.contains_key("messages") => {
            let (messages, options) = read_messages(map)?;
            let failed = |e| text_error("messages", e);
            let rendered = text.render_chat(&messages, &options).map_err(failed)?;
            check_bytes("messages", rendered.len(), limits)?;
            text.encode_rendered(&rendered).map_err(failed)?
        }
        None => return Err(ApiError::missing("prompt")),
    };
    let strings = || tokens.iter().map(|id| token_display(&text.token_bytes(*id))).collect();
    let token_strs = fields.flag("return_token_strs").unwrap_or(false).then(strings);
    Ok(Tokenized { count: tokens.len(), max_model_len: limits.max_model_len, tokens, token_strs })
}
