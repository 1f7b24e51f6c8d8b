//! Small maps over whole buffers: scale, add, soft cap; and how rows are cut into tiles.

use crate::device::Cpu;
use crate::simd::{Kernel, Simd, dispatch};

/// Values a tile should have before a second thread is worth waking.
const TILE_VALUES: usize = 8192;

/// Rows of `width` values in a tile of an elementwise operation.
pub(crate) fn rows_per_tile(width: usize) -> usize {
    (TILE_VALUES / width.max(1)).max(1)
}

/// Checks that both buffers are the same whole number of rows; returns the width, at least 1.
pub(crate) fn assert_rows(what: &str, width: usize, len: usize, out_len: usize) -> usize {
    assert!(len == out_len, "{what}: input of {len} values, output of {out_len}");
    assert!(len == 0 || (width > 0 && len.is_multiple_of(width)), "{what}: {len} values are not whole rows of {width}");
    width.max(1)
}

/// `x *= factor`, e.g. Gemma's embedding scale.
pub fn scale(cpu: &Cpu, factor: f32, x: &mut [f32]) {
    cpu.pool.run_chunks(x, TILE_VALUES, &|_, x| map(cpu, Op::Scale(factor), x));
}

/// `x = cap * tanh(x / cap)` (Gemma 2).
pub fn softcap(cpu: &Cpu, cap: f32, x: &mut [f32]) {
    cpu.pool.run_chunks(x, TILE_VALUES, &|_, x| map(cpu, Op::Softcap(cap), x));
}

/// `x += y`.
///
/// # Panics
/// If the lengths differ.
pub fn add(cpu: &Cpu, y: &[f32], x: &mut [f32]) {
    assert!(y.len() == x.len(), "add: {} values to {}", y.len(), x.len());
    cpu.pool.run_chunks(x, TILE_VALUES, &|tile, x| map(cpu, Op::Add(&y[tile * TILE_VALUES..][..x.len()]), x));
}

#[derive(Clone, Copy)]
enum Op<'a> {
    Scale(f32),
    Softcap(f32),
    /// As long as the mapped slice.
    Add(&'a [f32]),
}

struct Map<'a> {
    op: Op<'a>,
    x: &'a mut [f32],
}

fn map(cpu: &Cpu, op: Op<'_>, x: &mut [f32]) {
    // SAFETY: `Op::Add` is made above with a slice as long as x.
    unsafe { dispatch(cpu.isa, Map { op, x }) }
}

impl Kernel for Map<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let (p, len) = (self.x.as_mut_ptr(), self.x.len());
        for at in (0..len).step_by(S::LANES) {
            // SAFETY: `len - at` values lie at p + at, and in the addend.
            unsafe {
                let x = S::load_upto(p.add(at), len - at);
                let y = match self.op {
                    Op::Scale(factor) => S::mul(x, S::splat(factor)),
                    Op::Softcap(cap) => soft_cap::<S>(x, cap),
                    Op::Add(addend) => S::add(x, S::load_upto(addend.as_ptr().add(at), len - at)),
                };
                S::store_upto(p.add(at), y, len - at);
            }
        }
    }
}

/// `cap * tanh(x / cap)`
#[inline(always)]
pub(crate) fn soft_cap<S: Simd>(x: S::V, cap: f32) -> S::V {
    S::mul(S::splat(cap), S::tanh(S::mul(x, S::splat(1.0 / cap))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, cpus, random};

    #[test]
    fn maps_match_f64_across_tile_borders() {
        for cpu in cpus() {
            for len in [0, 1, 17, TILE_VALUES + 5] {
                let (x, y) = (random(len, 1), random(len, 2));
                let mut out = x.clone();
                scale(&cpu, 25.3, &mut out);
                assert!(out.iter().zip(&x).all(|(out, x)| *out == x * 25.3));
                let mut out = x.clone();
                add(&cpu, &y, &mut out);
                assert!((0..len).all(|i| out[i] == x[i] + y[i]));
                let mut out = x.clone();
                softcap(&cpu, 0.5, &mut out);
                let want: Vec<f64> = x.iter().map(|&x| 0.5 * (f64::from(x) / 0.5).tanh()).collect();
                assert_close(&out, &want, 1e-6);
            }
        }
    }
}
