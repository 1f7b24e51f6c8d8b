//! Weights and activations on the device: who owns which address, and the way of a matrix from a file to the card.

use half::{bf16, f16};

use super::device::{GpuDevice, GpuError};
use super::launch::{DevicePtr, HalfType};
use super::quant::{QuantLayout, TILE};
use crate::dequant::dequantize;
use crate::dtype::WeightType;
use crate::error::KernelError;
use crate::linear::MatrixView;

/// Rows of logits are padded to a multiple of this, so that they are whole cache lines.
pub const ROW_PAD: usize = 16;

/// Rows of one format in a matrix.
#[derive(Clone, Copy, Debug)]
pub struct GpuPart {
    /// `None`: rows of the device's 16-bit type.
    pub packed: Option<QuantLayout>,
    /// Start.
    pub at: DevicePtr,
    /// Output that its first row gives.
    pub first: usize,
    /// Rows, padding aside.
    pub rows: usize,
}

/// A matrix `[out_features, in_features]` with its bias, which is of the device's 16-bit type.
#[derive(Clone, Debug)]
pub struct GpuLinear {
    /// Row-stacked; neighbours of one format are one part.
    pub parts: Vec<GpuPart>,
    /// `[out_features]`, or null.
    pub bias: DevicePtr,
    /// Output features.
    pub out_features: usize,
    /// Input features.
    pub in_features: usize,
}

impl GpuLinear {
    /// The one dense part, where all is dense: its rows are padded with zeros to a multiple of [`ROW_PAD`].
    pub fn dense(&self) -> Option<DevicePtr> {
        match self.parts[..] {
            [GpuPart { packed: None, at, .. }] => Some(at),
            _ => None,
        }
    }

    /// Whether every part is packed.
    pub fn is_packed(&self) -> bool {
        self.parts.iter().all(|part| part.packed.is_some())
    }

    /// Output features with the padding.
    pub fn padded_rows(&self) -> usize {
        self.out_features.next_multiple_of(ROW_PAD)
    }

    /// Bytes on the device.
    pub fn bytes(&self) -> usize {
        let part = |part: &GpuPart| part.packed.map_or(part.rows * self.in_features * 2, |layout| layout.bytes());
        self.parts.iter().map(part).sum::<usize>()
            + if self.bias == DevicePtr::NULL { 0 } else { self.out_features * 2 }
    }
}

/// Norm weights in f32.
#[derive(Clone, Copy, Debug)]
pub struct GpuVector {
    /// `[len]` f32
    pub at: DevicePtr,
    /// Values.
    pub len: usize,
}

/// Activations of the device's 16-bit type.
#[derive(Debug, Default)]
pub struct GpuBuffer {
    /// Start.
    pub at: DevicePtr,
    /// Values in use.
    pub len: usize,
    pub(super) capacity: usize,
}

/// Logits in f32: rows of `stride` values, of which the vocabulary is the first part.
#[derive(Debug, Default)]
pub struct GpuLogits {
    /// Start.
    pub at: DevicePtr,
    /// Rows in use.
    pub rows: usize,
    /// Values from one row to the next.
    pub stride: usize,
    pub(super) capacity: usize,
}

/// Brings row-stacked matrices to the device: dense ones as its 16-bit type, block-quantised ones packed.
///
/// # Errors
/// For a width that the kernels don't take, or when memory runs out.
pub fn upload_linear<D: GpuDevice>(
    device: &mut D,
    half: HalfType,
    views: &[MatrixView<'_>],
    bias: Option<&[f32]>,
) -> Result<GpuLinear, KernelError> {
    let in_features = views.first().map_or(0, |view| view.cols);
    let out_features = views.iter().map(|view| view.rows).sum::<usize>();
    let unit = if views.iter().all(|view| view.ty.is_dense()) { 8 } else { 32 };
    if in_features == 0 || !in_features.is_multiple_of(unit) || views.iter().any(|view| view.cols != in_features) {
        let reason = format!("a matrix of {in_features} columns: the GPU takes multiples of {unit}; use --device cpu");
        return Err(GpuError::Unusable(reason).into());
    }
    let mut parts: Vec<GpuPart> = Vec::new();
    for neighbours in views.chunk_by(joined) {
        let first = parts.last().map_or(0, |part| part.first + part.rows);
        parts.push(match neighbours {
            [view, ..] if !view.ty.is_dense() => upload_packed(device, neighbours, first)?,
            _ => upload_dense(device, half, neighbours, first)?,
        });
    }
    let bias = match bias {
        None => DevicePtr::NULL,
        Some(values) => {
            KernelError::check("bias", out_features, values.len())?;
            let at = device.alloc(out_features * 2, "biases")?;
            let mut bytes = vec![0; out_features * 2];
            put_half(half, values, &mut bytes);
            device.write(at, &bytes)?;
            at
        }
    };
    Ok(GpuLinear { parts, bias, out_features, in_features })
}

/// Norm weights, or other values that stay f32.
///
/// # Errors
/// When memory runs out.
pub fn upload_vector<D: GpuDevice>(device: &mut D, values: &[f32]) -> Result<GpuVector, KernelError> {
    let at = device.alloc(values.len() * 4, "norms")?;
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    device.write(at, &bytes)?;
    Ok(GpuVector { at, len: values.len() })
}

/// Dense views, one behind the other, with zeros up to the padding.
fn upload_dense<D: GpuDevice>(
    device: &mut D,
    half: HalfType,
    views: &[MatrixView<'_>],
    first: usize,
) -> Result<GpuPart, KernelError> {
    let rows = views.iter().map(|view| view.rows).sum::<usize>();
    let row_bytes = views[0].cols * 2;
    let padded = rows.next_multiple_of(ROW_PAD);
    let start = device.alloc(padded * row_bytes, "weights")?;
    let mut at = start;
    for view in views {
        upload_view(device, half, view, at)?;
        at = at.byte_add(view.rows * row_bytes);
    }
    device.fill(at, 0, (padded - rows) * row_bytes)?;
    Ok(GpuPart { packed: None, at: start, first, rows })
}

fn upload_view<D: GpuDevice>(
    device: &mut D,
    half: HalfType,
    view: &MatrixView<'_>,
    at: DevicePtr,
) -> Result<(), KernelError> {
    let same = match half {
        HalfType::Bf16 => WeightType::BF16,
        HalfType::F16 => WeightType::F16,
    };
    let row_bytes = view.ty.row_bytes(view.cols).ok_or(KernelError::RowLength { ty: view.ty, cols: view.cols })?;
    KernelError::check("weight bytes", view.rows * row_bytes, view.data.len())?;
    if view.ty == same {
        return Ok(device.write(at, view.data)?);
    }
    let out_bytes = view.cols * 2;
    let convert = |at: usize, piece: &mut [u8]| {
        let rows = at / out_bytes..(at + piece.len()) / out_bytes;
        let mut values = vec![0.0; view.cols];
        for (row, out) in rows.zip(piece.chunks_exact_mut(out_bytes)) {
            dequantize(view.ty, &view.data[row * row_bytes..][..row_bytes], &mut values).map_err(operand)?;
            put_half(half, &values, out);
        }
        Ok(())
    };
    Ok(device.write_with(at, view.rows * out_bytes, out_bytes, &convert)?)
}

/// Whether two neighbours can be one part: a packed one ends with a whole tile.
fn joined(a: &MatrixView<'_>, b: &MatrixView<'_>) -> bool {
    if a.ty.is_dense() { b.ty.is_dense() } else { a.ty == b.ty && a.rows.is_multiple_of(TILE) }
}

/// Packed views of one type, one behind the other.
fn upload_packed<D: GpuDevice>(device: &mut D, views: &[MatrixView<'_>], first: usize) -> Result<GpuPart, KernelError> {
    let rows = views.iter().map(|view| view.rows).sum();
    let whole = QuantLayout::new(views[0].ty, rows, views[0].cols)?;
    let (start, tile) = (device.alloc(whole.bytes(), "weights")?, whole.tile_bytes());
    let mut at = start;
    for view in views {
        let layout = QuantLayout::new(view.ty, view.rows, view.cols)?;
        let pack = |at: usize, piece: &mut [u8]| {
            layout.pack(view.data, at / tile..(at + piece.len()) / tile, piece).map_err(operand)
        };
        device.write_with(at, layout.bytes(), tile, &pack)?;
        at = at.byte_add(layout.bytes());
    }
    Ok(GpuPart { packed: Some(whole), at: start, first, rows })
}

fn operand(error: KernelError) -> GpuError {
    GpuError::Operand(error.to_string())
}

/// Rounds values to the device's type; what passes f16's range saturates, as keys and values do.
fn put_half(half: HalfType, values: &[f32], out: &mut [u8]) {
    let max = f16::MAX.to_f32();
    for (&value, out) in values.iter().zip(out.chunks_exact_mut(2)) {
        out.copy_from_slice(&match half {
            HalfType::Bf16 => bf16::from_f32(value).to_le_bytes(),
            HalfType::F16 => f16::from_f32(value.clamp(-max, max)).to_le_bytes(),
        });
    }
}
