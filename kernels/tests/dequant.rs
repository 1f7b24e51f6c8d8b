//! `dequantize` against gguf-py: random blocks of every weight type (`tests/reference/make_dequant.py`).

use std::path::Path;

use safetensors::SafeTensors;
use sconce_kernels::dequant::dequantize;
use sconce_kernels::dtype::WeightType;

const NUM_TYPES: usize = 13;

#[test]
fn every_type_agrees_with_gguf_py() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/dequant.safetensors");
    let file = std::fs::read(path).expect("fixture");
    let tensors = SafeTensors::deserialize(&file).expect("fixture");
    let mut checked = 0;
    for id in 0..40 {
        let Some(ty) = WeightType::from_ggml(id) else { continue };
        let data = tensors.tensor(&format!("{}.data", ty.name())).expect("data");
        let values = tensors.tensor(&format!("{}.values", ty.name())).expect("values");
        let expected: Vec<f32> =
            values.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        let mut got = vec![f32::NAN; expected.len()];
        dequantize(ty, data.data(), &mut got).expect("dequantizes");
        for (i, (a, b)) in got.iter().zip(&expected).enumerate() {
            // The order of multiplications may differ, by one rounding each.
            let tolerance = 1e-6 * b.abs() + 1e-6 * row_scale(&expected, i);
            assert!((a - b).abs() <= tolerance, "{} value {i}: {a}, expected {b}", ty.name());
        }
        checked += 1;
    }
    assert_eq!(checked, NUM_TYPES);
}

/// Largest magnitude among the 32 values around `i`: what `d * q - m` cancels from.
fn row_scale(values: &[f32], i: usize) -> f32 {
    let start = i / 32 * 32;
    values[start..start + 32].iter().fold(0.0_f32, |m, x| m.max(x.abs()))
}
