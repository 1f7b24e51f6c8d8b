//! Metrics: one table of names and buckets (`table`), and the verbs with which anyone records.
//!
//! A [`Telemetry`] is one registry, so that two servers in a process do not share numbers. Handles
//! are made once: recording is an atomic operation and no label is ever built from client input.
//! Everything exists, at zero, before the first request.

mod registry;
mod table;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use metrics_exporter_prometheus::PrometheusHandle;

use registry::{Counters, Gauge, Histogram, Registry};

/// How a generation request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// An end-of-turn token, a stop token or a stop string.
    Stop,
    /// The token limit was reached.
    Length,
    /// The client went away.
    Abort,
    /// Refused: the request was wrong or there was no room.
    Rejected,
    /// The deadline passed.
    Timeout,
    /// A fault of the server.
    Error,
    /// The server shut down under it.
    Shutdown,
}

impl Outcome {
    /// The label values, in the order of the variants.
    pub const NAMES: &'static [&'static str] = &["stop", "length", "abort", "rejected", "timeout", "error", "shutdown"];

    /// The label value.
    pub fn as_str(self) -> &'static str {
        Self::NAMES.get(self as usize).copied().unwrap_or("error")
    }

    /// Index in the values of vLLM's `finished_reason`; `None` for requests never accepted.
    fn vllm_reason(self) -> Option<usize> {
        match self {
            Self::Stop => Some(0),
            Self::Length => Some(1),
            Self::Abort => Some(2),
            Self::Timeout | Self::Error | Self::Shutdown => Some(3),
            Self::Rejected => None,
        }
    }
}

/// Why a request was refused before any computation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejection {
    /// Malformed or out of range.
    Invalid,
    /// Longer than the context.
    ContextLength,
    /// Needs more KV cache than there is.
    NeverFits,
    /// No valid API key.
    Auth,
    /// Unknown model.
    Model,
    /// Body over the limit.
    TooLarge,
    /// The queue is full.
    QueueFull,
    /// Draining.
    Draining,
    /// The model is still loading.
    Loading,
    /// The engine is dead or stalled.
    Engine,
}

impl Rejection {
    /// The label values, in the order of the variants.
    pub const NAMES: &'static [&'static str] = &[
        "invalid",
        "context_length",
        "never_fits",
        "auth",
        "model_not_found",
        "too_large",
        "queue_full",
        "draining",
        "loading",
        "engine",
    ];
}

/// What the engine thread reports, once a step at most.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct EngineGauges {
    /// Sequences in execution.
    pub running: u64,
    /// Sequences that wait.
    pub waiting: u64,
    /// KV-cache use, 0 to 1.
    pub kv_usage: f64,
    /// Prompt tokens submitted and not yet scheduled.
    pub queue_tokens: u64,
}

/// The life of one request that was answered to the end, each from the same clock.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct RequestTimes {
    /// Arrival to the start of computation.
    pub queue: Duration,
    /// Start of computation to the first token.
    pub prefill: Duration,
    /// First token to the last one.
    pub decode: Duration,
    /// Arrival to the end.
    pub total: Duration,
    /// Tokens of the longest choice.
    pub output_tokens: usize,
}

/// What is fixed about the process, shown as labels.
#[derive(Clone, Debug)]
pub struct TelemetryConfig {
    /// The served model's name: label `model_name`.
    pub model_name: String,
    /// Also export under vLLM's names.
    pub vllm_names: bool,
}

/// What computes, known once a model is loaded.
#[derive(Clone, Copy, Debug)]
pub struct LoadedModel<'a> {
    /// `cpu` or `cuda`.
    pub backend: &'a str,
    /// The type of most of the weights.
    pub quant: &'a str,
    /// What it runs on, in words.
    pub device: &'a str,
    /// Bytes of weights as kept.
    pub weight_bytes: usize,
    /// Bytes of the KV cache.
    pub kv_bytes: usize,
}

/// The registry of one server. Share it in an `Arc`.
pub struct Telemetry {
    registry: Registry,
    running: Gauge,
    waiting: Gauge,
    kv_usage: Gauge,
    queue_tokens: Gauge,
    draining: Gauge,
    open_connections: Gauge,
    prefix_queries: Counters,
    prefix_hits: Counters,
    prompt_tokens: Counters,
    generation_tokens: Counters,
    preemptions: Counters,
    late_allocations: Counters,
    request_success: Counters,
    received: Counters,
    outcomes: Counters,
    rejected: Counters,
    disconnects: Counters,
    unknown_fields: Counters,
    grammar_compile: Histogram,
    ttft: Histogram,
    inter_token: Histogram,
    per_output_token: Histogram,
    e2e: Histogram,
    queue_time: Histogram,
    prefill_time: Histogram,
    decode_time: Histogram,
    inference_time: Histogram,
    http: Mutex<HashMap<(&'static str, u16), metrics::Counter>>,
}

impl std::fmt::Debug for Telemetry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Telemetry").finish_non_exhaustive()
    }
}

impl Telemetry {
    /// Makes the registry with every metric in it, at zero.
    pub fn new(config: &TelemetryConfig) -> Arc<Self> {
        let r = Registry::new(config);
        Arc::new(Self {
            running: r.gauge(&table::RUNNING),
            waiting: r.gauge(&table::WAITING),
            kv_usage: r.gauge(&table::KV_USAGE),
            queue_tokens: r.gauge(&table::QUEUE_TOKENS),
            draining: r.gauge(&table::DRAINING),
            open_connections: r.gauge(&table::OPEN_CONNECTIONS),
            prefix_queries: r.counters(&table::PREFIX_QUERIES),
            prefix_hits: r.counters(&table::PREFIX_HITS),
            prompt_tokens: r.counters(&table::PROMPT_TOKENS),
            generation_tokens: r.counters(&table::GENERATION_TOKENS),
            preemptions: r.counters(&table::PREEMPTIONS),
            late_allocations: r.counters(&table::LATE_ALLOCATIONS),
            request_success: r.counters(&table::REQUEST_SUCCESS),
            received: r.counters(&table::RECEIVED),
            outcomes: r.counters(&table::OUTCOMES),
            rejected: r.counters(&table::REJECTED),
            disconnects: r.counters(&table::DISCONNECTS),
            unknown_fields: r.counters(&table::UNKNOWN_FIELDS),
            grammar_compile: r.histogram(&table::GRAMMAR_COMPILE),
            ttft: r.histogram(&table::TIME_TO_FIRST_TOKEN),
            inter_token: r.histogram(&table::INTER_TOKEN),
            per_output_token: r.histogram(&table::PER_OUTPUT_TOKEN),
            e2e: r.histogram(&table::E2E),
            queue_time: r.histogram(&table::QUEUE_TIME),
            prefill_time: r.histogram(&table::PREFILL_TIME),
            decode_time: r.histogram(&table::DECODE_TIME),
            inference_time: r.histogram(&table::INFERENCE_TIME),
            http: Mutex::new(HashMap::new()),
            registry: r,
        })
    }

    /// The Prometheus text exposition.
    pub fn render(&self) -> String {
        self.handle().render()
    }

    /// Moves histogram samples into their buckets; call it every few seconds so that memory stays
    /// bounded when nobody scrapes.
    pub fn run_upkeep(&self) {
        self.handle().run_upkeep();
    }

    fn handle(&self) -> &PrometheusHandle {
        self.registry.handle()
    }

    /// Sets the engine's gauges.
    pub fn engine(&self, gauges: &EngineGauges) {
        self.running.set(gauges.running as f64);
        self.waiting.set(gauges.waiting as f64);
        self.kv_usage.set(gauges.kv_usage);
        self.queue_tokens.set(gauges.queue_tokens as f64);
    }

    /// Publishes the geometry of the KV cache (tokens a block, blocks in all).
    pub fn cache_config(&self, block_size: usize, num_blocks: usize) {
        let labels = [("block_size", block_size.to_string()), ("num_gpu_blocks", num_blocks.to_string())];
        self.registry.info(&table::CACHE_CONFIG, &labels);
    }

    /// Publishes what was loaded where, and this build.
    pub fn loaded(&self, model: &LoadedModel<'_>) {
        let build = [
            ("version", env!("CARGO_PKG_VERSION")),
            ("commit", option_env!("SCONCE_COMMIT").unwrap_or("unknown")),
            ("backend", model.backend),
            ("quant", model.quant),
        ];
        self.registry.info(&table::BUILD_INFO, &build.map(|(label, value)| (label, value.to_owned())));
        self.registry.info(&table::DEVICE_INFO, &[("device", model.device.to_owned())]);
        for (what, bytes) in [("weights", model.weight_bytes), ("kv_cache", model.kv_bytes)] {
            self.registry.set_labelled(&table::DEVICE_MEMORY, &[("what", what.to_owned())], bytes as f64);
        }
    }

    /// A phase of the start-up took `time`. `phase` is one of a handful of fixed words.
    pub fn startup_phase(&self, phase: &'static str, time: Duration) {
        self.registry.set_labelled(&table::STARTUP, &[("phase", phase.to_owned())], time.as_secs_f64());
    }

    /// What a request's answer must look like was compiled, or found compiled.
    pub fn grammar_compiled(&self, time: Duration) {
        self.grammar_compile.record(time);
    }

    /// `n` sequences were preempted.
    pub fn preempted(&self, n: u64) {
        self.preemptions.add(0, n);
    }

    /// Device memory was allocated `n` times while requests ran.
    pub fn allocated_late(&self, n: u64) {
        self.late_allocations.add(0, n);
    }

    /// Computation of a prompt began: `prompt` tokens, `cached` of them from the prefix cache.
    pub fn prompt_started(&self, prompt: u64, cached: u64) {
        self.prompt_tokens.add(0, prompt);
        self.prefix_queries.add(0, prompt);
        self.prefix_hits.add(0, cached);
    }

    /// One token was generated.
    pub fn token(&self) {
        self.generation_tokens.add(0, 1);
    }

    /// The first token of a request came `since_arrival`.
    pub fn first_token(&self, since_arrival: Duration) {
        self.ttft.record(since_arrival);
    }

    /// Two tokens of one choice came `gap` apart.
    pub fn inter_token(&self, gap: Duration) {
        self.inter_token.record(gap);
    }

    /// A generation request reached its handler; [`Telemetry::request_ended`] follows, once.
    pub fn request_received(&self) {
        self.received.add(0, 1);
    }

    /// A generation request ended. `times` only for requests answered to the end.
    pub fn request_ended(&self, outcome: Outcome, times: Option<&RequestTimes>) {
        self.outcomes.add(outcome as usize, 1);
        if let Some(reason) = outcome.vllm_reason() {
            self.request_success.add(reason, 1);
        }
        if outcome == Outcome::Abort {
            self.disconnects.add(0, 1);
        }
        let Some(t) = times else { return };
        self.queue_time.record(t.queue);
        self.prefill_time.record(t.prefill);
        self.decode_time.record(t.decode);
        self.inference_time.record(t.prefill + t.decode);
        self.e2e.record(t.total);
        if t.output_tokens > 1 {
            self.per_output_token.record(t.decode.div_f64((t.output_tokens - 1) as f64));
        }
    }

    /// A request was refused before any computation.
    pub fn rejected(&self, reason: Rejection) {
        self.rejected.add(reason as usize, 1);
    }

    /// `n` request fields nobody knows were ignored.
    pub fn unknown_fields(&self, n: u64) {
        self.unknown_fields.add(0, n);
    }

    /// Draining began.
    pub fn draining(&self) {
        self.draining.set(1.0);
    }

    /// A client connected.
    pub fn connection_opened(&self) {
        self.open_connections.add(1.0);
    }

    /// A connection ended.
    pub fn connection_closed(&self) {
        self.open_connections.add(-1.0);
    }

    /// One HTTP response. `route` is a pattern of the route table; `code` one of the server's statuses.
    pub fn http_request(&self, route: &'static str, code: u16) {
        self.http_requests(route, code, 1);
    }

    /// Responses of `route` with these codes will be counted: the counters exist from now on, at zero.
    pub fn http_route(&self, route: &'static str, codes: &[u16]) {
        codes.iter().for_each(|code| self.http_requests(route, *code, 0));
    }

    fn http_requests(&self, route: &'static str, code: u16, n: u64) {
        let mut known = self.http.lock().unwrap_or_else(PoisonError::into_inner);
        known
            .entry((route, code))
            .or_insert_with(|| {
                let labels = [("route", route.to_owned()), ("code", code.to_string())];
                self.registry.labelled_counter(&table::HTTP_REQUESTS, &labels)
            })
            .increment(n);
    }
}
