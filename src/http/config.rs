//! Settings of the HTTP layer, plain data with working defaults.

use std::time::Duration;

/// Limits, time-outs and keys.
#[derive(Clone, Debug)]
pub struct HttpConfig {
    /// Names under which the model is served; answers carry the first.
    pub served_names: Vec<String>,
    /// Where the model came from (`root` in the model list).
    pub model_root: String,
    /// Keys that clients may send as `Authorization: Bearer KEY`; empty: no authentication. Only
    /// their SHA-256 is kept.
    pub api_keys: Vec<String>,
    /// Prefix under which all routes are served too, like `/openai`; empty for none.
    pub root_path: String,
    /// A request field nobody knows is a 400.
    pub strict_fields: bool,
    /// Largest `n`.
    pub max_n: u32,
    /// Most prompts in one completions request.
    pub max_batch_prompts: usize,
    /// Largest request body, in bytes.
    pub max_body_bytes: usize,
    /// Largest request head, in bytes.
    pub max_header_bytes: usize,
    /// Most header fields.
    pub max_header_fields: usize,
    /// Deepest nesting of a JSON body.
    pub max_json_depth: usize,
    /// Most open connections; more wait to be accepted.
    pub max_connections: usize,
    /// Most requests whose text waits to be tokenised, of small ones and of large ones; more are told that the queue
    /// is full.
    pub max_waiting_text: usize,
    /// Threads that parse bodies, render templates and tokenise: as many for small requests as for large ones.
    pub text_threads: usize,
    /// Most time a request may take from its arrival; `None` for no limit.
    pub request_timeout: Option<Duration>,
    /// Most time for a request's head.
    pub header_timeout: Duration,
    /// Most time for a request's body.
    pub body_timeout: Duration,
    /// Most time a connection may be kept open between requests.
    pub idle_timeout: Duration,
    /// Most time a client may read nothing while an answer waits for it.
    pub write_timeout: Duration,
    /// Interval of the comments that keep a silent stream open.
    pub heartbeat: Duration,
    /// An engine with work and no progress for this long is unhealthy.
    pub stall_timeout: Duration,
    /// An engine with work and no progress for this long needs a restart: `/livez` fails.
    pub dead_timeout: Duration,
    /// How long new requests are accepted after draining began.
    pub drain_delay: Duration,
    /// How long open requests may go on after that.
    pub drain_timeout: Duration,
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self {
            served_names: vec!["default".to_owned()],
            model_root: String::new(),
            api_keys: Vec::new(),
            root_path: String::new(),
            strict_fields: false,
            max_n: 8,
            max_batch_prompts: 1024,
            max_body_bytes: 4 << 20,
            max_header_bytes: 16 << 10,
            max_header_fields: 100,
            max_json_depth: 64,
            max_connections: 4096,
            max_waiting_text: 1024,
            text_threads: 2,
            request_timeout: Some(Duration::from_secs(600)),
            header_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(60),
            idle_timeout: Duration::from_secs(120),
            write_timeout: Duration::from_secs(30),
            heartbeat: Duration::from_secs(15),
            stall_timeout: Duration::from_secs(4),
            dead_timeout: Duration::from_secs(60),
            drain_delay: Duration::from_secs(5),
            drain_timeout: Duration::from_secs(300),
        }
    }
}

impl HttpConfig {
    /// The name answers carry.
    pub fn model_name(&self) -> &str {
        self.served_names.first().map_or("default", String::as_str)
    }

    /// Where the model came from, if that is known.
    pub fn model_root(&self) -> Option<&str> {
        Some(self.model_root.as_str()).filter(|root| !root.is_empty())
    }
}
