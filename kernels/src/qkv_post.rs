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
        assert!(spec.dtype != KvDtype::E4m3, "qkv_post: an e4m3 cache on a CPU");
        assert!(shape.head_dim_k.is_multiple_of(2), "qkv_post: key heads must be even");
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
            // SAFETY: the region holds [dim / 2][BLOCK_SIZE][2] elements from `address`.
            unsafe { store_key::<S>(dtype, values, address, self.token) };
        }
        for (head, values) in v.chunks_exact(shape.head_dim_v).enumerate() {
            let address = self.block + self.geometry.v_offset(self.layer, head);
            // SAFETY: the region holds [BLOCK_SIZE / 2][dim][2] elements from `address`.
            unsafe { store_value::<S>(dtype, values, address, self.token) };
        }
    }
}

/// Stores a key at `[d / 2][token][2]`: pair by pair, a pair row apart.
///
/// # Safety
/// `address` is the exposed, 64-byte aligned address of a whole key region; `values` is even.
#[inline(always)]
unsafe fn store_key<S: Simd>(dtype: KvDtype, values: &[f32], address: usize, token: usize) {
    if dtype == KvDtype::F32 {
        let start = std::ptr::with_exposed_provenance_mut::<u32>(address);
        for (d, value) in values.iter().enumerate() {
            let at = ((d / 2) * BLOCK_SIZE + token) * 2 + d % 2;
            // SAFETY: inside the region, aligned to an element.
            unsafe { AtomicU32::from_ptr(start.add(at)) }.store(value.to_bits(), Relaxed);
        }
        return;
    }
    let start = std::ptr::with_exposed_provenance_mut::<u32>(address);
    for at in (0..values.len()).step_by(S::LANES) {
        let part = &values[at..values.len().min(at + S::LANES)];
        let narrow = narrow::<S>(dtype, part);
        for (pair, bits) in narrow.chunks_exact(2).enumerate().take(part.len() / 2) {
            let both = u32::from_ne_bytes(bytes_of(bits));
            // SAFETY: pair `(at / 2 + pair, token)` of the region, aligned to a pair.
            unsafe { AtomicU32::from_ptr(start.add((at / 2 + pair) * BLOCK_SIZE + token)) }.store(both, Relaxed);
        }
    }
}

/// Stores a value at `[token / 2][d][2]`: every other element of a row.
///
/// # Safety
/// `address` is the exposed, 64-byte aligned address of a whole value region.
#[inline(always)]
unsafe fn store_value<S: Simd>(dtype: KvDtype, values: &[f32], address: usize, token: usize) {
    let first = (token / 2) * values.len() * 2 + token % 2;
    if dtype == KvDtype::F32 {
        let start = std::ptr::with_exposed_provenance_mut::<u32>(address);
        for (d, value) in values.iter().enumerate() {
            // SAFETY: inside the region, aligned to an element.
            unsafe { AtomicU32::from_ptr(start.add(first + 2 * d)) }.store(value.to_bits(), Relaxed);
        }
        return;
    }
    let start = std::ptr::with_exposed_provenance_mut::<u16>(address);
    for at in (0..values.len()).step_by(S::LANES) {
        let part = &values[at..values.len().min(at + S::LANES)];
        let narrow = narrow::<S>(dtype, part);
        for (lane, &bits) in narrow.iter().enumerate().take(part.len()) {
            // SAFETY: inside the region, aligned to an element.
            unsafe { AtomicU16::from_ptr(start.add(first + 2 * (at + lane))) }.store(bits, Relaxed);
        }
    }
}

/// Up to LANES values rounded to a 16-bit dtype.
#[inline(always)]
fn narrow<S: Simd>(dtype: KvDtype, values: &[f32]) -> [u16; MAX_LANES] {
    let mut narrow = [0; MAX_LANES];
    // SAFETY: `values.len()` values are readable; the buffer takes LANES.
    unsafe {
        let wide = S::load_upto(values.as_ptr(), values.len());
        match dtype {
            KvDtype::Bf16 => S::store_bf16(narrow.as_mut_ptr(), wide),
            _ => S::store_f16(narrow.as_mut_ptr(), wide),
        }
    }
    narrow
}

/// A pair as it lies in memory.
#[inline(always)]
fn bytes_of(pair: &[u16]) -> [u8; 4] {
    let [a, b] = [pair[0].to_ne_bytes(), pair[1].to_ne_bytes()];
    [a[0], a[1], b[0], b[1]]
}
