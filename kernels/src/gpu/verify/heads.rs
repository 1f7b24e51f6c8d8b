//! Products that end with rope and the write of keys and values, against the product and [`crate::qkv_post`].

use super::super::device::GpuDevice;
use super::super::gemv::{Gemv, GemvOutput, GemvWeight};
use super::super::launch::DevicePtr;
use super::super::qkv_post::{Heads, QkvPost};
use super::product::Case;
use super::qkv_post::{Layer, Rows, reference, rope, shape};
use super::{Bed, Checked, Half, cache_dtype};
use crate::dtype::WeightType;

/// A layer's heads and rope: (query heads, KV heads, head size), rotated width, interleaved.
pub type Kind = ((usize, usize, usize), Option<usize>, bool);

/// Every head size, whole and partial rotations, both orders of pairs, and a layer without positions.
pub const KINDS: [Kind; 9] = [
    ((3, 1, 64), Some(64), false),
    ((2, 2, 64), Some(16), false),
    ((1, 1, 80), Some(80), false),
    ((2, 1, 80), Some(20), true),
    ((2, 1, 96), Some(96), true),
    ((1, 1, 96), Some(96), false),
    ((2, 1, 128), Some(64), false),
    ((1, 1, 256), Some(256), false),
    ((2, 1, 64), None, false),
];

/// The layer of a kind.
pub fn layer(((num_heads, num_kv_heads, dim), rot_dim, interleaved): Kind, fp8: bool) -> Layer {
    let rope = rot_dim.map(|rot_dim| rope(rot_dim, interleaved));
    Layer { shape: shape(num_heads, num_kv_heads, dim), norm: None, rope, fp8 }
}

/// Whether a packed product takes it: pairs lie whole tiles apart, or side by side.
pub fn packed_takes(((_, _, dim), rot_dim, interleaved): Kind) -> bool {
    match rot_dim {
        Some(rot_dim) if !interleaved => dim.is_multiple_of(32) && rot_dim.is_multiple_of(32),
        _ => dim.is_multiple_of(16),
    }
}

/// A step of a few rows, as a matrix of two parts computes it when the cache is FP8: queries and keys, then values.
///
/// # Errors
/// When a query, key or value is not the CPU's, or anything else is written.
pub fn check<T: Half, D: GpuDevice>(
    bed: &mut Bed<D>,
    ty: Option<WeightType>,
    layer: &Layer,
    k: usize,
    norm: bool,
) -> Checked {
    let format = ty.map_or("dense", WeightType::name);
    let what = || format!("{format} weight of {k} columns, norm in front {norm}, {}", layer.describe::<T>());
    check_rows::<T, D>(bed, ty, layer, k, norm).map_err(|fault| fault.of(what()))
}

fn check_rows<T: Half, D: GpuDevice>(
    bed: &mut Bed<D>,
    ty: Option<WeightType>,
    layer: &Layer,
    k: usize,
    norm: bool,
) -> Checked {
    let (shape, rows) = (&layer.shape, Rows::new());
    let (m, n) = (rows.len(), shape.qkv_width());
    let case = Case::<T>::of(ty, (m, n, k), !norm, norm, GemvOutput::Half)?;
    let want = reference(layer, None, &case.reference(), &rows.positions)?;

    let cache = rows.cache(shape, cache_dtype::<T>(layer.fp8), k as u64);
    let device = cache.upload(bed, &[0; 3])?;
    let (positions, slots) = (bed.upload(&rows.positions)?, bed.upload(&rows.slots)?);
    let post = QkvPost {
        shape,
        cache: device.layer(),
        qkv: DevicePtr::NULL,
        positions: positions.ptr(),
        row_slot: slots.ptr(),
        norms: None,
        rope: rows.rope(bed, layer)?,
        rows: m,
        half: T::TYPE,
    };
    let split = if layer.fp8 { (shape.num_heads + shape.num_kv_heads) * shape.head_dim_k } else { n };
    let y = launch(bed, &case, post.heads(), split)?;

    let mut after = cache.clone();
    after.download(bed, &device)?;
    // The product's own bound: see `product`.
    let absolute = if norm { 16.0 * T::ROUNDING } else { 1e-3 };
    rows.check(layer, (&case.y, &y, &want), (cache, &after), absolute)
}

/// Launches the product of the columns before `split`, then that of the others.
fn launch<T: Half, D: GpuDevice>(bed: &mut Bed<D>, case: &Case<T>, heads: Heads, split: usize) -> Checked<Vec<T>> {
    let (dense, packed) = (bed.upload(&case.weight.dense)?, case.weight.packed.as_ref());
    let packed_at = bed.upload(packed.map_or(&[], |(_, bytes)| bytes.as_slice()))?;
    let (weight, bytes) = match packed {
        None => (dense.ptr(), case.n * case.k * 2),
        Some((_, bytes)) => (packed_at.ptr(), bytes.len()),
    };
    let bias = case.bias.as_ref().map(|bias| bed.upload(bias)).transpose()?;
    let norm = match &case.norm {
        None => None,
        Some((weight, params)) => Some((bed.upload(weight)?.ptr(), *params)),
    };
    let (x, y) = (bed.upload(&case.x)?, bed.upload(&case.y)?);
    for (first, end) in [(0, split), (split, case.n)] {
        let gemv = Gemv {
            x: x.ptr(),
            weight: weight.byte_add(bytes / case.n * first),
            format: packed.map_or(GemvWeight::Dense, |(ty, _)| GemvWeight::Packed(*ty)),
            bias: bias.as_ref().map(|bias| bias.ptr().byte_add(first * 2)),
            norm,
            y: y.ptr().byte_add(first * 2),
            y_stride: case.n,
            m: case.m,
            n: end - first,
            k: case.k,
            output: GemvOutput::Heads(heads.from_column(first)),
            half: T::TYPE,
        };
        bed.launch(&gemv.launch())?;
    }
    Ok(bed.read(&y)?)
}
