//! Packed weights: their values on the device are those of the file, exactly.

use half::f16;

use super::super::device::GpuDevice;
use super::super::quant::{QuantLayout, dequantize};
use super::{Bed, Checked, Half, Random, ensure};
use crate::dequant;
use crate::dtype::WeightType;

/// Every block-quantised type.
pub const TYPES: [WeightType; 10] = [
    WeightType::Q4_0,
    WeightType::Q4_1,
    WeightType::Q5_0,
    WeightType::Q5_1,
    WeightType::Q8_0,
    WeightType::Q2K,
    WeightType::Q3K,
    WeightType::Q4K,
    WeightType::Q5K,
    WeightType::Q6K,
];

/// Bytes of a block at which its f16 scales lie: of the values, and of the minima.
fn scales_at(ty: WeightType) -> (usize, Option<usize>) {
    match ty {
        WeightType::Q4_1 | WeightType::Q5_1 | WeightType::Q4K | WeightType::Q5K => (0, Some(2)),
        WeightType::Q2K => (80, Some(82)),
        WeightType::Q3K => (108, None),
        WeightType::Q6K => (208, None),
        _ => (0, None),
    }
}

/// A random matrix as a file has it: any bits, under scales that make values of about 1.
pub fn random_blocks(random: &mut Random, ty: WeightType, rows: usize, cols: usize) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..rows * ty.row_bytes(cols).unwrap_or_default()).map(|_| random.bits() as u8).collect();
    let (d_at, m_at) = scales_at(ty);
    let (largest_q, largest_sub) = match ty {
        WeightType::Q8_0 => (128.0, 1.0),
        WeightType::Q2K => (3.0, 15.0),
        WeightType::Q3K => (4.0, 32.0),
        WeightType::Q6K => (32.0, 128.0),
        WeightType::Q4K => (15.0, 63.0),
        WeightType::Q5K => (31.0, 63.0),
        WeightType::Q5_0 | WeightType::Q5_1 => (31.0, 1.0),
        _ => (15.0, 1.0),
    };
    for block in bytes.chunks_exact_mut(ty.block_bytes()) {
        let mut put = |at: usize, unit: f32| {
            let scale = (0.5 + 0.5 * random.values(1)[0].abs()) * random.values(1)[0].signum() * unit;
            block[at..at + 2].copy_from_slice(&f16::from_f32(scale).to_le_bytes());
        };
        put(d_at, 1.0 / (largest_q * largest_sub));
        if let Some(at) = m_at {
            put(at, 1.0 / largest_sub);
        }
    }
    bytes
}

/// A random matrix, packed, and its values.
///
/// # Errors
/// For a dense type, or columns that are no whole blocks.
pub fn packed_matrix(random: &mut Random, ty: WeightType, rows: usize, cols: usize) -> Checked<(Vec<u8>, Vec<f32>)> {
    let blocks = random_blocks(random, ty, rows, cols);
    let mut values = vec![0.0; rows * cols];
    dequant::dequantize(ty, &blocks, &mut values)?;
    let layout = QuantLayout::new(ty, rows, cols)?;
    let mut packed = vec![0xFF; layout.bytes()];
    // In two pieces, as loader threads do.
    let middle = layout.tiles() / 2;
    let (front, back) = packed.split_at_mut(middle * layout.tile_bytes());
    layout.pack(&blocks, 0..middle, front)?;
    layout.pack(&blocks, middle..layout.tiles(), back)?;
    Ok((packed, values))
}

/// Expands a random matrix.
///
/// # Errors
/// When a value is not the file's.
pub fn check<T: Half, D: GpuDevice>(bed: &mut Bed<D>, ty: WeightType, rows: usize, cols: usize) -> Checked {
    let (packed, values) = packed_matrix(&mut Random(cols as u64), ty, rows, cols)?;
    let (packed, out) = (bed.upload(&packed)?, bed.alloc::<T>(rows * cols)?);
    let layout = QuantLayout::new(ty, rows, cols)?;
    bed.launch(&dequantize(&layout, packed.ptr(), out.ptr(), T::TYPE))?;
    for (i, (got, &want)) in bed.read(&out)?.into_iter().zip(&values).enumerate() {
        ensure(got.value() == T::of(want).value(), || {
            format!("{ty:?} {rows} x {cols}: value {i} is {got:?}, not {want}")
        })?;
    }
    Ok(())
}
