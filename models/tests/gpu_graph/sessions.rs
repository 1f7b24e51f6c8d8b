//! A model on the emulated GPU, with 64 slots, and the same model on the CPU.

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

/// Rows of a step.
pub(crate) const MAX_TOKENS: usize = 128;
/// Tokens of a sequence.
const MAX_LEN: usize = 256;
pub(crate) const SLOTS: usize = 64;

/// Tokens of a slot's sequence, at positions from `start` on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Piece<'a> {
    pub(crate) slot: usize,
    pub(crate) start: usize,
    pub(crate) tokens: &'a [u32],
}

/// The block tables of one slot: every group has superpages of its own.
fn tables(geometry: &ArenaGeometry, slot: usize) -> Vec<Vec<u32>> {
    let groups = geometry.groups.len();
    let blocks = MAX_LEN.div_ceil(BLOCK_SIZE);
    let place = |group: usize, id: usize| {
        let bps = geometry.groups[group].blocks_per_superpage;
        ((id / bps * groups + group) * bps + id % bps) as u32
    };
    // Backwards, so that neighbours in a table are not neighbours in memory.
    (0..groups).map(|g| (0..blocks).rev().map(|block| place(g, slot * blocks + block)).collect()).collect()
}

fn superpages(geometry: &ArenaGeometry) -> usize {
    let most = geometry.groups.iter().map(|g| (SLOTS * MAX_LEN / BLOCK_SIZE).div_ceil(g.blocks_per_superpage)).max();
    most.unwrap_or(1) * geometry.groups.len()
}

fn spec(checkpoint: &Checkpoint) -> ModelSpec {
    model_spec(checkpoint, &SpecOptions { max_model_len: None }).unwrap_or_else(|e| panic!("{e}"))
}

/// One step of all `pieces`, in their order.
fn forward<B: Backend>(model: &mut Model<B>, backend: &mut B, geometry: &ArenaGeometry, pieces: &[Piece<'_>]) {
    let tables: Vec<_> = pieces.iter().map(|piece| tables(geometry, piece.slot)).collect();
    let (mut tokens, mut positions) = (Vec::new(), Vec::new());
    let mut groups = vec![Vec::new(); geometry.groups.len()];
    for (piece, tables) in pieces.iter().zip(&tables) {
        let (first_row, num_rows, start) = (tokens.len(), piece.tokens.len(), piece.start);
        tokens.extend_from_slice(piece.tokens);
        positions.extend((start..start + num_rows).map(|position| position as u32));
        let used = (start + num_rows).div_ceil(BLOCK_SIZE);
        for (group, table) in groups.iter_mut().zip(tables) {
            group.push(SeqSpan { first_row, num_rows, start, table: &table[..used] });
        }
    }
    let logit_rows: Vec<u32> = (0..tokens.len() as u32).collect();
    let slots: Vec<u32> = pieces.iter().map(|piece| piece.slot as u32).collect();
    let step =
        StepInput { tokens: &tokens, positions: &positions, groups: &groups, logit_rows: &logit_rows, slots: &slots };
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
    forward(&mut model, &mut backend, &geometry, &[Piece { slot: 0, start: 0, tokens }]);
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
            max_model_len: MAX_LEN,
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
        self.batch(&[Piece { slot, start, tokens }])
    }

    /// The same of several slots' tokens at once, one after another: at most [`MAX_TOKENS`].
    pub(crate) fn batch(&mut self, pieces: &[Piece<'_>]) -> Vec<f32> {
        forward(&mut self.model, &mut self.backend, &self.geometry, pieces);
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
