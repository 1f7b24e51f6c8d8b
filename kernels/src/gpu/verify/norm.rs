//! RMS norm: every form against [`crate::norm`].

use super::super::device::GpuDevice;
use super::super::launch::DevicePtr;
use super::super::norm::{NormTarget, RmsNorm};
use super::{Bed, Checked, Fault, Half, Random, assert_close, ensure, floats};
use crate::backend::NormParams;
use crate::device::Cpu;
use crate::norm;

/// The result is rounded once to `T`; the sums differ by a few f32 roundings.
fn tolerance<T: Half>() -> f32 {
    T::ROUNDING + 1e-5
}

/// Every form of the norm over random rows.
///
/// # Errors
/// When a value is not the CPU's, or a row is written that should not be.
pub fn check<T: Half, D: GpuDevice>(bed: &mut Bed<D>, rows: usize, width: usize, one_plus: bool) -> Checked {
    let what =
        |form: &'static str| move |fault: Fault| fault.of(format!("{form} of {rows} x {width}, 1 + w: {one_plus}"));
    let mut random = Random((rows * width) as u64);
    let x = random.halves::<T>(rows * width);
    let weight = random.values(width);
    let params = NormParams { eps: 1e-6, one_plus };
    let reference = norm::RmsNorm { weight: &weight, eps: params.eps, one_plus };
    let cpu = Cpu::new(1);

    let (x_at, weight_at, out) = (bed.upload(&x)?, bed.upload(&weight)?, bed.alloc::<T>(rows * width)?);
    let launch = |target, out: DevicePtr, rows| {
        RmsNorm { x: x_at.ptr(), weight: weight_at.ptr(), out, target, rows, width, params, half: T::TYPE }.launch()
    };
    bed.launch(&launch(NormTarget::Rows, out.ptr(), rows))?;
    let mut want = vec![0.0; rows * width];
    norm::rms_norm(&cpu, reference, &floats(&x), &mut want);
    let plain = floats(&bed.read(&out)?);
    assert_close(&plain, &want, tolerance::<T>(), 1e-6).map_err(what("norm"))?;

    // Added: two roundings, of the sum and of what it is made of.
    let residual = random.halves::<T>(rows * width);
    let sum = bed.upload(&residual)?;
    bed.launch(&launch(NormTarget::Added, sum.ptr(), rows))?;
    let mut want_sum = floats(&residual);
    norm::rms_norm_add(&cpu, reference, &floats(&x), &mut want_sum);
    assert_close(&floats(&bed.read(&sum)?), &want_sum, tolerance::<T>(), 1e-5).map_err(what("added norm"))?;

    // Gathered: bits of the plain form; the row in the middle is absent and stays as it was.
    if rows == 0 {
        return Ok(());
    }
    let picked = [rows - 1, usize::MAX, 0];
    let indices = bed.upload(&picked.map(|row| row as u32))?;
    let gathered = bed.alloc::<T>(3 * width)?;
    bed.launch(&launch(NormTarget::Gathered(indices.ptr()), gathered.ptr(), 3))?;
    let gathered = floats(&bed.read(&gathered)?);
    let absent = gathered[width..2 * width].iter().all(|value| value.is_nan());
    let equal = gathered[..width] == plain[(rows - 1) * width..] && gathered[2 * width..] == plain[..width];
    ensure(absent && equal, || "other bits than the plain form's, or an absent row".to_owned())
        .map_err(what("gathered norm"))
}
