//! Causal attention over paged keys and values, for any mix of prefill and decode rows.
//!
//! Softmax is split over the cache as in flash attention (Dao et al., arXiv:2205.14135): chunks of
//! `CHUNK` tokens at absolute positions give (max, sum, weighted values), and these are folded in
//! order of position. Nothing else orders the arithmetic of a row, so its bits do not depend on the
//! rows computed beside it, on how its prompt was cut, on where its blocks lie, or on threads. What
//! lies outside a row's window adds exact zeros or is skipped.
//!
//! Work is cut into query tiles (rows of one sequence x heads of one KV head, which share every load
//! of a key or value); a tile that is a large part of the step is cut again, chunk by chunk.

use std::sync::{Mutex, PoisonError};

use crate::arena::KvArena;
use crate::device::{Cpu, Isa};
use crate::kv::{BLOCK_SIZE, CacheKind, KvDtype, LayerSlot, SeqSpan};
use crate::pool::DisjointMut;
use crate::simd::dispatch;

mod chunk;
mod fold;
mod plan;
mod tile;

use fold::CombineRow;
use plan::{Plan, Tile};
use tile::TileRun;

/// Tokens whose softmax is one unit: a multiple of the block size.
pub(crate) const CHUNK: usize = 8 * BLOCK_SIZE;

/// Steps of fewer products than this (about 2 us) stay on the calling thread.
const INLINE_PRODUCTS: usize = 1 << 16;

/// One layer's heads.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionShape {
    /// Query heads.
    pub num_heads: usize,
    /// Key/value heads; divides `num_heads`.
    pub num_kv_heads: usize,
    /// Width of a query and key head. Even.
    pub head_dim_k: usize,
    /// Width of a value head. Even.
    pub head_dim_v: usize,
    /// Multiplies q.k.
    pub scale: f32,
    /// `cap * tanh(score / cap)` on scaled scores.
    pub softcap: Option<f32>,
    /// Full or sliding window.
    pub kind: CacheKind,
}

impl AttentionShape {
    /// Values of a row of `q | k | v`.
    pub fn qkv_width(&self) -> usize {
        (self.num_heads + self.num_kv_heads) * self.head_dim_k + self.num_kv_heads * self.head_dim_v
    }

    /// Values of an output row.
    pub fn out_width(&self) -> usize {
        self.num_heads * self.head_dim_v
    }

    /// Query heads that share a KV head.
    pub(crate) fn group(&self) -> usize {
        self.num_heads / self.num_kv_heads
    }
}

/// What one call attends to.
#[derive(Clone, Copy, Debug)]
pub struct Attention<'a> {
    /// Heads and widths.
    pub shape: &'a AttentionShape,
    /// Rows of the step by sequence: ascending `first_row`, disjoint.
    pub spans: &'a [SeqSpan<'a>],
    /// Keys and values, those of the step's own rows written already.
    pub arena: &'a KvArena,
    /// The layer.
    pub slot: LayerSlot,
}

/// Buffers reused between calls; they grow to the largest step seen.
#[derive(Debug, Default)]
pub struct AttentionScratch {
    plan: Plan,
    partials: Vec<f32>,
    /// One a thread at work.
    buffers: Mutex<Vec<Vec<Line>>>,
}

/// A cache line of f32, so that buffers are aligned.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
pub(crate) struct Line(#[allow(dead_code)] [f32; 16]);

/// `out[M, nh * dv]` = attention of the queries in `qkv[M, (nh + kvh) dk + kvh dv]` (normed and rotated,
/// see `qkv_post`). Rows outside every span are left alone.
///
/// # Panics
/// If shapes, spans, tables and arena do not agree: a bug of the caller.
pub fn attention(cpu: &Cpu, call: Attention<'_>, qkv: &[f32], out: &mut [f32], scratch: &mut AttentionScratch) {
    call.check(qkv.len(), out.len());
    let isa = call.isa(cpu);
    let AttentionScratch { plan, partials, buffers } = scratch;
    let num_partials = plan.fill(&call, cpu.pool.threads());
    if partials.len() < num_partials {
        partials.resize(num_partials, 0.0);
    }
    let out = DisjointMut::new(out);
    {
        let partials = DisjointMut::new(partials);
        let items = plan.items();
        let compute = |index: usize| {
            let mut buffer = lock(buffers).pop().unwrap_or_default();
            TileRun { call: &call, isa, qkv, out: &out, partials: &partials }.run(&items[index], &mut buffer);
            lock(buffers).push(buffer);
        };
        // Waking a thread costs more than a short context.
        if plan.cost() * call.shape.head_dim_k < INLINE_PRODUCTS {
            (0..items.len()).for_each(compute);
        } else {
            cpu.pool.run(items.len(), &compute);
        }
    }
    let (split, partials) = (plan.split_tiles(), partials.as_slice());
    cpu.pool.run(split.len(), &|index| call.combine(isa, &split[index], partials, &out));
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Attention<'_> {
    fn check(&self, qkv_len: usize, out_len: usize) {
        let (shape, spec) = (self.shape, self.arena.geometry().groups[self.slot.group].spec);
        let cached = (spec.num_kv_heads, spec.head_dim_k, spec.head_dim_v);
        assert!(
            cached == (shape.num_kv_heads, shape.head_dim_k, shape.head_dim_v),
            "attention: cache of another shape"
        );
        assert!(spec.dtype != KvDtype::E4m3, "attention: an e4m3 cache on a CPU");
        assert!(self.slot.index < self.arena.geometry().groups[self.slot.group].num_layers, "attention: no such layer");
        assert!(shape.num_kv_heads > 0 && shape.num_heads % shape.num_kv_heads == 0, "attention: ragged head groups");
        let even = shape.head_dim_k % 2 == 0 && shape.head_dim_v % 2 == 0 && shape.head_dim_v > 0;
        assert!(even, "attention: head sizes must be even");
        let rows = out_len / shape.out_width();
        assert!(out_len == rows * shape.out_width() && qkv_len == rows * shape.qkv_width(), "attention: ragged rows");
        let mut end = 0;
        for span in self.spans {
            assert!(span.first_row >= end, "attention: spans out of order or overlapping");
            end = span.first_row + span.num_rows;
            assert!(end <= rows, "attention: a span leaves the step's {rows} rows");
            let blocks = (span.start + span.num_rows).div_ceil(BLOCK_SIZE);
            assert!(span.table.len() >= blocks, "attention: table of {} blocks, not {blocks}", span.table.len());
        }
    }

    /// Narrow heads do not fill wide vectors.
    fn isa(&self, cpu: &Cpu) -> Isa {
        if 2 * self.shape.head_dim_v < crate::simd::MAX_LANES { Isa::Portable } else { cpu.isa }
    }

    /// Folds a split tile's chunks, in order, into its output rows.
    fn combine(&self, isa: Isa, tile: &Tile, partials: &[f32], out: &DisjointMut<'_, f32>) {
        let stride = self.shape.head_dim_v + 2;
        let chunk_stride = tile.num_queries * stride;
        let partials = &partials[tile.first_partial..][..tile.num_chunks * chunk_stride];
        for query in 0..tile.num_queries {
            // SAFETY: tiles own disjoint (row, head) pairs, and this run visits each once.
            let out = unsafe { self.out_row(tile, query, out) };
            let parts = CombineRow { partials: &partials[query * stride..], chunk_stride, out };
            // SAFETY: every chunk's partial of this row lies inside `partials`: checked by the slice above.
            unsafe { dispatch(isa, parts) };
        }
    }

    /// Output of one (row, head) of a tile.
    ///
    /// # Safety
    /// No other slice of the same pair may be alive.
    #[allow(clippy::mut_from_ref)]
    unsafe fn out_row<'a>(&self, tile: &Tile, query: usize, out: &'a DisjointMut<'_, f32>) -> &'a mut [f32] {
        let (row, head) = self.row_and_head(tile, query);
        let dim = self.shape.head_dim_v;
        // SAFETY: the caller's promise; pairs do not overlap.
        unsafe { out.slice(row * self.shape.out_width() + head * dim, dim) }
    }

    /// Step row and query head of query `query` of a tile.
    fn row_and_head(&self, tile: &Tile, query: usize) -> (usize, usize) {
        let (flat, group) = (tile.first_query + query, self.shape.group());
        (self.spans[tile.span].first_row + flat / group, tile.kv_head * group + flat % group)
    }

    /// Position in its sequence of query `query` of a tile.
    fn position(&self, tile: &Tile, query: usize) -> usize {
        self.spans[tile.span].start + (tile.first_query + query) / self.shape.group()
    }
}

#[cfg(test)]
#[path = "attention_tests.rs"]
mod tests;
