//! Products of few rows on the device (`kernels/cuda/gemv.cu`, `gemv_quant.cu`), with a norm in front and an epilogue behind.
//!
//! A row's bits don't depend on the number of rows.

use super::activation::activation_code;
use super::launch::{DevicePtr, HalfType, Launch, Params};
use super::qkv_post::Heads;
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

/// The struct of that name in `gemv.cuh`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct GemvParams {
    x: DevicePtr,
    w: DevicePtr,
    bias: DevicePtr,
    norm_weight: DevicePtr,
    y: DevicePtr,
    heads: Heads,
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

// SAFETY: five addresses, `Heads` (five more and eight 4-byte numbers) and ten 4-byte numbers, no padding; the fields of the
// struct in `gemv.cuh`.
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
    /// `y = q | k | v`: queries rotated, keys and values only into the cache; padding rows are left alone.
    Heads(Heads),
}

/// How the weight is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GemvWeight {
    /// Rows of the half type.
    Dense,
    /// Packed by [`super::quant::QuantLayout`].
    Packed(WeightType),
}

impl GemvWeight {
    /// Neighbours among the rows of W that a block owns two groups of: a dense block has half of mma's rows in each, a packed
    /// one halves of a tile, or two tiles where the groups lie apart.
    fn group(self, apart: bool) -> usize {
        if self == Self::Dense || !apart { TILE / 2 } else { TILE }
    }

    /// Whether a product can end with these heads: its blocks have whole pairs, each of one head.
    pub fn takes(self, heads: &Heads) -> bool {
        let group = self.group(heads.distance().is_some());
        heads.head_dim().is_multiple_of(2 * group) && heads.distance().unwrap_or(0).is_multiple_of(group)
    }
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
    /// Rows of x: at most [`MAX_ROWS`] for [`Gemv::launch`].
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
    /// The launch: a block for 16 rows of the weight, or 32, and 8 of `x`.
    ///
    /// # Panics
    /// If there are too many rows, `y` is narrower than `n`, `k` or `n` is not such a multiple, the heads are none that a block
    /// takes, or the weight's rows pass `i32::MAX`.
    pub fn launch(&self) -> Launch {
        let Self { m, n, .. } = *self;
        assert!(m <= MAX_ROWS, "gemv: {m} rows");
        let form = match self.format {
            GemvWeight::Dense if self.norm.is_some() => "gemv_norm",
            _ => "gemv",
        };
        let mut launch = self.kernel(("gemv", "gemv_quant"), form, m.div_ceil(BATCH));
        let (gated, heads) = self.behind();
        let group = self.format.group(gated.is_some() || heads.distance().is_some());
        let (columns, num_heads) =
            if heads == Heads::default() { (n, 1) } else { (heads.head_dim(), n / heads.head_dim()) };
        let blocks = columns.div_ceil(if gated.is_some() { group } else { 2 * group });
        launch.grid = [(blocks * m.div_ceil(BATCH)) as u32, num_heads as u32, 1];
        launch.threads = THREADS;
        launch
    }

    /// The gate and the heads behind the product, where there are any.
    fn behind(&self) -> (Option<GateActivation>, Heads) {
        match self.output {
            GemvOutput::Gated(activation) => (Some(activation), Heads::default()),
            GemvOutput::Heads(heads) => (None, heads),
            GemvOutput::Half | GemvOutput::F32 | GemvOutput::Added => (None, Heads::default()),
        }
    }

    /// A launch, still without sizes, of the kernel named after `form`, in the module for dense weights or in that for packed
    /// ones, which has `x` in `m_tiles` tiles.
    pub(super) fn kernel(&self, (dense, packed): (&'static str, &'static str), form: &str, m_tiles: usize) -> Launch {
        let (half, params) = (self.half.name(), self.params(m_tiles));
        let mut launch = match self.format {
            GemvWeight::Dense => Launch::new(dense, format!("{form}_{half}"), &params),
            GemvWeight::Packed(ty) => {
                let ty = kernel_name(ty).expect("gemv: a dense type is not packed");
                Launch::new(packed, format!("{form}_{ty}_{half}"), &params)
            }
        };
        launch.overlap = true;
        launch
    }

    /// The checked parameters.
    fn params(&self, m_tiles: usize) -> GemvParams {
        let Self { m, n, k, .. } = *self;
        let (gated, heads) = self.behind();
        let packed = self.format != GemvWeight::Dense;
        let pack = if packed { 32 } else { PACK };
        assert!(k > 0 && k.is_multiple_of(pack), "gemv: k of {k} is no multiple of {pack}");
        assert!(!(packed && gated.is_some()) || n.is_multiple_of(TILE), "gemv: gated n of {n} is no multiple of 16");
        let whole = heads == Heads::default() || (self.format.takes(&heads) && n.is_multiple_of(heads.head_dim()));
        assert!(whole, "gemv: {n} columns of heads of {}", heads.head_dim());
        assert!(self.y_stride >= n, "gemv: {n} columns in rows of {}", self.y_stride);
        // Twice n must be an index too.
        let _ = i32::try_from(2 * n).expect("gemv: n");
        let norm = self.norm.unwrap_or((DevicePtr::NULL, NormParams { eps: 0.0, one_plus: false }));
        GemvParams {
            x: self.x,
            w: self.weight,
            bias: self.bias.unwrap_or_default(),
            norm_weight: norm.0,
            y: self.y,
            heads,
            m: i32::try_from(m).expect("gemv: m"),
            m_tiles: m_tiles as i32,
            n: n as i32,
            k: i32::try_from(k).expect("gemv: k"),
            y_stride: i32::try_from(self.y_stride).expect("gemv: y_stride"),
            activation: gated.map_or(-1, activation_code),
            out_f32: i32::from(self.output == GemvOutput::F32),
            accumulate: i32::from(self.output == GemvOutput::Added),
            eps: norm.1.eps,
            offset: if norm.1.one_plus { 1.0 } else { 0.0 },
        }
    }
}
