//! `POST /v1/chat/completions`: messages to a chat answer, whole or streamed.

mod convert;
mod format;
mod tools;
mod types;
mod validate;

use std::sync::Arc;

use serde_json::{Map, Value};

use super::error::ApiError;
use super::fields::Endpoint;
use super::generate::{Api, Head, Job};
use super::sampling::{Common, Limits};
use super::text::TextService;
pub(super) use convert::render;
use format::ChatFormat;
use validate::ChatRequest;
pub(super) use validate::read_messages;

/// The endpoint.
pub(super) struct Chat;

impl AsRef<Common> for ChatRequest {
    fn as_ref(&self) -> &Common {
        &self.common
    }
}

impl Api for Chat {
    const ENDPOINT: Endpoint = Endpoint::Chat;
    const ROUTE: &'static str = "/v1/chat/completions";
    const ID_PREFIX: &'static str = "chatcmpl-";
    type Request = ChatRequest;
    type Format = ChatFormat;

    fn validate(map: &Map<String, Value>, limits: &Limits) -> Result<ChatRequest, ApiError> {
        validate::validate(map, limits)
    }

    fn convert(request: &ChatRequest, text: &dyn TextService, limits: &Limits) -> Result<Job, ApiError> {
        render(request, text, limits).map(|(_, job)| job)
    }

    fn format(request: &ChatRequest, text: Arc<dyn TextService>, head: Head, num_choices: usize) -> ChatFormat {
        ChatFormat::new(request, text, head, num_choices)
    }
}
