//! Activation rows rounded to 8 bits: each block of 32 values has its scale, the largest magnitude over 127.

use crate::device::Isa;

/// Scale and sums of 32 rounded values.
#[derive(Clone, Copy, Debug, Default)]
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

/// Rounds whole blocks of 32; `q` is as long as `x`. NaN and infinity make the block's scale NaN or infinite.
#[inline(always)]
pub(crate) fn quantize(x: &[f32], q: &mut [i8], blocks: &mut [ActBlock]) {
    // Adding 1.5 * 2^23 leaves the nearest integer (ties to even) in the low bits; unlike `round` this vectorises.
    const MAGIC: f32 = 12_582_912.0;
    for ((x, q), block) in x.as_chunks::<32>().0.iter().zip(q.as_chunks_mut::<32>().0).zip(blocks) {
        // Positive floats compare like their bits, and NaN is above all of them.
        let bits = x.iter().fold(0, |max: u32, v| max.max(v.to_bits() & 0x7fff_ffff));
        let max = f32::from_bits(bits);
        let tiny = max < 1e-30;
        let inverse = if tiny { 0.0 } else { 127.0 / max };
        let mut sums = [0; 2];
        for h in 0..2 {
            for i in 16 * h..16 * h + 16 {
                let value = (x[i] * inverse + MAGIC).to_bits().wrapping_sub(MAGIC.to_bits()) as i8;
                q[i] = value;
                sums[h] += i32::from(value);
            }
        }
        let scale = if tiny { 0.0 } else { max / 127.0 };
        let sum = sums[0] + sums[1];
        *block = ActBlock { scale, sum: scale * sum as f32, neg: -sum, neg_hi: -sums[1] };
    }
}

/// `quantize` compiled for an instruction set that is present; results are the same on all.
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

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
fn quantize_avx512(x: &[f32], q: &mut [i8], blocks: &mut [ActBlock]) {
    quantize(x, q, blocks);
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
