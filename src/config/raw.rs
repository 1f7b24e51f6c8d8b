//! The flat table of settings: one field is one flag, one TOML key and one line of the help text.
//!
//! A setting without a flag (`#[arg(skip)]`) lives in the TOML file only. Nothing is validated here
//! beyond its type; `resolve` turns this into a [`super::Config`].

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, ValueEnum};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::units::{ByteSize, Seconds};

/// Element type of the KV cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KvCacheDtype {
    /// Half precision.
    F16,
    /// bfloat16.
    Bf16,
    /// Single precision.
    F32,
    /// 8-bit floating point (e4m3), on a GPU.
    Fp8,
}

/// Where the model is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The first GPU that can be used, else the CPU.
    Auto,
    /// The CPU.
    Cpu,
    /// The GPU of this number, or none.
    Cuda(usize),
}

impl FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let unknown = || format!("`{text}` is none of auto, cpu, cuda, cuda:N");
        match text.split_once(':') {
            None if text == "auto" => Ok(Self::Auto),
            None if text == "cpu" => Ok(Self::Cpu),
            None if text == "cuda" => Ok(Self::Cuda(0)),
            Some(("cuda", number)) => number.parse().map(Self::Cuda).map_err(|_| unknown()),
            _ => Err(unknown()),
        }
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(number) => write!(f, "cuda:{number}"),
        }
    }
}

impl Serialize for DeviceChoice {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for DeviceChoice {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Where sampling defaults come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GenerationConfig {
    /// The model's own `generation_config.json`, when it has one.
    Auto,
    /// The API's defaults.
    None,
}

/// Least severe level that is written to the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// Faults of the server.
    Error,
    /// What an operator should look at.
    Warn,
    /// One line a request.
    Info,
    /// One line a step.
    Debug,
    /// Everything.
    Trace,
}

/// Form of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Arithmetic of products with block-quantised weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CpuActivations {
    /// Activations rounded to 8 bits a block of 32: the fast path.
    Int8,
    /// Activations stay single precision: the reference.
    F32,
}

/// Family of attention kernels on a GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AttentionChoice {
    /// What is known to be right and fast on the card: mma until wgmma has been measured.
    Auto,
    /// Kernels for every card.
    Mma,
    /// Kernels for Hopper (H100, H200).
    Wgmma,
}

/// Foreign metric names exported beside our own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MetricsCompat {
    /// The `vllm:` names that dashboards and autoscalers read.
    Vllm,
    /// Only `sconce_` names.
    None,
}

/// Budget of the KV cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvCacheMemory {
    /// A capped share of the memory that is available at start.
    Auto,
    /// A fixed size.
    Fixed(ByteSize),
}

impl FromStr for KvCacheMemory {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.eq_ignore_ascii_case("auto") {
            return Ok(Self::Auto);
        }
        text.parse().map(Self::Fixed).map_err(|e| format!("{e}, or auto"))
    }
}

impl fmt::Display for KvCacheMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Fixed(size) => size.fmt(f),
        }
    }
}

/// Settings as a source gave them; `None` where it said nothing.
#[derive(Args, Clone, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct RawConfig {
    /// A GGUF file, a folder, a hub id `org/name[:file or quantisation]` or an alias (see `sconce list`) [default: smollm2-135m]
    pub model: Option<String>,

    /// Address to listen on [default: 127.0.0.1]
    #[arg(long, value_name = "IP")]
    pub host: Option<IpAddr>,
    /// Port to listen on; 0 picks a free one [default: 8000]
    #[arg(long, value_name = "PORT")]
    pub port: Option<u16>,
    /// Name of the model in the API; repeatable, answers carry the first [default: the model's own name]
    #[arg(long, value_name = "NAME")]
    #[serde(deserialize_with = "one_or_more")]
    pub served_model_name: Option<Vec<String>>,
    /// Key that clients must send as `Authorization: Bearer KEY`; repeatable
    #[arg(long, value_name = "KEY")]
    #[serde(deserialize_with = "one_or_more")]
    pub api_key: Option<Vec<String>>,
    /// File with one API key a line, so that none shows in a process list
    #[arg(long, value_name = "FILE")]
    pub api_key_file: Option<PathBuf>,
    /// Serve other machines although no API key is set
    #[arg(long, num_args = 0, default_missing_value = "true")]
    pub insecure_no_auth: Option<bool>,
    /// Longest prompt plus output, in tokens [default: the model's limit]
    #[arg(long, value_name = "TOKENS")]
    pub max_model_len: Option<usize>,
    /// Sequences that run at once [default: 64, on a GPU 256]
    #[arg(long, value_name = "N")]
    pub max_num_seqs: Option<usize>,
    /// Tokens computed in one step, prefill and decode together [default: 512, on a GPU 2048]
    #[arg(long, value_name = "TOKENS")]
    pub max_batch_tokens: Option<usize>,
    /// Prompt tokens that may wait; beyond it clients get 429 with Retry-After [default: 131072, on a GPU 1048576]
    #[arg(long, value_name = "TOKENS")]
    pub max_queued_tokens: Option<usize>,
    /// Budget of the KV cache: a size like 2GiB, or auto (25 % of available memory, at most 4GiB; on a GPU what gpu-memory-utilization leaves) [default: auto]
    #[arg(long, value_name = "SIZE")]
    pub kv_cache_memory: Option<KvCacheMemory>,
    /// Where to compute: auto, cpu, cuda or cuda:N [default: auto]
    #[arg(long, value_name = "DEVICE")]
    pub device: Option<DeviceChoice>,
    /// On a GPU, a request's text doesn't depend on what else runs (always so on the CPU); slower
    #[arg(long, num_args = 0, default_missing_value = "true")]
    pub deterministic: Option<bool>,
    /// Element type of the KV cache [default: f16; on a GPU that of the activations]
    #[arg(long, value_enum, value_name = "TYPE")]
    pub kv_cache_dtype: Option<KvCacheDtype>,
    /// Don't share the KV cache of equal prompt prefixes
    #[arg(long, num_args = 0, default_missing_value = "true")]
    pub no_prefix_cache: Option<bool>,
    /// Threads that compute [default: the physical cores this process may use]
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,
    /// Jinja file used in place of the model's chat template
    #[arg(long, value_name = "FILE")]
    pub chat_template: Option<PathBuf>,
    /// Take sampling defaults from the model's generation_config.json [default: auto]
    #[arg(long, value_enum, value_name = "WHERE")]
    pub generation_config: Option<GenerationConfig>,
    /// Most time a request may take, from its arrival; 0 is no limit [default: 600s]
    #[arg(long, value_name = "TIME")]
    pub request_timeout: Option<Seconds>,
    /// How long open requests may go on after SIGTERM [default: 300s]
    #[arg(long, value_name = "TIME")]
    pub drain_timeout: Option<Seconds>,
    /// Least severe level that is logged [default: info]
    #[arg(long, value_enum, value_name = "LEVEL")]
    pub log_level: Option<LogLevel>,
    /// Form of log lines [default: text]
    #[arg(long, value_enum, value_name = "FORM")]
    pub log_format: Option<LogFormat>,

    /// How long new requests are still accepted after SIGTERM, until load balancers have noticed (5s; on loopback 0s).
    #[arg(skip)]
    pub drain_delay: Option<Seconds>,
    /// A request field that nobody knows is a 400 (otherwise it is counted and logged once).
    #[arg(skip)]
    pub strict_fields: Option<bool>,
    /// Largest `n` of a request.
    #[arg(skip)]
    pub max_n: Option<u32>,
    /// Largest request body.
    #[arg(skip)]
    pub max_body_size: Option<ByteSize>,
    /// Arithmetic of products with block-quantised weights: int8 or f32.
    #[arg(skip)]
    pub cpu_activations: Option<CpuActivations>,
    /// Decode steps run as captured CUDA graphs.
    #[arg(skip)]
    pub cuda_graphs: Option<bool>,
    /// Attention kernels on a GPU: auto, mma or wgmma.
    #[arg(skip)]
    pub attention_kernel: Option<AttentionChoice>,
    /// Share of a GPU's free memory that the server takes at start.
    #[arg(skip)]
    pub gpu_memory_utilization: Option<f64>,
    /// Foreign metric names exported beside our own: vllm or none.
    #[arg(skip)]
    pub metrics_compat: Option<MetricsCompat>,
    /// Prefix under which all routes are served too, like `/openai`.
    #[arg(skip)]
    pub root_path: Option<String>,
}

/// A flag given once reads as one text in the file, too.
fn one_or_more<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<String>>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "expected a string or a list of strings")]
    enum OneOrMore {
        One(String),
        More(Vec<String>),
    }
    Ok(Option::deserialize(deserializer)?.map(|value| match value {
        OneOrMore::One(text) => vec![text],
        OneOrMore::More(texts) => texts,
    }))
}

impl RawConfig {
    /// `self` where it says something, else `below`. Works on the serialised form, so that a new
    /// setting needs no line here.
    pub(super) fn over(&self, below: &Self) -> Result<Self, serde_json::Error> {
        let mut merged = serde_json::to_value(below)?;
        if let (Some(merged), serde_json::Value::Object(above)) = (merged.as_object_mut(), serde_json::to_value(self)?)
        {
            merged.extend(above.into_iter().filter(|(_, value)| !value.is_null()));
        }
        serde_json::from_value(merged)
    }

    /// Keys that this source sets.
    pub(super) fn keys_set(&self) -> Vec<String> {
        match serde_json::to_value(self) {
            Ok(serde_json::Value::Object(map)) => {
                map.into_iter().filter(|(_, v)| !v.is_null()).map(|(k, _)| k).collect()
            }
            _ => Vec::new(),
        }
    }
}
