//! RMS norm (Zhang and Sennrich, arXiv:1910.07467): `x / sqrt(mean(x^2) + eps) * w`, row by row.
//!
//! Three forms: into a buffer, of chosen rows only (the rows that sample), and added to the
//! residual (Gemma's norms behind a block). A row's bits depend on that row alone.

use crate::device::Cpu;
use crate::elementwise::{assert_rows, rows_per_tile};
use crate::simd::{Kernel, Simd, dispatch};

/// A norm's parameters.
#[derive(Clone, Copy, Debug)]
pub struct RmsNorm<'a> {
    /// One factor a column; its length is the width of a row.
    pub weight: &'a [f32],
    /// Added to the mean square.
    pub eps: f32,
    /// The stored weight is zero-centred: multiply by `1 + w`.
    pub one_plus: bool,
}

/// `out[M, H] = norm(x[M, H])`.
///
/// # Panics
/// If the lengths differ or are not whole rows.
pub fn rms_norm(cpu: &Cpu, norm: RmsNorm<'_>, x: &[f32], out: &mut [f32]) {
    let width = assert_rows("rms_norm", norm.weight.len(), x.len(), out.len());
    let rows = rows_per_tile(width);
    cpu.pool.run_chunks(out, rows * width, &|tile, out| {
        let first = tile * rows * width;
        for (x, out) in x[first..].chunks_exact(width).zip(out.chunks_exact_mut(width)) {
            norm.row::<false>(cpu, x, out);
        }
    });
}

/// `residual[M, H] += norm(x[M, H])`.
///
/// # Panics
/// If the lengths differ or are not whole rows.
pub fn rms_norm_add(cpu: &Cpu, norm: RmsNorm<'_>, x: &[f32], residual: &mut [f32]) {
    let width = assert_rows("rms_norm_add", norm.weight.len(), x.len(), residual.len());
    let rows = rows_per_tile(width);
    cpu.pool.run_chunks(residual, rows * width, &|tile, out| {
        let first = tile * rows * width;
        for (x, out) in x[first..].chunks_exact(width).zip(out.chunks_exact_mut(width)) {
            norm.row::<true>(cpu, x, out);
        }
    });
}

/// `out[i] = norm(x[rows[i]])`: the rows that sample, gathered.
///
/// # Panics
/// If a row lies outside `x`, or `out` is not `rows.len()` rows.
pub fn rms_norm_rows(cpu: &Cpu, norm: RmsNorm<'_>, x: &[f32], rows: &[u32], out: &mut [f32]) {
    let width = assert_rows("rms_norm_rows", norm.weight.len(), rows.len() * norm.weight.len(), out.len());
    cpu.pool.run_chunks(out, width, &|tile, out| {
        let first = rows[tile] as usize * width;
        norm.row::<false>(cpu, &x[first..first + width], out);
    });
}

impl RmsNorm<'_> {
    /// One row; ADD sums into `out`.
    fn row<const ADD: bool>(&self, cpu: &Cpu, x: &[f32], out: &mut [f32]) {
        debug_assert!(x.len() == self.weight.len() && out.len() == x.len());
        // SAFETY: x, weight and out are equally long.
        unsafe { dispatch(cpu.isa, Row::<ADD> { norm: self, x: x.as_ptr(), out: out.as_mut_ptr() }) }
    }

    /// Normalises one row in place.
    ///
    /// # Safety
    /// `x` is readable and writable for `weight.len()` values.
    #[inline(always)]
    pub(crate) unsafe fn in_place<S: Simd>(&self, x: *mut f32) {
        // SAFETY: each vector of x is read before it is written, and the sum is complete before.
        unsafe { Row::<false> { norm: self, x, out: x }.run::<S>() }
    }
}

/// `x` and `out` hold `norm.weight.len()` values each; they may be the same.
struct Row<'a, const ADD: bool> {
    norm: &'a RmsNorm<'a>,
    x: *const f32,
    out: *mut f32,
}

impl<const ADD: bool> Kernel for Row<'_, ADD> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let (width, weight) = (self.norm.weight.len(), self.norm.weight.as_ptr());
        // Two chains hide the latency of the fused multiply-add.
        let (mut even, mut odd) = (S::splat(0.0), S::splat(0.0));
        let mut at = 0;
        while at < width {
            // SAFETY: `width - at` values lie at x + at.
            let a = unsafe { S::load_upto(self.x.add(at), width - at) };
            even = S::fma(a, a, even);
            at += S::LANES;
            if at < width {
                // SAFETY: as above.
                let b = unsafe { S::load_upto(self.x.add(at), width - at) };
                odd = S::fma(b, b, odd);
                at += S::LANES;
            }
        }
        let mean = S::sum(S::add(even, odd)) / width as f32;
        let factor = S::splat(1.0 / (mean + self.norm.eps).sqrt());
        let offset = S::splat(if self.norm.one_plus { 1.0 } else { 0.0 });
        for at in (0..width).step_by(S::LANES) {
            let left = width - at;
            // SAFETY: `left` values lie at each pointer.
            unsafe {
                let w = S::add(S::load_upto(weight.add(at), left), offset);
                let y = S::mul(S::mul(S::load_upto(self.x.add(at), left), factor), w);
                let y = if ADD { S::add(S::load_upto(self.out.add(at), left), y) } else { y };
                S::store_upto(self.out.add(at), y, left);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, cpus, random};

    fn reference(norm: &RmsNorm<'_>, x: &[f32]) -> Vec<f64> {
        let mean = x.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / x.len() as f64;
        let factor = 1.0 / (mean + f64::from(norm.eps)).sqrt();
        let weight = |w: f32| f64::from(w) + if norm.one_plus { 1.0 } else { 0.0 };
        x.iter().zip(norm.weight).map(|(&x, &w)| f64::from(x) * factor * weight(w)).collect()
    }

    #[test]
    fn every_form_matches_f64_for_odd_widths_too() {
        for cpu in cpus() {
            for (width, one_plus) in [(1, false), (6, true), (64, false), (83, true), (640, false)] {
                let rows = 37;
                let (x, weight) = (random(rows * width, 1), random(width, 2));
                let norm = RmsNorm { weight: &weight, eps: 1e-6, one_plus };
                let want: Vec<f64> = x.chunks(width).flat_map(|row| reference(&norm, row)).collect();
                let mut out = vec![f32::NAN; x.len()];
                rms_norm(&cpu, norm, &x, &mut out);
                assert_close(&out, &want, 1e-6);

                let mut gathered = vec![f32::NAN; 3 * width];
                rms_norm_rows(&cpu, norm, &x, &[36, 0, 5], &mut gathered);
                for (i, row) in [36, 0, 5].into_iter().enumerate() {
                    assert_eq!(gathered[i * width..][..width], out[row * width..][..width]);
                }

                let residual = random(x.len(), 3);
                let mut sum = residual.clone();
                rms_norm_add(&cpu, norm, &x, &mut sum);
                for i in 0..sum.len() {
                    assert_eq!(sum[i], residual[i] + out[i]);
                }
            }
        }
    }
}
