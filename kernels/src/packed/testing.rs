//! Random weights for tests: random bits in the values, sane scales.

use half::{bf16, f16};

use crate::dtype::WeightType;

/// A small generator (splitmix64), seeded so that failures repeat.
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// Roughly normal, of variance 1.
    pub(crate) fn normal(&mut self) -> f32 {
        let sum: f32 = (0..12).map(|_| (self.bits() >> 40) as f32 / (1u64 << 24) as f32).sum();
        sum - 6.0
    }

    pub(crate) fn normals(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.normal()).collect()
    }
}

/// Bytes of a `rows x cols` matrix of this type.
pub(crate) fn random_weights(rng: &mut Rng, ty: WeightType, rows: usize, cols: usize) -> Vec<u8> {
    let blocks = rows * cols / ty.block_len();
    let mut out = Vec::new();
    for _ in 0..blocks {
        let start = out.len();
        match ty {
            WeightType::F32 => out.extend(rng.normal().to_le_bytes()),
            WeightType::F16 => out.extend(f16::from_f32(rng.normal()).to_le_bytes()),
            WeightType::BF16 => out.extend(bf16::from_f32(rng.normal()).to_le_bytes()),
            _ => out.extend((0..ty.block_bytes()).map(|_| rng.bits() as u8)),
        }
        let scale = f16::from_f32(0.02 * rng.normal()).to_le_bytes();
        let min = f16::from_f32(0.1 * rng.normal()).to_le_bytes();
        let (d, m) = match ty {
            WeightType::F32 | WeightType::F16 | WeightType::BF16 => (None, None),
            WeightType::Q4_0 | WeightType::Q5_0 | WeightType::Q8_0 => (Some(0), None),
            WeightType::Q2K => (Some(80), Some(82)),
            WeightType::Q3K => (Some(108), None),
            WeightType::Q6K => (Some(208), None),
            _ => (Some(0), Some(2)),
        };
        for (at, bytes) in [(d, scale), (m, min)] {
            if let Some(at) = at {
                out[start + at..start + at + 2].copy_from_slice(&bytes);
            }
        }
    }
    out
}
