//! One item of the work list: a query tile over its chunks, six queries at a time.

use half::{bf16, f16};

use super::chunk::{Chunk, Element, Visible};
use super::fold::{Softmax, finish};
use super::plan::{Item, Tile};
use super::{Attention, CHUNK, Line};
use crate::device::Isa;
use crate::kv::{BLOCK_SIZE, KvDtype};
use crate::pool::DisjointMut;
use crate::simd::{Kernel, Simd, dispatch};

/// Queries whose scores live in registers together: 6 x 4 accumulators of AVX-512, 6 x 2 of AVX2.
pub(super) const QUERIES: usize = 6;

/// Operands that all items share.
pub(super) struct TileRun<'a> {
    pub(super) call: &'a Attention<'a>,
    pub(super) isa: Isa,
    pub(super) qkv: &'a [f32],
    pub(super) out: &'a DisjointMut<'a, f32>,
    pub(super) partials: &'a DisjointMut<'a, f32>,
}

/// A thread's working memory, cut from one aligned buffer.
struct Buffers<'a> {
    /// Scaled queries, `[query][dk]`.
    queries: &'a mut [f32],
    /// Weighted values so far, `[query][dv]`.
    values: &'a mut [f32],
    /// Scores, then weights, of up to six queries, `[query][CHUNK]`.
    scores: &'a mut [f32],
    /// Weighted values of one chunk by pair lane, `[query][2 dv]`.
    lanes: &'a mut [f32],
}

impl<'a> Buffers<'a> {
    fn cut(buffer: &'a mut Vec<Line>, num_queries: usize, (dk, dv): (usize, usize)) -> Self {
        let sizes = [num_queries * dk, num_queries * dv, QUERIES * CHUNK, QUERIES * 2 * dv];
        let lines: usize = sizes.iter().map(|size| size.div_ceil(16)).sum();
        if buffer.len() < lines {
            buffer.resize(lines, Line([0.0; 16]));
        }
        // SAFETY: a line is 16 f32 without padding, and the buffer is borrowed for 'a.
        let mut rest: &'a mut [f32] =
            unsafe { std::slice::from_raw_parts_mut(buffer.as_mut_ptr().cast(), buffer.len() * 16) };
        let mut take = |size: usize| {
            let (head, tail) = std::mem::take(&mut rest).split_at_mut(size.next_multiple_of(16));
            rest = tail;
            &mut head[..size]
        };
        let [queries, values, scores, lanes] = sizes.map(&mut take);
        Self { queries, values, scores, lanes }
    }
}

impl TileRun<'_> {
    /// Computes an item: whole tiles end in `out`, chunks of split tiles in `partials`.
    pub(super) fn run(&self, item: &Item, buffer: &mut Vec<Line>) {
        match self.call.arena.geometry().groups[self.call.slot.group].spec.dtype {
            KvDtype::F16 => self.run_as::<f16>(item, buffer),
            KvDtype::Bf16 => self.run_as::<bf16>(item, buffer),
            KvDtype::F32 => self.run_as::<f32>(item, buffer),
            KvDtype::E4m3 => unreachable!("attention: refused by the check"),
        }
    }

    fn run_as<E: Element>(&self, item: &Item, buffer: &mut Vec<Line>) {
        let (tile, dims) = (&item.tile, (self.call.shape.head_dim_k, self.call.shape.head_dim_v));
        let mut buffers = Buffers::cut(buffer, tile.num_queries, dims);
        self.load_queries(tile, buffers.queries);
        let parts = tile.num_queries.div_ceil(QUERIES);
        let step = tile.num_queries.div_ceil(parts);
        for first in (0..tile.num_queries).step_by(step) {
            let part = first..tile.num_queries.min(first + step);
            match part.len() {
                1 => self.queries::<E, 1>(item, part.start, &mut buffers),
                2 => self.queries::<E, 2>(item, part.start, &mut buffers),
                3 => self.queries::<E, 3>(item, part.start, &mut buffers),
                4 => self.queries::<E, 4>(item, part.start, &mut buffers),
                5 => self.queries::<E, 5>(item, part.start, &mut buffers),
                _ => self.queries::<E, QUERIES>(item, part.start, &mut buffers),
            }
        }
    }

    fn load_queries(&self, tile: &Tile, queries: &mut [f32]) {
        let shape = self.call.shape;
        for (query, scaled) in queries.chunks_exact_mut(shape.head_dim_k).enumerate() {
            let (row, head) = self.call.row_and_head(tile, query);
            let source = &self.qkv[row * shape.qkv_width() + head * shape.head_dim_k..];
            scaled.iter_mut().zip(source).for_each(|(scaled, q)| *scaled = q * shape.scale);
        }
    }

    /// R queries from `first` over the item's chunks.
    fn queries<E: Element, const R: usize>(&self, item: &Item, first: usize, buffers: &mut Buffers<'_>) {
        let (tile, dv) = (&item.tile, self.call.shape.head_dim_v);
        let chunks = match item.chunk {
            Some(chunk) => chunk..chunk + 1,
            None => 0..tile.num_chunks,
        };
        let mut state = [Softmax::EMPTY; R];
        let values = &mut buffers.values[first * dv..][..R * dv];
        values.fill(0.0);
        for chunk in chunks {
            self.chunk::<E, R>(
                tile,
                first,
                tile.first_chunk + chunk,
                (&mut state, values),
                (&buffers.queries[first * self.call.shape.head_dim_k..], buffers.scores, buffers.lanes),
            );
        }
        for (r, values) in values.chunks_exact(dv).enumerate() {
            match item.chunk {
                Some(chunk) => {
                    let at = tile.first_partial + (chunk * tile.num_queries + first + r) * (dv + 2);
                    // SAFETY: one partial a (tile, chunk, query), each computed by one item.
                    let partial = unsafe { self.partials.slice(at, dv + 2) };
                    partial[..dv].copy_from_slice(values);
                    (partial[dv], partial[dv + 1]) = (state[r].max, state[r].sum);
                }
                None => {
                    // SAFETY: one (row, head) a query, each in one tile.
                    let out = unsafe { self.call.out_row(tile, first + r, self.out) };
                    // SAFETY: both hold dv values.
                    unsafe { dispatch(self.isa, Finish { state: state[r], values, out }) };
                }
            }
        }
    }

    /// Adds one chunk (absolute number) to the state of R queries, unless it lies outside their windows.
    fn chunk<E: Element, const R: usize>(
        &self,
        tile: &Tile,
        first: usize,
        chunk: usize,
        (state, values): (&mut [Softmax; R], &mut [f32]),
        (queries, scores, lanes): (&[f32], &mut [f32], &mut [f32]),
    ) {
        let (shape, begin) = (self.call.shape, chunk * CHUNK);
        let visible: [Visible; R] = std::array::from_fn(|r| {
            let position = self.call.position(tile, first + r);
            let clamp = |token: usize| token.saturating_sub(begin).min(CHUNK);
            Visible { begin: clamp(shape.kind.first_visible(position)), end: clamp(position + 1) }
        });
        // Positions ascend within the queries, so do the ends of their windows.
        let tokens = Visible { begin: visible[0].begin, end: visible[R - 1].end };
        if tokens.begin >= tokens.end {
            return;
        }
        let (mut keys, mut block_values) =
            ([std::ptr::null(); CHUNK / BLOCK_SIZE], [std::ptr::null(); CHUNK / BLOCK_SIZE]);
        let geometry = &self.call.arena.geometry().groups[self.call.slot.group];
        let k_offset = geometry.k_offset(self.call.slot.index, tile.kv_head);
        let v_offset = geometry.v_offset(self.call.slot.index, tile.kv_head);
        for block in tokens.begin / BLOCK_SIZE..tokens.end.div_ceil(BLOCK_SIZE) {
            let id = self.call.spans[tile.span].table[begin / BLOCK_SIZE + block];
            let offset = self.call.arena.checked_block_offset(self.call.slot.group, id);
            // SAFETY: the whole block lies in the arena, and the offsets in the block.
            unsafe {
                let block_start = self.call.arena.base().add(offset);
                keys[block] = block_start.add(k_offset).cast::<E>();
                block_values[block] = block_start.add(v_offset).cast::<E>();
            }
        }
        let work = Chunk::<E, R> {
            dims: (shape.head_dim_k, shape.head_dim_v),
            softcap: shape.softcap,
            keys,
            values: block_values,
            visible,
            tokens,
            queries: &queries[..R * shape.head_dim_k],
            scores: &mut scores[..R * CHUNK],
            lanes: &mut lanes[..R * 2 * shape.head_dim_v],
            state,
            sums: values,
        };
        // SAFETY: slices are as long as the kernel asks; every block that holds a visible token has its
        // addresses set. The arena is borrowed, so nobody writes.
        unsafe { dispatch(self.isa, work) };
    }
}

/// Divides one row by its sum; both slices are equally long.
struct Finish<'a> {
    state: Softmax,
    values: &'a [f32],
    out: &'a mut [f32],
}

impl Kernel for Finish<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        // SAFETY: both hold `out.len()` values.
        unsafe { finish::<S>(self.state, self.values.as_ptr(), self.out.as_mut_ptr(), self.out.len()) }
    }
}
