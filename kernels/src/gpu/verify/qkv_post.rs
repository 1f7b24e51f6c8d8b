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

/// Sequences of a step: (first position, rows); a padding row follows each.
const PARTS: [(usize, usize); 3] = [(0, 2), (31, 3), (1000, 1)];

/// The CPU's rows after norms and rope, in f32: q, k and v.
fn reference(layer: &Layer, norm: Option<QkNorm<'_>>, rows: &[f32], positions: &[u32]) -> Checked<Vec<f32>> {
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
    check_rows::<T, D>(bed, layer, seed).map_err(|fault| {
        let Layer { shape, norm, rope, fp8 } = layer;
        let (dim, rotated) = (shape.head_dim_k, rope.as_ref().map(|rope| (rope.rot_dim, rope.interleaved)));
        fault.of(format!("heads of {dim}, {} norm {norm:?}, rope {rotated:?}, fp8 {fp8}", T::TYPE.name()))
    })
}

fn check_rows<T: Half, D: GpuDevice>(bed: &mut Bed<D>, layer: &Layer, seed: u64) -> Checked {
    let (shape, dim) = (&layer.shape, layer.shape.head_dim_k);
    let (width, dtype) = (shape.qkv_width(), cache_dtype::<T>(layer.fp8));
    let mut random = Random(seed);
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
    let rows = positions.len();
    let qkv: Vec<T> = random.values(rows * width).into_iter().map(|x| T::of(3.0 * x)).collect();
    let (q_weight, k_weight) = (random.values(dim), random.values(dim));
    let norm = |params: NormParams| QkNorm { q: &q_weight, k: &k_weight, eps: params.eps, one_plus: params.one_plus };
    let want = reference(layer, layer.norm.map(norm), &floats(&qkv), &positions)?;

    let lengths = PARTS.map(|(first, rows)| first + rows);
    let mut cache = PagedCache::new(shape, dtype, &lengths, seed);
    let untouched = cache.clone();
    let device = cache.upload(bed, &[0; 3])?;
    let (qkv_at, positions_at, slots_at) = (bed.upload(&qkv)?, bed.upload(&positions)?, bed.upload(&slots)?);
    let (q_at, k_at) = (bed.upload(&q_weight)?, bed.upload(&k_weight)?);
    let norms = layer.norm.map(|params| DeviceQkNorm { q: q_at.ptr(), k: k_at.ptr(), params });
    let pairs = layer.rope.as_ref().map_or(0, |table| table.inv_freq.len());
    let angles = bed.alloc::<f32>(2 * rows * pairs)?;
    let mut rope = None;
    if let Some(table) = &layer.rope {
        let inv_freq = bed.upload(&table.inv_freq)?;
        let (positions, out) = (positions_at.ptr(), angles.ptr());
        bed.launch(&RopeRows { table, inv_freq: inv_freq.ptr(), positions, out, rows }.launch())?;
        rope = Some(DeviceRope { rows: angles.ptr(), pairs, interleaved: table.interleaved });
    }
    let launch = QkvPost {
        shape,
        cache: device.layer(),
        qkv: qkv_at.ptr(),
        positions: positions_at.ptr(),
        row_slot: slots_at.ptr(),
        norms,
        rope,
        rows,
        half: T::TYPE,
    };
    bed.launch(&launch.launch())?;

    let mut after = cache.clone();
    after.download(bed, &device)?;
    let out = bed.read(&qkv_at)?;
    let q_width = shape.num_heads * dim;
    for (row, place) in places.iter().enumerate() {
        let (got, was) = (&out[row * width..][..width], &qkv[row * width..][..width]);
        ensure(got[q_width..] == was[q_width..], || "keys or values of qkv were written".to_owned())?;
        let Some(place) = *place else {
            ensure(got == was, || "a padding row was written".to_owned())?;
            continue;
        };
        let want = &want[row * width..][..width];
        assert_close(&floats(&got[..q_width]), &want[..q_width], T::ROUNDING, 1e-5)
            .map_err(|fault| fault.of(format!("queries of row {row}")))?;
        for (head, want) in want[q_width..].chunks(dim).enumerate() {
            let (kv_head, is_value) = (head % shape.num_kv_heads, head >= shape.num_kv_heads);
            let stored = after.read(place, kv_head, is_value);
            // One rounding of nearly the same f32; values are the same to the bit.
            let rounding = if dtype == KvDtype::E4m3 { 1.0 / 16.0 } else { T::ROUNDING };
            assert_close(&stored, want, if is_value { 0.0 } else { rounding } + rounding, 1.0 / 512.0)
                .map_err(|fault| fault.of(format!("head {head} of keys and values of row {row}")))?;
            let exact: Vec<f32> = want.iter().map(|&x| cached(dtype, x)).collect();
            if is_value {
                ensure(stored == exact, || format!("values of row {row}, head {head}: {stored:?}, not {exact:?}"))?;
            }
            cache.write(place, kv_head, is_value, &stored);
        }
    }
    let outside = after.count_changed(&cache);
    ensure(outside == 0, || format!("{outside} bytes were written outside the rows"))?;
    ensure(after.count_changed(&untouched) > 0, || "the cache was not written".to_owned())
}
