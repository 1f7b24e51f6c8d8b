//! A dense matrix product as a value, and which of a library's algorithms computes it.

use super::launch::{DevicePtr, HalfType};

/// `out[m, n] (+)= a[m, k] w[n, k]^T (+ bias[n])`; `a`, `w` and `bias` of type `half`, sums in f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gemm {
    /// Rows.
    pub m: usize,
    /// Output features.
    pub n: usize,
    /// Input features: a multiple of 8.
    pub k: usize,
    /// `[m, k]`
    pub a: DevicePtr,
    /// `[n, k]`
    pub w: DevicePtr,
    /// `[n]`, or null.
    pub bias: DevicePtr,
    /// `[m, n]`: of type `half`, or f32 for logits.
    pub out: DevicePtr,
    /// Type of `a`, `w` and `bias`.
    pub half: HalfType,
    /// `out` is f32.
    pub out_f32: bool,
    /// Adds onto what `out` holds.
    pub accumulate: bool,
}

/// What a choice of algorithm depends on, beside the card and the library's version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GemmShape {
    /// Rows, rounded up to a bucket: a power of two up to 64, then multiples of 64 up to 512, then of 512.
    pub m: usize,
    /// Output features.
    pub n: usize,
    /// Input features.
    pub k: usize,
    /// f16 instead of bf16.
    pub f16: bool,
    /// f32 output.
    pub out_f32: bool,
    /// Has a bias.
    pub bias: bool,
    /// Adds onto the output.
    pub accumulate: bool,
}

impl Gemm {
    /// The shape that chooses this product's algorithm.
    pub fn shape(&self) -> GemmShape {
        GemmShape {
            m: bucket(self.m),
            n: self.n,
            k: self.k,
            f16: self.half == HalfType::F16,
            out_f32: self.out_f32,
            bias: self.bias != DevicePtr::NULL,
            accumulate: self.accumulate,
        }
    }
}

/// Rounds a number of rows up to the next one that algorithms are chosen for.
pub fn bucket(rows: usize) -> usize {
    match rows {
        0..=64 => rows.max(1).next_power_of_two(),
        65..=512 => rows.next_multiple_of(64),
        _ => rows.next_multiple_of(512),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_cover_and_stay_close() {
        assert_eq!([0, 1, 2, 3, 9, 64, 65, 512, 513].map(bucket), [1, 1, 2, 4, 16, 64, 128, 512, 1024]);
        assert!((1..5000).all(|rows| bucket(rows) >= rows && bucket(rows) < 2 * rows.max(1) + 1));
    }
}
