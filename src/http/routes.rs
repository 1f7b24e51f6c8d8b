//! The one table of routes, and what surrounds every request: its id, its key, its headers, its
//! place in the metrics. A route is closed to clients without a key unless its row says otherwise.

use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Instant;

use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http::header::X_CONTENT_TYPE_OPTIONS;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request};
use hyper::body::Incoming;

use super::app::App;
use super::chat::Chat;
use super::completions::Completions;
use super::config::HttpConfig;
use super::error::ApiError;
use super::{generate, models, probes, tokenize};
use crate::telemetry::Telemetry;

type Handler = fn(Arc<App>, Request<Incoming>) -> BoxFuture<'static, Response>;

/// Who may use a route.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Access {
    /// Whoever has a key.
    Key,
    /// Anyone: probes of orchestrators.
    Open,
}

struct Route {
    /// The exact path; with a final `*`, any path that begins like this.
    path: &'static str,
    /// `GET` (and `HEAD`) or `POST`.
    method: Method,
    access: Access,
    handler: Handler,
}

const fn get(path: &'static str, access: Access, handler: Handler) -> Route {
    Route { path, method: Method::GET, access, handler }
}

const fn post(path: &'static str, handler: Handler) -> Route {
    Route { path, method: Method::POST, access: Access::Key, handler }
}

static ROUTES: &[Route] = &[
    post("/v1/chat/completions", |app, r| generate::handle::<Chat>(app, r).boxed()),
    post("/v1/completions", |app, r| generate::handle::<Completions>(app, r).boxed()),
    get("/v1/models", Access::Key, |app, _| now(models::list(&app))),
    get("/v1/models/*", Access::Key, |app, r| now(models::one(&app, model_id(&app, &r)))),
    post("/tokenize", |app, r| tokenize::tokenize(app, r).map(IntoResponse::into_response).boxed()),
    post("/detokenize", |app, r| tokenize::detokenize(app, r).map(IntoResponse::into_response).boxed()),
    get("/version", Access::Key, |_, _| now(probes::version())),
    get("/metrics", Access::Key, |app, _| now(probes::metrics(&app))),
    get("/health", Access::Open, |app, _| now(probes::ready(&app))),
    get("/readyz", Access::Open, |app, _| now(probes::ready(&app))),
    get("/livez", Access::Open, |app, _| now(probes::live(&app))),
];

fn now(response: impl IntoResponse) -> BoxFuture<'static, Response> {
    std::future::ready(response.into_response()).boxed()
}

fn model_id<'a>(app: &App, request: &'a Request<Incoming>) -> &'a str {
    path(app, request).strip_prefix("/v1/models/").unwrap_or_default()
}

/// The path as sent, without the configured prefix. Never normalised: what isn't in the table byte
/// by byte is an unknown route.
fn path<'a>(app: &App, request: &'a Request<Incoming>) -> &'a str {
    let path = request.uri().path();
    let prefix = app.config.root_path.trim_end_matches('/');
    match path.strip_prefix(prefix) {
        Some(rest) if !prefix.is_empty() && rest.starts_with('/') => rest,
        _ => path,
    }
}

fn find(path: &str) -> Option<&'static Route> {
    let fits = |r: &&Route| match r.path.strip_suffix('*') {
        Some(prefix) => path.strip_prefix(prefix).is_some_and(|rest| !rest.is_empty()),
        None => r.path == path,
    };
    ROUTES.iter().find(fits)
}

/// When a request came and how it is called.
#[derive(Clone, Debug)]
pub(super) struct Arrival {
    pub(super) at: Instant,
    pub(super) request_id: String,
}

impl Default for Arrival {
    fn default() -> Self {
        Self { at: Instant::now(), request_id: format!("req-{:032x}", rand::random::<u128>()) }
    }
}

impl Arrival {
    /// A client's own id is kept if it is harmless.
    fn new(headers: &HeaderMap) -> Self {
        let valid = |id: &&str| {
            (1..=128).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
        };
        let given = headers.get("x-request-id").and_then(|v| v.to_str().ok()).filter(valid);
        match given {
            Some(id) => Self { at: Instant::now(), request_id: id.to_owned() },
            None => Self::default(),
        }
    }
}

/// Counts a request even if its client leaves before the answer.
struct Counted<'a> {
    telemetry: &'a Telemetry,
    route: &'static str,
    code: u16,
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.telemetry.http_request(self.route, self.code);
    }
}

/// Answers any request. Never fails: what goes wrong is a response too.
pub(super) async fn serve_request(app: Arc<App>, mut request: Request<Incoming>) -> Result<Response, Infallible> {
    let arrival = Arrival::new(request.headers());
    request.extensions_mut().insert(arrival.clone());
    let route = find(path(&app, &request));
    let mut counted = Counted {
        telemetry: &app.telemetry,
        route: route.map_or("other", |r| r.path.trim_end_matches('*')),
        code: 499,
    };
    let mut response = match admit(&app, route, &request) {
        Ok(handler) => {
            let answer = AssertUnwindSafe(handler(app.clone(), request)).catch_unwind().await;
            answer.unwrap_or_else(|_| {
                tracing::error!(id = arrival.request_id, "a request handler panicked");
                ApiError::Internal.into_response()
            })
        }
        Err(error) => error.into_response(),
    };
    if let Some(reason) = response.extensions().get::<ApiError>().and_then(ApiError::rejection) {
        app.telemetry.rejected(reason);
    }
    counted.code = response.status().as_u16();
    add_headers(response.headers_mut(), &arrival);
    Ok(response)
}

fn admit(app: &App, route: Option<&'static Route>, request: &Request<Incoming>) -> Result<Handler, ApiError> {
    check_head(&app.config, request)?;
    let open = route.is_some_and(|r| r.access == Access::Open);
    if !open && !app.keys.allow(request.headers()) {
        return Err(ApiError::Unauthorized);
    }
    let route = route.ok_or_else(ApiError::route)?;
    let method = request.method();
    match route.method == *method || (route.method == Method::GET && *method == Method::HEAD) {
        true => Ok(route.handler),
        false => Err(ApiError::Method { allow: if route.method == Method::GET { "GET, HEAD" } else { "POST" } }),
    }
}

fn check_head(config: &HttpConfig, request: &Request<Incoming>) -> Result<(), ApiError> {
    // As on the wire: each field with its colon, blank and line end.
    let fields = request.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + 4);
    let target = request.uri().path_and_query().map_or(0, |p| p.as_str().len());
    match request.headers().len() > config.max_header_fields || target + fields.sum::<usize>() > config.max_header_bytes
    {
        true => Err(ApiError::head_too_large(config.max_header_fields, config.max_header_bytes)),
        false => Ok(()),
    }
}

fn add_headers(headers: &mut HeaderMap, arrival: &Arrival) {
    if let Ok(id) = HeaderValue::from_str(&arrival.request_id) {
        headers.insert(HeaderName::from_static("x-request-id"), id);
    }
    let ms = u64::try_from(arrival.at.elapsed().as_millis()).unwrap_or(u64::MAX);
    headers.insert(HeaderName::from_static("openai-processing-ms"), HeaderValue::from(ms));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
}
