//! The CPU runner: depth 0, the model's forward pass on the engine thread and the pool.

use sconce_kernels::backend::StepInput;
use sconce_kernels::cpu::CpuBackend;
use sconce_kernels::kv::SeqSpan;
use sconce_models::model::Model;

use super::{Collected, Runner, RunnerError};
use crate::types::{Batch, BlockId};

/// Computes batches on the CPU as they are launched.
pub struct CpuRunner {
    backend: CpuBackend,
    model: Model<CpuBackend>,
    flat: Flat,
}

/// A batch laid out as kernels want it; reused between steps.
#[derive(Debug, Default)]
struct Flat {
    tokens: Vec<u32>,
    positions: Vec<u32>,
    logit_rows: Vec<u32>,
    /// Per group, the block tables of all rows one after another.
    tables: Vec<Vec<u32>>,
    /// Per row: first row in the batch, number of rows, position of the first.
    spans: Vec<(usize, usize, usize)>,
}

impl Flat {
    fn fill(&mut self, batch: &Batch, num_groups: usize) {
        self.tokens.clear();
        self.positions.clear();
        self.logit_rows.clear();
        self.spans.clear();
        self.tables.resize(num_groups, Vec::new());
        self.tables.iter_mut().for_each(Vec::clear);
        for row in &batch.rows {
            let first = self.tokens.len();
            self.tokens.extend_from_slice(&row.tokens);
            self.positions.extend((row.start..row.start + row.tokens.len()).map(|p| p as u32));
            let end = self.tokens.len();
            self.logit_rows.extend((end - row.num_logits..end).map(|r| r as u32));
            self.spans.push((first, row.tokens.len(), row.start));
            for (flat, table) in self.tables.iter_mut().zip(&row.tables) {
                flat.extend(table.iter().map(|&BlockId(id)| id));
            }
        }
    }

    /// Per group, one span a row.
    fn groups<'a>(&'a self, batch: &Batch) -> Vec<Vec<SeqSpan<'a>>> {
        let mut groups = Vec::with_capacity(self.tables.len());
        for (group, flat) in self.tables.iter().enumerate() {
            let mut rest = flat.as_slice();
            let spans = batch.rows.iter().zip(&self.spans).map(|(row, &(first_row, num_rows, start))| {
                let (table, tail) = rest.split_at(row.tables[group].len());
                rest = tail;
                SeqSpan { first_row, num_rows, start, table }
            });
            groups.push(spans.collect());
        }
        groups
    }
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

    fn launch(&mut self, batch: &Batch, alive: &dyn Fn()) -> Result<(), RunnerError> {
        self.flat.fill(batch, self.model.layout().groups.len());
        let groups = self.flat.groups(batch);
        let step = StepInput {
            tokens: &self.flat.tokens,
            positions: &self.flat.positions,
            groups: &groups,
            logit_rows: &self.flat.logit_rows,
            slots: &[],
        };
        let done = self.model.forward(&mut self.backend, &step, alive);
        done.map_err(|error| RunnerError { message: error.to_string(), fatal: false })
    }

    fn collect(&mut self) -> Result<Collected<'_>, RunnerError> {
        let vocab_size = self.model.spec().vocab_size;
        Ok(Collected::Logits { data: self.model.logits_mut(), vocab_size })
    }
}
