//! The one table of routes, and what surrounds every request: its id, its key, its headers, its
//! place in the metrics. A route is closed to clients without a key unless its row says otherwise.

use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
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
use super::openapi::{self, About, Content};
use super::{generate, identity, invocations, models, probes, render, tokenize};
use crate::telemetry::Telemetry;

type Handler = fn(Arc<App>, Request<Body>) -> BoxFuture<'static, Response>;

/// Who may use a route.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// Whoever has a key.
    Key,
    /// Anyone: probes of orchestrators. Such a path is exact and says nothing but yes or no.
    Open,
}

pub(super) struct Route {
    /// The exact path; `{model}` in it stands for any text.
    pub(super) path: &'static str,
    /// `GET` (and `HEAD`) or `POST`.
    pub(super) method: Method,
    pub(super) access: Access,
    /// Its place in the OpenAPI document.
    pub(super) about: About,
    handler: Handler,
}

const fn get(path: &'static str, about: About, handler: Handler) -> Route {
    Route { path, method: Method::GET, access: Access::Key, about, handler }
}

const fn open(path: &'static str, about: About, handler: Handler) -> Route {
    Route { path, method: Method::GET, access: Access::Open, about, handler }
}

const fn post(path: &'static str, about: About, handler: Handler) -> Route {
    Route { path, method: Method::POST, access: Access::Key, about, handler }
}

const MODEL: &str = "{model}";
const CHAT: About = About::post("Answer a conversation", "ChatRequest", Content::Events("ChatCompletion"));
const COMPLETE: About = About::post("Continue prompts", "CompletionRequest", Content::Events("Completion"));
const INVOKE: About =
    About::post("Chat or completions, as the body says (SageMaker)", "Invocation", Content::Events("InvocationAnswer"));
const RENDER: About = About::post("The exact prompt of a conversation", "ChatRequest", Content::Json("RenderedChat"));
const TOKENIZE: About =
    About::post("Tokens of a prompt or a conversation", "TokenizeRequest", Content::Json("Tokenized"));
const DETOKENIZE: About = About::post("Text of tokens", "DetokenizeRequest", Content::Json("Detokenized"));
const MODELS: About = About::get("The served models", Content::Json("ModelList"));
const ONE_MODEL: About = About::get("One served model", Content::Json("Model"));
const LOADS: About = About::get("What runs and waits now, for routers", Content::Json("Loads"));
const SERVER_INFO: About = About::get("Sizes and limits of this server", Content::Json("ServerInfo"));
const MODEL_INFO: About = About::get("Which model is served", Content::Json("ModelInfo"));
const MODEL_READY: About = About::get("Whether a model takes requests (Open Inference)", Content::Json("ModelReady"));
const VERSION: About = About::get("The version of this server", Content::Json("Version"));
const OPENAPI: About = About::get("This document", Content::Json("OpenApi"));
const METRICS: About = About::get("Metrics in Prometheus' text format", Content::Text);
const READY: About = About::get("Whether new traffic should come here", Content::Empty);
const LIVE: About = About::get("Fails when only a restart helps", Content::Empty);
const V2_READY: About = About::get("Whether new traffic should come here (Open Inference)", Content::Json("Ready"));
const V2_LIVE: About = About::get("Fails when only a restart helps (Open Inference)", Content::Json("Live"));

/// Every route.
pub(super) static ROUTES: &[Route] = &[
    post("/v1/chat/completions", CHAT, |app, r| generate::handle::<Chat>(app, r).boxed()),
    post("/v1/completions", COMPLETE, |app, r| generate::handle::<Completions>(app, r).boxed()),
    post("/invocations", INVOKE, |app, r| invocations::handle(app, r).boxed()),
    post("/v1/chat/completions/render", RENDER, |app, r| response(render::chat(app, r))),
    post("/tokenize", TOKENIZE, |app, r| response(tokenize::tokenize(app, r))),
    post("/detokenize", DETOKENIZE, |app, r| response(tokenize::detokenize(app, r))),
    get("/v1/models", MODELS, |app, _| now(models::list(&app))),
    get("/v1/models/{model}", ONE_MODEL, |app, r| now(models::one(&app, model_id(&app, &r)))),
    get("/v1/loads", LOADS, |app, _| now(identity::loads(&app))),
    get("/server_info", SERVER_INFO, |app, _| now(identity::server_info(&app))),
    get("/get_server_info", SERVER_INFO, |app, _| now(identity::server_info(&app))),
    get("/model_info", MODEL_INFO, |app, _| now(identity::model_info(&app))),
    get("/get_model_info", MODEL_INFO, |app, _| now(identity::model_info(&app))),
    get("/v2/models/{model}/ready", MODEL_READY, |app, r| now(probes::model_ready(&app, model_id(&app, &r)))),
    get("/version", VERSION, |_, _| now(probes::version())),
    get("/openapi.json", OPENAPI, |app, _| now(openapi::document(&app))),
    get("/metrics", METRICS, |app, _| now(probes::metrics(&app))),
    open("/health", READY, |app, _| now(probes::ready(&app))),
    open("/readyz", READY, |app, _| now(probes::ready(&app))),
    open("/ping", READY, |app, _| now(probes::ready(&app))),
    open("/livez", LIVE, |app, _| now(probes::live(&app))),
    open("/v2/health/ready", V2_READY, |app, _| now(probes::v2_ready(&app))),
    open("/v2/health/live", V2_LIVE, |app, _| now(probes::v2_live(&app))),
];

fn now(response: impl IntoResponse) -> BoxFuture<'static, Response> {
    std::future::ready(response.into_response()).boxed()
}

fn response(answer: impl Future<Output = Result<Response, ApiError>> + Send + 'static) -> BoxFuture<'static, Response> {
    answer.map(IntoResponse::into_response).boxed()
}

/// What stands for `{model}` in the path.
fn model_id<'a>(app: &App, request: &'a Request<Body>) -> &'a str {
    let path = path(app, request);
    find(path).and_then(|route| fits(route, path)).unwrap_or_default()
}

/// The path as sent, without the configured prefix. Never normalised: what isn't in the table byte
/// by byte is an unknown route.
fn path<'a, B>(app: &App, request: &'a Request<B>) -> &'a str {
    let path = request.uri().path();
    let prefix = app.config.root_path.trim_end_matches('/');
    match path.strip_prefix(prefix) {
        Some(rest) if !prefix.is_empty() && rest.starts_with('/') => rest,
        _ => path,
    }
}

/// What stands for `{model}` in `path` (nothing in an exact one) if `route` is its route.
fn fits<'a>(route: &Route, path: &'a str) -> Option<&'a str> {
    match route.path.split_once(MODEL) {
        Some((before, after)) => path.strip_prefix(before)?.strip_suffix(after).filter(|model| !model.is_empty()),
        None => (route.path == path).then_some(""),
    }
}

fn find(path: &str) -> Option<&'static Route> {
    ROUTES.iter().find(|route| fits(route, path).is_some())
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
pub(super) async fn serve_request(app: Arc<App>, request: Request<Incoming>) -> Result<Response, Infallible> {
    let mut request = request.map(Body::new);
    let arrival = Arrival::new(request.headers());
    request.extensions_mut().insert(arrival.clone());
    let route = find(path(&app, &request));
    let mut counted = Counted { telemetry: &app.telemetry, route: route.map_or("other", |r| r.path), code: 499 };
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

fn admit(app: &App, route: Option<&'static Route>, request: &Request<Body>) -> Result<Handler, ApiError> {
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

fn check_head(config: &HttpConfig, request: &Request<Body>) -> Result<(), ApiError> {
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
