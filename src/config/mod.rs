//! Configuration: defaults, then `--config FILE.toml`, then flags, resolved once into plain data.
//!
//! # Layout
//! - `raw`: every setting as flag and TOML key, in one flat table; nothing is validated there
//! - `file`: the TOML file, with errors that name file, line and nearest key
//! - `units`: sizes and durations as people write them
//! - `machine`: cores and memory this process may use (affinity, cgroup v1 and v2)
//! - `resolve`: raw settings -> [`Config`]; every limit is checked here
//! - `show`: the effective configuration, as TOML with the origin of each value

mod file;
mod machine;
mod raw;
mod resolve;
mod show;
mod units;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

pub use file::{known_keys, nearest, parse_file};
pub use machine::Machine;
pub use raw::{
    AttentionChoice, CpuActivations, DeviceChoice, GenerationConfig, KvCacheDtype, KvCacheMemory, LogFormat, LogLevel,
    MetricsCompat, RawConfig,
};
pub use show::Setting;
pub use units::{ByteSize, Seconds};

/// Served when nothing else is named: an alias that `hub` knows.
pub const DEFAULT_MODEL: &str = "smollm2-135m";

/// Why a configuration can't be used. One line, with the setting, the limit and the remedy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The file can't be read.
    #[error("can't read the configuration file {path}: {reason}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// The file isn't valid TOML, or a value has the wrong type.
    #[error("{path}:{line}: {reason}")]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// What is wrong there.
        reason: String,
    },
    /// A key that no setting has.
    #[error("{path}:{line}: unknown key `{key}`{}", hint(suggestion))]
    UnknownKey {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// The key as written.
        key: String,
        /// The nearest known key.
        suggestion: Option<String>,
    },
    /// A value outside its limits.
    #[error("{key}: {reason}")]
    Invalid {
        /// The setting, as its TOML key (the flag is the same word after `--`).
        key: &'static str,
        /// What is wrong and what would be right.
        reason: String,
    },
    /// An address that others can reach, and no key to keep them out.
    #[error(
        "host: {host} is reachable from other machines but no API key is set; set --api-key or --api-key-file, or pass --insecure-no-auth to serve everyone"
    )]
    OpenWithoutKey {
        /// The address asked for.
        host: IpAddr,
    },
}

fn hint(suggestion: &Option<String>) -> String {
    match suggestion {
        Some(key) => format!("; did you mean `{key}`?"),
        None => "; `sconce serve --print-config` lists all keys".to_owned(),
    }
}

/// Everything `serve` and `run` need to know, resolved: no field is decided later.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// What to serve: path, hub id or alias; `None` is the default model.
    pub model: Option<String>,
    /// Chat template file that replaces the model's own.
    pub chat_template: Option<PathBuf>,
    /// Whether `generation_config.json` sets sampling defaults.
    pub generation_config: GenerationConfig,
    /// Sizes of engine and KV cache.
    pub engine: EngineConfig,
    /// Address, keys and limits of the HTTP server.
    pub server: ServerConfig,
    /// Log output.
    pub log: LogConfig,
    /// Each setting as text, with its origin; secrets are redacted.
    pub settings: Vec<Setting>,
}

/// Sizes of engine and KV cache.
#[derive(Clone, Debug, PartialEq)]
pub struct EngineConfig {
    /// Longest prompt plus output in tokens; `None` takes the model's own limit.
    pub max_model_len: Option<usize>,
    /// Sequences that run at once.
    pub max_num_seqs: usize,
    /// Tokens computed in one step, prefill and decode together.
    pub max_batch_tokens: usize,
    /// Prompt tokens that may wait before requests are refused with 429.
    pub max_queued_tokens: usize,
    /// Where the model is computed.
    pub device: DeviceChoice,
    /// Whether rows must not depend on their neighbours on a GPU, too.
    pub deterministic: bool,
    /// Budget of the KV cache in bytes, on the CPU.
    pub kv_cache_bytes: u64,
    /// Budget that was asked for, whatever the device.
    pub kv_cache_fixed: Option<u64>,
    /// Element type of the KV cache; `None` leaves it to the device.
    pub kv_cache_dtype: Option<KvCacheDtype>,
    /// Whether decode steps run as captured graphs on a GPU.
    pub cuda_graphs: bool,
    /// Family of attention kernels on a GPU.
    pub attention_kernel: AttentionChoice,
    /// Share of a GPU's free memory that the server takes.
    pub gpu_memory_utilization: f64,
    /// Threads that compute a step.
    pub threads: usize,
    /// Whether requests share the KV of equal prefixes.
    pub prefix_cache: bool,
    /// Arithmetic of products with block-quantised weights.
    pub cpu_activations: CpuActivations,
}

/// Address, keys and limits of the HTTP server.
#[derive(Clone, PartialEq)]
pub struct ServerConfig {
    /// Where to listen.
    pub address: SocketAddr,
    /// Names of the model in the API, the first is the one answers carry; empty: the model's own name.
    pub served_model_names: Vec<String>,
    /// Keys that open the API; empty: no key is asked for.
    pub api_keys: Vec<String>,
    /// Most time from a request's arrival to its end; `None`: no limit.
    pub request_timeout: Option<Duration>,
    /// How long requests in flight may go on after SIGTERM.
    pub drain_timeout: Duration,
    /// How long new requests are still accepted after SIGTERM, for load balancers to notice.
    pub drain_delay: Duration,
    /// Whether a request field that nobody knows is a 400.
    pub strict_fields: bool,
    /// Largest `n` of a request.
    pub max_n: u32,
    /// Largest request body in bytes.
    pub max_body_bytes: usize,
    /// Which foreign metric names are exported beside our own.
    pub metrics_compat: MetricsCompat,
    /// Prefix under which all routes are served too (empty, or `/prefix`).
    pub root_path: String,
}

impl std::fmt::Debug for ServerConfig {
    // By hand, so that keys can't reach a log.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServerConfig")
            .field("address", &self.address)
            .field("served_model_names", &self.served_model_names)
            .field("api_keys", &self.api_keys.len())
            .field("request_timeout", &self.request_timeout)
            .field("drain_timeout", &self.drain_timeout)
            .field("drain_delay", &self.drain_delay)
            .field("strict_fields", &self.strict_fields)
            .field("max_n", &self.max_n)
            .field("max_body_bytes", &self.max_body_bytes)
            .field("metrics_compat", &self.metrics_compat)
            .field("root_path", &self.root_path)
            .finish()
    }
}

/// Log output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// Least severe level that is written.
    pub level: LogLevel,
    /// Text for people or JSON for collectors.
    pub format: LogFormat,
}
