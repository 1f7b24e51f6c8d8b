//! What all handlers share, from before the model is loaded until the process ends.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::auth::Keys;
use super::chat::Chat;
use super::completions::Completions;
use super::config::HttpConfig;
use super::error::{ApiError, Unavailable};
use super::fields::UnknownFields;
use super::generate::Api;
use super::lifecycle::{Lifecycle, State};
use super::sampling::Limits;
use super::text::{TextPools, TextService};
use crate::engine::EngineHandle;
use crate::telemetry::Telemetry;

/// Codes of a generation route for which alerts are written: a rate needs their counters before the first.
const GENERATION_CODES: &[u16] = &[200, 400, 429, 500, 503, 504];

/// The model that is served.
pub struct Serving {
    /// The engine.
    pub engine: EngineHandle,
    /// Its text side.
    pub text: Arc<dyn TextService>,
    pub(super) limits: Limits,
}

/// The state of the HTTP layer. Made before the model is loaded; [`App::ready`] completes it.
pub struct App {
    pub(super) config: HttpConfig,
    pub(super) keys: Keys,
    pub(super) telemetry: Arc<Telemetry>,
    pub(super) lifecycle: Arc<Lifecycle>,
    pub(super) pools: TextPools,
    pub(super) unknown_fields: UnknownFields,
    /// Seconds since the epoch at which this process began to serve.
    pub(super) created: u64,
    pub(super) fingerprint: String,
    serving: OnceLock<Serving>,
}

impl std::fmt::Debug for App {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("App").field("state", &self.lifecycle.state()).finish_non_exhaustive()
    }
}

impl App {
    /// An app whose model is still loading: alive, not ready.
    pub fn new(mut config: HttpConfig, telemetry: Arc<Telemetry>) -> Arc<Self> {
        let keys = Keys::new(&config.api_keys);
        config.api_keys.clear();
        for route in [Chat::ROUTE, Completions::ROUTE] {
            telemetry.http_route(route, GENERATION_CODES);
        }
        Arc::new(Self {
            keys,
            telemetry,
            lifecycle: Arc::default(),
            pools: TextPools::new(config.text_threads, config.max_waiting_text),
            unknown_fields: UnknownFields::default(),
            created: unix_seconds(),
            fingerprint: concat!("sconce-", env!("CARGO_PKG_VERSION")).to_owned(),
            serving: OnceLock::new(),
            config,
        })
    }

    /// The model is loaded: serve it. A second call has no effect.
    pub fn ready(&self, engine: EngineHandle, text: Arc<dyn TextService>) {
        let info = engine.info();
        self.telemetry.cache_config(info.block_size, info.num_blocks);
        let limits = Limits {
            max_n: self.config.max_n,
            max_batch_prompts: self.config.max_batch_prompts,
            vocab_size: info.vocab_size,
            max_model_len: info.max_model_len,
            max_queued_tokens: info.max_queued_tokens,
            longest_token_bytes: text.longest_token_bytes(),
            defaults: text.defaults(),
            eos_token_ids: text.eos_token_ids().to_vec(),
        };
        if self.serving.set(Serving { engine, text, limits }).is_ok() {
            self.lifecycle.advance(State::Ready);
        }
    }

    /// Where the server is in its life.
    pub fn lifecycle(&self) -> &Arc<Lifecycle> {
        &self.lifecycle
    }

    pub(super) fn loaded(&self) -> Option<&Serving> {
        self.serving.get()
    }

    /// The model, if new requests are taken.
    ///
    /// # Errors
    /// 503 while loading, once new requests are refused, and when the engine has ended.
    pub(super) fn serving(&self) -> Result<&Serving, ApiError> {
        let serving = self.loaded().ok_or(ApiError::Unavailable(Unavailable::Loading));
        if self.lifecycle.state() >= State::Refusing {
            return Err(ApiError::Unavailable(Unavailable::Draining));
        }
        let serving = serving?;
        if !serving.engine.is_healthy(Duration::MAX) {
            return Err(ApiError::Unavailable(Unavailable::EngineDead));
        }
        Ok(serving)
    }

    /// Whether new traffic should come here.
    ///
    /// # Errors
    /// 503 with the reason.
    pub(super) fn readiness(&self) -> Result<(), ApiError> {
        if self.lifecycle.state() >= State::Draining {
            return Err(ApiError::Unavailable(Unavailable::Draining));
        }
        let serving = self.serving()?;
        match serving.engine.is_healthy(self.config.stall_timeout) {
            true => Ok(()),
            false => Err(ApiError::Unavailable(Unavailable::EngineDead)),
        }
    }

    /// Whether a restart would not help.
    pub(super) fn alive(&self) -> bool {
        self.loaded().is_none_or(|s| s.engine.is_healthy(self.config.dead_timeout))
    }
}

pub(super) fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}
