//! Plain Rust lanes: the reference, and what other architectures run.

use half::{bf16, f16};

use super::Simd;

/// Four lanes; the compiler may vectorise them.
#[derive(Clone, Copy)]
pub(crate) struct Portable;

const N: usize = 4;

#[inline(always)]
fn zip(a: [f32; N], b: [f32; N], f: impl Fn(f32, f32) -> f32) -> [f32; N] {
    std::array::from_fn(|i| f(a[i], b[i]))
}

/// f16 bits as f32, without a branch or a table: the exponent is rebased by a product, which also
/// normalises subnormal numbers.
#[inline(always)]
fn widen_f16(bits: u16) -> f32 {
    let magnitude = u32::from(bits & 0x7fff) << 13;
    let rebased = (f32::from_bits(magnitude) * f32::from_bits(0x7780_0000)).to_bits();
    let special = magnitude | 0x7f80_0000;
    let value = if magnitude >= 0x0f80_0000 { special } else { rebased };
    f32::from_bits(value | u32::from(bits & 0x8000) << 16)
}

impl Simd for Portable {
    const LANES: usize = N;
    const TILE: usize = 2;
    type V = [f32; N];

    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self::V {
        // SAFETY: readable for N values by the trait's contract.
        unsafe { p.cast::<[f32; N]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: Self::V) {
        // SAFETY: writable for N values by the trait's contract.
        unsafe { p.cast::<[f32; N]>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const u16) -> Self::V {
        // SAFETY: readable for N values by the trait's contract.
        unsafe { p.cast::<[u16; N]>().read_unaligned() }.map(widen_f16)
    }
    #[inline(always)]
    unsafe fn load_bf16(p: *const u16) -> Self::V {
        // SAFETY: readable for N values by the trait's contract.
        unsafe { p.cast::<[u16; N]>().read_unaligned() }.map(|bits| bf16::from_bits(bits).to_f32())
    }
    #[inline(always)]
    unsafe fn store_f16(p: *mut u16, v: Self::V) {
        let limit = f16::MAX.to_f32();
        let bits = v.map(|x| f16::from_f32(if x.is_finite() { x.clamp(-limit, limit) } else { x }).to_bits());
        // SAFETY: writable for N values by the trait's contract.
        unsafe { p.cast::<[u16; N]>().write_unaligned(bits) }
    }
    #[inline(always)]
    unsafe fn store_bf16(p: *mut u16, v: Self::V) {
        // SAFETY: writable for N values by the trait's contract.
        unsafe { p.cast::<[u16; N]>().write_unaligned(v.map(|x| bf16::from_f32(x).to_bits())) }
    }
    #[inline(always)]
    unsafe fn load_pair(p: *const f32) -> Self::V {
        // SAFETY: readable for two values by the trait's contract.
        let [a, b] = unsafe { p.cast::<[f32; 2]>().read_unaligned() };
        [a, b, a, b]
    }
    #[inline(always)]
    fn splat(x: f32) -> Self::V {
        [x; N]
    }
    #[inline(always)]
    fn add(a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| a + b)
    }
    #[inline(always)]
    fn sub(a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| a - b)
    }
    #[inline(always)]
    fn mul(a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| a * b)
    }
    #[inline(always)]
    fn div(a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| a / b)
    }
    #[inline(always)]
    fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        std::array::from_fn(|i| a[i] * b[i] + c[i])
    }
    #[inline(always)]
    fn max(a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    fn min(a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| if a < b { a } else { b })
    }
    #[inline(always)]
    fn round(v: Self::V) -> Self::V {
        v.map(f32::round_ties_even)
    }
    #[inline(always)]
    fn pow2(n: Self::V) -> Self::V {
        n.map(|n| f32::from_bits(((n as i32 + 127) as u32) << 23))
    }
    #[inline(always)]
    fn keep_if_ge(x: Self::V, bound: Self::V, v: Self::V) -> Self::V {
        std::array::from_fn(|i| if x[i] >= bound[i] { v[i] } else { 0.0 })
    }
    #[inline(always)]
    fn copysign(v: Self::V, sign: Self::V) -> Self::V {
        zip(v, sign, f32::copysign)
    }
    #[inline(always)]
    fn even_lanes(v: Self::V) -> Self::V {
        [v[0], 0.0, v[2], 0.0]
    }
    #[inline(always)]
    fn add_pairs(a: Self::V, b: Self::V) -> Self::V {
        [a[0] + a[1], a[2] + a[3], b[0] + b[1], b[2] + b[3]]
    }
    #[inline(always)]
    fn sum(v: Self::V) -> f32 {
        (v[0] + v[2]) + (v[1] + v[3])
    }
    #[inline(always)]
    fn largest(v: Self::V) -> f32 {
        v[0].max(v[2]).max(v[1].max(v[3]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_f16_widens_exactly() {
        for bits in 0..=u16::MAX {
            let (got, want) = (widen_f16(bits), f16::from_bits(bits).to_f32());
            assert!(got == want || got.is_nan() && want.is_nan(), "{bits:#x}: {got}, not {want}");
        }
    }
}
