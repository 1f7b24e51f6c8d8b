//! RMS norm: every form, type and width class against `sconce_kernels::norm`.

use half::{bf16, f16};
use sconce_kernels::backend::NormParams;
use sconce_kernels::device::Cpu;
use sconce_kernels::gpu::launch::DevicePtr;
use sconce_kernels::gpu::norm::{NormTarget, RmsNorm};
use sconce_kernels::norm;

use super::emu::{Emulator, emulated};
use super::testing::{Half, Random, assert_close, floats};

/// One pack; a partial warp of packs; several packs a thread; more than a thread keeps in registers.
const WIDTHS: [usize; 5] = [8, 96, 576, 4096, 8 * (4 * 256 + 33)];

/// The result is rounded once to `T`; the sums differ by a few f32 roundings.
fn tolerance<T: Half>() -> f32 {
    T::ROUNDING + 1e-5
}

fn check<T: Half>(emu: &mut Emulator, rows: usize, width: usize, one_plus: bool) {
    let mut random = Random((rows * width) as u64);
    let x = random.halves::<T>(rows * width);
    let weight = random.values(width);
    let params = NormParams { eps: 1e-6, one_plus };
    let reference = norm::RmsNorm { weight: &weight, eps: params.eps, one_plus };
    let cpu = Cpu::new(1);

    let (x_at, weight_at, out) = (emu.upload(&x), emu.upload(&weight), emu.alloc::<T>(rows * width));
    let launch = |target, out: DevicePtr, rows| {
        RmsNorm { x: x_at.ptr(), weight: weight_at.ptr(), out, target, rows, width, params, half: T::TYPE }.launch()
    };
    emu.launch(&launch(NormTarget::Rows, out.ptr(), rows));
    let mut want = vec![0.0; rows * width];
    norm::rms_norm(&cpu, reference, &floats(&x), &mut want);
    assert_close(&floats(&out.read()), &want, tolerance::<T>(), 1e-6);

    // Added: two roundings, of the sum and of what it is made of.
    let residual = random.halves::<T>(rows * width);
    let sum = emu.upload(&residual);
    emu.launch(&launch(NormTarget::Added, sum.ptr(), rows));
    let mut want_sum = floats(&residual);
    norm::rms_norm_add(&cpu, reference, &floats(&x), &mut want_sum);
    assert_close(&floats(&sum.read()), &want_sum, tolerance::<T>(), 1e-5);

    // Gathered: bits of the plain form; the row in the middle is absent and stays as it was.
    if rows == 0 {
        return;
    }
    let picked = [rows - 1, usize::MAX, 0];
    let indices = emu.upload(&picked.map(|row| row as u32));
    let gathered = emu.alloc::<T>(3 * width);
    emu.launch(&launch(NormTarget::Gathered(indices.ptr()), gathered.ptr(), 3));
    let (plain, gathered) = (floats(&out.read()), floats(&gathered.read()));
    assert_eq!(gathered[..width], plain[(rows - 1) * width..]);
    assert!(gathered[width..2 * width].iter().all(|value| value.is_nan()));
    assert_eq!(gathered[2 * width..], plain[..width]);
}

#[test]
fn every_form_matches_the_cpu() {
    emulated(|emu| {
        for width in WIDTHS {
            for rows in [0, 1, 3] {
                check::<bf16>(emu, rows, width, rows == 3);
                check::<f16>(emu, rows, width, rows == 1);
            }
        }
    });
}

#[test]
fn a_row_may_be_normalised_in_place() {
    emulated(|emu| {
        let (rows, width) = (2, 9000);
        let mut random = Random(5);
        let x = random.halves::<bf16>(rows * width);
        let (from, to) = (emu.upload(&x), emu.alloc::<bf16>(rows * width));
        let weight = emu.upload(&random.values(width));
        for out in [to.ptr(), from.ptr()] {
            let params = NormParams { eps: 1e-5, one_plus: false };
            let (x, weight, target, half) = (from.ptr(), weight.ptr(), NormTarget::Rows, bf16::TYPE);
            emu.launch(&RmsNorm { x, weight, out, target, rows, width, params, half }.launch());
        }
        assert_eq!(from.read(), to.read());
    });
}

#[test]
#[should_panic(expected = "multiple of 8")]
fn a_width_that_packs_do_not_tile_is_refused() {
    let (x, weight, out) = (DevicePtr::NULL, DevicePtr::NULL, DevicePtr::NULL);
    let params = NormParams { eps: 1e-5, one_plus: false };
    let _ = RmsNorm { x, weight, out, target: NormTarget::Rows, rows: 1, width: 12, params, half: bf16::TYPE }.launch();
}
