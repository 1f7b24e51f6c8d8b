//! Raw settings -> [`Config`]: defaults, limits, and messages that say what would be right.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use super::{
    AttentionChoice, ByteSize, Config, ConfigError, CpuActivations, DeviceChoice, EngineConfig, GenerationConfig,
    KvCacheMemory, LogConfig, LogFormat, LogLevel, Machine, MetricsCompat, RawConfig, Seconds, ServerConfig, show,
};

const MIB: u64 = 1 << 20;
/// The automatic KV budget: a quarter of what is available, and never more than this.
const AUTO_KV_CAP: u64 = 4096 * MIB;
/// Below this no model serves a useful context.
const MIN_KV_BYTES: u64 = 16 * MIB;
const DEFAULT_BODY_BYTES: u64 = 4 * MIB;

/// Sizes that depend on what computes.
struct Scale {
    max_num_seqs: usize,
    max_batch_tokens: usize,
    max_queued_tokens: usize,
}

const CPU: Scale = Scale { max_num_seqs: 64, max_batch_tokens: 512, max_queued_tokens: 128 << 10 };
/// A step of 2,048 rows keeps a GPU's matrix units busy, and ends soon enough for those who wait for their next token.
const GPU: Scale = Scale { max_num_seqs: 256, max_batch_tokens: 2048, max_queued_tokens: 1 << 20 };

impl Config {
    /// Resolves `flags` over `file` over the defaults on this `machine`.
    ///
    /// # Errors
    /// [`ConfigError`] with the setting, its limit and the remedy.
    pub fn resolve(flags: &RawConfig, file: &RawConfig, machine: &Machine) -> Result<Self, ConfigError> {
        let raw = flags.over(file).map_err(|e| invalid("config", format!("can't merge flags and file: {e}")))?;
        let mut config = Self {
            engine: engine(&raw, machine)?,
            server: server(&raw)?,
            log: LogConfig {
                level: raw.log_level.unwrap_or(LogLevel::Info),
                format: raw.log_format.unwrap_or(LogFormat::Text),
            },
            chat_template: raw.chat_template.as_deref().map(readable_file).transpose()?.map(Path::to_path_buf),
            generation_config: raw.generation_config.unwrap_or(GenerationConfig::Auto),
            model: raw.model.clone(),
            settings: Vec::new(),
        };
        config.settings = show::settings(&config, &raw, flags, file);
        Ok(config)
    }
}

fn engine(raw: &RawConfig, machine: &Machine) -> Result<EngineConfig, ConfigError> {
    let threads = within("threads", raw.threads.unwrap_or_else(|| machine.cores()), 1, 1024)?;
    let kv_cache_bytes = match raw.kv_cache_memory.unwrap_or(KvCacheMemory::Auto) {
        KvCacheMemory::Auto => auto_kv_bytes(machine),
        KvCacheMemory::Fixed(size) => size.0,
    };
    if kv_cache_bytes < MIN_KV_BYTES {
        let least = ByteSize(MIN_KV_BYTES);
        return Err(invalid("kv-cache-memory", format!("{kv_cache_bytes} bytes is too little; give at least {least}")));
    }
    let scale = if machine.has_gpu() { GPU } else { CPU };
    Ok(EngineConfig {
        max_model_len: raw.max_model_len.map(|n| within("max-model-len", n, 2, 16 << 20)).transpose()?,
        max_num_seqs: within("max-num-seqs", raw.max_num_seqs.unwrap_or(scale.max_num_seqs), 1, 4096)?,
        max_batch_tokens: within(
            "max-batch-tokens",
            raw.max_batch_tokens.unwrap_or(scale.max_batch_tokens),
            1,
            1 << 20,
        )?,
        max_queued_tokens: within(
            "max-queued-tokens",
            raw.max_queued_tokens.unwrap_or(scale.max_queued_tokens),
            1,
            1 << 40,
        )?,
        device: raw.device.unwrap_or(DeviceChoice::Auto),
        deterministic: raw.deterministic.unwrap_or(false),
        kv_cache_bytes,
        kv_cache_fixed: match raw.kv_cache_memory {
            Some(KvCacheMemory::Fixed(size)) => Some(size.0),
            Some(KvCacheMemory::Auto) | None => None,
        },
        kv_cache_dtype: raw.kv_cache_dtype,
        cuda_graphs: raw.cuda_graphs.unwrap_or(true),
        attention_kernel: raw.attention_kernel.unwrap_or(AttentionChoice::Auto),
        gpu_memory_utilization: share("gpu-memory-utilization", raw.gpu_memory_utilization.unwrap_or(0.9))?,
        threads,
        prefix_cache: !raw.no_prefix_cache.unwrap_or(false),
        cpu_activations: raw.cpu_activations.unwrap_or(CpuActivations::Int8),
    })
}

fn share(key: &'static str, value: f64) -> Result<f64, ConfigError> {
    if (0.05..=1.0).contains(&value) {
        return Ok(value);
    }
    Err(invalid(key, format!("{value} is not a share; give a number from 0.05 to 1")))
}

fn auto_kv_bytes(machine: &Machine) -> u64 {
    // Where memory can't be told, a budget that any machine of the last decade has.
    let quarter = machine.available_memory().map_or(512 * MIB, |available| available / 4);
    // Whole mebibytes read well in the effective configuration.
    (quarter.min(AUTO_KV_CAP) / MIB).max(MIN_KV_BYTES / MIB) * MIB
}

fn server(raw: &RawConfig) -> Result<ServerConfig, ConfigError> {
    let host = raw.host.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
    let api_keys = api_keys(raw)?;
    if !host.is_loopback() && api_keys.is_empty() && !raw.insecure_no_auth.unwrap_or(false) {
        return Err(ConfigError::OpenWithoutKey { host });
    }
    let served_model_names = raw.served_model_name.clone().unwrap_or_default();
    if served_model_names.iter().any(|name| name.trim().is_empty()) {
        return Err(invalid("served-model-name", "a name is empty; give at least one character".to_owned()));
    }
    let max_body_bytes = raw.max_body_size.unwrap_or(ByteSize(DEFAULT_BODY_BYTES)).0;
    Ok(ServerConfig {
        address: SocketAddr::new(host, raw.port.unwrap_or(8000)),
        served_model_names,
        api_keys,
        request_timeout: Some(seconds(raw.request_timeout, 600)).filter(|t| !t.is_zero()),
        drain_timeout: seconds(raw.drain_timeout, 300),
        // No load balancer sends anything to a loopback address.
        drain_delay: seconds(raw.drain_delay, if host.is_loopback() { 0 } else { 5 }),
        strict_fields: raw.strict_fields.unwrap_or(false),
        max_n: within("max-n", raw.max_n.unwrap_or(8), 1, 128)?,
        max_body_bytes: within("max-body-size", max_body_bytes, 1024, 1 << 30)? as usize,
        metrics_compat: raw.metrics_compat.unwrap_or(MetricsCompat::Vllm),
        root_path: root_path(raw.root_path.as_deref().unwrap_or_default())?,
    })
}

fn api_keys(raw: &RawConfig) -> Result<Vec<String>, ConfigError> {
    let mut keys = raw.api_key.clone().unwrap_or_default();
    if keys.iter().any(|key| !is_key(key)) {
        return Err(invalid(
            "api-key",
            "a key must be printable ASCII without spaces, at least one character".to_owned(),
        ));
    }
    if let Some(path) = &raw.api_key_file {
        let text = std::fs::read_to_string(path)
            .map_err(|e| invalid("api-key-file", format!("can't read {}: {e}", path.display())))?;
        let lines = text.lines().enumerate().map(|(i, line)| (i + 1, line.trim()));
        let before = keys.len();
        for (number, line) in lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#')) {
            if !is_key(line) {
                let reason = format!("{}:{number}: a key must be printable ASCII without spaces", path.display());
                return Err(invalid("api-key-file", reason));
            }
            keys.push(line.to_owned());
        }
        if keys.len() == before {
            return Err(invalid("api-key-file", format!("{} holds no key; write one a line", path.display())));
        }
    }
    Ok(keys)
}

/// What can stand in an `Authorization` header.
fn is_key(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic())
}

fn root_path(text: &str) -> Result<String, ConfigError> {
    let text = text.trim_end_matches('/');
    if text.split('/').nth(1) == Some("v1") {
        let reason = format!("`{text}` begins like our own routes; choose another prefix, like /openai");
        return Err(invalid("root-path", reason));
    }
    let valid = |c: char| c.is_ascii_alphanumeric() || "/-_.~".contains(c);
    if text.is_empty() || (text.starts_with('/') && !text.contains("//") && text.chars().all(valid)) {
        return Ok(text.to_owned());
    }
    Err(invalid("root-path", format!("`{text}` is not a path prefix; write it like /openai")))
}

fn readable_file(path: &Path) -> Result<&Path, ConfigError> {
    match std::fs::metadata(path) {
        Ok(meta) if meta.is_file() => Ok(path),
        Ok(_) => Err(invalid("chat-template", format!("{} is not a file; give a Jinja template", path.display()))),
        Err(e) => Err(invalid("chat-template", format!("can't read {}: {e}", path.display()))),
    }
}

fn seconds(value: Option<Seconds>, default: u64) -> Duration {
    value.map_or(Duration::from_secs(default), |s| s.0)
}

fn within<T: PartialOrd + std::fmt::Display>(key: &'static str, value: T, least: T, most: T) -> Result<T, ConfigError> {
    if value < least || value > most {
        return Err(invalid(key, format!("{value} is out of range; give a number from {least} to {most}")));
    }
    Ok(value)
}

fn invalid(key: &'static str, reason: String) -> ConfigError {
    ConfigError::Invalid { key, reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(flags: RawConfig, file: RawConfig) -> Result<Config, String> {
        Config::resolve(&flags, &file, &Machine::default()).map_err(|e| e.to_string())
    }

    fn flags(f: impl FnOnce(&mut RawConfig)) -> RawConfig {
        let mut raw = RawConfig::default();
        f(&mut raw);
        raw
    }

    #[test]
    fn flags_win_over_the_file_which_wins_over_defaults() {
        let file = flags(|r| {
            r.port = Some(9000);
            r.max_num_seqs = Some(7);
        });
        let config = resolve(flags(|r| r.port = Some(9001)), file).unwrap();
        assert_eq!(config.server.address.port(), 9001);
        assert_eq!(config.engine.max_num_seqs, 7);
        assert_eq!(config.engine.max_batch_tokens, 512);
        let origin = |key: &str| config.settings.iter().find(|s| s.key == key).unwrap().origin;
        assert_eq!((origin("port"), origin("max-num-seqs"), origin("threads")), ("flag", "file", "default"));
    }

    #[test]
    fn a_gpu_takes_larger_steps_unless_told() {
        let machine = Machine::default().with_gpu(true);
        let on_gpu = |raw: RawConfig| Config::resolve(&raw, &RawConfig::default(), &machine).unwrap().engine;
        let sizes = |e: EngineConfig| (e.max_num_seqs, e.max_batch_tokens, e.max_queued_tokens);
        assert_eq!(sizes(on_gpu(RawConfig::default())), (256, 2048, 1 << 20));
        assert_eq!(sizes(on_gpu(flags(|r| r.max_batch_tokens = Some(99)))), (256, 99, 1 << 20));
        assert_eq!(sizes(resolve(RawConfig::default(), RawConfig::default()).unwrap().engine), (64, 512, 128 << 10));
    }

    #[test]
    fn a_reachable_address_needs_a_key() {
        let open: IpAddr = "0.0.0.0".parse().unwrap();
        let error = resolve(flags(|r| r.host = Some(open)), RawConfig::default()).unwrap_err();
        assert!(error.contains("--insecure-no-auth") && error.contains("--api-key"), "{error}");
        let with = |f: &dyn Fn(&mut RawConfig)| {
            let mut raw = flags(|r| r.host = Some(open));
            f(&mut raw);
            resolve(raw, RawConfig::default())
        };
        assert!(with(&|r| r.insecure_no_auth = Some(true)).is_ok());
        assert!(with(&|r| r.api_key = Some(vec!["k".to_owned()])).is_ok());
        assert!(resolve(flags(|r| r.host = Some("::1".parse().unwrap())), RawConfig::default()).is_ok());
    }

    #[test]
    fn wrong_values_name_key_and_limit() {
        let cases: [(RawConfig, &str); 7] = [
            (flags(|r| r.max_num_seqs = Some(0)), "max-num-seqs: 0 is out of range; give a number from 1 to 4096"),
            (flags(|r| r.threads = Some(0)), "threads: 0 is out of range"),
            (
                flags(|r| r.kv_cache_memory = "1KiB".parse().ok()),
                "kv-cache-memory: 1024 bytes is too little; give at least 16MiB",
            ),
            (flags(|r| r.api_key = Some(vec![String::new()])), "api-key: a key must be"),
            (flags(|r| r.root_path = Some("openai".to_owned())), "root-path: `openai` is not a path prefix"),
            (flags(|r| r.root_path = Some("/v1/".to_owned())), "root-path: `/v1` begins like our own routes"),
            (
                flags(|r| r.chat_template = Some("/nowhere/x.jinja".into())),
                "chat-template: can't read /nowhere/x.jinja",
            ),
        ];
        for (raw, expected) in cases {
            let error = resolve(raw, RawConfig::default()).unwrap_err();
            assert!(error.starts_with(expected), "{error}");
        }
    }

    #[test]
    fn key_files() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys");
        std::fs::write(&path, "# ours\n\nalpha\n beta \n").unwrap();
        let raw = || flags(|r| r.api_key_file = Some(path.clone()));
        assert_eq!(resolve(raw(), RawConfig::default()).unwrap().server.api_keys, ["alpha", "beta"]);
        std::fs::write(&path, "# none\n").unwrap();
        assert!(resolve(raw(), RawConfig::default()).unwrap_err().contains("holds no key"));
        std::fs::write(&path, "two words\n").unwrap();
        let error = resolve(raw(), RawConfig::default()).unwrap_err();
        assert!(error.contains("keys:1:") && !error.contains("two words"), "{error}");
    }

    #[test]
    fn the_automatic_budget_is_a_capped_share() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("proc")).unwrap();
        let budget = |kib: u64| {
            std::fs::write(dir.path().join("proc/meminfo"), format!("MemAvailable: {kib} kB\n")).unwrap();
            auto_kv_bytes(&Machine::at(dir.path())) / MIB
        };
        assert_eq!((budget(8 << 20), budget(64 << 20), budget(1024)), (2048, 4096, 16));
    }
}
