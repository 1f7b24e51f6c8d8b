//! Gated activations: `act(gate) * up`, the two halves of one row side by side.

use crate::device::Cpu;
use crate::elementwise::rows_per_tile;
use crate::simd::{Kernel, Simd, dispatch};

/// What the gate goes through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GateActivation {
    /// `x * sigmoid(x)`
    Silu,
    /// `x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3)))`
    GeluTanh,
    /// `x / 2 * (1 + erf(x / sqrt 2))`
    Gelu,
}

/// `out[M, I] = act(gate_up[M, 0..I]) * gate_up[M, I..2I]`.
///
/// # Panics
/// If `out` is not whole rows of `width`, or `gate_up` not twice as long.
pub fn gated_activation(cpu: &Cpu, act: GateActivation, width: usize, gate_up: &[f32], out: &mut [f32]) {
    let width = width.max(1);
    assert!(out.len().is_multiple_of(width), "gated_activation: {} values are not whole rows of {width}", out.len());
    assert!(gate_up.len() == 2 * out.len(), "gated_activation: input of {}, output of {}", gate_up.len(), out.len());
    let rows = rows_per_tile(width);
    cpu.pool.run_chunks(out, rows * width, &|tile, out| {
        let inputs = gate_up[tile * rows * 2 * width..].chunks_exact(2 * width);
        for (input, out) in inputs.zip(out.chunks_exact_mut(width)) {
            // SAFETY: the input row is twice as long as the output row.
            unsafe { dispatch(cpu.isa, Row { act, input, out }) }
        }
    });
}

/// `input` is twice as long as `out`.
struct Row<'a> {
    act: GateActivation,
    input: &'a [f32],
    out: &'a mut [f32],
}

impl Kernel for Row<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let width = self.out.len();
        let (gate, out) = (self.input.as_ptr(), self.out.as_mut_ptr());
        for at in (0..width).step_by(S::LANES) {
            let left = width - at;
            // SAFETY: gate and up hold `width` values each, side by side; out holds `width`.
            unsafe {
                let x = S::load_upto(gate.add(at), left);
                let up = S::load_upto(gate.add(width + at), left);
                let y = match self.act {
                    GateActivation::Silu => times_sigmoid::<S>(x, x),
                    GateActivation::GeluTanh => gelu_tanh::<S>(x),
                    GateActivation::Gelu => gelu::<S>(x),
                };
                S::store_upto(out.add(at), S::mul(y, up), left);
            }
        }
    }
}

/// `x * sigmoid(u) = x / (1 + e^-u)`
#[inline(always)]
fn times_sigmoid<S: Simd>(x: S::V, u: S::V) -> S::V {
    S::div(x, S::add(S::splat(1.0), S::exp(S::sub(S::splat(0.0), u))))
}

/// `(1 + tanh u) / 2` is `sigmoid(2u)`, which does not cancel.
#[inline(always)]
fn gelu_tanh<S: Simd>(x: S::V) -> S::V {
    const TWICE_SQRT_2_OVER_PI: f32 = 1.595_769;
    let cubic = S::fma(S::mul(S::mul(x, x), x), S::splat(0.044_715), x);
    times_sigmoid::<S>(x, S::mul(cubic, S::splat(TWICE_SQRT_2_OVER_PI)))
}

/// erf by Abramowitz and Stegun 7.1.26: absolute error at most 1.5e-7.
#[inline(always)]
fn gelu<S: Simd>(x: S::V) -> S::V {
    let z = S::mul(x, S::splat(std::f32::consts::FRAC_1_SQRT_2));
    let magnitude = S::max(z, S::sub(S::splat(0.0), z));
    let t = S::div(S::splat(1.0), S::fma(magnitude, S::splat(0.327_591_1), S::splat(1.0)));
    let mut poly = S::splat(1.061_405_4);
    for coefficient in [-1.453_152, 1.421_413_8, -0.284_496_74, 0.254_829_6] {
        poly = S::fma(poly, t, S::splat(coefficient));
    }
    let tail = S::mul(S::mul(poly, t), S::exp(S::sub(S::splat(0.0), S::mul(z, z))));
    let erf = S::copysign(S::sub(S::splat(1.0), tail), x);
    S::mul(S::mul(x, S::splat(0.5)), S::add(S::splat(1.0), erf))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, cpus, random};

    /// erf by its Maclaurin series: exact enough for |x| < 4.
    fn erf(x: f64) -> f64 {
        let (mut term, mut sum) = (x, x);
        for n in 1..200 {
            term *= -x * x / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        sum * 2.0 / std::f64::consts::PI.sqrt()
    }

    fn reference(act: GateActivation, x: f64) -> f64 {
        match act {
            GateActivation::Silu => x / (1.0 + (-x).exp()),
            GateActivation::GeluTanh => {
                0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh())
            }
            GateActivation::Gelu => 0.5 * x * (1.0 + erf(x / 2f64.sqrt())),
        }
    }

    #[test]
    fn activations_match_f64_for_odd_widths_too() {
        for cpu in cpus() {
            for act in [GateActivation::Silu, GateActivation::GeluTanh, GateActivation::Gelu] {
                for width in [1, 24, 53, 1536] {
                    let rows = 11;
                    let input: Vec<f32> = random(rows * 2 * width, 7).into_iter().map(|x| 5.0 * x).collect();
                    let want: Vec<f64> = input
                        .chunks(2 * width)
                        .flat_map(|row| {
                            (0..width).map(|i| reference(act, f64::from(row[i])) * f64::from(row[width + i]))
                        })
                        .collect();
                    let mut out = vec![f32::NAN; rows * width];
                    gated_activation(&cpu, act, width, &input, &mut out);
                    assert_close(&out, &want, 3e-6);
                }
            }
        }
    }

    #[test]
    fn extreme_gates_stay_finite() {
        for cpu in cpus() {
            for act in [GateActivation::Silu, GateActivation::GeluTanh, GateActivation::Gelu] {
                let mut out = [f32::NAN; 3];
                gated_activation(&cpu, act, 3, &[-1e4, 1e4, 0.0, 1.0, 1.0, 1.0], &mut out);
                assert!(out[0].abs() < 1e-30 && out[1] == 1e4 && out[2] == 0.0, "{act:?} {out:?}");
            }
        }
    }
}
