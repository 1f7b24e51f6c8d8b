//! What tests of several kernels share: devices, seeded values, comparison.

use crate::device::{Cpu, Isa};

/// A device for every instruction set this machine runs, of two threads.
pub(crate) fn cpus() -> Vec<Cpu> {
    let isas = [Isa::Portable, Isa::Avx2, Isa::Avx512].into_iter().filter(|&isa| isa <= Isa::detect());
    isas.map(|isa| Cpu { isa, ..Cpu::new(2) }).collect()
}

/// Seeded values in -1..1 (SplitMix64).
pub(crate) fn random(len: usize, seed: u64) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    (0..len).map(|_| (next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0).collect()
}

/// Every value within `tolerance * max(1, |want|)`.
#[track_caller]
pub(crate) fn assert_close(got: &[f32], want: &[f64], tolerance: f64) {
    assert_eq!(got.len(), want.len());
    for (i, (&got, &want)) in got.iter().zip(want).enumerate() {
        let error = (f64::from(got) - want).abs();
        assert!(error <= tolerance * want.abs().max(1.0), "value {i}: {got}, not {want}");
    }
}
