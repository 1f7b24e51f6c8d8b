//! Norms, rope and cache writes against [`crate::qkv_post`]: queries in place, keys and values in the cache, and nothing
//! else changed.

use super::super::device::GpuDevice;
use super::super::qkv_post::{DeviceQkNorm, DeviceRope, QkvPost};
use super::super::rope::RopeRows;
use super::{
    Bed, Checked, Fault, Half, PagedCache, Random, assert_close, cache_dtype, cached, ensure, floats, slot_of,
};
use crate::arena::KvArena;
use crate::attention::AttentionShape;
use crate::backend::NormParams;
use crate::device::Cpu;
use crate::kv::{ArenaGeometry, CacheGroup, CacheKind, CacheSpec, KvDtype, LayerSlot, SeqSpan};
use crate::qkv_post::{self as cpu_post, QkNorm};
use crate::rope::{RopeRows as CpuRows, RopeTable};

/// Heads of one width.
pub fn shape(num_heads: usize, num_kv_heads: usize, dim: usize) -> AttentionShape {
    let (scale, kind) = (1.0, CacheKind::Full);
    AttentionShape { num_heads, num_kv_heads, head_dim_k: dim, head_dim_v: dim, scale, softcap: None, kind }
}

/// Rotations of the first `rot_dim` values of a head.
pub fn rope(rot_dim: usize, interleaved: bool) -> RopeTable {
    let pairs = rot_dim / 2;
    let inv_freq = (0..pairs).map(|i| 10_000f32.powf(-(i as f32) / pairs as f32)).collect();
    RopeTable { inv_freq, attention_factor: 1.25, rot_dim, interleaved }
}

/// What a layer does.
#[derive(Debug)]
pub struct Layer {
    /// Heads and widths.
    pub shape: AttentionShape,
    /// Norms of query and key heads.
    pub norm: Option<NormParams>,
    /// Rotations.
    pub rope: Option<RopeTable>,
    /// The cache is e4m3.
    pub fp8: bool,
}

impl Layer {
    pub(super) fn describe<T: Half>(&self) -> String {
        let Self { shape, norm, rope, fp8 } = self;
        let (dim, rotated) = (shape.head_dim_k, rope.as_ref().map(|rope| (rope.rot_dim, rope.interleaved)));
        format!("heads of {dim}, {} norm {norm:?}, rope {rotated:?}, fp8 {fp8}", T::TYPE.name())
    }
}

/// Sequences of a step: (first position, rows); a padding row follows each.
const PARTS: [(usize, usize); 3] = [(0, 2), (31, 3), (1000, 1)];

/// The rows of such a step.
pub(super) struct Rows {
    pub(super) positions: Vec<u32>,
    pub(super) slots: Vec<i32>,
    /// Sequence and position; `None` for padding.
    places: Vec<Option<(usize, usize)>>,
}

impl Rows {
    pub(super) fn new() -> Self {
        let (mut positions, mut slots, mut places) = (Vec::new(), Vec::new(), Vec::new());
        for (sequence, (first, rows)) in PARTS.into_iter().enumerate() {
            for position in first..first + rows {
                positions.push(position as u32);
                slots.push(slot_of(sequence) as i32);
                places.push(Some((sequence, position)));
            }
            positions.push(7);
            slots.push(-1);
            places.push(None);
        }
        Self { positions, slots, places }
    }

    pub(super) fn len(&self) -> usize {
        self.positions.len()
    }

    /// A cache with room for them.
    pub(super) fn cache(&self, shape: &AttentionShape, dtype: KvDtype, seed: u64) -> PagedCache {
        PagedCache::new(shape, dtype, &PARTS.map(|(first, rows)| first + rows), seed)
    }

    /// Their rotations on the device.
    pub(super) fn rope<D: GpuDevice>(&self, bed: &mut Bed<D>, layer: &Layer) -> Checked<Option<DeviceRope>> {
        let Some(table) = &layer.rope else { return Ok(None) };
        let pairs = table.inv_freq.len();
        let (inv_freq, at) = (bed.upload(&table.inv_freq)?, bed.upload(&self.positions)?);
        let out = bed.alloc::<f32>(2 * self.len() * pairs)?;
        let (inv_freq, positions, out) = (inv_freq.ptr(), at.ptr(), out.ptr());
        bed.launch(&RopeRows { table, inv_freq, positions, out, rows: self.len() }.launch())?;
        Ok(Some(DeviceRope { rows: out, pairs, interleaved: table.interleaved }))
    }

    /// `qkv` was `was` and is `got`: queries are what `want` says, keys and values are in the cache, which was `cache` and
    /// is `after`, and nothing else has changed. One rounding of values that are within `absolute` of these.
    pub(super) fn check<T: Half>(
        &self,
        layer: &Layer,
        (was, got, want): (&[T], &[T], &[f32]),
        (mut cache, after): (PagedCache, &PagedCache),
        absolute: f32,
    ) -> Checked {
        let (shape, dim) = (&layer.shape, layer.shape.head_dim_k);
        let (width, q_width) = (shape.qkv_width(), shape.num_heads * dim);
        let rounding = if layer.fp8 { 1.0 / 16.0 } else { T::ROUNDING };
        let untouched = cache.clone();
        for (row, place) in self.places.iter().enumerate() {
            let (got, was) = (&got[row * width..][..width], &was[row * width..][..width]);
            ensure(got[q_width..] == was[q_width..], || "keys or values of qkv were written".to_owned())?;
            let Some(place) = *place else {
                ensure(got == was, || "a padding row was written".to_owned())?;
                continue;
            };
            let want = &want[row * width..][..width];
            assert_close(&floats(&got[..q_width]), &want[..q_width], T::ROUNDING, absolute)
                .map_err(|fault| fault.of(format!("queries of row {row}")))?;
            for (head, want) in want[q_width..].chunks(dim).enumerate() {
                let (kv_head, is_value) = (head % shape.num_kv_heads, head >= shape.num_kv_heads);
                let stored = after.read(place, kv_head, is_value);
                // Of nearly the same f32, which may lie on the other side of a step.
                assert_close(&stored, want, 2.0 * rounding, absolute + 1.0 / 512.0)
                    .map_err(|fault| fault.of(format!("head {head} of keys and values of row {row}")))?;
                cache.write(place, kv_head, is_value, &stored);
            }
        }
        let outside = after.count_changed(&cache);
        ensure(outside == 0, || format!("{outside} bytes were written outside the rows"))?;
        ensure(after.count_changed(&untouched) > 0, || "the cache was not written".to_owned())
    }

    /// The cached values, which nothing changes, are those of `want` to the bit.
    fn check_values(&self, layer: &Layer, want: &[f32], dtype: KvDtype, after: &PagedCache) -> Checked {
        let (shape, dim) = (&layer.shape, layer.shape.head_dim_k);
        let first = (shape.num_heads + shape.num_kv_heads) * dim;
        for (row, (place, want)) in self.places.iter().zip(want.chunks(shape.qkv_width())).enumerate() {
            let Some(place) = *place else { continue };
            for (head, want) in want[first..].chunks(dim).enumerate() {
                let (stored, exact) = (after.read(place, head, true), want.iter().map(|&x| cached(dtype, x)));
                let exact: Vec<f32> = exact.collect();
                ensure(stored == exact, || format!("values of row {row}, head {head}: {stored:?}, not {exact:?}"))?;
            }
        }
        Ok(())
    }
}

/// The CPU's rows after norms and rope, in f32: q, k and v.
pub(super) fn reference(layer: &Layer, norm: Option<QkNorm<'_>>, rows: &[f32], positions: &[u32]) -> Checked<Vec<f32>> {
    let cpu = Cpu::new(1);
    let shape = &layer.shape;
    let (num_kv_heads, head_dim) = (shape.num_kv_heads, shape.head_dim_k);
    let (kind, dtype) = (shape.kind, KvDtype::F32);
    let spec = CacheSpec { kind, num_kv_heads, head_dim_k: head_dim, head_dim_v: head_dim, dtype };
    let geometry = ArenaGeometry::new(&[CacheGroup { spec, layers: vec![0] }]);
    let mut arena = KvArena::new(geometry, 1).map_err(|error| Fault::Wrong(error.to_string()))?;
    let mut qkv = rows.to_vec();
    let mut angles = CpuRows::default();
    if let Some(table) = &layer.rope {
        table.rows(positions, &mut angles);
    }
    let rope = layer.rope.as_ref().map(|_| &angles);
    let post = cpu_post::QkvPost { shape, norms: norm, rope };
    let span = SeqSpan { first_row: 0, num_rows: positions.len(), start: 0, table: &[0] };
    cpu_post::qkv_post(&cpu, post, &mut qkv, &[span], (&mut arena, LayerSlot { group: 0, index: 0 }));
    Ok(qkv)
}

/// A step of a few rows.
///
/// # Errors
/// When a query, key or value is not the CPU's, or anything else is written.
pub fn check<T: Half, D: GpuDevice>(bed: &mut Bed<D>, layer: &Layer, seed: u64) -> Checked {
    check_rows::<T, D>(bed, layer, seed).map_err(|fault| fault.of(layer.describe::<T>()))
}

fn check_rows<T: Half, D: GpuDevice>(bed: &mut Bed<D>, layer: &Layer, seed: u64) -> Checked {
    let (shape, dim) = (&layer.shape, layer.shape.head_dim_k);
    let (width, dtype) = (shape.qkv_width(), cache_dtype::<T>(layer.fp8));
    let (mut random, rows) = (Random(seed), Rows::new());
    let qkv: Vec<T> = random.values(rows.len() * width).into_iter().map(|x| T::of(3.0 * x)).collect();
    let (q_weight, k_weight) = (random.values(dim), random.values(dim));
    let norm = |params: NormParams| QkNorm { q: &q_weight, k: &k_weight, eps: params.eps, one_plus: params.one_plus };
    let want = reference(layer, layer.norm.map(norm), &floats(&qkv), &rows.positions)?;

    let cache = rows.cache(shape, dtype, seed);
    let device = cache.upload(bed, &[0; 3])?;
    let (qkv_at, positions, slots) = (bed.upload(&qkv)?, bed.upload(&rows.positions)?, bed.upload(&rows.slots)?);
    let (q_at, k_at) = (bed.upload(&q_weight)?, bed.upload(&k_weight)?);
    let norms = layer.norm.map(|params| DeviceQkNorm { q: q_at.ptr(), k: k_at.ptr(), params });
    let launch = QkvPost {
        shape,
        cache: device.layer(),
        qkv: qkv_at.ptr(),
        positions: positions.ptr(),
        row_slot: slots.ptr(),
        norms,
        rope: rows.rope(bed, layer)?,
        rows: rows.len(),
        half: T::TYPE,
    };
    bed.launch(&launch.launch())?;

    let mut after = cache.clone();
    after.download(bed, &device)?;
    rows.check_values(layer, &want, dtype, &after)?;
    rows.check(layer, (&qkv, &bed.read(&qkv_at)?, &want), (cache, &after), 1e-5)
}
