//! Activation rows rounded to 8 bits: each block of 32 values has its scale, the largest magnitude over 127.

use crate::device::Isa;

/// Scale and sums of 32 rounded values.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[repr(C)]
pub(crate) struct ActBlock {
    /// Value of one step.
    pub(crate) scale: f32,
    /// `scale` times the sum of the rounded values.
    pub(crate) sum: f32,
    /// Minus the sum of the rounded values: what a symmetric type adds `center` times.
    pub(crate) neg: i32,
    /// Minus the sum of the second 16.
    pub(crate) neg_hi: i32,
}

impl ActBlock {
    /// From the sums of both halves.
    #[inline(always)]
    fn new(scale: f32, low: i32, high: i32) -> Self {
        let sum = low + high;
        Self { scale, sum: scale * sum as f32, neg: -sum, neg_hi: -high }
    }
}

/// Value of a step for the largest magnitude, and its inverse; zeros if all values are next to nothing.
#[inline(always)]
fn steps(max: f32) -> (f32, f32) {
    if max < 1e-30 { (0.0, 0.0) } else { (max / 127.0, 127.0 / max) }
}

/// Rounds whole blocks of 32; `q` is as long as `x`. NaN and infinity make the block's scale NaN or infinite.
#[inline(always)]
pub(crate) fn quantize(x: &[f32], q: &mut [i8], blocks: &mut [ActBlock]) {
    // Adding 1.5 * 2^23 leaves the nearest integer (ties to even) in the low bits; unlike `round` this vectorises.
    const MAGIC: f32 = 12_582_912.0;
    for ((x, q), block) in x.as_chunks::<32>().0.iter().zip(q.as_chunks_mut::<32>().0).zip(blocks) {
        // Positive floats compare like their bits, and NaN is above all of them.
        let bits = x.iter().fold(0, |max: u32, v| max.max(v.to_bits() & 0x7fff_ffff));
        let max = f32::from_bits(bits);
        let (scale, inverse) = steps(max);
        let mut sums = [0; 2];
        for (i, (x, q)) in x.iter().zip(q).enumerate() {
            *q = (x * inverse + MAGIC).to_bits().wrapping_sub(MAGIC.to_bits()) as i8;
            sums[i / 16] += i32::from(*q);
        }
        *block = ActBlock::new(scale, sums[0], sums[1]);
    }
}

/// `quantize` with an instruction set that is present; finite values give the same results on all.
pub(crate) fn quantize_on(isa: Isa, x: &[f32], q: &mut [i8], blocks: &mut [ActBlock]) {
    match isa {
        // SAFETY: `Cpu` never has an instruction set that the machine lacks.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => unsafe { quantize_avx512(x, q, blocks) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => unsafe { quantize_avx2(x, q, blocks) },
        _ => quantize(x, q, blocks),
    }
}

/// `quantize` by hand: compilers leave the reductions scalar.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn quantize_avx512(x: &[f32], q: &mut [i8], blocks: &mut [ActBlock]) {
    use std::arch::x86_64::*;
    let magnitude = _mm512_set1_epi32(0x7fff_ffff);
    for ((x, q), block) in x.as_chunks::<32>().0.iter().zip(q.as_chunks_mut::<32>().0).zip(blocks) {
        // SAFETY: both halves are inside the 32 values.
        let (a, b) = unsafe { (_mm512_loadu_ps(x.as_ptr()), _mm512_loadu_ps(x.as_ptr().add(16))) };
        let a_bits = _mm512_and_si512(_mm512_castps_si512(a), magnitude);
        let b_bits = _mm512_and_si512(_mm512_castps_si512(b), magnitude);
        let max = f32::from_bits(_mm512_reduce_max_epu32(_mm512_max_epu32(a_bits, b_bits)));
        let (scale, inverse) = steps(max);
        let inverse = _mm512_set1_ps(inverse);
        let low = _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(_mm512_mul_ps(a, inverse)));
        let high = _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(_mm512_mul_ps(b, inverse)));
        let values = _mm256_set_m128i(high, low);
        // SAFETY: 32 bytes.
        unsafe { _mm256_storeu_si256(q.as_mut_ptr().cast(), values) };
        // Each 128-bit lane sums one half.
        let sums = _mm256_dpbusd_epi32(_mm256_setzero_si256(), _mm256_set1_epi8(1), values);
        let sums = _mm256_add_epi32(sums, _mm256_shuffle_epi32::<0b01_00_11_10>(sums));
        let sums = _mm256_add_epi32(sums, _mm256_shuffle_epi32::<0b10_11_00_01>(sums));
        let (sum, hi) = (_mm256_extract_epi32::<0>(sums), _mm256_extract_epi32::<4>(sums));
        *block = ActBlock::new(scale, sum, hi);
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn quantize_avx2(x: &[f32], q: &mut [i8], blocks: &mut [ActBlock]) {
    quantize(x, q, blocks);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_to_nearest_and_sums() {
        let x: Vec<f32> = (0..32).map(|i| (i as f32 - 16.0) * 0.37).collect();
        let (mut q, mut blocks) = ([0i8; 32], [ActBlock::default()]);
        quantize(&x, &mut q, &mut blocks);
        let block = blocks[0];
        for (x, q) in x.iter().zip(q) {
            assert!((x - f32::from(q) * block.scale).abs() <= block.scale * 0.5001);
        }
        assert_eq!(q[0], -127);
        assert_eq!(block.neg, -q.iter().map(|&v| i32::from(v)).sum::<i32>());
        assert_eq!(block.neg_hi, -q[16..].iter().map(|&v| i32::from(v)).sum::<i32>());
    }

    #[test]
    fn instruction_sets_agree() {
        let x = crate::packed::testing::Rng::new(11).normals(64 * 32);
        let run = |isa| {
            let (mut q, mut blocks) = (vec![0i8; x.len()], vec![ActBlock::default(); 64]);
            quantize_on(isa, &x, &mut q, &mut blocks);
            (q, blocks)
        };
        for isa in [Isa::Avx2, Isa::Avx512].into_iter().filter(|&isa| isa <= Isa::detect()) {
            assert_eq!(run(isa), run(Isa::Portable), "{isa:?}");
        }
    }

    #[test]
    fn zeros_and_broken_values() {
        let (mut q, mut blocks) = ([1i8; 32], [ActBlock::default()]);
        quantize(&[1e-40; 32], &mut q, &mut blocks);
        assert_eq!((q, blocks[0].scale), ([0; 32], 0.0));
        let mut x = [1.0; 32];
        x[3] = f32::NAN;
        quantize(&x, &mut q, &mut blocks);
        assert!(blocks[0].scale.is_nan());
        x[3] = f32::INFINITY;
        quantize(&x, &mut q, &mut blocks);
        assert!(!blocks[0].scale.is_finite());
    }
}
