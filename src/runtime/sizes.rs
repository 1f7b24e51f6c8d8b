//! Sizes that follow from a model and a configuration, without loading anything.

use sconce_kernels::kv::{ArenaGeometry, BLOCK_SIZE, KvDtype};
use sconce_models::model::CacheLayout;
use sconce_models::spec::ModelSpec;

use super::StartError;
use crate::config::{EngineConfig, KvCacheDtype};
use crate::engine::EngineInfo;
use crate::kv::{KvConfig, KvGroupConfig};

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
    /// Resolves sizes for `spec` under `config`, on the CPU.
    ///
    /// # Errors
    /// When the context asked for doesn't fit the model or the KV budget.
    pub fn resolve(spec: &ModelSpec, config: &EngineConfig) -> Result<Self, StartError> {
        let dtype = kv_dtype(config.kv_cache_dtype.unwrap_or(KvCacheDtype::F16))?;
        Self::with_budget(spec, config, dtype, config.kv_cache_bytes)
    }

    /// Resolves sizes for a KV cache of `budget` bytes whose elements are `dtype`.
    ///
    /// # Errors
    /// As for [`Self::resolve`].
    pub fn with_budget(
        spec: &ModelSpec,
        config: &EngineConfig,
        dtype: KvDtype,
        budget: u64,
    ) -> Result<Self, StartError> {
        let layout = CacheLayout::new(spec, dtype);
        let geometry = ArenaGeometry::new(&layout.groups);
        let num_superpages = geometry.superpages_in(budget as usize).max(1);
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
                return Err(StartError::KvTooSmall { budget, capacity, wanted, needed });
            }
            Some(wanted) => wanted,
            None => spec.max_position.min(capacity),
        };
        let kv = kv(num_superpages);
        Ok(Self { max_model_len, layout, geometry, num_superpages, kv, kv_capacity_tokens: capacity })
    }

    /// Bytes of the KV cache.
    pub fn kv_bytes(&self) -> u64 {
        (self.num_superpages * self.geometry.superpage_bytes) as u64
    }

    pub(super) fn info(&self, spec: &ModelSpec, config: &EngineConfig) -> EngineInfo {
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

fn kv_dtype(dtype: KvCacheDtype) -> Result<KvDtype, StartError> {
    match dtype {
        KvCacheDtype::F16 => Ok(KvDtype::F16),
        KvCacheDtype::Bf16 => Ok(KvDtype::Bf16),
        KvCacheDtype::F32 => Ok(KvDtype::F32),
        KvCacheDtype::Fp8 => Err(StartError::Setting {
            key: "kv-cache-dtype",
            reason: "fp8 needs a GPU; on the CPU f16, bf16 and f32 are there".to_owned(),
        }),
    }
}
