//! Gated activations against [`crate::activation`].

use super::super::activation::Gated;
use super::super::device::GpuDevice;
use super::{Bed, Checked, Half, Random, assert_close, floats};
use crate::activation::{GateActivation, gated_activation};
use crate::device::Cpu;

/// Gates of random rows, some of them far out.
///
/// # Errors
/// When a value is not the CPU's.
pub fn check<T: Half, D: GpuDevice>(
    bed: &mut Bed<D>,
    activation: GateActivation,
    rows: usize,
    width: usize,
) -> Checked {
    let mut random = Random(width as u64);
    let mut gate_up: Vec<T> = random.values(rows * 2 * width).into_iter().map(|x| T::of(6.0 * x)).collect();
    // Gates whose exponential overflows, on either side.
    if let Some(first) = gate_up.get_mut(..2) {
        first.copy_from_slice(&[T::of(-3e4), T::of(3e4)]);
    }
    let (input, out) = (bed.upload(&gate_up)?, bed.alloc::<T>(rows * width)?);
    let (gate_up_at, out_at) = (input.ptr(), out.ptr());
    bed.launch(&Gated { gate_up: gate_up_at, out: out_at, rows, width, activation, half: T::TYPE }.launch())?;
    let mut want = vec![0.0; rows * width];
    gated_activation(&Cpu::new(1), activation, width, &floats(&gate_up), &mut want);
    // One rounding of the result; a product beyond f16 is infinite in both.
    let want: Vec<f32> = want.into_iter().map(|x| T::of(x).value()).collect();
    assert_close(&floats(&bed.read(&out)?), &want, 2.0 * T::ROUNDING, 4e-6)
        .map_err(|fault| fault.of(format!("{activation:?} of {rows} x {width}")))
}
