//! What happens to a row of `q | k | v` between its projection and attention: the per-head norms
//! of queries and keys, rope, and the write of keys and values into their block.
//!
//! Queries stay where they are, in f32; keys and values are rounded to the cache's dtype here.

use std::sync::atomic::{AtomicU16, AtomicU32, Ordering::Relaxed};

use crate::arena::KvArena;
use crate::attention::AttentionShape;
use crate::device::Cpu;
use crate::kv::{BLOCK_SIZE, GroupGeometry, KvDtype, LayerSlot, SeqSpan};
use crate::norm::RmsNorm;
use crate::rope::RopeRows;
use crate::simd::{Kernel, MAX_LANES, Simd, dispatch};

/// Norms of each query and each key head before rope (Qwen3, Gemma 3).
#[derive(Clone, Copy, Debug)]
pub struct QkNorm<'a> {
    /// Weight of the query norm, `[head_dim_k]`.
    pub q: &'a [f32],
    /// Weight of the key norm, `[head_dim_k]`.
    pub k: &'a [f32],
    /// Added to the mean square.
    pub eps: f32,
    /// Multiply by `1 + w`.
    pub one_plus: bool,
}

/// How one layer treats its queries and keys.
#[derive(Clone, Copy, Debug)]
pub struct QkvPost<'a> {
    /// Heads and widths.
    pub shape: &'a AttentionShape,
    /// Norms of query and key heads.
    pub norms: Option<QkNorm<'a>>,
    /// Rotations of the step's rows; `None` for a layer without positions.
    pub rope: Option<&'a RopeRows>,
}

/// Rows a tile takes.
const TILE_ROWS: usize = 8;

/// Norms and rotates `qkv[M, (nh + kvh) dk + kvh dv]` in place and writes the keys and values of the
/// rows of `spans` (ascending `first_row`, disjoint) to layer `slot` of the arena. Rows outside every
/// span are left alone.
///
/// # Panics
/// If shapes, spans, tables and arena do not agree: a bug of the caller.
pub fn qkv_post(
    cpu: &Cpu,
    post: QkvPost<'_>,
    qkv: &mut [f32],
    spans: &[SeqSpan<'_>],
    (arena, slot): (&mut KvArena, LayerSlot),
) {
    let width = post.shape.qkv_width();
    post.check(arena.geometry().groups[slot.group], qkv.len(), spans);
    let base = arena.base_mut().expose_provenance();
    let arena = &*arena;
    cpu.pool.run_chunks(qkv, TILE_ROWS * width, &|tile, rows| {
        for (index, values) in rows.chunks_exact_mut(width).enumerate() {
            let row = tile * TILE_ROWS + index;
            let Some(span) = span_of(spans, row) else { continue };
            let position = span.start + row - span.first_row;
            let block = base + arena.checked_block_offset(slot.group, span.table[position / BLOCK_SIZE]);
            let geometry = &arena.geometry().groups[slot.group];
            let token = position % BLOCK_SIZE;
            // SAFETY: `check` proved the widths, `checked_block_offset` that the whole block lies in the
            // arena, which is borrowed mutably; stores are atomic, so even a block in two tables is no race.
            unsafe { dispatch(cpu.isa, Row { post: &post, values, row, block, token, geometry, layer: slot.index }) }
        }
    });
}

/// The span that holds a row.
fn span_of<'a, 'b>(spans: &'a [SeqSpan<'b>], row: usize) -> Option<&'a SeqSpan<'b>> {
    let after = spans.partition_point(|span| span.first_row <= row);
    let span = &spans[after.checked_sub(1)?];
    (row - span.first_row < span.num_rows).then_some(span)
}

impl QkvPost<'_> {
    fn check(&self, geometry: GroupGeometry, len: usize, spans: &[SeqSpan<'_>]) {
        let (shape, spec) = (self.shape, geometry.spec);
        let cached = (spec.num_kv_heads, spec.head_dim_k, spec.head_dim_v);
        assert!(cached == (shape.num_kv_heads, shape.head_dim_k, shape.head_dim_v), "qkv_post: cache of another shape");
        assert!(len.is_multiple_of(shape.qkv_width()), "qkv_post: {len} values are not whole rows");
        let rows = len / shape.qkv_width();
        if let Some(norms) = self.norms {
            let widths = (norms.q.len(), norms.k.len());
            assert!(widths == (shape.head_dim_k, shape.head_dim_k), "qkv_post: norm weights of widths {widths:?}");
        }
        if let Some(rope) = self.rope {
            assert!(rope.rot_dim() <= shape.head_dim_k, "qkv_post: rope wider than a head");
            assert!(rope.len() >= rows, "qkv_post: rope of {} rows for {rows}", rope.len());
        }
        assert!(spans.is_sorted_by_key(|span| span.first_row), "qkv_post: spans out of order");
    }
}

/// One row. `values` is a row of `shape.qkv_width()`; `block` the address of a whole block of the
/// group; `layer` and `token` lie inside it.
struct Row<'a> {
    post: &'a QkvPost<'a>,
    values: &'a mut [f32],
    row: usize,
    block: usize,
    token: usize,
    geometry: &'a GroupGeometry,
    layer: usize,
}

impl Kernel for Row<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let shape = self.post.shape;
        let (num_heads, dim) = (shape.num_heads, shape.head_dim_k);
        let (qk, v) = self.values.split_at_mut((num_heads + shape.num_kv_heads) * dim);
        for (head, values) in qk.chunks_exact_mut(dim).enumerate() {
            if let Some(norms) = self.post.norms {
                let weight = if head < num_heads { norms.q } else { norms.k };
                let norm = RmsNorm { weight, eps: norms.eps, one_plus: norms.one_plus };
                // SAFETY: weights are as wide as a head.
                unsafe { norm.in_place::<S>(values.as_mut_ptr()) };
            }
            if let Some(rope) = self.post.rope {
                rope.rotate(self.row, values);
            }
        }
        let dtype = self.geometry.spec.dtype;
        for (head, values) in qk[num_heads * dim..].chunks_exact(dim).enumerate() {
            let address = self.block + self.geometry.k_offset(self.layer, head);
            // K: [d / 2][token][2]
            let place = |d: usize| ((d / 2) * BLOCK_SIZE + self.token) * 2 + d % 2;
            // SAFETY: the region holds BLOCK_SIZE * dim elements from `address`; `place` stays below.
            unsafe { scatter::<S>(dtype, values, address, place) };
        }
        for (head, values) in v.chunks_exact(shape.head_dim_v).enumerate() {
            let address = self.block + self.geometry.v_offset(self.layer, head);
            // V: [token / 2][d][2]
            let place = |d: usize| ((self.token / 2) * shape.head_dim_v + d) * 2 + self.token % 2;
            // SAFETY: as for K.
            unsafe { scatter::<S>(dtype, values, address, place) };
        }
    }
}

/// Rounds values to the cache's dtype and stores value `d` at element `place(d)` from `address`.
///
/// # Safety
/// `address` is an aligned, exposed address, writable at each `place(d)`.
#[inline(always)]
unsafe fn scatter<S: Simd>(dtype: KvDtype, values: &[f32], address: usize, place: impl Fn(usize) -> usize) {
    if dtype == KvDtype::F32 {
        let start = std::ptr::with_exposed_provenance_mut::<u32>(address);
        for (d, value) in values.iter().enumerate() {
            // SAFETY: inside the region by the caller's promise, aligned to an element.
            unsafe { AtomicU32::from_ptr(start.add(place(d))) }.store(value.to_bits(), Relaxed);
        }
        return;
    }
    let start = std::ptr::with_exposed_provenance_mut::<u16>(address);
    let mut narrow = [0u16; MAX_LANES];
    for at in (0..values.len()).step_by(S::LANES) {
        let left = values.len() - at;
        // SAFETY: `left` values lie at `values + at`; the buffer takes LANES.
        unsafe {
            let wide = S::load_upto(values.as_ptr().add(at), left);
            match dtype {
                KvDtype::F16 => S::store_f16(narrow.as_mut_ptr(), wide),
                _ => S::store_bf16(narrow.as_mut_ptr(), wide),
            }
        }
        for (lane, bits) in narrow.iter().enumerate().take(left.min(S::LANES)) {
            // SAFETY: inside the region by the caller's promise, aligned to an element.
            unsafe { AtomicU16::from_ptr(start.add(place(at + lane))) }.store(*bits, Relaxed);
        }
    }
}
