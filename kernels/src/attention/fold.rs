//! The running softmax of a row: folding chunk results in order, and the final division.

use crate::simd::{Kernel, Simd};

/// What a row has gathered so far, or what one chunk gives it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Softmax {
    /// Largest score; -inf when nothing was visible.
    pub(super) max: f32,
    /// Sum of `exp(score - max)`.
    pub(super) sum: f32,
}

impl Softmax {
    pub(super) const EMPTY: Self = Self { max: f32::NEG_INFINITY, sum: 0.0 };
}

/// Adds a chunk's `(part, part_values)` to `(state, values)`: both are rescaled to the larger maximum.
///
/// # Safety
/// Both pointers are good for `dim` values.
#[inline(always)]
pub(super) unsafe fn fold<S: Simd>(
    state: Softmax,
    values: *mut f32,
    part: Softmax,
    part_values: *const f32,
    dim: usize,
) -> Softmax {
    if part.max == f32::NEG_INFINITY {
        return state;
    }
    let max = if part.max > state.max { part.max } else { state.max };
    let old = S::exp(S::splat(state.max - max));
    let new = S::exp(S::splat(part.max - max));
    for at in (0..dim).step_by(S::LANES) {
        let left = dim - at;
        // SAFETY: `left` values lie at both pointers.
        unsafe {
            let added = S::mul(S::load_upto(part_values.add(at), left), new);
            let sum = S::fma(S::load_upto(values.add(at), left), old, added);
            S::store_upto(values.add(at), sum, left);
        }
    }
    let sum = S::largest(S::fma(S::splat(state.sum), old, S::mul(S::splat(part.sum), new)));
    Softmax { max, sum }
}

/// `out = values / sum`
///
/// # Safety
/// Both pointers are good for `dim` values; they may be equal.
#[inline(always)]
pub(super) unsafe fn finish<S: Simd>(state: Softmax, values: *const f32, out: *mut f32, dim: usize) {
    let sum = S::splat(state.sum);
    for at in (0..dim).step_by(S::LANES) {
        let left = dim - at;
        // SAFETY: `left` values lie at both pointers.
        unsafe { S::store_upto(out.add(at), S::div(S::load_upto(values.add(at), left), sum), left) };
    }
}

/// Folds one row of a split tile: partials of `out.len() + 2` values (values, max, sum), one every
/// `chunk_stride`, the last one complete.
pub(super) struct CombineRow<'a> {
    pub(super) partials: &'a [f32],
    pub(super) chunk_stride: usize,
    pub(super) out: &'a mut [f32],
}

impl Kernel for CombineRow<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let dim = self.out.len();
        let out = self.out.as_mut_ptr();
        self.out.fill(0.0);
        let mut state = Softmax::EMPTY;
        for partial in self.partials.chunks(self.chunk_stride) {
            let part = Softmax { max: partial[dim], sum: partial[dim + 1] };
            // SAFETY: `dim` values lie at both.
            state = unsafe { fold::<S>(state, out, part, partial.as_ptr(), dim) };
        }
        // SAFETY: as above.
        unsafe { finish::<S>(state, out, out, dim) };
    }
}
