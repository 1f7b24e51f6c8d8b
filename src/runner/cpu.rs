//! The CPU runner: depth 0, the model's forward pass on the engine thread and the pool.

use sconce_kernels::cpu::CpuBackend;
use sconce_models::model::Model;

use super::flat::Flat;
use super::{Collected, Runner, RunnerError, Sequences};
use crate::types::Batch;

/// Computes batches on the CPU as they are launched.
pub struct CpuRunner {
    backend: CpuBackend,
    model: Model<CpuBackend>,
    flat: Flat,
}

impl CpuRunner {
    /// A runner over a loaded model; `backend` holds the KV arena.
    pub fn new(backend: CpuBackend, model: Model<CpuBackend>) -> Self {
        Self { backend, model, flat: Flat::default() }
    }
}

impl Runner for CpuRunner {
    fn depth(&self) -> usize {
        0
    }

    fn launch(&mut self, batch: &Batch, _: Sequences<'_>, alive: &dyn Fn()) -> Result<(), RunnerError> {
        self.flat.fill(batch, self.model.layout().groups.len());
        let groups = self.flat.groups(batch);
        let done = self.model.forward(&mut self.backend, &self.flat.step(&groups, &[]), alive);
        done.map_err(|error| RunnerError { message: error.to_string(), fatal: false })
    }

    fn collect(&mut self) -> Result<Collected<'_>, RunnerError> {
        let vocab_size = self.model.spec().vocab_size;
        Ok(Collected::Logits { data: self.model.logits_mut(), vocab_size })
    }
}
