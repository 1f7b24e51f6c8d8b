//! A model with an arena of its own, driven one span at a time.

use std::path::{Path, PathBuf};

use sconce_kernels::arena::KvArena;
use sconce_kernels::backend::StepInput;
use sconce_kernels::cpu::CpuBackend;
use sconce_kernels::device::{Cpu, Isa, Precision};
use sconce_kernels::kv::{ArenaGeometry, BLOCK_SIZE, KvDtype, SeqSpan};
use sconce_models::checkpoint::Checkpoint;
use sconce_models::config::{SpecOptions, model_spec};
use sconce_models::load::load;
use sconce_models::model::{CacheLayout, Model};

/// How a model is run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setup {
    pub(crate) isa: Isa,
    pub(crate) precision: Precision,
    pub(crate) kv: KvDtype,
    pub(crate) threads: usize,
    pub(crate) max_model_len: Option<usize>,
}

impl Setup {
    /// Everything in f32.
    pub(crate) fn reference() -> Self {
        let (isa, precision, kv) = (Isa::detect(), Precision::F32, KvDtype::F32);
        Self { isa, precision, kv, threads: 2, max_model_len: None }
    }
}

/// One sequence of a loaded model. Blocks are handed out in a scrambled order, the same for every group.
pub(crate) struct Session {
    backend: CpuBackend,
    model: Model<CpuBackend>,
    table: Vec<u32>,
    num_groups: usize,
}

impl Session {
    pub(crate) fn open(path: &Path, setup: Setup, max_tokens: usize) -> Self {
        let checkpoint = Checkpoint::open(path).unwrap_or_else(|e| panic!("{e}"));
        let options = SpecOptions { max_model_len: setup.max_model_len };
        let spec = model_spec(&checkpoint, &options).unwrap_or_else(|e| panic!("{e}"));
        let layout = CacheLayout::new(&spec, setup.kv);
        let geometry = ArenaGeometry::new(&layout.groups);
        let num_groups = layout.groups.len();
        let num_blocks = max_tokens.div_ceil(BLOCK_SIZE).max(1);
        // Every group gets the same ids, so each of its blocks needs a superpage of its own group: leases are
        // interleaved by giving group g the superpages with s % num_groups == g.
        let per_group = geometry.groups.iter().map(|g| num_blocks.div_ceil(g.blocks_per_superpage)).max().unwrap_or(1);
        let arena = KvArena::new(geometry, per_group * num_groups).unwrap_or_else(|e| panic!("{e}"));
        let mut cpu = Cpu::new(setup.threads);
        (cpu.isa, cpu.precision) = (setup.isa, setup.precision);
        let mut backend = CpuBackend::new(cpu, arena);
        let model = load(&checkpoint, spec, layout, &mut backend, &mut |_, _| {}).unwrap_or_else(|e| panic!("{e}"));
        let table = (0..num_blocks as u32).rev().collect();
        Self { backend, model, table, num_groups }
    }

    pub(crate) fn vocab(&self) -> usize {
        self.model.spec().vocab_size
    }

    /// Logits `[tokens.len(), vocab]` of `tokens` at positions from `start` on.
    pub(crate) fn step(&mut self, start: usize, tokens: &[u32]) -> Vec<f32> {
        let tables: Vec<Vec<u32>> = (0..self.num_groups).map(|g| self.group_table(g)).collect();
        let positions: Vec<u32> = (start..start + tokens.len()).map(|p| p as u32).collect();
        let groups: Vec<Vec<SeqSpan<'_>>> =
            tables.iter().map(|table| vec![SeqSpan { first_row: 0, num_rows: tokens.len(), start, table }]).collect();
        let logit_rows: Vec<u32> = (0..tokens.len() as u32).collect();
        let step = StepInput { tokens, positions: &positions, groups: &groups, logit_rows: &logit_rows, slots: &[] };
        self.model.forward(&mut self.backend, &step, &|| {}).unwrap_or_else(|e| panic!("{e}"));
        self.model.logits_mut().clone()
    }

    /// Logits of all positions, computed in chunks of the given lengths (the last one repeats).
    pub(crate) fn chunked(&mut self, tokens: &[u32], chunks: &[usize]) -> Vec<f32> {
        let (mut logits, mut start, mut index) = (Vec::new(), 0, 0);
        while start < tokens.len() {
            let len = chunks[index.min(chunks.len() - 1)].min(tokens.len() - start);
            logits.extend(self.step(start, &tokens[start..start + len]));
            (start, index) = (start + len, index + 1);
        }
        logits
    }

    fn group_table(&self, group: usize) -> Vec<u32> {
        let bps = self.backend.arena().geometry().groups[group].blocks_per_superpage as u32;
        let place = |id: u32| (id / bps * self.num_groups as u32 + group as u32) * bps + id % bps;
        self.table.iter().map(|&id| place(id)).collect()
    }
}

pub(crate) fn fixtures() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures")
}

/// A tensor of a small safetensors file.
pub(crate) struct Reference(Vec<u8>);

impl Reference {
    pub(crate) fn open(path: &Path) -> Self {
        Self(std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display())))
    }

    fn words<T>(&self, name: &str, from: fn([u8; 4]) -> T) -> Vec<T> {
        let file = safetensors::SafeTensors::deserialize(&self.0).expect("a safetensors file");
        let tensor = file.tensor(name).expect(name);
        tensor.data().chunks_exact(4).map(|b| from([b[0], b[1], b[2], b[3]])).collect()
    }

    pub(crate) fn floats(&self, name: &str) -> Vec<f32> {
        self.words(name, f32::from_le_bytes)
    }

    pub(crate) fn ids(&self, name: &str) -> Vec<u32> {
        self.words(name, u32::from_le_bytes)
    }
}

/// Largest difference, relative to the largest reference value.
pub(crate) fn relative_error(got: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(got.len(), expected.len());
    let scale = expected.iter().fold(0f32, |m, x| m.max(x.abs()));
    let worst = got.iter().zip(expected).fold(0f32, |m, (a, b)| if (a - b).abs() <= m { m } else { (a - b).abs() });
    worst / scale
}

/// Root mean square of the difference, relative to that of the reference.
pub(crate) fn rms_error(got: &[f32], expected: &[f32]) -> f32 {
    let sum = |f: &dyn Fn(f32, f32) -> f32| got.iter().zip(expected).map(|(&a, &b)| f64::from(f(a, b))).sum::<f64>();
    (sum(&|a, b| (a - b) * (a - b)) / sum(&|_, b| b * b)).sqrt() as f32
}
