//! `GET /v1/models` and `GET /v1/models/{id}`.

use axum::response::Response;
use serde::Serialize;

use super::app::{App, Serving};
use super::error::ApiError;
use super::generate::json_response;
use super::usage::to_json;

#[derive(Serialize)]
struct Model<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    owned_by: &'static str,
    root: &'a str,
    parent: Option<&'a str>,
    max_model_len: usize,
}

#[derive(Serialize)]
struct List<'a> {
    object: &'static str,
    data: Vec<Model<'a>>,
}

fn model<'a>(app: &'a App, serving: &Serving, id: &'a str) -> Model<'a> {
    let root = app.config.model_root().unwrap_or(id);
    let max_model_len = serving.engine.info().max_model_len;
    Model { id, object: "model", created: app.created, owned_by: "sconce", root, parent: None, max_model_len }
}

pub(super) fn list(app: &App) -> Result<Response, ApiError> {
    let serving = app.serving()?;
    let data = app.config.served_names.iter().map(|id| model(app, serving, id)).collect();
    Ok(json_response(to_json(&List { object: "list", data })))
}

/// `id` as it stands in the path.
pub(super) fn one(app: &App, id: &str) -> Result<Response, ApiError> {
    let serving = app.serving()?;
    Ok(json_response(to_json(&model(app, serving, served_name(app, id)?))))
}

/// The served name that `id` is, as it stands in a path: `/` may be escaped or not.
///
/// # Errors
/// 404 for a model that isn't served.
pub(super) fn served_name<'a>(app: &'a App, id: &str) -> Result<&'a str, ApiError> {
    let id = percent_decode(id).ok_or_else(|| ApiError::model(id))?;
    let name = app.config.served_names.iter().find(|name| **name == id);
    name.map(String::as_str).ok_or_else(|| ApiError::model(&id))
}

fn percent_decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let hex = std::str::from_utf8(rest.get(..2)?).ok()?;
        if !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        bytes.push(u8::from_str_radix(hex, 16).ok()?);
        rest = rest.get(2..)?;
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::percent_decode;

    #[test]
    fn decodes_escapes_and_refuses_broken_ones() {
        assert_eq!(percent_decode("org%2Fname:q4").as_deref(), Some("org/name:q4"));
        for bad in ["%", "%2", "%+1", "%zz", "%ff"] {
            assert_eq!(percent_decode(bad), None, "{bad}");
        }
    }
}
