//! What operators and orchestrators ask: is it alive, is it ready, which version, which numbers.

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::header::CONTENT_TYPE;
use http::{HeaderValue, StatusCode};

use super::app::App;
use super::error::ApiError;
use super::generate::json_response;

/// `/health` and `/readyz`: whether new traffic should come here.
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
