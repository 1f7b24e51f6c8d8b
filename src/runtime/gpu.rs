//! A model on a GPU: which card, how its memory is shared out, the runner.

#[cfg(feature = "cuda")]
use std::path::PathBuf;

use sconce_kernels::dtype::WeightType;
use sconce_kernels::gpu::backend::{GpuBackend, GpuSizes};
#[cfg(feature = "cuda")]
use sconce_kernels::gpu::cuda::CudaGpu;
use sconce_kernels::gpu::device::{GpuDevice, GpuError};
use sconce_kernels::gpu::launch::HalfType;
use sconce_kernels::kv::KvDtype;
use sconce_models::checkpoint::Checkpoint;
use sconce_models::spec::ModelSpec;

use super::{Loaded, Progress, Sizes, StartError};
use crate::config::{DeviceChoice, EngineConfig, KvCacheDtype};
use crate::runner::{GpuLimits, GpuRunner};

/// Device memory for what isn't counted one by one: libraries, graphs, rounding of allocations.
const RESERVE_BYTES: u64 = 512 << 20;

/// Rows of logits beside those of sequences that sample: prompts that are scored.
const PROMPT_LOGIT_ROWS: usize = 64;

/// The GPU to use; `None` for the CPU.
#[cfg(feature = "cuda")]
pub(super) fn open(choice: DeviceChoice) -> Result<Option<CudaGpu>, StartError> {
    match choice {
        DeviceChoice::Cpu => Ok(None),
        DeviceChoice::Cuda(number) => Ok(Some(with_plans(CudaGpu::open(number)?))),
        DeviceChoice::Auto => match CudaGpu::open(0) {
            Ok(gpu) => Ok(Some(with_plans(gpu))),
            Err(error) => {
                tracing::info!("no GPU is used: {error}");
                Ok(None)
            }
        },
    }
}

/// Takes over what an earlier start measured on this card.
#[cfg(feature = "cuda")]
fn with_plans(mut gpu: CudaGpu) -> CudaGpu {
    let dir = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let cache = dir("XDG_CACHE_HOME").or_else(|| Some(dir("HOME")?.join(".cache")));
    if let Some(cache) = cache {
        let folder = cache.join("sconce");
        // Without the folder plans are measured at every start.
        let _ = std::fs::create_dir_all(&folder);
        match gpu.load_plans(&folder.join("cublaslt-plans.txt")) {
            Ok(count) => tracing::debug!(count, "measured products are known"),
            Err(reason) => tracing::info!("measured products are not taken over: {reason}"),
        }
    }
    gpu
}

/// A build without the feature has no GPU to offer.
#[cfg(not(feature = "cuda"))]
pub(super) fn refuse(choice: DeviceChoice) -> Result<(), StartError> {
    match choice {
        DeviceChoice::Auto | DeviceChoice::Cpu => Ok(()),
        DeviceChoice::Cuda(_) => Err(StartError::Setting {
            key: "device",
            reason: "this build has no CUDA; build with `--features cuda`, or use --device cpu".to_owned(),
        }),
    }
}

/// The type of activations: that of the checkpoint where it is a 16-bit one, else bfloat16, whose range is that of f32.
fn half_of(checkpoint: &Checkpoint) -> HalfType {
    let f16 = checkpoint.tensors().iter().filter(|tensor| tensor.ty == WeightType::F16).count();
    if 2 * f16 > checkpoint.tensors().len() { HalfType::F16 } else { HalfType::Bf16 }
}

fn kv_dtype(half: HalfType, wanted: Option<KvCacheDtype>) -> Result<KvDtype, StartError> {
    let own = match half {
        HalfType::Bf16 => (KvDtype::Bf16, KvCacheDtype::Bf16),
        HalfType::F16 => (KvDtype::F16, KvCacheDtype::F16),
    };
    match wanted {
        None => Ok(own.0),
        Some(wanted) if wanted == own.1 => Ok(own.0),
        Some(KvCacheDtype::Fp8) => Ok(KvDtype::E4m3),
        Some(_) => Err(StartError::Setting {
            key: "kv-cache-dtype",
            reason: format!(
                "on the GPU this model keeps keys and values as {0}, or as fp8; give one of them or leave it out",
                own.0.name()
            ),
        }),
    }
}

/// Bytes of the weights on the device.
fn weight_bytes(checkpoint: &Checkpoint) -> u64 {
    checkpoint.tensors().iter().map(|tensor| tensor.shape.iter().product::<usize>() as u64 * 2).sum()
}

/// Bytes of activations, logits and what the sampler keeps.
fn workspace_bytes(spec: &ModelSpec, limits: &GpuLimits) -> u64 {
    let widest = spec.layers.iter().map(|layer| {
        let a = &layer.attention;
        let qkv = a.num_heads * a.head_dim_k + a.num_kv_heads * (a.head_dim_k + a.head_dim_v);
        3 * spec.hidden_size + qkv + a.num_heads * a.head_dim_v + 3 * layer.ffn.intermediate_size
    });
    let activations = widest.max().unwrap_or(0) * 2 * limits.max_batch_tokens;
    let logits = limits.max_logit_rows * spec.vocab_size * 4;
    // Copies of edited logits and u16 counts, one row a slot.
    let sampler = limits.num_slots() * spec.vocab_size * 6;
    (activations + logits + sampler) as u64
}

/// Loads a model onto `device`.
pub(super) fn load<D: GpuDevice + 'static>(
    device: D,
    checkpoint: &Checkpoint,
    spec: ModelSpec,
    config: &EngineConfig,
    progress: Progress<'_>,
) -> Result<Loaded<GpuRunner<D>>, StartError> {
    let half = half_of(checkpoint);
    let max_num_seqs = config.max_num_seqs.min(config.max_batch_tokens);
    let mut limits = GpuLimits {
        graphs: config.cuda_graphs,
        max_num_seqs,
        max_batch_tokens: config.max_batch_tokens,
        max_logit_rows: max_num_seqs + PROMPT_LOGIT_ROWS,
        max_model_len: spec.max_position,
    };
    let budget = budget(&device, checkpoint, &spec, config, &limits)?;
    let sizes = Sizes::with_budget(&spec, config, kv_dtype(half, config.kv_cache_dtype)?, budget)?;
    limits.max_model_len = sizes.max_model_len;
    let gpu_sizes = GpuSizes {
        max_tokens: limits.max_batch_tokens,
        max_seqs: limits.num_slots(),
        max_logit_rows: limits.max_logit_rows,
        max_model_len: limits.max_model_len,
        num_superpages: sizes.num_superpages,
        extra_bytes: limits.extra_bytes(),
        deterministic: config.deterministic,
    };
    let name = device.info().name.clone();
    let shapes = sizes.layout.shapes(&spec);
    let mut backend = GpuBackend::new(device, half, sizes.geometry.clone(), &shapes, gpu_sizes)?;
    let kv_bytes = backend.arena_bytes();
    let model = sconce_models::load::load(checkpoint, spec, sizes.layout.clone(), &mut backend, progress)?;
    let (spec, weight_bytes) = (model.spec().clone(), model.weight_bytes(&backend));
    let runner = GpuRunner::new(backend, model, limits)?;
    Ok(Loaded { runner, spec, sizes, device: format!("{name}, {}", half.name()), weight_bytes, kv_bytes })
}

/// Bytes for the KV cache: what was asked for, else what the rest leaves of the share of free memory.
fn budget<D: GpuDevice>(
    device: &D,
    checkpoint: &Checkpoint,
    spec: &ModelSpec,
    config: &EngineConfig,
    limits: &GpuLimits,
) -> Result<u64, StartError> {
    if let Some(fixed) = config.kv_cache_fixed {
        return Ok(fixed);
    }
    let free = device.free_bytes()?;
    let share = (free as f64 * config.gpu_memory_utilization) as u64;
    let taken = weight_bytes(checkpoint) + workspace_bytes(spec, limits) + RESERVE_BYTES;
    match share.checked_sub(taken) {
        Some(left) if left > 0 => Ok(left),
        _ => Err(GpuError::OutOfMemory { what: "weights and workspaces", bytes: taken as usize, free }.into()),
    }
}
