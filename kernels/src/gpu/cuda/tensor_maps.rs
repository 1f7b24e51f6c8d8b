//! Tensor maps, made by the driver; no call of the card.

use std::ffi::c_void;

use cudarc::driver::sys::{
    self, CUtensorMap, CUtensorMapDataType, CUtensorMapFloatOOBfill, CUtensorMapInterleave, CUtensorMapL2promotion,
    CUtensorMapSwizzle,
};

use super::super::device::GpuError;
use super::super::launch::HalfType;
use super::super::tensor_map::{BOX_COLUMNS, BOX_ROWS, TensorMap, TensorRows};
use super::error::check_for;

const _: () = assert!(size_of::<CUtensorMap>() == size_of::<TensorMap>());

/// The map of `rows`.
pub(super) fn encode(rows: &TensorRows) -> Result<TensorMap, GpuError> {
    let TensorRows { at, half, width, rows: count } = *rows;
    let (sizes, stride) = ([width as u64, count as u64], [width as u64 * 2]);
    let (boxes, steps) = ([BOX_COLUMNS as u32, BOX_ROWS as u32], [1, 1]);
    let data_type = match half {
        HalfType::Bf16 => CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
        HalfType::F16 => CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
    };
    let mut map = TensorMap([0; 16]);
    // SAFETY: the map has the size and the alignment of the driver's, and is written whole; the arrays have as many numbers
    // as a matrix has dimensions, the strides one less; the address is only noted.
    let result = unsafe {
        sys::cuTensorMapEncodeTiled(
            (&raw mut map).cast::<CUtensorMap>(),
            data_type,
            2,
            at.0 as *mut c_void,
            sizes.as_ptr(),
            stride.as_ptr(),
            boxes.as_ptr(),
            steps.as_ptr(),
            CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
            CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B,
            CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
            CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
        )
    };
    check_for("cuTensorMapEncodeTiled", result, || format!(" for {count} rows of {width}"))?;
    Ok(map)
}
