//! f32 vectors written once, compiled for AVX-512, AVX2 and plain Rust.
//!
//! A kernel is a struct with its operands and a generic `run`; [`dispatch`] compiles it into a
//! function per instruction set. Everything on the way must be `#[inline(always)]`, or the
//! intrinsics stay calls. A result may differ between instruction sets (fused multiply-add, width
//! of sums) but never within one.

use crate::device::Isa;

mod portable;
#[cfg(target_arch = "x86_64")]
mod x86;

pub(crate) use portable::Portable;

/// Most lanes of any instruction set.
pub(crate) const MAX_LANES: usize = 16;

/// A vector of f32 and what the kernels do with it. Pointers may be unaligned.
pub(crate) trait Simd: Copy {
    /// Lanes; even.
    const LANES: usize;
    /// Key token vectors (of `LANES / 2` tokens) and value vectors that a register tile is wide.
    const TILE: usize;
    /// The vector.
    type V: Copy;

    /// # Safety
    /// `p` is readable for LANES values; so for all loads.
    unsafe fn load(p: *const f32) -> Self::V;
    /// # Safety
    /// `p` is writable for LANES values.
    unsafe fn store(p: *mut f32, v: Self::V);
    /// # Safety
    /// See `load`.
    unsafe fn load_f16(p: *const u16) -> Self::V;
    /// # Safety
    /// See `load`.
    unsafe fn load_bf16(p: *const u16) -> Self::V;
    /// Repeats the two values at `p`: a b a b ...
    ///
    /// # Safety
    /// `p` is readable for two values.
    unsafe fn load_pair(p: *const f32) -> Self::V;
    /// Rounds to f16, nearest even; what is finite saturates at +-65504.
    ///
    /// # Safety
    /// `p` is writable for LANES values.
    unsafe fn store_f16(p: *mut u16, v: Self::V);
    /// Rounds to bf16, nearest even.
    ///
    /// # Safety
    /// `p` is writable for LANES values.
    unsafe fn store_bf16(p: *mut u16, v: Self::V);
    /// All lanes `x`.
    fn splat(x: f32) -> Self::V;
    /// `a + b`
    fn add(a: Self::V, b: Self::V) -> Self::V;
    /// `a - b`
    fn sub(a: Self::V, b: Self::V) -> Self::V;
    /// `a * b`
    fn mul(a: Self::V, b: Self::V) -> Self::V;
    /// `a / b`
    fn div(a: Self::V, b: Self::V) -> Self::V;
    /// `a * b + c`, fused where the machine can.
    fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// The larger; the second if either is NaN.
    fn max(a: Self::V, b: Self::V) -> Self::V;
    /// The smaller; the second if either is NaN.
    fn min(a: Self::V, b: Self::V) -> Self::V;
    /// Nearest integer, ties to even.
    fn round(v: Self::V) -> Self::V;
    /// `2^n` for whole n in -126..=127.
    fn pow2(n: Self::V) -> Self::V;
    /// `v` where `x >= bound`, else 0.
    fn keep_if_ge(x: Self::V, bound: Self::V, v: Self::V) -> Self::V;
    /// Sign bit of `sign` onto the magnitude of `v`.
    fn copysign(v: Self::V, sign: Self::V) -> Self::V;
    /// Odd lanes cleared to zero, NaN or not.
    fn even_lanes(v: Self::V) -> Self::V;
    /// `[a0 + a1, a2 + a3, ..., b0 + b1, ...]`
    fn add_pairs(a: Self::V, b: Self::V) -> Self::V;
    /// Sum of the lanes, in a fixed tree order.
    fn sum(v: Self::V) -> f32;
    /// Largest lane.
    fn largest(v: Self::V) -> f32;

    /// The first `left` values at `p`, zeros beyond; all lanes if `left` is LANES or more.
    ///
    /// # Safety
    /// `p` is readable for `min(left, LANES)` values.
    #[inline(always)]
    unsafe fn load_upto(p: *const f32, left: usize) -> Self::V {
        if left >= Self::LANES {
            // SAFETY: readable for LANES values.
            return unsafe { Self::load(p) };
        }
        let mut padded = [0.0; MAX_LANES];
        // SAFETY: `left` values are readable, and fewer than LANES fit the buffer.
        unsafe {
            std::ptr::copy_nonoverlapping(p, padded.as_mut_ptr(), left);
            Self::load(padded.as_ptr())
        }
    }

    /// Stores the first `left` lanes; all if `left` is LANES or more.
    ///
    /// # Safety
    /// `p` is writable for `min(left, LANES)` values.
    #[inline(always)]
    unsafe fn store_upto(p: *mut f32, v: Self::V, left: usize) {
        if left >= Self::LANES {
            // SAFETY: writable for LANES values.
            return unsafe { Self::store(p, v) };
        }
        let mut whole = [0.0; MAX_LANES];
        // SAFETY: the buffer takes LANES values, and `left` of them fit the destination.
        unsafe {
            Self::store(whole.as_mut_ptr(), v);
            std::ptr::copy_nonoverlapping(whole.as_ptr(), p, left);
        }
    }

    /// e^x to about 1e-7 relative: Cody-Waite reduction by ln 2 in two parts, then the degree-6
    /// Taylor-like minimax polynomial of Cephes `expf`. Exactly 1 at 0, exactly 0 below -87.3,
    /// held at e^88 above.
    #[inline(always)]
    fn exp(x: Self::V) -> Self::V {
        let lowest = Self::splat(-87.3);
        let bounded = Self::max(Self::min(x, Self::splat(88.0)), lowest);
        let n = Self::round(Self::mul(bounded, Self::splat(std::f32::consts::LOG2_E)));
        let r = Self::fma(n, Self::splat(-0.693_359_4), bounded);
        let r = Self::fma(n, Self::splat(2.121_944_4e-4), r);
        let mut poly = Self::splat(1.987_569_1e-4);
        for coefficient in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 5e-1] {
            poly = Self::fma(poly, r, Self::splat(coefficient));
        }
        let poly = Self::add(Self::fma(poly, Self::mul(r, r), r), Self::splat(1.0));
        Self::keep_if_ge(x, lowest, Self::mul(poly, Self::pow2(n)))
    }

    /// tanh x = 1 - 2 / (e^2x + 1), by a polynomial below 0.625 (Cephes `tanhf`) where that cancels.
    #[inline(always)]
    fn tanh(x: Self::V) -> Self::V {
        // Beyond 20 the result is 1; unbounded, the unused polynomial would overflow into NaN.
        let magnitude = Self::min(Self::max(x, Self::sub(Self::splat(0.0), x)), Self::splat(20.0));
        let exponential = Self::exp(Self::add(magnitude, magnitude));
        let far = Self::sub(Self::splat(1.0), Self::div(Self::splat(2.0), Self::add(exponential, Self::splat(1.0))));
        let square = Self::mul(magnitude, magnitude);
        let mut poly = Self::splat(-5.704_988_7e-3);
        for coefficient in [2.063_909e-2, -5.373_971_6e-2, 1.333_144_2e-1, -3.333_328e-1] {
            poly = Self::fma(poly, square, Self::splat(coefficient));
        }
        let near = Self::fma(Self::mul(poly, square), magnitude, magnitude);
        let bound = Self::splat(0.625);
        let far = Self::keep_if_ge(magnitude, bound, far);
        // `near` where the magnitude is below the bound: subtract what is kept above it.
        let near = Self::sub(near, Self::keep_if_ge(magnitude, bound, near));
        Self::copysign(Self::add(near, far), x)
    }
}

/// A computation compiled once an instruction set.
pub(crate) trait Kernel {
    /// What it returns.
    type Output;
    /// Must be `#[inline(always)]`.
    ///
    /// # Safety
    /// The machine has S's instructions, and what the kernel's own contract asks.
    unsafe fn run<S: Simd>(self) -> Self::Output;
}

/// Runs a kernel with the instructions of `isa`.
///
/// # Safety
/// The kernel's own contract.
#[inline(always)]
pub(crate) unsafe fn dispatch<K: Kernel>(isa: Isa, kernel: K) -> K::Output {
    match isa {
        // SAFETY: `Isa` values beyond the portable one come from detection; the rest is the caller's promise.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => unsafe { x86::run_avx512(kernel) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => unsafe { x86::run_avx2(kernel) },
        // SAFETY: needs no instructions; the rest is the caller's promise.
        _ => unsafe { kernel.run::<Portable>() },
    }
}

#[cfg(test)]
#[path = "simd_tests.rs"]
mod tests;
