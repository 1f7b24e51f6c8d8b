//! A model on a GPU: which card, which types, the runner.

#[cfg(feature = "cuda")]
use std::path::PathBuf;

use sconce_kernels::dtype::WeightType;
use sconce_kernels::gpu::attention::AttentionKernel;
use sconce_kernels::gpu::backend::{GpuBackend, GpuSizes};
#[cfg(feature = "cuda")]
use sconce_kernels::gpu::cuda::CudaGpu;
use sconce_kernels::gpu::device::{DeviceInfo, GpuDevice};
use sconce_kernels::gpu::launch::HalfType;
use sconce_kernels::kv::{ArenaGeometry, KvDtype};
use sconce_models::checkpoint::Checkpoint;
use sconce_models::model::CacheLayout;
use sconce_models::spec::ModelSpec;

use super::gpu_memory::GpuPlan;
use super::{Loaded, Phases, Progress, StartError};
use crate::config::{AttentionChoice, DeviceChoice, EngineConfig, KvCacheDtype};
use crate::runner::{GpuLimits, GpuRunner};

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

/// Whether a GPU will be used.
pub fn finds_gpu(choice: DeviceChoice) -> bool {
    match choice {
        DeviceChoice::Cpu => false,
        DeviceChoice::Cuda(_) => true,
        #[cfg(feature = "cuda")]
        DeviceChoice::Auto => CudaGpu::probe(0).is_ok(),
        #[cfg(not(feature = "cuda"))]
        DeviceChoice::Auto => false,
    }
}

/// The card to plan for and its free bytes; `None` when that is the CPU.
///
/// # Errors
/// When the card asked for isn't there.
pub fn card(choice: DeviceChoice) -> Result<Option<(DeviceInfo, u64)>, StartError> {
    #[cfg(feature = "cuda")]
    if let Some(gpu) = open(choice)? {
        return Ok(Some((gpu.info().clone(), gpu.free_bytes()?)));
    }
    #[cfg(not(feature = "cuda"))]
    refuse(choice)?;
    Ok(None)
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
pub(super) fn half_of(checkpoint: &Checkpoint) -> HalfType {
    let f16 = checkpoint.tensors().iter().filter(|tensor| tensor.ty == WeightType::F16).count();
    if 2 * f16 > checkpoint.tensors().len() { HalfType::F16 } else { HalfType::Bf16 }
}

pub(super) fn kv_dtype(half: HalfType, wanted: Option<KvCacheDtype>) -> Result<KvDtype, StartError> {
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

/// The cache as it lies on a card.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cache<'a> {
    pub(super) layout: &'a CacheLayout,
    pub(super) geometry: &'a ArenaGeometry,
    pub(super) num_superpages: usize,
}

/// Loads a model onto `device`, with all memory that its steps will need.
pub(super) fn assemble<D: GpuDevice>(
    device: D,
    (checkpoint, spec): (&Checkpoint, &ModelSpec),
    (half, limits, config): (HalfType, GpuLimits, &EngineConfig),
    cache: Cache<'_>,
    (progress, phases): (Progress<'_>, &mut Phases),
) -> Result<(GpuRunner<D>, usize), StartError> {
    let sizes = GpuSizes {
        max_tokens: limits.max_batch_tokens,
        max_seqs: limits.num_slots(),
        max_logit_rows: limits.max_logit_rows,
        max_model_len: limits.max_model_len,
        num_superpages: cache.num_superpages,
        extra_bytes: limits.extra_bytes(),
        deterministic: config.deterministic,
        attention: match config.attention_kernel {
            AttentionChoice::Auto | AttentionChoice::Mma => AttentionKernel::Mma,
            AttentionChoice::Wgmma => AttentionKernel::Wgmma,
        },
    };
    let shapes = cache.layout.shapes(spec);
    let mut backend =
        phases.time("KV cache", || GpuBackend::new(device, half, cache.geometry.clone(), &shapes, sizes))?;
    let load = || sconce_models::load::load(checkpoint, spec.clone(), cache.layout.clone(), &mut backend, progress);
    let model = phases.time("weights", load)?;
    let weight_bytes = model.weight_bytes(&backend);
    let runner = phases.time("workspaces, products measured", || GpuRunner::new(backend, model, limits))?;
    Ok((runner, weight_bytes))
}

/// Loads a model onto `device`.
pub(super) fn load<D: GpuDevice + 'static>(
    device: D,
    checkpoint: &Checkpoint,
    spec: ModelSpec,
    config: &EngineConfig,
    (progress, phases): (Progress<'_>, &mut Phases),
) -> Result<Loaded<GpuRunner<D>>, StartError> {
    let free = device.free_bytes()?;
    let plan = phases.time("memory plan", || GpuPlan::new(device.info(), free, (checkpoint, &spec), config))?;
    let device_name = format!("{}, {}", device.info().name, plan.half.name());
    let sizes = plan.sizes;
    let cache = Cache { layout: &sizes.layout, geometry: &sizes.geometry, num_superpages: sizes.num_superpages };
    let kind = (plan.half, plan.limits, config);
    let (runner, weight_bytes) = assemble(device, (checkpoint, &spec), kind, cache, (progress, phases))?;
    let kv_bytes = sizes.kv_bytes() as usize;
    Ok(Loaded { runner, spec, sizes, device: device_name, backend: "cuda", weight_bytes, kv_bytes })
}
