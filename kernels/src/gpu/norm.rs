//! RMS norm on the device (`kernels/cuda/norm.cu`): whole buffers, gathered rows, added onto the residual.
//!
//! The CPU's version, and the reference, is [`crate::norm`].

use super::launch::{DevicePtr, HalfType, Launch, Params};
use crate::backend::NormParams;

/// Most threads a block of these kernels has.
const MAX_THREADS: usize = 256;

/// Values a thread takes at once.
const PACK: usize = 8;

/// The struct of that name in `norm.cu`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct RmsNormParams {
    x: DevicePtr,
    weight: DevicePtr,
    out: DevicePtr,
    gather: DevicePtr,
    rows: i32,
    width: i32,
    eps: f32,
    offset: f32,
}

// SAFETY: four addresses and four 4-byte numbers, no padding; the fields of the struct in `norm.cu`.
unsafe impl Params for RmsNormParams {
    const NAME: &'static str = "RmsNormParams";
}

/// Where the normalised rows go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormTarget {
    /// `out[r] = norm(x[r])`; `out` may be `x`.
    Rows,
    /// `out[r] = norm(x[gather[r]])`, `gather[rows]` of u32; an index of `u32::MAX` writes nothing. `out` is not `x`.
    Gathered(DevicePtr),
    /// `out[r] += norm(x[r])`.
    Added,
}

/// `out[rows, width]` from `x[.., width]`, both of type `half`, with `weight[width]` in f32.
#[derive(Clone, Copy, Debug)]
pub struct RmsNorm {
    /// Input rows.
    pub x: DevicePtr,
    /// One f32 factor a column.
    pub weight: DevicePtr,
    /// Output rows.
    pub out: DevicePtr,
    /// Which rows, and whether they are added.
    pub target: NormTarget,
    /// Rows of `out`.
    pub rows: usize,
    /// Columns: a multiple of 8.
    pub width: usize,
    /// Epsilon, and whether the weight is zero-centred.
    pub params: NormParams,
    /// Type of `x` and `out`.
    pub half: HalfType,
}

impl RmsNorm {
    /// The launch: a block a row.
    ///
    /// # Panics
    /// If the width is not a positive multiple of 8, or a size passes `i32::MAX`.
    pub fn launch(&self) -> Launch {
        assert!(
            self.width > 0 && self.width.is_multiple_of(PACK),
            "rms_norm: width {} is no multiple of 8",
            self.width
        );
        let gather = match self.target {
            NormTarget::Gathered(rows) => rows,
            NormTarget::Rows | NormTarget::Added => DevicePtr::NULL,
        };
        let params = RmsNormParams {
            x: self.x,
            weight: self.weight,
            out: self.out,
            gather,
            rows: i32::try_from(self.rows).expect("rms_norm: rows"),
            width: i32::try_from(self.width).expect("rms_norm: width"),
            eps: self.params.eps,
            offset: if self.params.one_plus { 1.0 } else { 0.0 },
        };
        let form = if self.target == NormTarget::Added { "rms_norm_add" } else { "rms_norm" };
        let mut launch = Launch::new("norm", format!("{form}_{}", self.half.name()), &params);
        launch.grid = [self.rows as u32, 1, 1];
        launch.threads = self.width.div_ceil(PACK).next_multiple_of(32).min(MAX_THREADS) as u32;
        launch.overlap = true;
        launch
    }
}
