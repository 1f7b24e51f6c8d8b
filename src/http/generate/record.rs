//! The life of one generation request for metrics and the log: times and counts, never text.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::http::error::ApiError;
use crate::http::lifecycle::OpenRequest;
use crate::http::routes::Arrival;
use crate::telemetry::{Outcome, RequestTimes, Telemetry};
use crate::types::FinishReason;

/// Token counts of an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::http) struct Usage {
    pub(in crate::http) prompt: usize,
    pub(in crate::http) cached: usize,
    pub(in crate::http) completion: usize,
    /// Of these, the ones that the model thought with.
    pub(in crate::http) reasoning: usize,
}

/// Counts a request as received when made and as ended when dropped: without another word, as one
/// whose client went away.
pub(in crate::http) struct Record {
    telemetry: Arc<Telemetry>,
    request_id: String,
    route: &'static str,
    model: String,
    stream: bool,
    arrival: Instant,
    started: Option<Instant>,
    first_token: Option<Instant>,
    last_token: Option<Instant>,
    pub(super) usage: Usage,
    pub(super) longest: usize,
    outcome: Outcome,
    status: u16,
    _open: OpenRequest,
}

impl Record {
    pub(in crate::http) fn new(
        telemetry: Arc<Telemetry>,
        open: OpenRequest,
        route: &'static str,
        model: String,
        arrival: &Arrival,
    ) -> Self {
        telemetry.request_received();
        Self {
            telemetry,
            request_id: arrival.request_id.clone(),
            route,
            model,
            stream: false,
            arrival: arrival.at,
            started: None,
            first_token: None,
            last_token: None,
            usage: Usage::default(),
            longest: 0,
            outcome: Outcome::Abort,
            status: 499,
            _open: open,
        }
    }

    pub(in crate::http) fn accepted(&mut self, stream: bool) {
        self.stream = stream;
    }

    /// What the answer must look like took this long to compile.
    pub(super) fn grammar_compiled(&self, time: Duration) {
        self.telemetry.grammar_compiled(time);
    }

    pub(super) fn started(&mut self, prompt: usize, cached: usize) {
        self.started.get_or_insert_with(Instant::now);
        self.telemetry.prompt_started(prompt as u64, cached as u64);
    }

    /// A token came; gives its time. `previous` is the time of the choice's token before it.
    pub(super) fn token(&mut self, previous: Option<Instant>) -> Instant {
        let now = Instant::now();
        self.usage.completion += 1;
        self.telemetry.token();
        if self.first_token.is_none() {
            self.first_token = Some(now);
            self.telemetry.first_token(now.duration_since(self.arrival));
        }
        if let Some(previous) = previous {
            self.telemetry.inter_token(now.duration_since(previous));
        }
        self.last_token = Some(now);
        now
    }

    /// The answer is complete.
    pub(super) fn complete(&mut self, reason: FinishReason) {
        self.status = 200;
        self.outcome = match reason {
            FinishReason::Stop => Outcome::Stop,
            FinishReason::Length => Outcome::Length,
            FinishReason::Abort => Outcome::Error,
        };
    }

    /// The request ends with `error`.
    pub(in crate::http) fn fail(&mut self, error: &ApiError) {
        self.outcome = error.outcome();
        self.status = error.status().as_u16();
    }

    fn times(&self) -> Option<RequestTimes> {
        if !matches!(self.outcome, Outcome::Stop | Outcome::Length) {
            return None;
        }
        let now = Instant::now();
        let started = self.started.unwrap_or(now);
        let first = self.first_token.unwrap_or(now);
        let last = self.last_token.unwrap_or(first);
        Some(RequestTimes {
            queue: started.saturating_duration_since(self.arrival),
            prefill: first.saturating_duration_since(started),
            decode: last.saturating_duration_since(first),
            total: last.saturating_duration_since(self.arrival),
            output_tokens: self.longest,
        })
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        self.telemetry.request_ended(self.outcome, self.times().as_ref());
        let since = |t: Option<Instant>| t.map(|t| ms(t.saturating_duration_since(self.arrival)));
        tracing::info!(
            target: "sconce::request",
            id = self.request_id,
            route = self.route,
            model = self.model,
            stream = self.stream,
            status = self.status,
            reason = self.outcome.as_str(),
            tokens_in = self.usage.prompt,
            cached = self.usage.cached,
            tokens_out = self.usage.completion,
            queue_ms = since(self.started),
            ttft_ms = since(self.first_token),
            total_ms = ms(self.arrival.elapsed()),
            "request"
        );
    }
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
