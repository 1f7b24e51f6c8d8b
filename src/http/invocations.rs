//! `POST /invocations`: SageMaker knows one route; the body decides which endpoint answers.

use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::response::{IntoResponse, Response};
use http::Request;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::app::App;
use super::body::read_json;
use super::chat::Chat;
use super::completions::Completions;
use super::error::ApiError;
use super::generate;

/// The fields by which the endpoints differ.
#[derive(Deserialize)]
struct Kind {
    messages: Option<IgnoredAny>,
    prompt: Option<IgnoredAny>,
}

pub(super) async fn handle(app: Arc<App>, request: Request<Body>) -> Response {
    match read(&app, request).await {
        Err(error) => error.into_response(),
        Ok((request, true)) => generate::handle::<Completions>(app, request).await,
        Ok((request, false)) => generate::handle::<Chat>(app, request).await,
    }
}

/// The request again, and whether it is one for completions.
async fn read(app: &App, request: Request<Body>) -> Result<(Request<Body>, bool), ApiError> {
    app.serving()?;
    let (head, body) = request.into_parts();
    let bytes = read_json(Request::from_parts(head.clone(), body), &app.config).await?;
    let shared = bytes.clone();
    let completes = app.pools.of(bytes.len()).run(move || completes(&shared)).await?;
    Ok((Request::from_parts(head, Body::from(bytes)), completes))
}

/// Only whether both fields are there is looked at: the endpoint says what else is wrong.
fn completes(bytes: &Bytes) -> Result<bool, ApiError> {
    match serde_json::from_slice(bytes) {
        Ok(Kind { messages: None, prompt: None }) => {
            Err(ApiError::body("Give 'messages' for a conversation or 'prompt' for a completion."))
        }
        Ok(kind) => Ok(kind.messages.is_none()),
        Err(_) => Ok(false),
    }
}
