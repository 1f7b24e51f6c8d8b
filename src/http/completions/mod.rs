//! `POST /v1/completions`: prompts to continuations, whole or streamed; may echo and score prompts.

mod convert;
mod format;
mod types;
mod validate;

use std::sync::Arc;

use serde_json::{Map, Value};

use super::error::ApiError;
use super::fields::Endpoint;
use super::generate::{Api, Head, Job};
use super::sampling::{Common, Limits};
use super::text::TextService;
use format::CompletionFormat;
use validate::CompletionRequest;

/// The endpoint.
pub(super) struct Completions;

impl AsRef<Common> for CompletionRequest {
    fn as_ref(&self) -> &Common {
        &self.common
    }
}

impl Api for Completions {
    const ENDPOINT: Endpoint = Endpoint::Completions;
    const ROUTE: &'static str = "/v1/completions";
    const ID_PREFIX: &'static str = "cmpl-";
    type Request = CompletionRequest;
    type Format = CompletionFormat;

    fn validate(map: &Map<String, Value>, limits: &Limits) -> Result<CompletionRequest, ApiError> {
        validate::validate(map, limits)
    }

    fn convert(request: &CompletionRequest, text: &dyn TextService, limits: &Limits) -> Result<Job, ApiError> {
        convert::convert(request, text, limits)
    }

    fn format(
        request: &CompletionRequest,
        text: Arc<dyn TextService>,
        head: Head,
        num_choices: usize,
    ) -> CompletionFormat {
        CompletionFormat::new(request, text, head, num_choices)
    }
}
