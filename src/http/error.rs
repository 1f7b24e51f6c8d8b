//! Every error a client can see: status, type, code, parameter and message, as OpenAI shapes them.
//!
//! Messages are fixed or made of the client's own field names and numbers: never the text of a
//! prompt, a path or an internal error.

use std::time::Duration;

use axum::response::{IntoResponse, Response};
use http::header::{ALLOW, CONNECTION, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, StatusCode};
use serde_json::json;

use crate::engine::SubmitError;
use crate::telemetry::{Outcome, Rejection};
use crate::types::RequestError;

/// Why the server can't take a request now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unavailable {
    /// The model is still loading.
    Loading,
    /// The server is about to stop.
    Draining,
    /// The grace period is over; the request was cut.
    Shutdown,
    /// The engine ended or stalled.
    EngineDead,
}

/// An error as the client sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ApiError {
    /// The request is wrong.
    Invalid {
        /// 400, or a more exact 4xx.
        status: StatusCode,
        /// OpenAI's word for it.
        code: Option<&'static str>,
        /// Path of the field at fault, like `messages[0].role`.
        param: Option<String>,
        /// What is wrong and what would be right.
        message: String,
    },
    /// No API key, or not one of ours.
    Unauthorized,
    /// The route exists, the method does not.
    Method {
        /// Value of the `Allow` header.
        allow: &'static str,
    },
    /// Too much is queued.
    QueueFull {
        /// Estimated wait.
        retry_after: Duration,
    },
    /// Not now.
    Unavailable(Unavailable),
    /// The deadline passed.
    Timeout,
    /// A fault of ours. Details go to the log only.
    Internal,
}

impl ApiError {
    fn with(status: StatusCode, code: &'static str, param: Option<&str>, message: impl Into<String>) -> Self {
        Self::Invalid { status, code: Some(code), param: param.map(str::to_owned), message: message.into() }
    }

    /// A value out of range or otherwise impossible.
    pub fn value(param: &str, message: impl Into<String>) -> Self {
        Self::with(StatusCode::BAD_REQUEST, "invalid_value", Some(param), message)
    }

    /// A value of the wrong JSON type.
    pub fn wrong_type(param: &str, expected: &str, got: &str) -> Self {
        let message = format!("Invalid type for '{param}': expected {expected}, but got {got} instead.");
        Self::with(StatusCode::BAD_REQUEST, "invalid_type", Some(param), message)
    }

    /// A required field is absent.
    pub fn missing(param: &str) -> Self {
        let message = format!("Missing required parameter: '{param}'.");
        Self::with(StatusCode::BAD_REQUEST, "missing_required_parameter", Some(param), message)
    }

    /// A field that exists in some API but that this server can't honour.
    pub fn unsupported(param: &str, hint: &str) -> Self {
        let message = format!("Unsupported parameter: '{param}' is not supported by this server{hint}.");
        Self::with(StatusCode::BAD_REQUEST, "unsupported_parameter", Some(param), message)
    }

    /// A field nobody knows, under `strict-fields`.
    pub fn unknown_field(param: &str) -> Self {
        let message = format!("Unknown parameter: '{param}'.");
        Self::with(StatusCode::BAD_REQUEST, "unknown_parameter", Some(param), message)
    }

    /// The body isn't JSON, or not an object.
    pub fn body(message: impl Into<String>) -> Self {
        Self::Invalid { status: StatusCode::BAD_REQUEST, code: None, param: None, message: message.into() }
    }

    /// Prompt and output don't fit the context. The first sentence is what gateways look for.
    pub fn context_length(param: &str, limit: usize, prompt: usize, output: usize) -> Self {
        let message = format!(
            "This model's maximum context length is {limit} tokens. However, you requested {} tokens ({prompt} in the \
             {param}, {output} in the completion). Please reduce the length of the {param} or of the completion.",
            prompt.saturating_add(output),
        );
        Self::with(StatusCode::BAD_REQUEST, "context_length_exceeded", Some(param), message)
    }

    /// As [`ApiError::context_length`] for a prompt that nobody tokenised: it has `at_least` tokens.
    pub fn context_overflow(param: &str, limit: usize, at_least: usize) -> Self {
        let message = format!(
            "This model's maximum context length is {limit} tokens. However, your {param} has at least {at_least} \
             tokens. Please reduce the length of the {param}.",
        );
        Self::with(StatusCode::BAD_REQUEST, "context_length_exceeded", Some(param), message)
    }

    /// Prompts of one request that the queue could never hold together.
    pub fn batch_never_fits(at_least: usize, limit: usize) -> Self {
        let message = format!(
            "Invalid 'prompt': the prompts together, each counted once a choice, have at least {at_least} tokens but \
             the queue holds {limit}: send fewer prompts in a request or lower n.",
        );
        Self::with(StatusCode::BAD_REQUEST, "never_fits", Some("prompt"), message)
    }

    /// No such model.
    pub fn model(name: &str) -> Self {
        let shown: String = name.chars().filter(|c| !c.is_control()).take(128).collect();
        let message = format!("The model '{shown}' does not exist or you do not have access to it.");
        Self::with(StatusCode::NOT_FOUND, "model_not_found", Some("model"), message)
    }

    /// No such route.
    pub fn route() -> Self {
        Self::with(StatusCode::NOT_FOUND, "not_found", None, "Unknown request URL. See /v1/models for a known one.")
    }

    /// The head of the request is over the limits.
    pub fn head_too_large(fields: usize, bytes: usize) -> Self {
        let message =
            format!("The request's target and headers are over the limit of {fields} fields or {bytes} bytes.");
        Self::with(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "request_headers_too_large", None, message)
    }

    /// The body is over the limit of `limit` bytes.
    pub fn too_large(limit: usize) -> Self {
        let message = format!("The request body is larger than the limit of {limit} bytes.");
        Self::with(StatusCode::PAYLOAD_TOO_LARGE, "request_too_large", None, message)
    }

    /// The body isn't declared as JSON.
    pub fn media_type() -> Self {
        let message = "Unsupported content type: send the request as 'application/json'.";
        Self::with(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", None, message)
    }

    /// The body came too slowly.
    pub fn slow_body() -> Self {
        Self::with(StatusCode::REQUEST_TIMEOUT, "request_timeout", None, "The request body took too long to arrive.")
    }

    /// The status of the response.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Invalid { status, .. } => *status,
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::Method { .. } => StatusCode::METHOD_NOT_ALLOWED,
            Self::QueueFull { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Timeout => StatusCode::GATEWAY_TIMEOUT,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// (type, code, param, message)
    fn parts(&self) -> (&'static str, Option<&'static str>, Option<&str>, &str) {
        const REQUEST: &str = "invalid_request_error";
        const UNAVAILABLE: &str = "service_unavailable_error";
        match self {
            Self::Invalid { code, param, message, .. } => (REQUEST, *code, param.as_deref(), message),
            Self::Unauthorized => (
                REQUEST,
                Some("invalid_api_key"),
                None,
                "Missing or incorrect API key: send it as 'Authorization: Bearer KEY'.",
            ),
            Self::Method { .. } => {
                (REQUEST, Some("method_not_allowed"), None, "This method is not allowed here; see the Allow header.")
            }
            Self::QueueFull { .. } => {
                ("rate_limit_error", Some("queue_full"), None, "The queue of this server is full; please retry later.")
            }
            Self::Unavailable(why) => {
                let (code, message) = match why {
                    Unavailable::Loading => ("model_loading", "The model is still loading; please retry later."),
                    Unavailable::Draining => ("draining", "This server is about to stop; please retry elsewhere."),
                    Unavailable::Shutdown => {
                        ("server_shutdown", "The server shut down before the answer was complete.")
                    }
                    Unavailable::EngineDead => ("engine_dead", "The engine of this server has stopped."),
                };
                (UNAVAILABLE, Some(code), None, message)
            }
            Self::Timeout => ("timeout_error", Some("timeout"), None, "The request exceeded its time limit."),
            Self::Internal => {
                ("server_error", Some("internal_error"), None, "The server had an error while processing this request.")
            }
        }
    }

    /// The JSON object that a response or a stream event carries.
    pub fn body_json(&self) -> serde_json::Value {
        let (kind, code, param, message) = self.parts();
        json!({"error": {"message": message, "type": kind, "param": param, "code": code}})
    }

    fn retry_after(&self) -> Option<u64> {
        match self {
            Self::QueueFull { retry_after } => Some(retry_after.as_secs().clamp(1, 60)),
            Self::Unavailable(Unavailable::Loading | Unavailable::EngineDead) => Some(5),
            Self::Unavailable(_) => Some(1),
            _ => None,
        }
    }

    /// How a request that ends with this error is counted.
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::Invalid { .. } | Self::Unauthorized | Self::Method { .. } | Self::QueueFull { .. } => {
                Outcome::Rejected
            }
            Self::Unavailable(Unavailable::Shutdown) => Outcome::Shutdown,
            Self::Unavailable(Unavailable::EngineDead) => Outcome::Error,
            Self::Unavailable(_) => Outcome::Rejected,
            Self::Timeout => Outcome::Timeout,
            Self::Internal => Outcome::Error,
        }
    }

    /// Under which reason a refusal is counted.
    pub fn rejection(&self) -> Option<Rejection> {
        Some(match self {
            Self::Invalid { code: Some("context_length_exceeded"), .. } => Rejection::ContextLength,
            Self::Invalid { code: Some("never_fits"), .. } => Rejection::NeverFits,
            Self::Invalid { code: Some("model_not_found"), .. } => Rejection::Model,
            Self::Invalid { code: Some("request_too_large"), .. } => Rejection::TooLarge,
            Self::Invalid { code: Some("not_found"), .. } | Self::Method { .. } => return None,
            Self::Invalid { .. } => Rejection::Invalid,
            Self::Unauthorized => Rejection::Auth,
            Self::QueueFull { .. } => Rejection::QueueFull,
            Self::Unavailable(Unavailable::Loading) => Rejection::Loading,
            Self::Unavailable(Unavailable::Draining) => Rejection::Draining,
            Self::Unavailable(Unavailable::EngineDead) => Rejection::Engine,
            Self::Unavailable(Unavailable::Shutdown) | Self::Timeout | Self::Internal => return None,
        })
    }
}

impl From<SubmitError> for ApiError {
    fn from(error: SubmitError) -> Self {
        match error {
            SubmitError::QueueFull { retry_after, .. } => Self::QueueFull { retry_after },
            SubmitError::NeverFits { needed, capacity } => {
                let message = format!(
                    "The request needs KV cache for {needed} tokens but all of it holds {capacity}: shorten the prompt \
                     or lower max_tokens.",
                );
                Self::with(StatusCode::BAD_REQUEST, "never_fits", None, message)
            }
            SubmitError::EngineDead => Self::Unavailable(Unavailable::EngineDead),
        }
    }
}

impl From<RequestError> for ApiError {
    fn from(error: RequestError) -> Self {
        match &error {
            RequestError::Timeout => Self::Timeout,
            RequestError::EngineDead => Self::Unavailable(Unavailable::EngineDead),
            RequestError::Shutdown => Self::Unavailable(Unavailable::Shutdown),
            RequestError::Constraint(_) => Self::Invalid {
                status: StatusCode::BAD_REQUEST,
                code: Some("invalid_grammar"),
                param: None,
                message: format!("Invalid request: {error}."),
            },
            RequestError::Internal(detail) => {
                tracing::error!(detail, "a request failed in the engine");
                Self::Internal
            }
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status(), self.body_json().to_string()).into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(seconds) = self.retry_after() {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if let Self::Method { allow } = self {
            headers.insert(ALLOW, HeaderValue::from_static(allow));
        }
        if matches!(self, Self::Unavailable(Unavailable::Draining | Unavailable::Shutdown)) {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response.extensions_mut().insert(self);
        response
    }
}
