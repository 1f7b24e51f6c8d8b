//! A generation endpoint from request to response: body, validation, tokenisation, engine, answer.

use std::sync::Arc;
use std::time::Instant;

use axum::body::{Body, Bytes};
use axum::response::{IntoResponse, Response};
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderName, HeaderValue, Request};
use serde_json::{Map, Value};

use super::{Generation, Job, Piece, Prompt, Record, Surroundings, Usage};
use crate::http::app::App;
use crate::http::body;
use crate::http::error::ApiError;
use crate::http::fields::{Endpoint, Unknown, screen};
use crate::http::json::parse_object;
use crate::http::routes::Arrival;
use crate::http::sampling::{Common, Limits, Streaming, header_timeout};
use crate::http::sse::EventStream;
use crate::http::text::TextService;

/// What every chunk and answer of a request begins with.
#[derive(Clone, Debug)]
pub(in crate::http) struct Head {
    pub(in crate::http) id: String,
    pub(in crate::http) created: u64,
    pub(in crate::http) model: String,
    pub(in crate::http) fingerprint: String,
}

/// What an endpoint makes of the pieces of an answer. Streamed or not, it sees the same pieces.
pub(in crate::http) trait Format: Send + 'static {
    /// The events of one piece, as JSON.
    fn chunks(&mut self, piece: Piece, usage: Usage) -> Vec<String>;
    /// The event that carries the usage.
    fn usage_chunk(&self, usage: Usage) -> String;
    /// Takes a piece of an answer that isn't streamed.
    fn collect(&mut self, piece: Piece);
    /// The answer. `prompts` gives the prompt of each choice.
    fn response(self, usage: Usage, prompt: &dyn Fn(usize) -> Option<Prompt>) -> String;
}

/// A generation endpoint.
pub(in crate::http) trait Api: Send + 'static {
    /// Which rows of the field table hold.
    const ENDPOINT: Endpoint;
    /// Its route.
    const ROUTE: &'static str;
    /// How ids of its answers begin.
    const ID_PREFIX: &'static str;
    /// The validated request.
    type Request: AsRef<Common> + Send + 'static;
    /// How it answers.
    type Format: Format;

    /// Checks a screened body.
    fn validate(map: &Map<String, Value>, limits: &Limits) -> Result<Self::Request, ApiError>;
    /// Tokenises, on a text thread.
    fn convert(request: &Self::Request, text: &dyn TextService, limits: &Limits) -> Result<Job, ApiError>;
    /// How to answer `request`, whose answer has `num_choices` choices.
    fn format(request: &Self::Request, text: Arc<dyn TextService>, head: Head, num_choices: usize) -> Self::Format;
}

/// Answers one request.
pub(in crate::http) async fn handle<A: Api>(app: Arc<App>, request: Request<Body>) -> Response {
    let arrival = request.extensions().get::<Arrival>().cloned().unwrap_or_default();
    let open = app.lifecycle.open();
    let model = app.config.model_name().to_owned();
    let mut record = Record::new(app.telemetry.clone(), open, A::ROUTE, model, &arrival);
    match prepare::<A>(&app, request, &arrival, &mut record).await {
        Ok(prepared) => answer::<A>(&app, prepared, &arrival, record).await,
        Err(error) => {
            record.fail(&error);
            error.into_response()
        }
    }
}

struct Prepared<R> {
    request: R,
    job: Job,
    deadline: Option<Instant>,
}

async fn prepare<A: Api>(
    app: &Arc<App>,
    request: Request<Body>,
    arrival: &Arrival,
    record: &mut Record,
) -> Result<Prepared<A::Request>, ApiError> {
    app.serving()?;
    let shortened = header_timeout(request.headers())?;
    let timeout = [app.config.request_timeout, shortened].into_iter().flatten().min();
    let deadline = timeout.and_then(|t| arrival.at.checked_add(t));
    let work = async {
        let bytes = body::read_json(request, &app.config).await?;
        let shared = app.clone();
        app.pools.of(bytes.len()).run(move || read::<A>(&shared, bytes)).await
    };
    let (request, job) = match deadline {
        None => work.await?,
        Some(deadline) => tokio::time::timeout_at(deadline.into(), work).await.map_err(|_| ApiError::Timeout)??,
    };
    record.accepted(request.as_ref().streaming.is_some());
    Ok(Prepared { request, job, deadline })
}

/// From bytes to tokens.
fn read<A: Api>(app: &App, bytes: Bytes) -> Result<(A::Request, Job), ApiError> {
    let serving = app.serving()?;
    let request = check::<A>(app, bytes)?;
    let job = A::convert(&request, &*serving.text, &serving.limits)?;
    Ok((request, job))
}

/// From bytes to a checked request.
///
/// # Errors
/// 400 or 404 naming the field at fault, 503 while there is no model.
pub(in crate::http) fn check<A: Api>(app: &App, bytes: Bytes) -> Result<A::Request, ApiError> {
    let serving = app.serving()?;
    let mut map = parse_object(&bytes, app.config.max_json_depth)?;
    drop(bytes);
    let mut unknown = Unknown::new(app.config.strict_fields, &app.unknown_fields);
    screen(&mut map, A::ENDPOINT, &mut unknown)?;
    app.telemetry.unknown_fields(unknown.count);
    let request = A::validate(&map, &serving.limits)?;
    check_model(app, request.as_ref())?;
    Ok(request)
}

fn check_model(app: &App, common: &Common) -> Result<(), ApiError> {
    match &common.model {
        Some(name) if !app.config.served_names.contains(name) => Err(ApiError::model(name)),
        _ => Ok(()),
    }
}

async fn answer<A: Api>(
    app: &Arc<App>,
    prepared: Prepared<A::Request>,
    arrival: &Arrival,
    mut record: Record,
) -> Response {
    let Prepared { request, job, deadline } = prepared;
    let serving = match app.serving() {
        Ok(serving) => serving,
        Err(error) => {
            record.fail(&error);
            return error.into_response();
        }
    };
    let around = Surroundings {
        engine: &serving.engine,
        text: &*serving.text,
        request_id: arrival.request_id.clone(),
        arrival: arrival.at,
        deadline,
        cut: app.lifecycle.cut().clone(),
    };
    let num_choices = job.prompts.len() * job.n.max(1) as usize;
    let generation = match Generation::start(job, &around, record) {
        Ok(generation) => generation,
        Err(error) => return error.into_response(),
    };
    let head = Head {
        id: format!("{}{:032x}", A::ID_PREFIX, rand::random::<u128>()),
        created: crate::http::app::unix_seconds(),
        model: app.config.model_name().to_owned(),
        fingerprint: app.fingerprint.clone(),
    };
    let format = A::format(&request, serving.text.clone(), head, num_choices);
    match request.as_ref().streaming {
        Some(options) => stream(app, generation, format, options),
        None => whole(generation, format).await.unwrap_or_else(IntoResponse::into_response),
    }
}

fn stream<F: Format>(app: &App, generation: Generation, format: F, options: Streaming) -> Response {
    let events = EventStream::new(generation, format, options, app.config.heartbeat);
    let mut response = Response::new(Body::from_stream(events.into_stream()));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    response
}

async fn whole<F: Format>(mut generation: Generation, mut format: F) -> Result<Response, ApiError> {
    while let Some(piece) = generation.next().await {
        format.collect(piece?);
    }
    let text = format.response(generation.usage(), &|index| generation.prompt(index).cloned());
    Ok(json_response(text))
}

/// A 200 with a JSON body.
pub(in crate::http) fn json_response(text: String) -> Response {
    let mut response = Response::new(Body::from(Bytes::from(text)));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
