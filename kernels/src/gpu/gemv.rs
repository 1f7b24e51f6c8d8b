//! Products of few rows on the device (`kernels/cuda/gemv.cu`, `gemv_quant.cu`), with a norm in front and an epilogue behind.
//!
//! A row's bits don't depend on the number of rows.

use super::activation::activation_code;
use super::launch::{DevicePtr, HalfType, Launch, Params};
use super::quant::kernel_name;
use crate::activation::GateActivation;
use crate::backend::NormParams;
use crate::dtype::WeightType;

/// Most rows of `x`. Beyond 8 the weight is read once for every 8 rows, from the second time on mostly from the L2 cache.
pub const MAX_ROWS: usize = 64;

/// Rows of `x` that a block takes.
const BATCH: usize = 8;

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
    m_tiles: i32,
    n: i32,
    k: i32,
    y_stride: i32,
    activation: i32,
    out_f32: i32,
    accumulate: i32,
    eps: f32,
    offset: f32,
}

// SAFETY: five addresses and ten 4-byte numbers, no padding; the fields of the struct in `gemv.cu`.
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

/// How the weight is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GemvWeight {
    /// Rows of the half type.
    Dense,
    /// Packed by [`super::quant::QuantLayout`].
    Packed(WeightType),
}

/// `y[m, n]` from `x[m, k]` and the row-major weight.
#[derive(Clone, Copy, Debug)]
pub struct Gemv {
    /// `[m, k]`, of type `half`.
    pub x: DevicePtr,
    /// `[n, k]`, or `[2 n, k]` when gated.
    pub weight: DevicePtr,
    /// Of type `half`, or packed.
    pub format: GemvWeight,
    /// One value of type `half` a row of the weight.
    pub bias: Option<DevicePtr>,
    /// RMS norm of `x` in front: f32 weight `[k]` and its parameters.
    pub norm: Option<(DevicePtr, NormParams)>,
    /// `[m, y_stride]`, of which the first `n` columns are written.
    pub y: DevicePtr,
    /// Elements from one row of `y` to the next: at least `n`.
    pub y_stride: usize,
    /// Rows of x: at most [`MAX_ROWS`].
    pub m: usize,
    /// Columns of y; a multiple of 16 for a packed gated product, whose up rows begin a tile.
    pub n: usize,
    /// Columns of x: a multiple of 8, or of 32 with a packed weight.
    pub k: usize,
    /// Type and meaning of `y`.
    pub output: GemvOutput,
    /// Type of `x`, of a dense weight, and of `y` unless that is f32.
    pub half: HalfType,
}

impl Gemv {
    /// The launch: a block for 16 rows of the weight.
    ///
    /// # Panics
    /// If there are too many rows, `y` is narrower than `n`, `k` or `n` is not such a multiple, or the weight's rows pass `i32::MAX`.
    pub fn launch(&self) -> Launch {
        let Self { m, n, k, .. } = *self;
        assert!(m <= MAX_ROWS, "gemv: {m} rows");
        assert!(k > 0 && k.is_multiple_of(PACK), "gemv: k of {k} is no multiple of 8");
        let gated = match self.output {
            GemvOutput::Gated(activation) => Some(activation),
            _ => None,
        };
        let norm = self.norm.unwrap_or((DevicePtr::NULL, NormParams { eps: 0.0, one_plus: false }));
        assert!(self.y_stride >= n, "gemv: {n} columns in rows of {}", self.y_stride);
        // Twice n must be an index too.
        let _ = i32::try_from(2 * n).expect("gemv: n");
        let params = GemvParams {
            x: self.x,
            w: self.weight,
            bias: self.bias.unwrap_or_default(),
            norm_weight: norm.0,
            y: self.y,
            m: m as i32,
            m_tiles: m.div_ceil(BATCH) as i32,
            n: n as i32,
            k: i32::try_from(k).expect("gemv: k"),
            y_stride: i32::try_from(self.y_stride).expect("gemv: y_stride"),
            activation: gated.map_or(-1, activation_code),
            out_f32: i32::from(self.output == GemvOutput::F32),
            accumulate: i32::from(self.output == GemvOutput::Added),
            eps: norm.1.eps,
            offset: if norm.1.one_plus { 1.0 } else { 0.0 },
        };
        let (module, form) = match self.format {
            GemvWeight::Dense if self.norm.is_some() => ("gemv", "gemv_norm".to_owned()),
            GemvWeight::Dense => ("gemv", "gemv".to_owned()),
            GemvWeight::Packed(ty) => {
                assert!(k.is_multiple_of(32), "gemv: k of {k} is no multiple of 32");
                assert!(gated.is_none() || n.is_multiple_of(TILE), "gemv: gated n of {n} is no multiple of 16");
                ("gemv_quant", format!("gemv_{}", kernel_name(ty).expect("gemv: a dense type is not packed")))
            }
        };
        let mut launch = Launch::new(module, format!("{form}_{}", self.half.name()), &params);
        // A dense gated block has 8 gate rows and their 8 up rows, a packed one a tile of either.
        let half_tile = gated.is_some() && self.format == GemvWeight::Dense;
        let blocks = n.div_ceil(if half_tile { TILE / 2 } else { TILE });
        launch.grid = [(blocks * m.div_ceil(BATCH)) as u32, 1, 1];
        launch.threads = THREADS;
        launch.overlap = true;
        launch
    }
}
