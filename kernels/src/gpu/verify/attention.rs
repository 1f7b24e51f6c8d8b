//! Attention against [`crate::attention`] on the same rounded values.
//!
//! The cache is filled here, in the device's order, around NaN; outputs start as NaN, and so do the partial results.

use super::super::attention::{Attention, AttentionKernel, AttentionTiles, DeviceLimits};
use super::super::attention_sm90a;
use super::super::device::GpuDevice;
use super::super::launch::DevicePtr;
use super::super::work_list::{SplitPolicy, WorkPlanner, WorkSpan};
use super::{Bed, Checked, Fault, Half, PagedCache, Random, assert_close, cache_dtype, cached, ensure, slot_of};
use crate::arena::KvArena;
use crate::attention::{self as cpu_attention, AttentionScratch, AttentionShape};
use crate::device::Cpu;
use crate::kv::{ArenaGeometry, BLOCK_SIZE, CacheGroup, CacheKind, CacheSpec, KvDtype, LayerSlot, SeqSpan};
use crate::qkv_post::{QkvPost, qkv_post};

/// Full attention of `heads` query and KV heads.
pub fn shape(heads: (usize, usize), head_dim: usize) -> AttentionShape {
    AttentionShape {
        num_heads: heads.0,
        num_kv_heads: heads.1,
        head_dim_k: head_dim,
        head_dim_v: head_dim,
        scale: (head_dim as f32).powf(-0.5),
        softcap: None,
        kind: CacheKind::Full,
    }
}

/// Sequences of known rows.
#[derive(Clone)]
pub struct World<T> {
    /// Heads, widths, scale, window, soft cap.
    pub shape: AttentionShape,
    fp8: bool,
    /// `q | k | v` rows of every sequence; keys and values are what the cache makes of them.
    pub sequences: Vec<Vec<f32>>,
    /// A logit a head that takes part in the sum.
    pub sinks: Option<Vec<f32>>,
    /// Where blocks lie.
    pub seed: u64,
    kernel: AttentionKernel,
    element: std::marker::PhantomData<T>,
}

/// How a run is planned: the card, and where splits end.
pub type Way = (DeviceLimits, SplitPolicy);

impl<T: Half> World<T> {
    /// Random sequences of these lengths.
    pub fn new(shape: AttentionShape, fp8: bool, lengths: &[usize], seed: u64) -> Self {
        let mut random = Random(seed);
        let (width, q_width) = (shape.qkv_width(), shape.num_heads * shape.head_dim_k);
        let sequences = lengths.iter().map(|len| {
            let mut rows: Vec<f32> = random.values(len * width);
            for row in rows.chunks_mut(width) {
                // Peaked softmaxes: scores of about +-4.
                row[..q_width].iter_mut().for_each(|q| *q = T::of(*q * 6.0).value());
                row[q_width..].iter_mut().for_each(|x| *x = cached(cache_dtype::<T>(fp8), T::of(*x * 2.0).value()));
            }
            rows
        });
        let sequences = sequences.collect();
        let kernel = AttentionKernel::Mma;
        Self { shape, fp8, sequences, sinks: None, seed, kernel, element: std::marker::PhantomData }
    }

    /// The same for every family of kernels that the device has for it.
    pub fn families<D: GpuDevice>(self, bed: &mut Bed<D>) -> Vec<Self> {
        let hopper = Self { kernel: AttentionKernel::Wgmma, ..self.clone() };
        let has_hopper = attention_sm90a::tiles_on(&self.shape, self.fp8, bed.device()).is_ok();
        std::iter::once(self).chain(has_hopper.then_some(hopper)).collect()
    }

    fn tiles(&self, limits: DeviceLimits) -> Checked<AttentionTiles> {
        let tiles = match self.kernel {
            AttentionKernel::Mma => AttentionTiles::new(&self.shape, self.fp8, limits).ok_or("no kernel"),
            AttentionKernel::Wgmma => attention_sm90a::tiles(&self.shape, self.fp8, limits),
        };
        tiles.map_err(|reason| Fault::Wrong(reason.to_owned()))
    }

    fn len(&self, sequence: usize) -> usize {
        self.sequences[sequence].len() / self.shape.qkv_width()
    }

    /// Rows of each sequence.
    pub fn lengths(&self) -> Vec<usize> {
        (0..self.sequences.len()).map(|sequence| self.len(sequence)).collect()
    }

    /// The cache with the tokens before `ends[sequence]`.
    fn cache(&self, ends: &[usize]) -> PagedCache {
        let shape = &self.shape;
        let mut cache = PagedCache::new(shape, cache_dtype::<T>(self.fp8), &self.lengths(), self.seed);
        for (sequence, &end) in ends.iter().enumerate() {
            for (token, row) in self.sequences[sequence].chunks(shape.qkv_width()).enumerate().take(end) {
                let heads = row[shape.num_heads * shape.head_dim_k..].chunks(shape.head_dim_k);
                for (head, values) in heads.enumerate() {
                    let (kv_head, is_value) = (head % shape.num_kv_heads, head >= shape.num_kv_heads);
                    cache.write((sequence, token), kv_head, is_value, values);
                }
            }
        }
        cache
    }

    /// Runs steps of `(sequence, rows)` from the beginning; returns each sequence's output rows.
    ///
    /// # Errors
    /// When the device fails, or something is written that should not be.
    pub fn run<D: GpuDevice>(&self, bed: &mut Bed<D>, way: Way, steps: &[Vec<(usize, usize)>]) -> Checked<Vec<Vec<T>>> {
        self.run_behind(bed, way, vec![0; self.sequences.len()], steps)
    }

    /// Runs steps behind the first `done` rows of each sequence. Two padding rows stand behind every span.
    ///
    /// # Errors
    /// When the device fails, or something is written that should not be.
    pub fn run_behind<D: GpuDevice>(
        &self,
        bed: &mut Bed<D>,
        way: Way,
        mut done: Vec<usize>,
        steps: &[Vec<(usize, usize)>],
    ) -> Checked<Vec<Vec<T>>> {
        let tiles = self.tiles(way.0)?;
        let mut planner = WorkPlanner::new(tiles.work_shape(&self.shape, way.1));
        let workspace = tiles.workspace(self.shape.num_kv_heads);
        let partials = bed.alloc::<f32>(workspace.partials)?;
        let tickets = bed.upload(&vec![0u32; workspace.tickets])?;
        let sinks = self.sinks.as_ref().map(|sinks| bed.upload(sinks)).transpose()?;
        let (width, out_width) = (self.shape.qkv_width(), self.shape.out_width());
        let mut outputs = vec![Vec::new(); self.sequences.len()];
        for step in steps {
            let (mut rows, mut spans) = (Vec::new(), Vec::new());
            let mut first_blocks = vec![usize::MAX; self.sequences.len()];
            for &(sequence, num_rows) in step {
                let start: usize = done[sequence];
                let (slot, first_row) = (slot_of(sequence), (rows.len() / width) as u32);
                spans.push(WorkSpan { slot, first_row, num_rows: num_rows as u32, start: start as u32 });
                rows.extend(self.sequences[sequence][start * width..][..num_rows * width].iter().map(|&x| T::of(x)));
                rows.resize(rows.len() + 2 * width, T::of(f32::NAN));
                first_blocks[sequence] = self.shape.kind.first_visible(start) / BLOCK_SIZE;
                done[sequence] += num_rows;
            }
            let cache = self.cache(&done);
            let device = cache.upload(bed, &first_blocks)?;
            let (qkv, out) = (bed.upload(&rows)?, bed.alloc::<T>(rows.len() / width * out_width)?);
            let work = bed.upload(planner.plan(&spans))?;
            let map = match self.kernel {
                AttentionKernel::Mma => None,
                AttentionKernel::Wgmma => Some(device.map(bed, T::TYPE)?),
            };
            let launch = Attention {
                shape: &self.shape,
                tiles: &tiles,
                cache: device.layer(),
                qkv: qkv.ptr(),
                arena: map.as_ref(),
                out: out.ptr(),
                work: work.ptr(),
                partials: partials.ptr(),
                tickets: tickets.ptr(),
                sinks: sinks.as_ref().map_or(DevicePtr::NULL, |sinks| sinks.ptr()),
                half: T::TYPE,
            };
            bed.launch(&launch.launch())?;
            let out = bed.read(&out)?;
            for (&(sequence, _), span) in step.iter().zip(&spans) {
                let (first, end) = (span.first_row as usize, (span.first_row + span.num_rows) as usize);
                outputs[sequence].extend_from_slice(&out[first * out_width..end * out_width]);
                let padding = &out[end * out_width..(end + 2) * out_width];
                ensure(padding.iter().all(|x| x.value().is_nan()), || "a padding row was written".to_owned())?;
            }
            ensure(bed.read(&tickets)?.iter().all(|&ticket| ticket == 0), || "a ticket was left".to_owned())?;
        }
        Ok(outputs)
    }

    /// All rows of all sequences in one step.
    ///
    /// # Errors
    /// When the device fails, or something is written that should not be.
    pub fn whole<D: GpuDevice>(&self, bed: &mut Bed<D>, way: Way) -> Checked<Vec<Vec<T>>> {
        self.run(bed, way, &[self.lengths().into_iter().enumerate().collect()])
    }

    /// The CPU's outputs of a sequence, in f32.
    pub fn reference(&self, sequence: usize) -> Vec<f32> {
        let (cpu, shape, len) = (Cpu::new(1), &self.shape, self.len(sequence));
        let spec = CacheSpec {
            kind: shape.kind,
            num_kv_heads: shape.num_kv_heads,
            head_dim_k: shape.head_dim_k,
            head_dim_v: shape.head_dim_v,
            dtype: KvDtype::F32,
        };
        let geometry = ArenaGeometry::new(&[CacheGroup { spec, layers: vec![0] }]);
        let table: Vec<u32> = (0..len.div_ceil(BLOCK_SIZE) as u32).collect();
        let superpages = table.len().div_ceil(geometry.groups[0].blocks_per_superpage);
        let mut arena = KvArena::new(geometry, superpages).expect("an arena");
        let spans = [SeqSpan { first_row: 0, num_rows: len, start: 0, table: &table }];
        let slot = LayerSlot { group: 0, index: 0 };
        let mut qkv = self.sequences[sequence].clone();
        qkv_post(&cpu, QkvPost { shape, norms: None, rope: None }, &mut qkv, &spans, (&mut arena, slot));
        let mut out = vec![0.0; len * shape.out_width()];
        let call = cpu_attention::Attention { shape, spans: &spans, arena: &arena, slot };
        cpu_attention::attention(&cpu, call, &qkv, &mut out, &mut AttentionScratch::default());
        out
    }

    /// All rows of all sequences in one step.
    ///
    /// # Errors
    /// When an output is not the CPU's.
    pub fn matches<D: GpuDevice>(&self, bed: &mut Bed<D>, way: Way) -> Checked {
        let whole = self.whole(bed, way)?;
        whole.iter().enumerate().try_for_each(|(sequence, out)| self.close(sequence, 0, out))
    }

    /// The rows `first..` of a sequence. Probabilities are rounded to `T` before they weigh values of at most 2, and the
    /// result is rounded once more.
    ///
    /// # Errors
    /// When one is not the CPU's.
    pub fn close(&self, sequence: usize, first: usize, out: &[T]) -> Checked {
        let want = &self.reference(sequence)[first * self.shape.out_width()..][..out.len()];
        assert_close(&super::floats(out), want, T::ROUNDING, T::ROUNDING)
            .map_err(|fault| fault.of(self.describe(sequence)))
    }

    pub(super) fn describe(&self, sequence: usize) -> String {
        let AttentionShape { num_heads, num_kv_heads, head_dim_k, softcap, kind, .. } = &self.shape;
        let (cache, len) = (cache_dtype::<T>(self.fp8).name(), self.len(sequence));
        format!(
            "{:?}: {num_heads}/{num_kv_heads} heads of {head_dim_k}, {kind:?}, soft cap {softcap:?}, {cache} cache, {len} tokens",
            self.kernel
        )
    }
}
