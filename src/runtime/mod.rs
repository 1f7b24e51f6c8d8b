//! Assembly: a checkpoint on disk becomes a running engine and its text side, with every phase timed.
//!
//! # Layout
//! - `sizes`: context, cache groups and blocks, from headers and settings alone
//! - `gpu`: which GPU, a model on it; `gpu_memory`: how much of its memory for what
//! - `phases`: what start-up takes

mod gpu;
mod gpu_memory;
mod phases;
mod sizes;

use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use sconce_kernels::arena::KvArena;
use sconce_kernels::cpu::CpuBackend;
use sconce_kernels::device::{Cpu, Precision};
use sconce_kernels::dtype::WeightType;
use sconce_kernels::error::KernelError;
use sconce_kernels::gpu::device::{GpuDevice, GpuError};
use sconce_models::checkpoint::Checkpoint;
use sconce_models::config::{SpecOptions, model_spec};
use sconce_models::error::ModelError;
use sconce_models::spec::ModelSpec;

pub use gpu::{card, finds_gpu};
pub use gpu_memory::{GpuPlan, RESERVE_BYTES};
pub use phases::{Phase, Phases};
pub use sizes::Sizes;

use crate::config::{ByteSize, CpuActivations, EngineConfig, Machine};
use crate::engine::{Engine, EngineEnd, EngineHandle, engine_channel};
use crate::kv::KvManager;
use crate::runner::{CpuRunner, Runner};
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
    /// A GPU.
    #[error("{0}")]
    Gpu(#[from] GpuError),
    /// A model's memory on its device.
    #[error("{0}")]
    Kernel(#[from] KernelError),
    /// A setting that this build or this device can't honour.
    #[error("{key}: {reason}")]
    Setting {
        /// The setting.
        key: &'static str,
        /// What would be right.
        reason: String,
    },
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

impl StartError {
    /// Whether a fresh copy of the model's files may help.
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Model(error) => error.is_damage(),
            Self::Text(error) => error.is_damage(),
            _ => false,
        }
    }
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
    /// What it runs on, in words.
    pub device: String,
    /// `cpu` or `cuda`.
    pub backend: &'static str,
    /// The type that holds the most bytes of the weights, as `Q4_K` or `BF16`.
    pub quant: &'static str,
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

/// Loads the checkpoint at `path` and starts its engine on the device that `config` names. `progress(done, total)` counts
/// layers.
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
    #[cfg_attr(not(feature = "cuda"), expect(unused_mut, reason = "only a GPU takes time to open"))]
    let mut assembly = Assembly { path, config, text_options, telemetry, phases: Phases::default() };
    #[cfg(feature = "cuda")]
    if let Some(device) = assembly.phases.time("open the GPU", || gpu::open(config.device))? {
        return assembly.start_on(device, progress);
    }
    #[cfg(not(feature = "cuda"))]
    gpu::refuse(config.device)?;
    assembly.start(progress, |checkpoint, spec, made| load_on_cpu(checkpoint, spec, config, made))
}

/// Loads the checkpoint at `path` onto a GPU and starts its engine there.
///
/// # Errors
/// As for [`start`].
pub fn start_on<D: GpuDevice + 'static>(
    device: D,
    path: &Path,
    config: &EngineConfig,
    text_options: &TextOptions,
    telemetry: Option<Arc<Telemetry>>,
) -> Result<Runtime, StartError> {
    let assembly = Assembly { path, config, text_options, telemetry, phases: Phases::default() };
    assembly.start_on(device, &mut |_, _| {})
}

type Progress<'a> = &'a mut dyn FnMut(usize, usize);

/// A model on its device, ready to run.
struct Loaded<R> {
    runner: R,
    spec: ModelSpec,
    sizes: Sizes,
    device: String,
    backend: &'static str,
    weight_bytes: usize,
    kv_bytes: usize,
}

/// What every start needs, whatever the device.
struct Assembly<'a> {
    path: &'a Path,
    config: &'a EngineConfig,
    text_options: &'a TextOptions,
    telemetry: Option<Arc<Telemetry>>,
    phases: Phases,
}

impl Assembly<'_> {
    fn start_on<D: GpuDevice + 'static>(self, device: D, progress: Progress<'_>) -> Result<Runtime, StartError> {
        let config = self.config;
        self.start(progress, |checkpoint, spec, made| gpu::load(device, checkpoint, spec, config, made))
    }

    fn start<R: Runner + 'static>(
        self,
        progress: Progress<'_>,
        load: impl FnOnce(&Checkpoint, ModelSpec, (Progress<'_>, &mut Phases)) -> Result<Loaded<R>, StartError>,
    ) -> Result<Runtime, StartError> {
        let mut phases = self.phases;
        let checkpoint = phases.time("open checkpoint", || Checkpoint::open(self.path))?;
        checkpoint.advise_load();
        let spec = model_spec(&checkpoint, &SpecOptions { max_model_len: self.config.max_model_len })?;
        // The tokenizer is built beside the weights: neither needs the other.
        let (text, loaded) = std::thread::scope(|scope| {
            let text = scope.spawn(|| {
                let start = std::time::Instant::now();
                (TextModel::load(&checkpoint, self.text_options), start.elapsed())
            });
            let loaded = load(&checkpoint, spec, (progress, &mut phases));
            (text.join(), loaded)
        });
        let quant = checkpoint.main_type().map_or("none", WeightType::name);
        let Loaded { runner, spec, sizes, device, backend, weight_bytes, kv_bytes } = loaded?;
        let (text, text_time) = text.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        phases.push("tokenizer (beside weights)", text_time);
        let text = Arc::new(text?);
        let (engine, end) = engine_channel(sizes.info(&spec, self.config));
        let thread = phases.time("engine", || spawn(runner, &sizes, self.config, (end, self.telemetry)))?;
        Ok(Runtime { engine, text, spec, device, backend, quant, weight_bytes, kv_bytes, phases, thread })
    }
}

/// Refuses a cache that this machine can't hold: it is touched lazily, so nothing else would say so before it is too late.
fn check_memory(kv_bytes: u64) -> Result<(), StartError> {
    let Some(available) = Machine::default().available_memory().filter(|available| *available < kv_bytes) else {
        return Ok(());
    };
    let (wanted, there) = (ByteSize(kv_bytes).approx(), ByteSize(available).approx());
    let fits = ByteSize(available >> 20 << 20);
    let reason = format!("{wanted} is more than the {there} that this process may take; give less than {fits}");
    Err(StartError::Setting { key: "kv-cache-memory", reason })
}

fn load_on_cpu(
    checkpoint: &Checkpoint,
    spec: ModelSpec,
    config: &EngineConfig,
    (progress, phases): (Progress<'_>, &mut Phases),
) -> Result<Loaded<CpuRunner>, StartError> {
    let sizes = Sizes::resolve(&spec, config)?;
    check_memory(sizes.kv_bytes())?;
    let mut cpu = Cpu::new(config.threads);
    cpu.precision = match config.cpu_activations {
        CpuActivations::Int8 => Precision::Int8,
        CpuActivations::F32 => Precision::F32,
    };
    let device = format!("CPU, {} threads, {:?}", config.threads, cpu.isa);
    let arena = KvArena::new(sizes.geometry.clone(), sizes.num_superpages)?;
    let mut backend = CpuBackend::new(cpu, arena);
    let load = || sconce_models::load::load(checkpoint, spec, sizes.layout.clone(), &mut backend, progress);
    let model = phases.time("weights", load)?;
    let (weight_bytes, kv_bytes) = (model.weight_bytes(&backend), backend.arena().bytes());
    let spec = model.spec().clone();
    let runner = CpuRunner::new(backend, model);
    Ok(Loaded { runner, spec, sizes, device, backend: "cpu", weight_bytes, kv_bytes })
}

fn spawn<R: Runner + 'static>(
    runner: R,
    sizes: &Sizes,
    config: &EngineConfig,
    (end, telemetry): (EngineEnd, Option<Arc<Telemetry>>),
) -> Result<JoinHandle<()>, StartError> {
    let scheduler = Scheduler::new(
        SchedulerConfig {
            max_num_seqs: config.max_num_seqs,
            max_batch_tokens: config.max_batch_tokens,
            max_model_len: sizes.max_model_len,
            depth: runner.depth(),
            ..SchedulerConfig::default()
        },
        KvManager::new(sizes.kv.clone()),
    );
    std::thread::Builder::new()
        .name("engine".into())
        .spawn(move || Engine::new(scheduler, runner, end, telemetry).run())
        .map_err(StartError::Thread)
}
