//! What operators and orchestrators ask: is it alive, is it ready, which version, which numbers.

use std::sync::atomic::Ordering;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::header::CONTENT_TYPE;
use http::{HeaderValue, StatusCode};

use super::app::App;
use super::error::ApiError;
use super::generate::json_response;
use crate::telemetry::EngineGauges;

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
    if let Some(serving) = app.loaded() {
        let (info, stats) = (serving.engine.info(), serving.engine.stats());
        let used = stats.used_blocks.load(Ordering::Relaxed) as f64;
        app.telemetry.engine(&EngineGauges {
            running: stats.num_running.load(Ordering::Relaxed),
            waiting: stats.num_waiting.load(Ordering::Relaxed),
            kv_usage: (used / info.num_blocks.max(1) as f64).clamp(0.0, 1.0),
            queue_tokens: stats.queued_tokens.load(Ordering::Relaxed),
        });
    }
    let mut response = Response::new(Body::from(app.telemetry.render()));
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}
