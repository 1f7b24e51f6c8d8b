//! Tensor maps: what Hopper's copy engine is told about a matrix in device memory (`kernels/cuda/ptx_sm90a.cuh`).
//!
//! A map is passed by value, inside the kernel's one parameter struct: it never changes, a kernel needs no fence to read
//! its own parameters, and a captured graph keeps it like every other number of a launch.

use super::launch::{DevicePtr, HalfType};

/// Columns of a box: 128 bytes, as wide as the swizzle.
pub const BOX_COLUMNS: usize = 64;

/// Rows of a box: the tokens of a cache block.
pub const BOX_ROWS: usize = crate::kv::BLOCK_SIZE;

/// A row-major matrix of 16-bit numbers without gaps, copied in boxes of [`BOX_ROWS`] x [`BOX_COLUMNS`] that are swizzled
/// by 128 bytes; what lies outside reads as zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TensorRows {
    /// First row; a multiple of 16 bytes.
    pub at: DevicePtr,
    /// Type of the numbers.
    pub half: HalfType,
    /// Numbers of a row: a multiple of [`BOX_COLUMNS`].
    pub width: usize,
    /// Rows; at most 2^31 - 1, so that a coordinate can name each.
    pub rows: usize,
}

/// The map of a [`TensorRows`], as the device that made it reads it.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TensorMap(pub [u64; 16]);
