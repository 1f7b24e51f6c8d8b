//! A model on the emulated GPU, with a few slots, and the same model on the CPU.

use std::path::Path;

use sconce_emulator::EmulatedDevice;
use sconce_kernels::arena::KvArena;
use sconce_kernels::backend::{Backend, StepInput};
use sconce_kernels::cpu::CpuBackend;
use sconce_kernels::device::{Cpu, Precision};
use sconce_kernels::gpu::attention::AttentionKernel;
use sconce_kernels::gpu::backend::{GpuBackend, GpuSizes};
use sconce_kernels::gpu::device::GpuDevice;
use sconce_kernels::gpu::launch::HalfType;
use sconce_kernels::kv::{ArenaGeometry, BLOCK_SIZE, KvDtype, SeqSpan};
use sconce_models::checkpoint::Checkpoint;
use sconce_models::config::{SpecOptions, model_spec};
use sconce_models::load::load;
use sconce_models::model::{CacheLayout, Model};
use sconce_models::spec::ModelSpec;

const MAX_TOKENS: usize = 128;
const SLOTS: usize = 3;

/// The block tables of one slot: every group has superpages of its own.
fn tables(geometry: &ArenaGeometry, slot: usize) -> Vec<Vec<u32>> {
    let groups = geometry.groups.len();
    let blocks = MAX_TOKENS.div_ceil(BLOCK_SIZE);
    let place = |group: usize, id: usize| {
        let bps = geometry.groups[group].blocks_per_superpage;
        ((id / bps * groups + group) * bps + id % bps) as u32
    };
    // Backwards, so that neighbours in a table are not neighbours in memory.
    (0..groups).map(|g| (0..blocks).rev().map(|block| place(g, slot * blocks + block)).collect()).collect()
}

fn superpages(geometry: &ArenaGeometry) -> usize {
    let most = geometry.groups.iter().map(|g| (SLOTS * MAX_TOKENS / BLOCK_SIZE).div_ceil(g.blocks_per_superpage)).max();
    most.unwrap_or(1) * geometry.groups.len()
}

fn spec(checkpoint: &Checkpoint) -> ModelSpec {
    model_spec(checkpoint, &SpecOptions { max_model_len: None }).unwrap_or_else(|e| panic!("{e}"))
}

fn forward<B: Backend>(
    model: &mut Model<B>,
    backend: &mut B,
    geometry: &ArenaGeometry,
    slot: usize,
    start: usize,
    tokens: &[u32],
) {
    let tables = tables(geometry, slot);
    let positions: Vec<u32> = (start..start + tokens.len()).map(|p| p as u32).collect();
    let used = (start + tokens.len()).div_ceil(BLOCK_SIZE);
    let span = |table| vec![SeqSpan { first_row: 0, num_rows: tokens.len(), start, table }];
    let groups: Vec<_> = tables.iter().map(|table| span(&table[..used])).collect();
    let logit_rows: Vec<u32> = (0..tokens.len() as u32).collect();
    let slots = [slot as u32];
    let step = StepInput { tokens, positions: &positions, groups: &groups, logit_rows: &logit_rows, slots: &slots };
    model.forward(backend, &step, &|| {}).unwrap_or_else(|e| panic!("{e}"));
}

/// Logits `[tokens, vocab]` in f32 on the CPU.
pub(crate) fn cpu_logits(path: &Path, tokens: &[u32]) -> Vec<f32> {
    let checkpoint = Checkpoint::open(path).unwrap_or_else(|e| panic!("{e}"));
    let spec = spec(&checkpoint);
    let layout = CacheLayout::new(&spec, KvDtype::F32);
    let geometry = ArenaGeometry::new(&layout.groups);
    let arena = KvArena::new(geometry.clone(), superpages(&geometry)).unwrap_or_else(|e| panic!("{e}"));
    let mut cpu = Cpu::new(1);
    cpu.precision = Precision::F32;
    let mut backend = CpuBackend::new(cpu, arena);
    let mut model = load(&checkpoint, spec, layout, &mut backend, &mut |_, _| {}).unwrap_or_else(|e| panic!("{e}"));
    forward(&mut model, &mut backend, &geometry, 0, 0, tokens);
    model.logits_mut().clone()
}

/// A model on the emulated GPU.
pub(crate) struct GpuSession {
    backend: GpuBackend<EmulatedDevice>,
    model: Model<GpuBackend<EmulatedDevice>>,
    geometry: ArenaGeometry,
}

impl GpuSession {
    pub(crate) fn open(device: EmulatedDevice, path: &Path, deterministic: bool) -> Self {
        let checkpoint = Checkpoint::open(path).unwrap_or_else(|e| panic!("{e}"));
        let spec = spec(&checkpoint);
        let layout = CacheLayout::new(&spec, KvDtype::Bf16);
        let geometry = ArenaGeometry::new(&layout.groups);
        let sizes = GpuSizes {
            max_tokens: MAX_TOKENS,
            max_seqs: SLOTS,
            max_logit_rows: MAX_TOKENS,
            max_model_len: MAX_TOKENS,
            num_superpages: superpages(&geometry),
            extra_bytes: 0,
            deterministic,
            attention: AttentionKernel::Mma,
        };
        let shapes = layout.shapes(&spec);
        let backend = GpuBackend::new(device, HalfType::Bf16, geometry.clone(), &shapes, sizes);
        let mut backend = backend.unwrap_or_else(|e| panic!("{e}"));
        let mut model = load(&checkpoint, spec, layout, &mut backend, &mut |_, _| {}).unwrap_or_else(|e| panic!("{e}"));
        model.reserve(&mut backend, MAX_TOKENS, MAX_TOKENS).unwrap_or_else(|e| panic!("{e}"));
        let staging = backend.meta_capacity();
        backend.device().reserve_staging(staging, 0).unwrap_or_else(|e| panic!("{e}"));
        Self { backend, model, geometry }
    }

    pub(crate) fn device(&mut self) -> &mut EmulatedDevice {
        self.backend.device()
    }

    /// Logits `[tokens, vocab]` of tokens at positions from `start` on.
    pub(crate) fn step(&mut self, slot: usize, start: usize, tokens: &[u32]) -> Vec<f32> {
        forward(&mut self.model, &mut self.backend, &self.geometry, slot, start, tokens);
        let vocab = self.model.spec().vocab_size;
        let (at, rows, stride) = {
            let logits = self.model.logits_mut();
            (logits.at, logits.rows, logits.stride)
        };
        let mut bytes = vec![0; rows * stride * 4];
        self.backend.device().read(at, &mut bytes).unwrap_or_else(|e| panic!("{e}"));
        let values: Vec<f32> = bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        values.chunks_exact(stride).flat_map(|row| row[..vocab].to_vec()).collect()
    }
}
