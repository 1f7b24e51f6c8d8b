//! A model of random weights on the device, and single steps of it.

use std::path::Path;
use std::time::Instant;

use sconce_kernels::backend::StepInput;
use sconce_kernels::error::KernelError;
use sconce_kernels::gpu::attention::AttentionKernel;
use sconce_kernels::gpu::backend::{GpuBackend, GpuSizes};
use sconce_kernels::gpu::device::GpuDevice;
use sconce_kernels::gpu::launch::HalfType;
use sconce_kernels::kv::{ArenaGeometry, BLOCK_SIZE, KvDtype, SeqSpan};
use sconce_models::load::random;
use sconce_models::model::{CacheLayout, Model};
use sconce_models::spec::ModelSpec;
use serde_json::json;

use super::Open;
use super::report::{Figure, Found, Reason};
use super::shapes::{Point, Shape, largest_matrix, spec, weight_count, weights_read};
use super::timing::{Effort, Floors, Timing, bf16_block, median};
use crate::runner::GpuLimits;

/// Bounds of what is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Tokens of a step.
    pub max_tokens: usize,
    /// Sequences of a step.
    pub max_seqs: usize,
    /// Tokens of a sequence.
    pub max_model_len: usize,
    /// How thoroughly it is timed.
    pub effort: Effort,
}

/// How the launches of a decode step are issued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// As a captured graph, as the runner does.
    Graph,
    /// One by one.
    Eager,
}

/// A model of random weights on the device.
pub struct Bench<D: GpuDevice> {
    pub(super) backend: GpuBackend<D>,
    pub(super) model: Model<GpuBackend<D>>,
    pub(super) limits: GpuLimits,
    pub(super) room: Room,
    load_seconds: f64,
}

/// Where sequences of a step can lie.
#[derive(Clone, Debug)]
pub(super) struct Room {
    geometry: ArenaGeometry,
    num_superpages: usize,
    bounds: Bounds,
}

impl Room {
    /// Block tables of each group and sequence.
    ///
    /// # Errors
    /// When there are too few blocks, or the point passes the bounds.
    pub(super) fn tables(&self, point: Point) -> Result<Vec<Vec<Vec<u32>>>, Reason> {
        let Bounds { max_tokens, max_seqs, max_model_len, .. } = self.bounds;
        let len = point.context + point.tokens;
        if point.rows() > max_tokens || point.batch > max_seqs || len > max_model_len {
            let bounds = format!("{max_tokens} tokens of {max_seqs} sequences of {max_model_len}");
            return Err(Reason::LeftOut(format!("a step has at most {bounds}")));
        }
        let blocks = len.div_ceil(BLOCK_SIZE);
        let groups = self.geometry.groups.len();
        let each = |group: usize| {
            let bps = self.geometry.groups[group].blocks_per_superpage;
            let place = |index: usize| (index / bps * groups + group) * bps + index % bps;
            let last = place(point.batch * blocks - 1) / bps;
            let table = |seq: usize| (0..blocks).map(|block| place(seq * blocks + block) as u32).collect();
            (last < self.num_superpages).then(|| (0..point.batch).map(table).collect())
        };
        let tables: Option<Vec<_>> = (0..groups).map(each).collect();
        tables.ok_or_else(|| Reason::LeftOut("the cache doesn't fit".to_owned()))
    }
}

impl<D: GpuDevice> Bench<D> {
    /// Loads the shape; the cache takes what memory is left.
    ///
    /// # Errors
    /// One line, when the shape doesn't fit the card.
    pub fn new(
        folder: &Path,
        shape: &Shape,
        bounds: Bounds,
        deterministic: bool,
        open: Open<'_, D>,
    ) -> Result<Self, Reason> {
        let spec = spec(folder, shape)?;
        Self::load(spec, bounds, deterministic, open()?)
    }

    fn load(spec: ModelSpec, bounds: Bounds, deterministic: bool, device: D) -> Result<Self, Reason> {
        let layout = CacheLayout::new(&spec, KvDtype::Bf16);
        let geometry = ArenaGeometry::new(&layout.groups);
        let Bounds { max_tokens, max_model_len, .. } = bounds;
        let max_num_seqs = bounds.max_seqs.min(max_tokens);
        let limits = GpuLimits {
            graphs: true,
            max_num_seqs,
            max_batch_tokens: max_tokens,
            max_logit_rows: max_num_seqs,
            max_model_len,
        };
        let widest = spec.layers.iter().map(|l| 2 * l.ffn.intermediate_size).max().unwrap_or(0);
        let logits = (max_num_seqs * 4 + limits.num_slots() * 6) * spec.vocab_size;
        let workspace = max_tokens * (2 * widest + 8 * spec.hidden_size) * 2 + logits;
        let taken = weight_count(&spec) * 2 + workspace + (1 << 30).min(device.info().total_bytes as usize / 8);
        let left = (device.free_bytes()? as usize).saturating_sub(taken);
        let num_superpages = geometry.superpages_in(left).max(1);
        let sizes = GpuSizes {
            max_tokens,
            max_seqs: limits.num_slots(),
            max_logit_rows: max_num_seqs,
            max_model_len,
            num_superpages,
            extra_bytes: limits.extra_bytes(),
            deterministic,
            attention: AttentionKernel::Mma,
        };
        let shapes = layout.shapes(&spec);
        let mut backend = GpuBackend::new(device, HalfType::Bf16, geometry.clone(), &shapes, sizes)?;
        let block = bf16_block(largest_matrix(&spec) * 2);
        let begin = Instant::now();
        let mut model = random(spec, layout, &mut backend, &block)?;
        backend.device().synchronize()?;
        let load_seconds = begin.elapsed().as_secs_f64();
        model.reserve(&mut backend, max_tokens, max_num_seqs)?;
        let staging = backend.meta_capacity();
        backend.device().reserve_staging(staging, 0)?;
        let room = Room { geometry, num_superpages, bounds };
        Ok(Self { backend, model, limits, room, load_seconds })
    }

    /// How fast the weights came to the card from the host's memory.
    pub fn upload(&self) -> Figure {
        let bytes = weight_count(self.model.spec()) as f64 * 2.0;
        Figure::rate(bytes / self.load_seconds, None, ("GB/s", 1e9))
    }

    /// A point's step beside its floor.
    pub fn describe(&self, point: Point, timing: Timing, floors: Option<&Floors>) -> Found {
        let spec = self.model.spec();
        let floor = floors.map(|floors| point.floor(spec, floors));
        Figure::time(timing.seconds, floor).with(json!({
            "batch": point.batch, "context": point.context, "tokens": point.tokens,
            "ms_fastest": timing.fastest * 1e3, "ms_slowest": timing.slowest * 1e3,
            "tokens_per_second": point.rows() as f64 / timing.seconds,
            "weight_bytes": weights_read(spec) * 2, "kv_bytes": point.kv_bytes(spec),
        }))
    }

    /// Seconds of a point's step.
    ///
    /// # Errors
    /// When it doesn't fit, or the device fails.
    pub fn time(&mut self, point: Point, way: Way) -> Result<Timing, Reason> {
        let Point { context, tokens, batch } = point;
        let tables = self.room.tables(point)?;
        let ids: Vec<u32> = (0..point.rows() as u32).map(|row| row * 7 % 1000).collect();
        let positions: Vec<u32> = (0..point.rows()).map(|row| (context + row % tokens) as u32).collect();
        let mut groups: Vec<Vec<SeqSpan<'_>>> = Vec::with_capacity(tables.len());
        for tables in &tables {
            let spans = tables.iter().enumerate();
            let span =
                spans.map(|(seq, table)| SeqSpan { first_row: seq * tokens, num_rows: tokens, start: context, table });
            groups.push(span.collect());
        }
        let logit_rows: Vec<u32> = (0..batch).map(|seq| (seq * tokens + tokens - 1) as u32).collect();
        let step =
            StepInput { tokens: &ids, positions: &positions, groups: &groups, logit_rows: &logit_rows, slots: &[] };
        self.backend.set_tuning(true);
        let tuned = self.model.forward(&mut self.backend, &step, &|| {});
        self.backend.set_tuning(false);
        tuned?;
        Ok(if tokens > 1 || way == Way::Eager { self.eager(&step) } else { self.graph(&step) }?)
    }

    fn eager(&mut self, step: &StepInput<'_>) -> Result<Timing, KernelError> {
        let model = &mut self.model;
        median(&mut self.backend, self.room.bounds.effort, |backend| model.forward(backend, step, &|| {}), wait)
    }

    fn graph(&mut self, step: &StepInput<'_>) -> Result<Timing, KernelError> {
        let (model, backend) = (&mut self.model, &mut self.backend);
        backend.begin_fixed_step(step)?;
        backend.device().begin_capture()?;
        let captured = model.compute(backend, step, &|| {});
        let graph = backend.device().end_capture();
        captured?;
        let graph = graph?;
        let replay = |backend: &mut GpuBackend<D>| {
            backend.begin_fixed_step(step)?;
            Ok(backend.device().replay(graph)?)
        };
        median(backend, self.room.bounds.effort, replay, wait)
    }
}

fn wait<D: GpuDevice>(backend: &mut GpuBackend<D>) -> Result<(), KernelError> {
    Ok(backend.device().synchronize()?)
}
