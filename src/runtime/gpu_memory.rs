//! How a card's memory is shared out: the model is first loaded onto a device that only counts, and what that leaves of
//! the memory allowed is the KV cache's.

use sconce_kernels::gpu::counting::CountingDevice;
use sconce_kernels::gpu::device::{DeviceInfo, GpuError};
use sconce_kernels::gpu::launch::HalfType;
use sconce_kernels::kv::ArenaGeometry;
use sconce_models::checkpoint::Checkpoint;
use sconce_models::model::CacheLayout;
use sconce_models::spec::ModelSpec;

use super::gpu::{Cache, assemble, half_of, kv_dtype};
use super::{Phases, Progress, Sizes, StartError};
use crate::config::EngineConfig;
use crate::runner::GpuLimits;

/// Device memory for what isn't counted one by one: the context, libraries, kernels, graphs, rounding of allocations.
pub const RESERVE_BYTES: u64 = 512 << 20;

/// Rows of logits beside those of sequences that sample: prompts that are scored.
const PROMPT_LOGIT_ROWS: usize = 64;

/// What a model takes on a card.
#[derive(Clone, Debug)]
pub struct GpuPlan {
    /// Type of activations and dense weights.
    pub half: HalfType,
    /// Context, cache groups, superpages.
    pub sizes: Sizes,
    /// Bounds of a step.
    pub limits: GpuLimits,
    /// Bytes by purpose, the KV cache aside.
    pub taken: Vec<(&'static str, u64)>,
}

impl GpuPlan {
    /// Plans for a card of which `free` bytes are free. Reads the checkpoint's headers, norms and biases.
    ///
    /// # Errors
    /// When the card is too small, or a setting can't be honoured on it.
    pub fn new(
        info: &DeviceInfo,
        free: u64,
        (checkpoint, spec): (&Checkpoint, &ModelSpec),
        config: &EngineConfig,
    ) -> Result<Self, StartError> {
        let half = half_of(checkpoint);
        let dtype = kv_dtype(half, config.kv_cache_dtype)?;
        let max_num_seqs = config.max_num_seqs.min(config.max_batch_tokens);
        let mut limits = GpuLimits {
            graphs: config.cuda_graphs,
            max_num_seqs,
            max_batch_tokens: config.max_batch_tokens,
            max_logit_rows: max_num_seqs + PROMPT_LOGIT_ROWS,
            // The cache may hold less: an upper bound of what hangs on it.
            max_model_len: config.max_model_len.unwrap_or(spec.max_position),
        };
        let layout = CacheLayout::new(spec, dtype);
        let geometry = ArenaGeometry::new(&layout.groups);
        let counting = CountingDevice::new(info.clone());
        let cache = Cache { layout: &layout, geometry: &geometry, num_superpages: 0 };
        let kind = (half, limits, config);
        let (progress, phases): (Progress<'_>, _) = (&mut |_, _| {}, &mut Phases::default());
        let (mut runner, _) = assemble(counting, (checkpoint, spec), kind, cache, (progress, phases))?;
        let taken = runner.device().taken().to_vec();
        let budget = match config.kv_cache_fixed {
            Some(fixed) => fixed,
            None => budget(&taken, free, config.gpu_memory_utilization)?,
        };
        let sizes = Sizes::with_budget(spec, config, dtype, budget)?;
        limits.max_model_len = sizes.max_model_len;
        Ok(Self { half, sizes, limits, taken })
    }

    /// Bytes of everything.
    pub fn total(&self) -> u64 {
        self.sizes.kv_bytes() + RESERVE_BYTES + self.taken.iter().map(|(_, bytes)| bytes).sum::<u64>()
    }
}

/// What is left of the share of free memory.
fn budget(taken: &[(&'static str, u64)], free: u64, utilization: f64) -> Result<u64, GpuError> {
    let share = (free as f64 * utilization) as u64;
    let needed = RESERVE_BYTES + taken.iter().map(|(_, bytes)| bytes).sum::<u64>();
    match share.checked_sub(needed) {
        Some(left) if left > 0 => Ok(left),
        _ => Err(GpuError::OutOfMemory { what: "weights and workspaces", bytes: needed as usize, free }),
    }
}
