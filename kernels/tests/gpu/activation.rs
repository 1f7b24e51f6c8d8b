//! Gated activations against `sconce_kernels::activation`.

use half::{bf16, f16};
use sconce_kernels::activation::{GateActivation, gated_activation};
use sconce_kernels::device::Cpu;
use sconce_kernels::gpu::activation::Gated;

use super::emu::{Emulator, emulated};
use super::testing::{Half, Random, floats};

fn check<T: Half>(emu: &mut Emulator, activation: GateActivation, rows: usize, width: usize) {
    let mut random = Random(width as u64);
    let mut gate_up: Vec<T> = random.values(rows * 2 * width).into_iter().map(|x| T::of(6.0 * x)).collect();
    // Gates whose exponential overflows, on either side.
    if let Some(first) = gate_up.get_mut(..2) {
        first.copy_from_slice(&[T::of(-3e4), T::of(3e4)]);
    }
    let (input, out) = (emu.upload(&gate_up), emu.alloc::<T>(rows * width));
    let (gate_up_at, out_at) = (input.ptr(), out.ptr());
    emu.launch(&Gated { gate_up: gate_up_at, out: out_at, rows, width, activation, half: T::TYPE }.launch());
    let mut want = vec![0.0; rows * width];
    gated_activation(&Cpu::new(1), activation, width, &floats(&gate_up), &mut want);
    // One rounding of the result; a product beyond f16 is infinite in both.
    let want: Vec<f32> = want.into_iter().map(|x| T::of(x).value()).collect();
    let got = floats(&out.read());
    for (i, (&got, &want)) in got.iter().zip(&want).enumerate() {
        let close = got == want || (got - want).abs() <= 2.0 * T::ROUNDING * want.abs() + 4e-6;
        assert!(close, "{activation:?} value {i} of width {width}: {got}, not {want}");
    }
}

#[test]
fn every_activation_matches_the_cpu() {
    emulated(|emu| {
        for activation in [GateActivation::Silu, GateActivation::GeluTanh, GateActivation::Gelu] {
            for (rows, width) in [(0, 8), (1, 8), (3, 264), (2, 2048), (2, 2056)] {
                check::<bf16>(emu, activation, rows, width);
                check::<f16>(emu, activation, rows, width);
            }
        }
    });
}
