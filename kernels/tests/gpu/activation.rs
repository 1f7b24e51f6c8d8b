//! Gated activations against `sconce_kernels::activation`.

use half::{bf16, f16};
use sconce_kernels::activation::GateActivation;
use sconce_kernels::gpu::verify::activation::check;

use super::emu::emulated_bed;

#[test]
fn every_activation_matches_the_cpu() {
    emulated_bed(|bed| {
        for activation in [GateActivation::Silu, GateActivation::GeluTanh, GateActivation::Gelu] {
            for (rows, width) in [(0, 8), (1, 8), (3, 264), (2, 2048), (2, 2056)] {
                check::<bf16, _>(bed, activation, rows, width).expect("matches");
                check::<f16, _>(bed, activation, rows, width).expect("matches");
            }
        }
    });
}
