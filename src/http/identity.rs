//! What routers ask of a worker: how much it has to do, which model it serves, with what limits. The shapes are
//! SGLang's, which smg and sglang-router read. What isn't measured here (`gen_throughput`, `cache_hit_rate`) is left out:
//! they take it for unknown, and the metrics have the counters.

use std::sync::atomic::Ordering;

use axum::response::Response;
use serde::Serialize;

use super::app::App;
use super::error::ApiError;
use super::generate::json_response;
use super::usage::to_json;

#[derive(Serialize)]
struct Loads {
    timestamp: String,
    dp_rank_count: u32,
    loads: [Load; 1],
}

/// The one engine of this process.
#[derive(Serialize)]
struct Load {
    dp_rank: u32,
    num_running_reqs: u64,
    num_waiting_reqs: u64,
    num_total_reqs: u64,
    /// Whether a waiting token is in the prefix cache is known only when its turn comes: an upper bound.
    num_waiting_uncached_tokens: u64,
    num_used_tokens: u64,
    max_total_num_tokens: u64,
    /// 0 to 1.
    token_usage: f64,
    /// The fuller of seats and KV cache, 0 to 1.
    utilization: f64,
    max_running_requests: u64,
}

/// `GET /v1/loads`
pub(super) fn loads(app: &App) -> Result<Response, ApiError> {
    let engine = &app.serving()?.engine;
    let (info, stats) = (engine.info(), engine.stats());
    let (running, waiting) = (stats.num_running.load(Ordering::Relaxed), stats.num_waiting.load(Ordering::Relaxed));
    let share = |part: u64, whole: usize| (part as f64 / whole.max(1) as f64).min(1.0);
    let used_blocks = stats.used_blocks.load(Ordering::Relaxed);
    let token_usage = share(used_blocks, info.num_blocks);
    let load = Load {
        dp_rank: 0,
        num_running_reqs: running,
        num_waiting_reqs: waiting,
        num_total_reqs: running + waiting,
        num_waiting_uncached_tokens: stats.queued_tokens.load(Ordering::Relaxed),
        num_used_tokens: used_blocks * info.block_size as u64,
        max_total_num_tokens: (info.num_blocks * info.block_size) as u64,
        token_usage,
        utilization: share(running, info.max_num_seqs).max(token_usage),
        max_running_requests: info.max_num_seqs as u64,
    };
    let timestamp = humantime::format_rfc3339_millis(std::time::SystemTime::now()).to_string();
    Ok(json_response(to_json(&Loads { timestamp, dp_rank_count: 1, loads: [load] })))
}

#[derive(Serialize)]
struct ServerInfo<'a> {
    model_path: &'a str,
    served_model_name: &'a str,
    version: &'static str,
    context_length: usize,
    max_total_tokens: usize,
    max_running_requests: usize,
    max_queued_tokens: usize,
    tp_size: u32,
    dp_size: u32,
    is_embedding: bool,
}

/// `GET /server_info`
pub(super) fn server_info(app: &App) -> Result<Response, ApiError> {
    let info = app.serving()?.engine.info();
    let name = app.config.model_name();
    Ok(json_response(to_json(&ServerInfo {
        model_path: app.config.model_root().unwrap_or(name),
        served_model_name: name,
        version: env!("CARGO_PKG_VERSION"),
        context_length: info.max_model_len,
        max_total_tokens: info.num_blocks * info.block_size,
        max_running_requests: info.max_num_seqs,
        max_queued_tokens: info.max_queued_tokens,
        tp_size: 1,
        dp_size: 1,
        is_embedding: false,
    })))
}

#[derive(Serialize)]
struct ModelInfo<'a> {
    model_path: &'a str,
    tokenizer_path: &'a str,
    served_model_name: &'a str,
    is_generation: bool,
    max_model_len: usize,
    vocab_size: usize,
    eos_token_ids: &'a [u32],
    has_image_understanding: bool,
    has_audio_understanding: bool,
}

/// `GET /model_info`
pub(super) fn model_info(app: &App) -> Result<Response, ApiError> {
    let serving = app.serving()?;
    let name = app.config.model_name();
    // A checkpoint brings its tokenizer.
    let path = app.config.model_root().unwrap_or(name);
    Ok(json_response(to_json(&ModelInfo {
        model_path: path,
        tokenizer_path: path,
        served_model_name: name,
        is_generation: true,
        max_model_len: serving.engine.info().max_model_len,
        vocab_size: serving.engine.info().vocab_size,
        eos_token_ids: serving.text.eos_token_ids(),
        has_image_understanding: false,
        has_audio_understanding: false,
    })))
}
