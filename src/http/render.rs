//! `POST /v1/chat/completions/render`: what a chat request would become, in vLLM's shape. Nothing is generated; the
//! request is checked as the endpoint itself checks it.

use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::response::Response;
use http::Request;
use serde::Serialize;

use super::app::App;
use super::chat::{self, Chat};
use super::error::ApiError;
use super::generate::check;
use super::sampling::Common;
use super::tokenize::on_text_thread;
use super::usage::to_json;
use crate::types::SamplingParams;

#[derive(Serialize)]
struct Rendered<'a> {
    model: &'a str,
    /// The prompt to the byte.
    prompt_text: &'a str,
    token_ids: &'a [u32],
    sampling_params: Sampling<'a>,
    stream: bool,
}

/// The parameters that would hold: the request's, then the model's, then the API's.
#[derive(Serialize)]
struct Sampling<'a> {
    n: u32,
    temperature: f32,
    top_p: f32,
    top_k: u32,
    min_p: f32,
    presence_penalty: f32,
    frequency_penalty: f32,
    repetition_penalty: f32,
    max_tokens: u32,
    min_tokens: u32,
    stop: &'a [String],
    stop_token_ids: &'a [u32],
    bad_words: &'a [String],
    include_stop_str_in_output: bool,
    ignore_eos: bool,
    skip_special_tokens: bool,
    logprobs: Option<u32>,
    prompt_logprobs: Option<u32>,
}

impl<'a> Sampling<'a> {
    fn new(common: &'a Common, params: &'a SamplingParams) -> Self {
        Self {
            n: common.n,
            temperature: params.temperature,
            top_p: params.top_p,
            top_k: params.top_k,
            min_p: params.min_p,
            presence_penalty: params.presence_penalty,
            frequency_penalty: params.frequency_penalty,
            repetition_penalty: params.repetition_penalty,
            max_tokens: params.max_tokens,
            min_tokens: params.min_tokens,
            stop: &common.stop,
            stop_token_ids: &params.stop_token_ids,
            bad_words: &common.bad_words,
            include_stop_str_in_output: common.include_stop,
            ignore_eos: params.ignore_eos,
            skip_special_tokens: common.skip_special,
            logprobs: params.logprobs,
            prompt_logprobs: params.prompt_logprobs,
        }
    }
}

pub(super) async fn chat(app: Arc<App>, request: Request<Body>) -> Result<Response, ApiError> {
    on_text_thread(app, request, rendered).await
}

fn rendered(app: &App, bytes: &Bytes) -> Result<String, ApiError> {
    let serving = app.serving()?;
    let request = check::<Chat>(app, bytes.clone())?;
    let (prompt_text, job) = chat::render(&request, &*serving.text, &serving.limits)?;
    let (prompt, params) = job.prompts.first().ok_or(ApiError::Internal)?;
    let common: &Common = request.as_ref();
    Ok(to_json(&Rendered {
        model: app.config.model_name(),
        prompt_text: &prompt_text,
        token_ids: &prompt.ids,
        sampling_params: Sampling::new(common, params),
        stream: common.streaming.is_some(),
    }))
}
