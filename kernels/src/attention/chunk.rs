//! The inner kernel: R queries over one chunk. Scores, softmax, weighted values, fold.
//!
//! Keys and values come as pairs of one 32-bit (or 64-bit) unit: a vector of scores holds
//! `(token, parity of d)` lanes until the end of a head, a vector of weighted values
//! `(d, parity of token)` lanes until the end of the chunk; then neighbours are added once.

use half::{bf16, f16};

use super::CHUNK;
use super::fold::{Softmax, fold};
use crate::elementwise::soft_cap;
use crate::kv::BLOCK_SIZE;
use crate::simd::{Kernel, Simd};

/// Elements of a pair row of a key block: 32 tokens x 2.
const PAIR_ROW: usize = 2 * BLOCK_SIZE;

/// A cached element type.
pub(super) trait Element: Copy + Send + Sync {
    /// LANES elements, widened.
    ///
    /// # Safety
    /// `p` is readable for LANES elements.
    unsafe fn load<S: Simd>(p: *const Self) -> S::V;
}

impl Element for f16 {
    #[inline(always)]
    unsafe fn load<S: Simd>(p: *const Self) -> S::V {
        // SAFETY: the caller's promise.
        unsafe { S::load_f16(p.cast()) }
    }
}

impl Element for bf16 {
    #[inline(always)]
    unsafe fn load<S: Simd>(p: *const Self) -> S::V {
        // SAFETY: the caller's promise.
        unsafe { S::load_bf16(p.cast()) }
    }
}

impl Element for f32 {
    #[inline(always)]
    unsafe fn load<S: Simd>(p: *const Self) -> S::V {
        // SAFETY: the caller's promise.
        unsafe { S::load(p) }
    }
}

/// Tokens `begin..end` of a chunk.
#[derive(Clone, Copy, Debug)]
pub(super) struct Visible {
    pub(super) begin: usize,
    pub(super) end: usize,
}

/// R queries over one chunk. `queries[R][dk]`, `scores[R][CHUNK]`, `lanes[R][2 dv]`, `sums[R][dv]`;
/// every block that overlaps `tokens` has addresses of `BLOCK_SIZE * dk` and `* dv` elements; tokens
/// of these blocks before `tokens.end` are written.
pub(super) struct Chunk<'a, E, const R: usize> {
    pub(super) dims: (usize, usize),
    pub(super) softcap: Option<f32>,
    pub(super) keys: [*const E; CHUNK / BLOCK_SIZE],
    pub(super) values: [*const E; CHUNK / BLOCK_SIZE],
    /// What each query sees of the chunk.
    pub(super) visible: [Visible; R],
    /// What any of them sees.
    pub(super) tokens: Visible,
    pub(super) queries: &'a [f32],
    pub(super) scores: &'a mut [f32],
    pub(super) lanes: &'a mut [f32],
    pub(super) state: &'a mut [Softmax; R],
    pub(super) sums: &'a mut [f32],
}

impl<E: Element, const R: usize> Kernel for Chunk<'_, E, R> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(mut self) {
        // SAFETY: all operands are as the struct says.
        unsafe {
            match S::TILE {
                4 => self.score_blocks::<S, 4>(),
                _ => self.score_blocks::<S, 2>(),
            }
            let parts: [Softmax; R] = self.softmax::<S>();
            self.weigh_values::<S>();
            self.fold_rows::<S>(parts);
        }
    }
}

impl<E: Element, const R: usize> Chunk<'_, E, R> {
    fn blocks(&self) -> std::ops::Range<usize> {
        self.tokens.begin / BLOCK_SIZE..self.tokens.end.div_ceil(BLOCK_SIZE)
    }

    /// `scores[r][token] = q[r] . k[token]` for whole blocks.
    #[inline(always)]
    unsafe fn score_blocks<S: Simd, const T: usize>(&mut self) {
        let dk = self.dims.0;
        for block in self.blocks() {
            for column in (0..PAIR_ROW).step_by(T * S::LANES) {
                let mut sums = [[S::splat(0.0); T]; R];
                // SAFETY: `column` is inside a pair row.
                let mut key = unsafe { self.keys[block].add(column) };
                let mut query = self.queries.as_ptr();
                for _ in 0..dk / 2 {
                    // SAFETY: dk / 2 pair rows of keys, dk values of each query.
                    unsafe {
                        let mut k = [S::splat(0.0); T];
                        for (t, k) in k.iter_mut().enumerate() {
                            *k = E::load::<S>(key.add(t * S::LANES));
                        }
                        for (r, sums) in sums.iter_mut().enumerate() {
                            let q = S::load_pair(query.add(r * dk));
                            for t in 0..T {
                                sums[t] = S::fma(q, k[t], sums[t]);
                            }
                        }
                        key = key.wrapping_add(PAIR_ROW);
                        query = query.wrapping_add(2);
                    }
                }
                for (r, sums) in sums.iter().enumerate() {
                    for t in (0..T).step_by(2) {
                        let token = block * BLOCK_SIZE + (column + t * S::LANES) / 2;
                        // SAFETY: LANES tokens of the chunk from `token`.
                        unsafe {
                            let score = S::add_pairs(sums[t], sums[t + 1]);
                            S::store(self.scores.as_mut_ptr().add(r * CHUNK + token), score);
                        }
                    }
                }
            }
        }
    }

    /// Scores to weights `exp(score - max)`, zero where a query does not see.
    #[inline(always)]
    unsafe fn softmax<S: Simd>(&mut self) -> [Softmax; R] {
        let span = self.blocks().start * BLOCK_SIZE..self.blocks().end * BLOCK_SIZE;
        let mut parts = [Softmax::EMPTY; R];
        for (r, part) in parts.iter_mut().enumerate() {
            let Visible { begin, end } = self.visible[r];
            let row = &mut self.scores[r * CHUNK..(r + 1) * CHUNK];
            if begin >= end {
                row[span.clone()].fill(0.0);
                continue;
            }
            row[span.start..begin].fill(f32::NEG_INFINITY);
            row[end..span.end].fill(f32::NEG_INFINITY);
            let p = row.as_mut_ptr();
            let mut max = S::splat(f32::NEG_INFINITY);
            for at in span.clone().step_by(S::LANES) {
                // SAFETY: the span is whole blocks, so whole vectors, of the row.
                unsafe {
                    let mut score = S::load(p.add(at));
                    if let Some(cap) = self.softcap {
                        // -inf would come back as -cap: keep what is masked below every cap.
                        let capped = soft_cap::<S>(score, cap);
                        let lowest = S::splat(f32::MIN);
                        let masked = S::sub(score, S::keep_if_ge(score, lowest, score));
                        score = S::add(S::keep_if_ge(score, lowest, capped), masked);
                        S::store(p.add(at), score);
                    }
                    max = S::max(max, score);
                }
            }
            let max = S::largest(max);
            let mut sum = S::splat(0.0);
            for at in span.clone().step_by(S::LANES) {
                // SAFETY: as above.
                unsafe {
                    let weight = S::exp(S::sub(S::load(p.add(at)), S::splat(max)));
                    S::store(p.add(at), weight);
                    sum = S::add(sum, weight);
                }
            }
            *part = Softmax { max, sum: S::sum(sum) };
        }
        parts
    }

    /// `lanes[r] = sum over tokens of weight * value`, by pair lane.
    #[inline(always)]
    unsafe fn weigh_values<S: Simd>(&mut self) {
        let row = 2 * self.dims.1;
        let mut lane = 0;
        // SAFETY: full tiles, then single vectors, the last one moved back to end with the row (it
        // computes some lanes again, to the same bits). A row has LANES lanes at least.
        unsafe {
            match S::TILE {
                4 => {
                    while lane + 4 * S::LANES <= row {
                        self.weigh_tile::<S, 4>(lane);
                        lane += 4 * S::LANES;
                    }
                }
                _ => {
                    while lane + 2 * S::LANES <= row {
                        self.weigh_tile::<S, 2>(lane);
                        lane += 2 * S::LANES;
                    }
                }
            }
            while lane < row {
                self.weigh_tile::<S, 1>(lane.min(row - S::LANES));
                lane += S::LANES;
            }
        }
    }

    /// T vectors from `lane` of every query's row.
    #[inline(always)]
    unsafe fn weigh_tile<S: Simd, const T: usize>(&mut self, lane: usize) {
        let row = 2 * self.dims.1;
        let mut sums = [[S::splat(0.0); T]; R];
        for block in self.blocks() {
            let tokens = (self.tokens.end - block * BLOCK_SIZE).min(BLOCK_SIZE);
            // SAFETY: `lane` is inside a pair row; weights of the block lie inside each score row.
            let (mut value, mut weight) =
                unsafe { (self.values[block].add(lane), self.scores.as_ptr().add(block * BLOCK_SIZE)) };
            for _ in 0..tokens / 2 {
                // SAFETY: 16 pair rows of values, 32 weights of each query.
                unsafe { multiply::<S, E, R, T, false>(value, weight, &mut sums) };
                value = value.wrapping_add(row);
                weight = weight.wrapping_add(2);
            }
            if tokens % 2 == 1 {
                // SAFETY: as above; the second token of the pair may never have been written.
                unsafe { multiply::<S, E, R, T, true>(value, weight, &mut sums) };
            }
        }
        for (r, sums) in sums.iter().enumerate() {
            for (t, &sum) in sums.iter().enumerate() {
                // SAFETY: T vectors from `lane` lie in the row.
                unsafe { S::store(self.lanes.as_mut_ptr().add(r * row + lane + t * S::LANES), sum) };
            }
        }
    }

    /// Adds neighbouring lanes and folds the chunk into each query's running result.
    #[inline(always)]
    unsafe fn fold_rows<S: Simd>(&mut self, parts: [Softmax; R]) {
        let dv = self.dims.1;
        for (r, part) in parts.into_iter().enumerate() {
            let lanes = self.lanes[r * 2 * dv..(r + 1) * 2 * dv].as_mut_ptr();
            for at in (0..dv).step_by(S::LANES) {
                let left = 2 * (dv - at);
                // SAFETY: `left` lanes from 2 at; the sum goes where lanes are already read.
                unsafe {
                    let low = S::load_upto(lanes.add(2 * at), left);
                    let high = if left > S::LANES {
                        S::load_upto(lanes.add(2 * at + S::LANES), left - S::LANES)
                    } else {
                        S::splat(0.0)
                    };
                    S::store_upto(lanes.add(at), S::add_pairs(low, high), dv - at);
                }
            }
            // SAFETY: dv values at both.
            self.state[r] = unsafe { fold::<S>(self.state[r], self.sums[r * dv..].as_mut_ptr(), part, lanes, dv) };
        }
    }
}

/// One pair of tokens: adds `weight * value` to T vectors of R queries. HALF ignores the second token.
#[inline(always)]
unsafe fn multiply<S: Simd, E: Element, const R: usize, const T: usize, const HALF: bool>(
    value: *const E,
    weight: *const f32,
    sums: &mut [[S::V; T]; R],
) {
    // SAFETY: the caller's promise: T vectors of values, a pair of weights every CHUNK.
    unsafe {
        let mut v = [S::splat(0.0); T];
        for (t, v) in v.iter_mut().enumerate() {
            *v = E::load::<S>(value.add(t * S::LANES));
            if HALF {
                *v = S::even_lanes(*v);
            }
        }
        for (r, sums) in sums.iter_mut().enumerate() {
            let w = S::load_pair(weight.add(r * CHUNK));
            for t in 0..T {
                sums[t] = S::fma(w, v[t], sums[t]);
            }
        }
    }
}
