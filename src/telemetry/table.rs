//! The one table of metrics: names, kinds, help, buckets and the values of their bounded label.
//!
//! A row may have a native name (`sconce_`), vLLM's name for the same thing, or both: dashboards,
//! routers and autoscalers read the latter. Bucket boundaries are vLLM's.

use super::{Outcome, Rejection};

/// What a metric is on the wire.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Kind {
    Counter,
    Gauge,
    Histogram(&'static [f64]),
}

/// One row.
#[derive(Clone, Copy, Debug)]
pub(super) struct Metric {
    pub(super) native: Option<&'static str>,
    pub(super) vllm: Option<&'static str>,
    pub(super) kind: Kind,
    pub(super) help: &'static str,
    /// The label with a bounded set of values, if there is one; every value exists from the start.
    pub(super) label: Option<(&'static str, &'static [&'static str])>,
}

const fn row(native: &'static str, kind: Kind, help: &'static str) -> Metric {
    Metric { native: Some(native), vllm: None, kind, help, label: None }
}

const fn both(native: &'static str, vllm: &'static str, kind: Kind, help: &'static str) -> Metric {
    Metric { native: Some(native), vllm: Some(vllm), kind, help, label: None }
}

const fn labelled(m: Metric, name: &'static str, values: &'static [&'static str]) -> Metric {
    Metric { label: Some((name, values)), ..m }
}

const TTFT: Kind = Kind::Histogram(&[
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
    160.0, 640.0, 2560.0,
]);
const PER_TOKEN: Kind = Kind::Histogram(&[
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
]);
const GRAMMAR: Kind =
    Kind::Histogram(&[0.0001, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0]);
const REQUEST: Kind = Kind::Histogram(&[
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0,
    1920.0, 7680.0,
]);

pub(super) const RUNNING: Metric =
    both("sconce_requests_running", "vllm:num_requests_running", Kind::Gauge, "Sequences in the execution batch");
pub(super) const WAITING: Metric =
    both("sconce_requests_waiting", "vllm:num_requests_waiting", Kind::Gauge, "Sequences waiting to be scheduled");
pub(super) const KV_USAGE: Metric =
    both("sconce_kv_cache_usage_ratio", "vllm:kv_cache_usage_perc", Kind::Gauge, "KV-cache use from 0 to 1");
pub(super) const CACHE_CONFIG: Metric = both(
    "sconce_cache_config_info",
    "vllm:cache_config_info",
    Kind::Gauge,
    "Geometry of the KV cache, as labels; always 1",
);
pub(super) const PREFIX_QUERIES: Metric = both(
    "sconce_prefix_cache_queries_total",
    "vllm:prefix_cache_queries_total",
    Kind::Counter,
    "Prompt tokens looked up in the prefix cache",
);
pub(super) const PREFIX_HITS: Metric = both(
    "sconce_prefix_cache_hits_total",
    "vllm:prefix_cache_hits_total",
    Kind::Counter,
    "Prompt tokens found in the prefix cache",
);
pub(super) const PROMPT_TOKENS: Metric = both(
    "sconce_prompt_tokens_total",
    "vllm:prompt_tokens_total",
    Kind::Counter,
    "Prompt tokens of requests whose computation began",
);
pub(super) const GENERATION_TOKENS: Metric =
    both("sconce_generation_tokens_total", "vllm:generation_tokens_total", Kind::Counter, "Tokens generated");
pub(super) const PREEMPTIONS: Metric = both(
    "sconce_preemptions_total",
    "vllm:num_preemptions_total",
    Kind::Counter,
    "Sequences preempted to free KV cache",
);
pub(super) const REQUEST_SUCCESS: Metric = labelled(
    Metric {
        native: None,
        vllm: Some("vllm:request_success_total"),
        kind: Kind::Counter,
        help: "Requests ended after they were accepted, by reason",
        label: None,
    },
    "finished_reason",
    &["stop", "length", "abort", "error", "repetition"],
);
pub(super) const TIME_TO_FIRST_TOKEN: Metric = both(
    "sconce_time_to_first_token_seconds",
    "vllm:time_to_first_token_seconds",
    TTFT,
    "From arrival to the first token",
);
pub(super) const INTER_TOKEN: Metric = both(
    "sconce_inter_token_latency_seconds",
    "vllm:inter_token_latency_seconds",
    PER_TOKEN,
    "Between two tokens of one choice",
);
pub(super) const PER_OUTPUT_TOKEN: Metric = both(
    "sconce_request_time_per_output_token_seconds",
    "vllm:request_time_per_output_token_seconds",
    PER_TOKEN,
    "Mean time per token after the first, one sample a request",
);
pub(super) const E2E: Metric = both(
    "sconce_e2e_request_latency_seconds",
    "vllm:e2e_request_latency_seconds",
    REQUEST,
    "From arrival to the last token",
);
pub(super) const QUEUE_TIME: Metric = both(
    "sconce_request_queue_time_seconds",
    "vllm:request_queue_time_seconds",
    REQUEST,
    "From arrival to the start of computation",
);
pub(super) const PREFILL_TIME: Metric = both(
    "sconce_request_prefill_time_seconds",
    "vllm:request_prefill_time_seconds",
    REQUEST,
    "From the start of computation to the first token",
);
pub(super) const DECODE_TIME: Metric = both(
    "sconce_request_decode_time_seconds",
    "vllm:request_decode_time_seconds",
    REQUEST,
    "From the first token to the last",
);
pub(super) const INFERENCE_TIME: Metric = both(
    "sconce_request_inference_time_seconds",
    "vllm:request_inference_time_seconds",
    REQUEST,
    "From the start of computation to the last token",
);
pub(super) const QUEUE_TOKENS: Metric =
    row("sconce_queue_tokens", Kind::Gauge, "Prompt tokens submitted and not yet scheduled");
pub(super) const DRAINING: Metric =
    row("sconce_draining", Kind::Gauge, "1 from the first stop signal until the process ends");
pub(super) const BUILD_INFO: Metric = row(
    "sconce_build_info",
    Kind::Gauge,
    "Version, commit, backend and type of the weights, as labels; always 1, from the time a model is loaded",
);
pub(super) const DEVICE_INFO: Metric = row("sconce_device_info", Kind::Gauge, "What computes, as a label; always 1");
pub(super) const DEVICE_MEMORY: Metric =
    row("sconce_device_memory_bytes", Kind::Gauge, "Bytes that weights and KV cache take, reserved ones included");
pub(super) const LATE_ALLOCATIONS: Metric = row(
    "sconce_device_late_allocations_total",
    Kind::Counter,
    "Allocations of device memory after the start; 0 if all is right",
);
pub(super) const STARTUP: Metric = row("sconce_startup_seconds", Kind::Gauge, "Duration of a phase of the start-up");
pub(super) const RECEIVED: Metric = row(
    "sconce_requests_received_total",
    Kind::Counter,
    "Generation requests that reached their handler; equals the sum of outcomes when none is open",
);
pub(super) const OUTCOMES: Metric = labelled(
    row("sconce_request_outcomes_total", Kind::Counter, "How generation requests ended"),
    "outcome",
    Outcome::NAMES,
);
pub(super) const REJECTED: Metric = labelled(
    row("sconce_rejected_total", Kind::Counter, "Requests refused before any computation, by reason"),
    "reason",
    Rejection::NAMES,
);
pub(super) const DISCONNECTS: Metric =
    row("sconce_client_disconnects_total", Kind::Counter, "Clients that went away before their answer was complete");
pub(super) const GRAMMAR_COMPILE: Metric = row(
    "sconce_grammar_compile_seconds",
    GRAMMAR,
    "Time until what an answer must look like is compiled, or found in the cache",
);
pub(super) const UNKNOWN_FIELDS: Metric =
    row("sconce_unknown_request_fields_total", Kind::Counter, "Request fields that nobody knows and that were ignored");
pub(super) const OPEN_CONNECTIONS: Metric = row("sconce_open_connections", Kind::Gauge, "Open client connections");
pub(super) const HTTP_REQUESTS: Metric =
    row("sconce_http_requests_total", Kind::Counter, "HTTP requests by route and status code (499: the client left)");

/// Every metric there is.
pub(super) const ALL: &[Metric] = &[
    RUNNING,
    WAITING,
    KV_USAGE,
    CACHE_CONFIG,
    PREFIX_QUERIES,
    PREFIX_HITS,
    PROMPT_TOKENS,
    GENERATION_TOKENS,
    PREEMPTIONS,
    REQUEST_SUCCESS,
    TIME_TO_FIRST_TOKEN,
    INTER_TOKEN,
    PER_OUTPUT_TOKEN,
    E2E,
    QUEUE_TIME,
    PREFILL_TIME,
    DECODE_TIME,
    INFERENCE_TIME,
    QUEUE_TOKENS,
    DRAINING,
    BUILD_INFO,
    DEVICE_INFO,
    DEVICE_MEMORY,
    LATE_ALLOCATIONS,
    STARTUP,
    RECEIVED,
    OUTCOMES,
    REJECTED,
    DISCONNECTS,
    GRAMMAR_COMPILE,
    UNKNOWN_FIELDS,
    OPEN_CONNECTIONS,
    HTTP_REQUESTS,
];
