//! Reads the TOML file. Every error names file and line; an unknown key also the nearest known one.

use std::path::Path;

use super::{ConfigError, RawConfig};

/// All keys of the TOML file, in the order of the table.
pub fn known_keys() -> Vec<String> {
    match serde_json::to_value(RawConfig::default()) {
        Ok(serde_json::Value::Object(map)) => map.into_iter().map(|(key, _)| key).collect(),
        _ => Vec::new(),
    }
}

/// The candidate most like `word`, if any is like it at all.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.replace('_', "-").to_ascii_lowercase();
    candidates
        .into_iter()
        .map(|candidate| (strsim::jaro_winkler(&word, candidate), candidate))
        .filter(|(likeness, _)| *likeness > 0.75)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

/// Reads `path` into raw settings.
///
/// # Errors
/// [`ConfigError`] when the file can't be read, isn't TOML, has an unknown key or a value of the wrong type.
pub fn parse_file(path: &Path) -> Result<RawConfig, ConfigError> {
    let text = std::fs::read_to_string(path)
        .map_err(|e| ConfigError::Unreadable { path: path.to_owned(), reason: e.to_string() })?;
    parse_text(&text, path)
}

pub(super) fn parse_text(text: &str, path: &Path) -> Result<RawConfig, ConfigError> {
    let syntax = |error: toml::de::Error| {
        let line = error.span().map_or(1, |span| line_of(text, span.start));
        // A wrong value: serde's message doesn't say which key it belongs to, the line does.
        let key = text.lines().nth(line - 1).and_then(|l| l.split_once('=')).map(|(key, _)| key.trim());
        let reason = match key {
            Some(key) if known_keys().iter().any(|k| k == key) => format!("`{key}`: {}", error.message()),
            _ => error.message().to_owned(),
        };
        ConfigError::Syntax { path: path.to_owned(), line, reason: reason.replace('\n', " ") }
    };
    let known = known_keys();
    let table = toml::de::DeTable::parse(text).map_err(syntax)?;
    for (key, value) in table.get_ref() {
        // What merges flags and file can't write such a number down, and would forget it.
        if value.get_ref().as_float().is_some_and(|float| float.as_str().contains('n')) {
            let (path, line) = (path.to_owned(), line_of(text, key.span().start));
            return Err(ConfigError::Syntax {
                path,
                line,
                reason: format!("`{}`: not a finite number", key.get_ref()),
            });
        }
        if !known.iter().any(|k| k == key.get_ref()) {
            return Err(ConfigError::UnknownKey {
                path: path.to_owned(),
                line: line_of(text, key.span().start),
                key: key.get_ref().to_string(),
                suggestion: nearest(key.get_ref(), known.iter().map(String::as_str)).map(str::to_owned),
            });
        }
    }
    toml::from_str(text).map_err(syntax)
}

fn line_of(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|b| *b == b'\n').count() + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<RawConfig, String> {
        parse_text(text, Path::new("sconce.toml")).map_err(|e| e.to_string())
    }

    #[test]
    fn every_key_is_documented() {
        let page = include_str!("../../docs/configuration.md");
        let missing: Vec<String> = known_keys().into_iter().filter(|key| !page.contains(&format!("`{key}`"))).collect();
        assert!(missing.is_empty(), "not in docs/configuration.md: {missing:?}");
    }

    #[test]
    fn every_kind_of_value() {
        let raw = parse(
            "port = 9000\nkv-cache-memory = \"2GiB\"\napi-key = [\"a\", \"b\"]\nrequest-timeout = 30\nstrict-fields = true\n\
             max-body-size = 1024\nkv-cache-dtype = \"bf16\"\nhost = \"0.0.0.0\"\n",
        )
        .unwrap();
        assert_eq!(raw.port, Some(9000));
        assert_eq!(raw.kv_cache_memory.unwrap().to_string(), "2GiB");
        assert_eq!(raw.api_key.unwrap().len(), 2);
        assert_eq!(raw.request_timeout.unwrap().0.as_secs(), 30);
        assert_eq!(raw.max_body_size.unwrap().0, 1024);
    }

    #[test]
    fn one_text_is_a_list_of_one() {
        let raw = parse("api-key = \"k\"\nserved-model-name = \"x\"\n").unwrap();
        assert_eq!(raw.api_key, Some(vec!["k".to_owned()]));
        assert_eq!(raw.served_model_name, Some(vec!["x".to_owned()]));
        let merged = raw.over(&RawConfig::default()).unwrap();
        assert_eq!(merged.api_key, raw.api_key);
        let error = parse("port = 1\napi-key = 7\n").err().unwrap();
        assert_eq!(error, "sconce.toml:2: `api-key`: expected a string or a list of strings");
    }

    #[test]
    fn errors_name_line_and_remedy() {
        let cases = [
            ("port = 1\nmax-num-seq = 3\n", "sconce.toml:2: unknown key `max-num-seq`; did you mean `max-num-seqs`?"),
            ("max_model_len = 3\n", "sconce.toml:1: unknown key `max_model_len`; did you mean `max-model-len`?"),
            ("# hi\n\nzzz = 3\n", "sconce.toml:3: unknown key `zzz`; `sconce serve --print-config` lists all keys"),
            ("[server]\nport = 3\n", "sconce.toml:1: unknown key `server`"),
        ];
        for (text, expected) in cases {
            let error = parse(text).err().unwrap();
            assert!(error.starts_with(expected), "{error}");
        }
        let error = parse("port = 1\nkv-cache-memory = \"much\"\n").err().unwrap();
        assert!(error.starts_with("sconce.toml:2: `kv-cache-memory`: `much` is not a size"), "{error}");
        let error = parse("port = 1\ngpu-memory-utilization = nan\n").err().unwrap();
        assert_eq!(error, "sconce.toml:2: `gpu-memory-utilization`: not a finite number");
        let error = parse("port = 70000\n").err().unwrap();
        assert!(error.starts_with("sconce.toml:1: `port`:"), "{error}");
        let error = parse("port =\n").err().unwrap();
        assert!(error.starts_with("sconce.toml:1: ") && !error.contains('\n'), "{error}");
    }
}
