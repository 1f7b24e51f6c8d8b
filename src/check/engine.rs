//! A small engine under check: its configuration, requests of every kind, what came back, and that it leaves nothing
//! behind.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use sconce_kernels::gpu::device::GpuDevice;

use super::Open;
use super::checkpoint::{self, Family, VOCAB};
use super::report::Reason;
use crate::config::{AttentionChoice, CpuActivations, DeviceChoice, EngineConfig, KvCacheDtype};
use crate::engine::{EngineRequest, RequestStream};
use crate::runtime::{Runtime, start, start_on};
use crate::telemetry::{Telemetry, TelemetryConfig};
use crate::text::TextOptions;
use crate::types::{Claim, EngineEvent, FinishReason, SamplingParams, TokenLogprobs};

/// One token a byte and some more.
const TOKENIZER: &str = include_str!("../../tests/fixtures/text/byte_level.json");

/// Seed of the weights.
const WEIGHTS: u64 = 11;

/// How long blocks may stay in use after the last answer.
const SETTLE: Duration = Duration::from_secs(60);

/// Nothing but what the tokenizer says.
pub(super) const NO_TEXT: TextOptions = TextOptions { chat_template: None, use_generation_config: false };

/// What a request brought.
#[derive(Debug, Default, PartialEq)]
pub struct Answer {
    /// Tokens generated.
    pub tokens: Vec<u32>,
    /// What was asked to be known of them.
    pub logprobs: Vec<TokenLogprobs>,
    /// What was asked to be known of the prompt.
    pub prompt: Vec<TokenLogprobs>,
    /// Tokens of the prompt that came from the prefix cache.
    pub cached: usize,
    /// Why it ended.
    pub reason: Option<FinishReason>,
}

/// An engine that runs.
pub struct Subject {
    runtime: Runtime,
    telemetry: Arc<Telemetry>,
    /// Allocations on the device: so many so far, and when the engine was ready.
    allocs: Option<(Arc<AtomicU64>, u64)>,
}

/// Settings of an engine for a handful of sequences that share few blocks: prompts come in chunks, requests wait.
pub fn config() -> EngineConfig {
    EngineConfig {
        max_model_len: Some(256),
        max_num_seqs: 6,
        max_batch_tokens: 48,
        max_queued_tokens: 100_000,
        device: DeviceChoice::Cpu,
        deterministic: false,
        kv_cache_bytes: 8 << 20,
        kv_cache_fixed: Some(8 << 20),
        kv_cache_dtype: None,
        cuda_graphs: true,
        attention_kernel: AttentionChoice::Auto,
        gpu_memory_utilization: 0.9,
        threads: 2,
        prefix_cache: true,
        cpu_activations: CpuActivations::F32,
    }
}

/// Writes the family's checkpoint with a tokenizer.
fn write(folder: &Path, family: Family) -> Result<PathBuf, Reason> {
    let written = checkpoint::write(folder, family, WEIGHTS).and_then(|path| {
        write_tokenizer(&path, VOCAB)?;
        Ok(path)
    });
    Ok(written.map_err(|error| format!("{}: {error}", folder.display()))?)
}

/// Puts a tokenizer beside a checkpoint, in which each of `vocab` tokens is some text.
pub(super) fn write_tokenizer(folder: &Path, vocab: usize) -> std::io::Result<()> {
    let mut tokenizer: serde_json::Value = serde_json::from_str(TOKENIZER)?;
    if let Some(texts) = tokenizer.pointer_mut("/model/vocab").and_then(|texts| texts.as_object_mut()) {
        let known: std::collections::HashSet<u64> = texts.values().filter_map(serde_json::Value::as_u64).collect();
        let unknown = (VOCAB as u64..vocab as u64).filter(|id| !known.contains(id));
        texts.extend(unknown.map(|id| (format!("w{id}"), id.into())));
    }
    std::fs::write(folder.join("tokenizer.json"), tokenizer.to_string())
}

fn telemetry() -> Arc<Telemetry> {
    Telemetry::new(&TelemetryConfig { model_name: "check".to_owned(), vllm_names: false })
}

/// `count` ids of the checkpoints' vocabulary.
pub fn ids(count: usize, seed: usize) -> Vec<u32> {
    (0..count).map(|i| ((i * 131 + seed * 977 + i * i * 7) % VOCAB) as u32).collect()
}

/// A request of one choice.
pub fn request(prompt: &[u32], params: &SamplingParams) -> EngineRequest {
    EngineRequest {
        request_id: "check".into(),
        prompt: prompt.into(),
        params: Arc::new(params.clone()),
        num_choices: 1,
        cache_salt: 0,
        claim: Claim::default(),
        constraint: None,
        arrival: Instant::now(),
        deadline: None,
    }
}

impl Subject {
    /// A family's model on the CPU, with a cache of f32.
    ///
    /// # Errors
    /// When it doesn't start.
    pub fn on_cpu(folder: &Path, family: Family) -> Result<Self, Reason> {
        let config = EngineConfig { kv_cache_dtype: Some(KvCacheDtype::F32), ..config() };
        let (path, telemetry) = (write(folder, family)?, telemetry());
        let runtime = start(&path, &config, &NO_TEXT, Some(telemetry.clone()), &mut |_, _| {});
        Ok(Self { runtime: runtime.map_err(|error| error.to_string())?, telemetry, allocs: None })
    }

    /// A family's model on a device.
    ///
    /// # Errors
    /// When it doesn't start.
    pub fn on_gpu<D: GpuDevice + 'static>(
        folder: &Path,
        family: Family,
        config: &EngineConfig,
        open: Open<'_, D>,
    ) -> Result<Self, Reason> {
        let (device, telemetry) = (open()?, telemetry());
        let allocs = device.alloc_counter();
        let runtime = start_on(device, &write(folder, family)?, config, &NO_TEXT, Some(telemetry.clone()));
        let runtime = runtime.map_err(|error| error.to_string())?;
        let taken = allocs.load(Ordering::Relaxed);
        Ok(Self { runtime, telemetry, allocs: Some((allocs, taken)) })
    }

    /// Turns of the engine so far.
    pub fn steps(&self) -> u64 {
        self.runtime.engine.stats().steps.load(Ordering::Relaxed)
    }

    /// Preemptions so far, those of the step under way perhaps not yet.
    pub fn preemptions(&self) -> u64 {
        let text = self.telemetry.render();
        let value = text.lines().find_map(|line| line.strip_prefix("sconce_preemptions_total")?.rsplit(' ').next());
        value.and_then(|value| value.parse().ok()).unwrap_or(0)
    }

    /// Submits a request.
    ///
    /// # Errors
    /// When it is refused.
    pub fn submit(&self, request: &EngineRequest) -> Result<RequestStream, Reason> {
        Ok(self.runtime.engine.submit(request.clone()).map_err(|error| error.to_string())?)
    }

    /// Submits all, then reads all.
    ///
    /// # Errors
    /// When one is refused or fails.
    pub fn answers(&self, requests: &[EngineRequest]) -> Result<Vec<Answer>, Reason> {
        let streams: Vec<_> = requests.iter().map(|request| self.submit(request)).collect::<Result<_, _>>()?;
        streams.into_iter().map(read).collect()
    }

    /// As [`Self::answers`], each request when the one before it has ended.
    ///
    /// # Errors
    /// When one is refused or fails.
    pub fn one_by_one(&self, requests: &[EngineRequest]) -> Result<Vec<Answer>, Reason> {
        let answers = requests.iter().map(|request| read(self.submit(request)?));
        answers.collect()
    }

    /// Ends the engine, of which no block may be in use any more, and which has taken no memory since it was ready.
    ///
    /// # Errors
    /// When one of that isn't so.
    pub fn stop(self) -> Result<(), Reason> {
        let (begin, engine) = (Instant::now(), &self.runtime.engine);
        let used = || engine.stats().used_blocks.load(Ordering::Relaxed);
        // The engine tells when it has nothing more to do, which may be after the last answer's end.
        while used() > 0 {
            if begin.elapsed() > SETTLE {
                return Err(Reason::Failed(format!("{} blocks are still in use", used())));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        engine.shutdown();
        self.runtime.join();
        match self.allocs.map(|(allocs, taken)| allocs.load(Ordering::Relaxed) - taken) {
            None | Some(0) => Ok(()),
            Some(count) => Err(Reason::Failed(format!("the running engine took memory {count} times"))),
        }
    }
}

fn read(mut stream: RequestStream) -> Result<Answer, Reason> {
    let mut answer = Answer::default();
    while answer.reason.is_none() {
        match stream.blocking_next().ok_or("the engine died")? {
            EngineEvent::Token { token, logprobs, .. } => {
                answer.tokens.push(token);
                answer.logprobs.extend(logprobs);
            }
            EngineEvent::PromptLogprobs { entries, .. } => answer.prompt.extend(entries),
            EngineEvent::Started { cached_tokens, .. } => answer.cached = cached_tokens,
            EngineEvent::Finished { reason, .. } => answer.reason = Some(reason),
            EngineEvent::Error(error) => return Err(Reason::Failed(error.to_string())),
        }
    }
    Ok(answer)
}
