//! Products against an f64 reference, bit-identity across batches and threads, hostile sizes.

use super::*;
use crate::dequant::dequantize;
use crate::device::Precision::{F32, Int8};
use crate::packed::testing::{Rng, random_weights};
use crate::pool::ThreadPool;

const PRECISIONS: [Precision; 2] = [F32, Int8];

fn isas() -> Vec<Isa> {
    [Isa::Portable, Isa::Avx2, Isa::Avx512].into_iter().filter(|&isa| isa <= Isa::detect()).collect()
}

fn cpu(isa: Isa, precision: Precision, threads: usize) -> Cpu {
    Cpu { pool: ThreadPool::new(threads), isa, precision }
}

fn view(ty: WeightType, data: &[u8], rows: usize, cols: usize) -> MatrixView<'_> {
    MatrixView { ty, data, rows, cols }
}

fn expand(ty: WeightType, data: &[u8], len: usize) -> Vec<f32> {
    let mut out = vec![0.0; len];
    dequantize(ty, data, &mut out).unwrap();
    out
}

/// x W^T in f64.
fn reference(x: &[f32], w: &[f32], cols: usize) -> Vec<f64> {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
    x.chunks_exact(cols).flat_map(|x| w.chunks_exact(cols).map(move |w| dot(x, w))).collect()
}

fn product(cpu: &Cpu, w: &Linear, x: &[f32]) -> Vec<f32> {
    let mut y = vec![f32::NAN; x.len() / w.in_features() * w.out_features()];
    linear(cpu, w, x, &mut y, false, &mut LinearScratch::new()).unwrap();
    y
}

/// Root of the mean squared error over that of the reference.
fn relative_rms(y: &[f32], reference: &[f64]) -> f64 {
    let error: f64 = y.iter().zip(reference).map(|(y, r)| (f64::from(*y) - r).powi(2)).sum();
    let power: f64 = reference.iter().map(|r| r * r).sum();
    (error / power).sqrt()
}

fn columns(ty: WeightType) -> usize {
    match ty.block_len() {
        1 => 333,
        32 => 544,
        _ => 768,
    }
}

#[test]
fn packing_loses_nothing() {
    let mut rng = Rng::new(1);
    let cpu = cpu(Isa::Portable, F32, 2);
    for ty in WeightType::ALL {
        let cols = columns(ty);
        let (a, b) = (random_weights(&mut rng, ty, 37, cols), random_weights(&mut rng, WeightType::F16, 5, cols));
        let w = Linear::pack(&cpu, &[view(ty, &a, 37, cols), view(WeightType::F16, &b, 5, cols)], None).unwrap();
        assert_eq!(w.bytes(), Linear::packed_bytes(&[(ty, 37, cols), (WeightType::F16, 5, cols)]));
        let mut expected = expand(ty, &a, 37 * cols);
        expected.extend(expand(WeightType::F16, &b, 5 * cols));
        let mut row = vec![0.0; cols];
        for (i, expected) in expected.chunks_exact(cols).enumerate() {
            w.dequantize_row(i, &mut row).unwrap();
            assert_eq!(row, expected, "{} row {i}", ty.name());
        }
        assert!(w.dequantize_row(42, &mut row).is_err());
    }
}

#[test]
fn packed_is_about_as_large_as_the_file() {
    for ty in WeightType::ALL {
        let file = ty.row_bytes(2048).unwrap() * 1024;
        let packed = Linear::packed_bytes(&[(ty, 1024, 2048)]);
        assert!(packed as f64 <= file as f64 * 1.04, "{}: {packed} for {file}", ty.name());
    }
}

/// The bound that `packed` states.
fn int8_bound(ty: WeightType) -> f64 {
    if ty.is_dense() { 1e-6 } else { 0.008 }
}

#[test]
fn products_agree_with_f64() {
    let mut rng = Rng::new(2);
    for ty in WeightType::ALL {
        let cols = columns(ty);
        let data = random_weights(&mut rng, ty, 83, cols);
        let x = rng.normals(9 * cols);
        let expected = reference(&x, &expand(ty, &data, 83 * cols), cols);
        for isa in isas() {
            for precision in PRECISIONS {
                let cpu = cpu(isa, precision, 1);
                let w = Linear::pack(&cpu, &[view(ty, &data, 83, cols)], None).unwrap();
                let error = relative_rms(&product(&cpu, &w, &x), &expected);
                println!("{} {isa:?} {precision:?}: {error:.2e}", ty.name());
                let bound = if precision == F32 { 1e-6 } else { int8_bound(ty) };
                assert!(error < bound, "{} {isa:?} {precision:?}: relative RMS error {error}", ty.name());
            }
        }
    }
}

#[test]
fn int8_products_agree_between_instruction_sets() {
    let mut rng = Rng::new(3);
    for ty in WeightType::ALL {
        let cols = columns(ty);
        let data = random_weights(&mut rng, ty, 64, cols);
        // Extreme activations: every one is 127 or -127 after rounding, the worst case of integer overflow.
        let x: Vec<f32> = (0..5 * cols).map(|i| if i % 7 == 3 { -1.0 } else { 1.0 }).collect();
        let expected = reference(&x, &expand(ty, &data, 64 * cols), cols);
        for isa in isas() {
            let cpu = cpu(isa, Int8, 1);
            let w = Linear::pack(&cpu, &[view(ty, &data, 64, cols)], None).unwrap();
            let error = relative_rms(&product(&cpu, &w, &x), &expected);
            assert!(error < 2e-6, "{} {isa:?}: {error}", ty.name());
        }
    }
}

/// All weights and activations at the end of their range.
#[test]
fn largest_integers_do_not_saturate() {
    for ty in WeightType::ALL.into_iter().filter(|ty| !ty.is_dense()) {
        for byte in [0xff, 0x80, 0x7f, 0x00] {
            let cols = 768;
            let mut data = vec![byte; 16 * ty.row_bytes(cols).unwrap()];
            let one = half::f16::ONE.to_le_bytes();
            let at = match ty {
                WeightType::Q2K => 80,
                WeightType::Q3K => 108,
                WeightType::Q6K => 208,
                _ => 0,
            };
            for block in data.chunks_exact_mut(ty.block_bytes()) {
                block[at..at + 2].copy_from_slice(&one);
                if matches!(
                    ty,
                    WeightType::Q4_1 | WeightType::Q5_1 | WeightType::Q2K | WeightType::Q4K | WeightType::Q5K
                ) {
                    block[at + 2..at + 4].copy_from_slice(&one);
                }
            }
            let expected = expand(ty, &data, 16 * cols);
            for sign in [1.0, -1.0] {
                let x = vec![sign; cols];
                let expected = reference(&x, &expected, cols);
                for isa in isas() {
                    let cpu = cpu(isa, Int8, 1);
                    let w = Linear::pack(&cpu, &[view(ty, &data, 16, cols)], None).unwrap();
                    for (y, e) in product(&cpu, &w, &x).iter().zip(&expected) {
                        let error = (f64::from(*y) - e).abs();
                        assert!(error <= 1e-4 * (e.abs() + 768.0), "{} {isa:?} {byte:x}: {y} for {e}", ty.name());
                    }
                }
            }
        }
    }
}

#[test]
fn rows_do_not_depend_on_batch_or_threads() {
    let mut rng = Rng::new(4);
    const ROWS: [usize; 11] = [1, 2, 3, 4, 5, 7, 8, 9, 16, 33, 100];
    for ty in WeightType::ALL {
        let cols = columns(ty);
        let data = random_weights(&mut rng, ty, 101, cols);
        let other = random_weights(&mut rng, WeightType::BF16, 7, cols);
        let parts = [view(WeightType::BF16, &other, 7, cols), view(ty, &data, 101, cols)];
        let x = rng.normals(100 * cols);
        let bias = rng.normals(108);
        for isa in isas() {
            for precision in PRECISIONS {
                let one = cpu(isa, precision, 1);
                let w = Linear::pack(&one, &parts, Some(bias.clone())).unwrap();
                let singles: Vec<f32> = x.chunks_exact(cols).flat_map(|x| product(&one, &w, x)).collect();
                for rows in ROWS {
                    let many = cpu(isa, precision, 1 + rows % 3);
                    let y = product(&many, &w, &x[(100 - rows) * cols..]);
                    let same = y.iter().zip(&singles[(100 - rows) * 108..]).all(|(a, b)| a.to_bits() == b.to_bits());
                    assert!(same, "{} {isa:?} {precision:?} {rows} rows", ty.name());
                }
            }
        }
    }
}

#[test]
fn bias_and_residual_are_added() {
    let mut rng = Rng::new(5);
    let (ty, cols) = (WeightType::Q4_1, 64);
    let data = random_weights(&mut rng, ty, 21, cols);
    let (x, bias) = (rng.normals(3 * cols), rng.normals(21));
    for isa in isas() {
        let cpu = cpu(isa, Int8, 1);
        let plain = Linear::pack(&cpu, &[view(ty, &data, 21, cols)], None).unwrap();
        let biased = Linear::pack(&cpu, &[view(ty, &data, 21, cols)], Some(bias.clone())).unwrap();
        let product = product(&cpu, &plain, &x);
        let mut y = vec![1.5; 3 * 21];
        linear(&cpu, &biased, &x, &mut y, true, &mut LinearScratch::new()).unwrap();
        for (i, y) in y.iter().enumerate() {
            assert_eq!(*y, product[i] + bias[i % 21] + 1.5);
        }
    }
}

#[test]
fn hostile_sizes_are_errors() {
    let cpu = cpu(Isa::detect(), Int8, 1);
    let bytes = vec![0u8; 18 * 4];
    let q4 = |rows, cols, data| view(WeightType::Q4_0, data, rows, cols);
    let pack = |parts: &[MatrixView]| Linear::pack(&cpu, parts, None).map(|_| ()).unwrap_err().to_string();
    assert_eq!(pack(&[]), "parts of a linear layer: expected 1, got 0");
    assert_eq!(pack(&[q4(4, 33, &bytes)]), "a row of 33 values isn't a whole number of Q4_0 blocks of 32");
    assert_eq!(pack(&[q4(4, 32, &bytes[1..])]), "bytes of a weight matrix: expected 72, got 71");
    assert_eq!(pack(&[q4(0, 32, &[])]), "a Q4_0 matrix of 0 x 32 is empty or too large");
    assert!(pack(&[q4(usize::MAX, 32, &bytes)]).ends_with("is empty or too large"));
    assert!(pack(&[q4(1 << 40, 1 << 40, &bytes)]).ends_with("is empty or too large"));
    assert!(pack(&[q4(1 << 20, 1 << 20, &bytes)]).starts_with("bytes of a weight matrix"));
    assert!(pack(&[q4(4, 32, &bytes), q4(2, 64, &bytes)]).starts_with("input features"));
    assert!(Linear::pack(&cpu, &[q4(4, 32, &bytes)], Some(vec![0.0; 5])).is_err());

    let w = Linear::pack(&cpu, &[q4(4, 32, &bytes)], None).unwrap();
    let mut scratch = LinearScratch::new();
    assert!(linear(&cpu, &w, &[0.0; 33], &mut [0.0; 4], false, &mut scratch).is_err());
    assert!(linear(&cpu, &w, &[0.0; 64], &mut [0.0; 4], false, &mut scratch).is_err());
    assert!(linear(&cpu, &w, &[], &mut [], false, &mut scratch).is_ok());
    assert!(w.dequantize_row(0, &mut [0.0; 31]).is_err());
}
