//! What tests of several kernels share: seeded values, 16-bit types, comparison.

use half::{bf16, f16};
use sconce_kernels::gpu::launch::HalfType;

use super::emu::Plain;

/// SplitMix64.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    /// The next 64 bits.
    pub(crate) fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        (self.bits() % end as u64) as usize
    }

    /// Values in -1..1.
    pub(crate) fn values(&mut self, len: usize) -> Vec<f32> {
        (0..len).map(|_| (self.bits() >> 40) as f32 / (1u64 << 23) as f32 - 1.0).collect()
    }

    /// Values in -1..1, rounded to a 16-bit type.
    pub(crate) fn halves<T: Half>(&mut self, len: usize) -> Vec<T> {
        self.values(len).into_iter().map(T::of).collect()
    }
}

/// A 16-bit type of activations.
pub(crate) trait Half: Plain + PartialEq + std::fmt::Debug {
    /// As launches name it.
    const TYPE: HalfType;
    /// Half a unit in the last place, relative: the error of one rounding.
    const ROUNDING: f32;
    /// Rounds to nearest.
    fn of(value: f32) -> Self;
    /// The value.
    fn value(self) -> f32;
}

impl Half for bf16 {
    const TYPE: HalfType = HalfType::Bf16;
    const ROUNDING: f32 = 1.0 / 256.0;

    fn of(value: f32) -> Self {
        Self::from_f32(value)
    }

    fn value(self) -> f32 {
        self.to_f32()
    }
}

impl Half for f16 {
    const TYPE: HalfType = HalfType::F16;
    const ROUNDING: f32 = 1.0 / 2048.0;

    fn of(value: f32) -> Self {
        Self::from_f32(value)
    }

    fn value(self) -> f32 {
        self.to_f32()
    }
}

/// The values in f32.
pub(crate) fn floats<T: Half>(values: &[T]) -> Vec<f32> {
    values.iter().map(|value| value.value()).collect()
}

/// Every value within `absolute + relative * |want|`.
#[track_caller]
pub(crate) fn assert_close(got: &[f32], want: &[f32], relative: f32, absolute: f32) {
    assert_eq!(got.len(), want.len(), "number of values");
    for (i, (&got, &want)) in got.iter().zip(want).enumerate() {
        let close = (got - want).abs() <= absolute + relative * want.abs();
        assert!(close, "value {i}: {got}, not {want}");
    }
}
