//! Seeded values, 16-bit types, comparison.

use half::{bf16, f16};

use super::super::launch::HalfType;
use super::super::pod::Pod;
use super::{Checked, Fault};
use crate::kv::KvDtype;

/// SplitMix64.
pub struct Random(pub u64);

impl Random {
    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        (self.bits() % end as u64) as usize
    }

    /// Values in -1..1.
    pub fn values(&mut self, len: usize) -> Vec<f32> {
        (0..len).map(|_| (self.bits() >> 40) as f32 / (1u64 << 23) as f32 - 1.0).collect()
    }

    /// Values in -1..1, rounded to a 16-bit type.
    pub fn halves<T: Half>(&mut self, len: usize) -> Vec<T> {
        self.values(len).into_iter().map(T::of).collect()
    }
}

/// A 16-bit type of activations.
pub trait Half: Pod + PartialEq + std::fmt::Debug {
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
pub fn floats<T: Half>(values: &[T]) -> Vec<f32> {
    values.iter().map(|value| value.value()).collect()
}

/// Every value within `absolute + relative * |want|`.
///
/// # Errors
/// The value that is furthest outside, and how many are.
pub fn assert_close(got: &[f32], want: &[f32], relative: f32, absolute: f32) -> Checked {
    if got.len() != want.len() {
        return Err(Fault::Wrong(format!("{} values, not {}", got.len(), want.len())));
    }
    let (mut worst, mut count) = ((0.0, 0), 0);
    for (i, (&got, &want)) in got.iter().zip(want).enumerate() {
        let share = (got - want).abs() / (absolute + relative * want.abs());
        // Equal infinities are close, and NaN is nothing's neighbour.
        if got == want || share <= 1.0 {
            continue;
        }
        count += 1;
        if share.is_nan() || share > worst.0 {
            worst = (if share.is_nan() { f32::INFINITY } else { share }, i);
        }
    }
    if count == 0 {
        return Ok(());
    }
    let (share, i) = worst;
    let text = format!("value {i} is {}, not {}, {share:.3} times the tolerance", got[i], want[i]);
    Err(Fault::Wrong(format!("{text}; {count} of {} values are off", got.len())))
}

/// Bits and value of a finite value's e4m3, by search: the nearest of the 127 magnitudes, ties to the even one.
pub fn e4m3(value: f32) -> (u32, f32) {
    let decode = |bits: u32| {
        let (exponent, mantissa) = ((bits >> 3) as i32, (bits & 7) as f32);
        if exponent == 0 { mantissa / 512.0 } else { (1.0 + mantissa / 8.0) * 2f32.powi(exponent - 7) }
    };
    let magnitude = value.abs().min(448.0);
    let error = |bits: u32| ((decode(bits) - magnitude).abs(), bits & 1);
    let best =
        (0..127).min_by(|&a, &b| error(a).partial_cmp(&error(b)).unwrap_or(std::cmp::Ordering::Equal)).unwrap_or(0);
    let sign = if value.is_sign_negative() { 0x80 } else { 0 };
    (best | sign, decode(best).copysign(value))
}

/// A value as a cache keeps it.
pub fn cached(dtype: KvDtype, value: f32) -> f32 {
    match dtype {
        KvDtype::F16 => half::f16::from_f32(value.clamp(-65504.0, 65504.0)).to_f32(),
        KvDtype::Bf16 => half::bf16::from_f32(value).to_f32(),
        KvDtype::F32 => value,
        KvDtype::E4m3 => e4m3(value).1,
    }
}
