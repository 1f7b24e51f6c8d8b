//! Assembly: a checkpoint on disk becomes a running engine and its text side, with every phase timed.

mod phases;

use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use sconce_kernels::arena::KvArena;
use sconce_kernels::cpu::CpuBackend;
use sconce_kernels::device::{Cpu, Precision};
use sconce_kernels::kv::{ArenaGeometry, BLOCK_SIZE, KvDtype};
use sconce_models::checkpoint::Checkpoint;
use sconce_models::config::{SpecOptions, model_spec};
use sconce_models::error::ModelError;
use sconce_models::model::{CacheLayout, Model};
use sconce_models::spec::ModelSpec;

pub use phases::{Phase, Phases};

use crate::config::{CpuActivations, EngineConfig, KvCacheDtype};
use crate::engine::{Engine, EngineEnd, EngineHandle, EngineInfo, engine_channel};
use crate::kv::{KvConfig, KvGroupConfig, KvManager};
use crate::runner::CpuRunner;
use crate::scheduler::{Scheduler, SchedulerConfig};
use crate::telemetry::Telemetry;
use crate::text::{TextError, TextModel, TextOptions};

/// Why an engine can't start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The checkpoint.
    #[error("{0}")]
    Model(#[from] ModelError),
    /// The tokenizer or chat template.
    #[error("{0}")]
    Text(#[from] TextError),
    /// The KV cache.
    #[error("{0}")]
    Arena(#[from] sconce_kernels::arena::ArenaError),
    /// The KV budget doesn't hold one sequence of useful length.
    #[error(
        "kv-cache-memory: {budget} bytes hold {capacity} tokens, but max-model-len is {wanted}; give at least {needed} bytes or set max-model-len to {capacity} or less"
    )]
    KvTooSmall {
        /// Bytes given.
        budget: u64,
        /// Tokens that one sequence could have.
        capacity: usize,
        /// Tokens asked for.
        wanted: usize,
        /// Bytes that would do.
        needed: u64,
    },
    /// More context than the model was made for.
    #[error("max-model-len: {wanted} is more than the model's {limit} tokens; set it to {limit} or less")]
    ContextTooLong {
        /// Tokens asked for.
        wanted: usize,
        /// The model's limit.
        limit: usize,
    },
    /// The operating system gave no thread.
    #[error("can't start the engine thread: {0}")]
    Thread(std::io::Error),
}

/// A running engine.
#[derive(Debug)]
pub struct Runtime {
    /// Submits requests.
    pub engine: EngineHandle,
    /// Tokenizer, chat template, sampling defaults.
    pub text: Arc<TextModel>,
    /// What was loaded.
    pub spec: ModelSpec,
    /// Bytes of weights as kept.
    pub weight_bytes: usize,
    /// Bytes of the KV cache, reserved.
    pub kv_bytes: usize,
    /// Start-up phases with their times.
    pub phases: Phases,
    thread: JoinHandle<()>,
}

impl Runtime {
    /// Waits for the engine thread to end after [`EngineHandle::shutdown`].
    pub fn join(self) {
        // A panicked engine has been reported by its handle already.
        let _ = self.thread.join();
    }
}

/// Sizes that follow from a model and a configuration; `plan` prints them without loading anything.
#[derive(Clone, Debug)]
pub struct Sizes {
    /// Longest prompt plus output.
    pub max_model_len: usize,
    /// Cache groups and layer slots.
    pub layout: CacheLayout,
    /// Where blocks lie.
    pub geometry: ArenaGeometry,
    /// Superpages in the arena.
    pub num_superpages: usize,
    /// The KV manager's view of the same.
    pub kv: KvConfig,
    /// Tokens that one sequence alone may have.
    pub kv_capacity_tokens: usize,
}

impl Sizes {
    /// Resolves sizes for `spec` under `config`.
    ///
    /// # Errors
    /// When the context asked for doesn't fit the model or the KV budget.
    pub fn resolve(spec: &ModelSpec, config: &EngineConfig) -> Result<Self, StartError> {
        let layout = CacheLayout::new(spec, kv_dtype(config.kv_cache_dtype));
        let geometry = ArenaGeometry::new(&layout.groups);
        let num_superpages = geometry.superpages_in(config.kv_cache_bytes as usize).max(1);
        let kv = |num_superpages| KvConfig {
            num_superpages,
            block_size: BLOCK_SIZE,
            groups: std::iter::zip(&layout.groups, &geometry.groups)
                .map(|(group, g)| KvGroupConfig { kind: group.spec.kind, blocks_per_superpage: g.blocks_per_superpage })
                .collect(),
            prefix_cache: config.prefix_cache,
        };
        let capacity_of = |pages| kv(pages).capacity_tokens(config.max_batch_tokens);
        let capacity = capacity_of(num_superpages);
        if let Some(wanted) = config.max_model_len
            && wanted > spec.max_position
        {
            return Err(StartError::ContextTooLong { wanted, limit: spec.max_position });
        }
        let max_model_len = match config.max_model_len {
            Some(wanted) if wanted > capacity => {
                let pages = (num_superpages..).find(|&pages| capacity_of(pages) >= wanted).unwrap_or(num_superpages);
                let needed = (pages * geometry.superpage_bytes) as u64;
                return Err(StartError::KvTooSmall { budget: config.kv_cache_bytes, capacity, wanted, needed });
            }
            Some(wanted) => wanted,
            None => spec.max_position.min(capacity),
        };
        let kv = kv(num_superpages);
        Ok(Self { max_model_len, layout, geometry, num_superpages, kv, kv_capacity_tokens: capacity })
    }

    fn info(&self, spec: &ModelSpec, config: &EngineConfig) -> EngineInfo {
        EngineInfo {
            max_model_len: self.max_model_len,
            vocab_size: spec.vocab_size,
            kv_capacity_tokens: self.kv_capacity_tokens,
            max_queued_tokens: config.max_queued_tokens,
            max_num_seqs: config.max_num_seqs,
            block_size: BLOCK_SIZE,
            num_blocks: self.num_superpages * self.kv.groups.iter().map(|g| g.blocks_per_superpage).sum::<usize>(),
        }
    }
}

/// Loads the checkpoint at `path` and starts its engine. `progress(done, total)` counts layers.
///
/// # Errors
/// [`StartError`], one line that names the file or setting and the remedy.
pub fn start(
    path: &Path,
    config: &EngineConfig,
    text_options: &TextOptions,
    telemetry: Option<Arc<Telemetry>>,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Runtime, StartError> {
    let mut phases = Phases::default();
    let checkpoint = phases.time("open checkpoint", || Checkpoint::open(path))?;
    checkpoint.advise_load();
    let spec = model_spec(&checkpoint, &SpecOptions { max_model_len: config.max_model_len })?;
    let sizes = Sizes::resolve(&spec, config)?;
    // The tokenizer is built beside the weights: neither needs the other.
    let (text, model) = std::thread::scope(|scope| {
        let text = scope.spawn(|| {
            let start = std::time::Instant::now();
            (TextModel::load(&checkpoint, text_options), start.elapsed())
        });
        let model = phases.time("weights", || load_model(&checkpoint, spec, &sizes, config, progress));
        (text.join(), model)
    });
    let (backend, model) = model?;
    let (text, text_time) = text.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    phases.push("tokenizer (beside weights)", text_time);
    let text = Arc::new(text?);
    let spec = model.spec().clone();
    let weight_bytes = model.weight_bytes(&backend);
    let kv_bytes = backend.arena().bytes();
    let (engine, end) = engine_channel(sizes.info(&spec, config));
    let thread = phases.time("engine", || spawn(CpuRunner::new(backend, model), &sizes, config, (end, telemetry)))?;
    Ok(Runtime { engine, text, spec, weight_bytes, kv_bytes, phases, thread })
}

fn load_model(
    checkpoint: &Checkpoint,
    spec: ModelSpec,
    sizes: &Sizes,
    config: &EngineConfig,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<(CpuBackend, Model<CpuBackend>), StartError> {
    let mut cpu = Cpu::new(config.threads);
    cpu.precision = match config.cpu_activations {
        CpuActivations::Int8 => Precision::Int8,
        CpuActivations::F32 => Precision::F32,
    };
    let arena = KvArena::new(sizes.geometry.clone(), sizes.num_superpages)?;
    let mut backend = CpuBackend::new(cpu, arena);
    let model = sconce_models::load::load(checkpoint, spec, sizes.layout.clone(), &mut backend, progress)?;
    Ok((backend, model))
}

fn spawn(
    runner: CpuRunner,
    sizes: &Sizes,
    config: &EngineConfig,
    (end, telemetry): (EngineEnd, Option<Arc<Telemetry>>),
) -> Result<JoinHandle<()>, StartError> {
    let scheduler = Scheduler::new(
        SchedulerConfig {
            max_num_seqs: config.max_num_seqs,
            max_batch_tokens: config.max_batch_tokens,
            max_model_len: sizes.max_model_len,
            ..SchedulerConfig::default()
        },
        KvManager::new(sizes.kv.clone()),
    );
    std::thread::Builder::new()
        .name("engine".into())
        .spawn(move || Engine::new(scheduler, runner, end, telemetry).run())
        .map_err(StartError::Thread)
}

fn kv_dtype(dtype: KvCacheDtype) -> KvDtype {
    match dtype {
        KvCacheDtype::F16 => KvDtype::F16,
        KvCacheDtype::Bf16 => KvDtype::Bf16,
        KvCacheDtype::F32 => KvDtype::F32,
    }
}
