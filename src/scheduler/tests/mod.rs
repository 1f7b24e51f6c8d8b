//! Tests of the scheduler with its KV manager: `golden` shows the main behaviours as traces,
//! `random` throws everything at it and lets `shadow`, a cache that remembers who wrote what, judge.

mod fair;
mod golden;
mod overload;
mod random;
mod shadow;

use std::sync::Arc;

use sconce_kernels::kv::CacheKind;

use super::{NewSequence, Scheduler, SchedulerConfig};
use crate::kv::{KvConfig, KvGroupConfig, KvManager};
use crate::types::{Claim, SamplingParams, SeqId};

fn full(blocks_per_superpage: usize) -> KvGroupConfig {
    KvGroupConfig { kind: CacheKind::Full, blocks_per_superpage }
}

fn sliding(window: usize, blocks_per_superpage: usize) -> KvGroupConfig {
    KvGroupConfig { kind: CacheKind::SlidingWindow { window }, blocks_per_superpage }
}

fn scheduler(config: SchedulerConfig, num_superpages: usize, block_size: usize, groups: &[KvGroupConfig]) -> Scheduler {
    let kv = KvConfig { num_superpages, block_size, groups: groups.to_vec(), prefix_cache: true };
    Scheduler::new(config, KvManager::new(kv))
}

fn new_sequence(id: u64, prompt: &[u32], max_tokens: u32) -> NewSequence {
    NewSequence {
        id: SeqId(id),
        prompt: Arc::from(prompt),
        params: Arc::new(SamplingParams { max_tokens, ..SamplingParams::default() }),
        salt: 0,
        choice: 0,
        leader: None,
        constrained: false,
        claim: Claim::default(),
    }
}
