//! Every instruction set against f64 mathematics, and its conversions against crate `half`.

use half::{bf16, f16};

use super::*;

/// Instruction sets this machine runs.
pub(crate) fn isas() -> Vec<Isa> {
    [Isa::Portable, Isa::Avx2, Isa::Avx512].into_iter().filter(|&isa| isa <= Isa::detect()).collect()
}

enum Op {
    Exp,
    Tanh,
}

struct Map<'a>(Op, &'a mut [f32]);

impl Kernel for Map<'_> {
    type Output = ();
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let (mut at, len) = (0, self.1.len());
        while at < len {
            let p = self.1[at..].as_mut_ptr();
            // SAFETY: `len - at` values lie at p.
            unsafe {
                let x = S::load_upto(p, len - at);
                let y = match self.0 {
                    Op::Exp => S::exp(x),
                    Op::Tanh => S::tanh(x),
                };
                S::store_upto(p, y, len - at);
            }
            at += S::LANES;
        }
    }
}

fn map(isa: Isa, op: Op, xs: &[f32]) -> Vec<f32> {
    let mut ys = xs.to_vec();
    // SAFETY: the kernel has no contract beyond its slice.
    unsafe { dispatch(isa, Map(op, &mut ys)) };
    ys
}

#[test]
fn exp_is_accurate_to_an_ulp_or_two_and_exact_at_its_ends() {
    let xs: Vec<f32> = (0..200_001).map(|i| (i as f32 - 100_000.0) * 8.7e-4).collect();
    for isa in isas() {
        for (x, y) in xs.iter().zip(map(isa, Op::Exp, &xs)) {
            let want = f64::from(*x).exp();
            assert!((f64::from(y) - want).abs() <= 1.5e-7 * want, "{isa:?} exp({x}) = {y}, not {want}");
        }
        let ends = map(isa, Op::Exp, &[0.0, f32::NEG_INFINITY, -1e30, -88.0, 1e30]);
        assert_eq!(ends[..4], [1.0, 0.0, 0.0, 0.0]);
        assert!(ends[4].is_finite() && ends[4] > 1e38);
    }
}

#[test]
fn tanh_is_accurate_near_zero_and_saturates() {
    let xs: Vec<f32> = (0..40_001).map(|i| (i as f32 - 20_000.0) * 6e-4).chain([1e-20, -1e-3, 100.0, -1e9]).collect();
    for isa in isas() {
        for (x, y) in xs.iter().zip(map(isa, Op::Tanh, &xs)) {
            let want = f64::from(*x).tanh();
            assert!((f64::from(y) - want).abs() <= 3e-7 * want.abs(), "{isa:?} tanh({x}) = {y}, not {want}");
        }
    }
}

struct Narrow<'a>(&'a [f32], &'a mut [u16], &'a mut [u16]);

impl Kernel for Narrow<'_> {
    type Output = ();
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        for at in (0..self.0.len()).step_by(S::LANES) {
            // SAFETY: the test's lengths are multiples of 16.
            unsafe {
                let v = S::load(self.0[at..].as_ptr());
                S::store_f16(self.1[at..].as_mut_ptr(), v);
                S::store_bf16(self.2[at..].as_mut_ptr(), v);
            }
        }
    }
}

#[test]
fn narrowing_rounds_to_nearest_even_and_f16_saturates() {
    let mut state = 1u32;
    let mut xs: Vec<f32> = (0..4096)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            f32::from_bits(state)
        })
        .filter(|x| x.is_finite() && (x.abs() < 65504.0))
        .collect();
    xs.truncate(xs.len() / 16 * 16 - 16);
    xs.extend([1e6, -1e6, 65504.0, 65519.0, 65520.0, 0.0, -0.0, 1e-8, 2049.0, 2051.0, 1.0, -1.0, 3.0, 4.0, 5.0, 6.0]);
    for isa in isas() {
        let (mut half, mut brain) = (vec![0; xs.len()], vec![0; xs.len()]);
        // SAFETY: equal lengths, multiples of 16.
        unsafe { dispatch(isa, Narrow(&xs, &mut half, &mut brain)) };
        for (i, x) in xs.iter().enumerate() {
            assert_eq!(half[i], f16::from_f32(x.clamp(-65504.0, 65504.0)).to_bits(), "{isa:?} f16 {x}");
            assert_eq!(brain[i], bf16::from_f32(*x).to_bits(), "{isa:?} bf16 {x}");
        }
    }
}
