//! Products of at most 8 rows on the device (`kernels/cuda/gemv.cu`), with a norm in front and an epilogue behind.
//!
//! A row's bits don't depend on the number of rows.

use super::activation::activation_code;
use super::launch::{DevicePtr, HalfType, Launch, Params};
use crate::activation::GateActivation;
use crate::backend::NormParams;

/// Most rows of `x`.
pub const MAX_ROWS: usize = 8;

/// Threads a block.
const THREADS: u32 = 256;

/// Rows of the weight that a block owns.
const TILE: usize = 16;

/// Elements of k that a lane loads at once.
const PACK: usize = 8;

/// The struct of that name in `gemv.cu`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct GemvParams {
    x: DevicePtr,
    w: DevicePtr,
    bias: DevicePtr,
    norm_weight: DevicePtr,
    y: DevicePtr,
    m: i32,
    n: i32,
    k: i32,
    activation: i32,
    out_f32: i32,
    accumulate: i32,
    eps: f32,
    offset: f32,
}

// SAFETY: five addresses and eight 4-byte numbers, no padding; the fields of the struct in `gemv.cu`.
unsafe impl Params for GemvParams {
    const NAME: &'static str = "GemvParams";
}

/// What becomes of the product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GemvOutput {
    /// `y = x W^T + bias`, of the half type.
    Half,
    /// `y = x W^T + bias` in f32: logits.
    F32,
    /// `y += x W^T + bias`, of the half type: onto the residual.
    Added,
    /// `y = act(x G^T + bias) * (x U^T + bias)`, of the half type, with W = G over U, `n` rows each.
    Gated(GateActivation),
}

/// `y[m, n]` from `x[m, k]` and the row-major weight.
#[derive(Clone, Copy, Debug)]
pub struct Gemv {
    /// `[m, k]`, of type `half`.
    pub x: DevicePtr,
    /// `[n, k]`, or `[2 n, k]` when gated, of type `half`.
    pub weight: DevicePtr,
    /// One f32 a row of the weight.
    pub bias: Option<DevicePtr>,
    /// RMS norm of `x` in front: f32 weight `[k]` and its parameters.
    pub norm: Option<(DevicePtr, NormParams)>,
    /// `[m, n]`.
    pub y: DevicePtr,
    /// Rows of x: 0 to 8.
    pub m: usize,
    /// Columns of y.
    pub n: usize,
    /// Columns of x: a multiple of 8.
    pub k: usize,
    /// Type and meaning of `y`.
    pub output: GemvOutput,
    /// Type of `x` and the weight.
    pub half: HalfType,
}

impl Gemv {
    /// The launch: a block for 16 rows of the weight.
    ///
    /// # Panics
    /// If there are more than 8 rows, `k` is not a positive multiple of 8, or the weight's rows pass `i32::MAX`.
    pub fn launch(&self) -> Launch {
        let Self { m, n, k, .. } = *self;
        assert!(m <= MAX_ROWS, "gemv: {m} rows");
        assert!(k > 0 && k.is_multiple_of(PACK), "gemv: k of {k} is no multiple of 8");
        let gated = match self.output {
            GemvOutput::Gated(activation) => Some(activation),
            _ => None,
        };
        let norm = self.norm.unwrap_or((DevicePtr::NULL, NormParams { eps: 0.0, one_plus: false }));
        // Twice n must be an index too.
        let _ = i32::try_from(2 * n).expect("gemv: n");
        let params = GemvParams {
            x: self.x,
            w: self.weight,
            bias: self.bias.unwrap_or_default(),
            norm_weight: norm.0,
            y: self.y,
            m: m as i32,
            n: n as i32,
            k: i32::try_from(k).expect("gemv: k"),
            activation: gated.map_or(-1, activation_code),
            out_f32: i32::from(self.output == GemvOutput::F32),
            accumulate: i32::from(self.output == GemvOutput::Added),
            eps: norm.1.eps,
            offset: if norm.1.one_plus { 1.0 } else { 0.0 },
        };
        let form = if self.norm.is_some() { "gemv_norm" } else { "gemv" };
        let mut launch = Launch::new("gemv", format!("{form}_{}", self.half.name()), &params);
        let blocks = n.div_ceil(if gated.is_some() { TILE / 2 } else { TILE });
        launch.grid = [if m == 0 { 0 } else { blocks as u32 }, 1, 1];
        launch.threads = THREADS;
        launch.overlap = true;
        launch
    }
}
