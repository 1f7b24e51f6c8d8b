//! The effective configuration as TOML, one setting a line with the origin of its value.

use super::{ByteSize, Config, RawConfig, Seconds};

/// One setting of the effective configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// TOML key.
    pub key: &'static str,
    /// TOML value; secrets are redacted. Empty: the setting is absent.
    pub value: String,
    /// `flag`, `file` or `default`.
    pub origin: &'static str,
}

/// Stands for a secret.
const REDACTED: &str = "***";

impl Config {
    /// The effective configuration as a TOML file. A setting that is not set is a comment.
    pub fn to_toml(&self) -> String {
        let line = |s: &Setting| {
            let entry = match s.value.as_str() {
                "" => format!("# {} is not set", s.key),
                // A placeholder that parsed back would become a key that opens the API.
                REDACTED => format!("# {} is set and not shown", s.key),
                value => format!("{} = {value}", s.key),
            };
            // Defaults need no remark; what someone chose does.
            if s.origin == "default" { format!("{entry}\n") } else { format!("{entry:<44} # {}\n", s.origin) }
        };
        self.settings.iter().map(line).collect()
    }
}

fn text(value: impl std::fmt::Display) -> String {
    // A JSON string is a valid TOML basic string, but for the escaped slash that serde_json never writes.
    serde_json::Value::String(value.to_string()).to_string()
}

fn list(values: &[String]) -> String {
    if values.is_empty() {
        String::new()
    } else {
        format!("[{}]", values.iter().map(text).collect::<Vec<_>>().join(", "))
    }
}

fn word(value: impl serde::Serialize) -> String {
    serde_json::to_string(&value).unwrap_or_default()
}

/// Every setting, in the order of the table in `raw`.
pub(super) fn settings(config: &Config, raw: &RawConfig, flags: &RawConfig, file: &RawConfig) -> Vec<Setting> {
    let (engine, server) = (&config.engine, &config.server);
    let has_keys = raw.api_key.as_ref().is_some_and(|keys| !keys.is_empty());
    let path = |p: &Option<std::path::PathBuf>| p.as_ref().map_or(String::new(), |p| text(p.display()));
    let rows = [
        ("model", text(config.model.as_deref().unwrap_or(super::DEFAULT_MODEL))),
        ("host", text(server.address.ip())),
        ("port", server.address.port().to_string()),
        ("served-model-name", list(&server.served_model_names)),
        ("api-key", if has_keys { REDACTED.to_owned() } else { String::new() }),
        ("api-key-file", path(&raw.api_key_file)),
        ("insecure-no-auth", raw.insecure_no_auth.unwrap_or(false).to_string()),
        ("max-model-len", engine.max_model_len.map_or(String::new(), |n| n.to_string())),
        ("max-num-seqs", engine.max_num_seqs.to_string()),
        ("max-batch-tokens", engine.max_batch_tokens.to_string()),
        ("max-queued-tokens", engine.max_queued_tokens.to_string()),
        ("kv-cache-memory", engine.kv_cache_fixed.map_or(text("auto"), |bytes| text(ByteSize(bytes)))),
        ("device", text(engine.device)),
        ("deterministic", engine.deterministic.to_string()),
        ("kv-cache-dtype", engine.kv_cache_dtype.map_or(String::new(), word)),
        ("no-prefix-cache", (!engine.prefix_cache).to_string()),
        ("threads", engine.threads.to_string()),
        ("chat-template", path(&config.chat_template)),
        ("generation-config", word(config.generation_config)),
        ("request-timeout", text(Seconds(server.request_timeout.unwrap_or_default()))),
        ("drain-timeout", text(Seconds(server.drain_timeout))),
        ("log-level", word(config.log.level)),
        ("log-format", word(config.log.format)),
        ("drain-delay", text(Seconds(server.drain_delay))),
        ("strict-fields", server.strict_fields.to_string()),
        ("max-n", server.max_n.to_string()),
        ("max-body-size", text(ByteSize(server.max_body_bytes as u64))),
        ("cpu-activations", word(engine.cpu_activations)),
        ("cuda-graphs", engine.cuda_graphs.to_string()),
        ("attention-kernel", word(engine.attention_kernel)),
        ("gpu-memory-utilization", engine.gpu_memory_utilization.to_string()),
        ("metrics-compat", word(server.metrics_compat)),
        ("root-path", text(&server.root_path)),
    ];
    let (flags, file) = (flags.keys_set(), file.keys_set());
    let origin = |key: &str| match () {
        () if flags.iter().any(|k| k == key) => "flag",
        () if file.iter().any(|k| k == key) => "file",
        () => "default",
    };
    rows.into_iter().map(|(key, value)| Setting { key, value, origin: origin(key) }).collect()
}

#[cfg(test)]
mod tests {
    use super::super::{Machine, file, known_keys};
    use super::*;

    #[test]
    fn every_key_is_shown_once_and_what_is_shown_parses_back() {
        let mut raw = RawConfig { model: Some("a\"b".to_owned()), ..RawConfig::default() };
        raw.request_timeout = "1500ms".parse().ok();
        raw.kv_cache_memory = "100MiB".parse().ok();
        let config = Config::resolve(&raw, &RawConfig::default(), &Machine::default()).unwrap();
        let shown: Vec<&str> = config.settings.iter().map(|s| s.key).collect();
        assert_eq!(shown, known_keys());
        let again =
            file::parse_text(&config.to_toml(), std::path::Path::new("shown.toml")).unwrap_or_else(|e| panic!("{e}"));
        let again = Config::resolve(&again, &RawConfig::default(), &Machine::default()).unwrap();
        assert_eq!((again.engine, again.server, again.model), (config.engine, config.server, config.model));
    }

    #[test]
    fn secrets_are_not_shown() {
        let raw = RawConfig { api_key: Some(vec!["hunter2".to_owned()]), ..RawConfig::default() };
        let config = Config::resolve(&raw, &RawConfig::default(), &Machine::default()).unwrap();
        assert!(config.to_toml().contains("# api-key is set and not shown"), "{}", config.to_toml());
        assert!(!config.to_toml().contains("hunter2"));
        assert!(!format!("{config:?}").contains("hunter2"));
    }
}
