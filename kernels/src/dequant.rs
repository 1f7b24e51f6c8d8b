//! Weights as the file has them, to f32: the reference that every packed kernel is compared with.

use half::f16;

use crate::dtype::WeightType;
use crate::error::KernelError;
use crate::packed::blocks::Block;
use crate::packed::layout::{Element, Format, Scales, with_element, with_format};

/// Expands whole blocks: `dst.len()` values from `src`, little-endian, as in GGUF and safetensors.
///
/// # Errors
/// `dst` isn't a whole number of blocks, or `src` has another number of bytes than they take.
pub fn dequantize(ty: WeightType, src: &[u8], dst: &mut [f32]) -> Result<(), KernelError> {
    let bytes = ty.row_bytes(dst.len()).ok_or(KernelError::RowLength { ty, cols: dst.len() })?;
    KernelError::check("bytes of a quantised row", bytes, src.len())?;
    with_format!(ty, F => dequantize_blocks::<F>(ty, src, dst), dense => with_element!(ty, E => dequantize_dense::<E>(src, dst)));
    Ok(())
}

fn dequantize_dense<E: Element>(src: &[u8], dst: &mut [f32]) {
    for (value, bytes) in dst.iter_mut().zip(src.chunks_exact(E::BYTES)) {
        *value = E::value(bytes);
    }
}

fn dequantize_blocks<F: Format>(ty: WeightType, src: &[u8], dst: &mut [f32]) {
    let mut block = Block::new();
    for (bytes, out) in src.chunks_exact(ty.block_bytes()).zip(dst.chunks_exact_mut(ty.block_len())) {
        (F::READ)(bytes, &mut block);
        let d = f16::from_bits(block.d).to_f32();
        let m = f16::from_bits(block.m).to_f32();
        let sub_len = F::UNIT / F::SUBS;
        for (i, (out, q)) in out.chunks_exact_mut(sub_len).zip(block.q.chunks_exact(sub_len)).enumerate() {
            let (scale, min) = if F::SCALES == Scales::Block {
                (d, m)
            } else {
                (d * f32::from(block.scales[i] as i8), -(m * f32::from(block.mins[i])))
            };
            for (value, &q) in out.iter_mut().zip(q) {
                *value = (i32::from(q) - F::CENTER) as f32 * scale + min;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::quantized::{GgmlDType, QTensor};
    use candle_core::{Device, Shape};

    use super::*;
    use crate::packed::testing::{Rng, random_weights};

    fn ggml(ty: WeightType) -> GgmlDType {
        match ty {
            WeightType::F32 => GgmlDType::F32,
            WeightType::F16 => GgmlDType::F16,
            WeightType::BF16 => GgmlDType::BF16,
            WeightType::Q4_0 => GgmlDType::Q4_0,
            WeightType::Q4_1 => GgmlDType::Q4_1,
            WeightType::Q5_0 => GgmlDType::Q5_0,
            WeightType::Q5_1 => GgmlDType::Q5_1,
            WeightType::Q8_0 => GgmlDType::Q8_0,
            WeightType::Q2K => GgmlDType::Q2K,
            WeightType::Q3K => GgmlDType::Q3K,
            WeightType::Q4K => GgmlDType::Q4K,
            WeightType::Q5K => GgmlDType::Q5K,
            WeightType::Q6K => GgmlDType::Q6K,
        }
    }

    #[test]
    fn agrees_with_candle_on_random_bytes() {
        let mut rng = Rng::new(7);
        for ty in WeightType::ALL {
            let n = 8 * 256;
            let bytes = random_weights(&mut rng, ty, 1, n);
            let mut ours = vec![0.0; n];
            dequantize(ty, &bytes, &mut ours).unwrap();
            let storage = candle_core::quantized::ggml_file::qtensor_from_ggml(ggml(ty), &bytes, vec![n], &Device::Cpu);
            let theirs: QTensor = storage.unwrap();
            assert_eq!(theirs.shape(), &Shape::from(n));
            let theirs = theirs.dequantize(&Device::Cpu).unwrap().to_vec1::<f32>().unwrap();
            for (i, (a, b)) in ours.iter().zip(&theirs).enumerate() {
                assert_eq!((a + 0.0).to_bits(), (b + 0.0).to_bits(), "{} value {i}: {a} and {b}", ty.name());
            }
        }
    }

    #[test]
    fn sizes_are_checked() {
        let mut out = [0.0; 32];
        assert!(dequantize(WeightType::Q4_0, &[0; 17], &mut out).is_err());
        assert!(dequantize(WeightType::Q4K, &[0; 144], &mut out).is_err());
        assert!(dequantize(WeightType::Q4_0, &[0; 18], &mut out).is_ok());
    }
}
