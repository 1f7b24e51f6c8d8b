//! What operators and orchestrators ask: is it alive, is it ready, which version, which numbers.

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::header::CONTENT_TYPE;
use http::{HeaderValue, StatusCode};

use super::app::App;
use super::error::{ApiError, Unavailable};
use super::generate::json_response;
use super::models::served_name;

/// `/health`, `/readyz` and `/ping` (SageMaker): whether new traffic should come here.
pub(super) fn ready(app: &App) -> Result<Response, ApiError> {
    app.readiness().map(|()| Response::new(Body::empty()))
}

/// `/livez`: fails only when a restart would help.
pub(super) fn live(app: &App) -> Response {
    match app.alive() {
        true => Response::new(Body::empty()),
        false => StatusCode::SERVICE_UNAVAILABLE.into_response(),
    }
}

/// `/v2/health/ready`
pub(super) fn v2_ready(app: &App) -> Result<Response, ApiError> {
    app.readiness().map(|()| json_response(r#"{"ready":true}"#.to_owned()))
}

/// `/v2/health/live`
pub(super) fn v2_live(app: &App) -> Result<Response, ApiError> {
    match app.alive() {
        true => Ok(json_response(r#"{"live":true}"#.to_owned())),
        false => Err(ApiError::Unavailable(Unavailable::EngineDead)),
    }
}

/// `/v2/models/{model}/ready`
pub(super) fn model_ready(app: &App, id: &str) -> Result<Response, ApiError> {
    app.readiness()?;
    let name = served_name(app, id)?;
    Ok(json_response(serde_json::json!({"name": name, "ready": true}).to_string()))
}

/// `/version`
pub(super) fn version() -> Response {
    json_response(concat!("{\"version\":\"", env!("CARGO_PKG_VERSION"), "\"}").to_owned())
}

/// `/metrics`
pub(super) fn metrics(app: &App) -> Response {
    let mut response = Response::new(Body::from(app.telemetry.render()));
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}
