//! Norms, rope and cache writes of a step's rows on the device (`kernels/cuda/qkv_post.cu`).
//!
//! The CPU's version, and the reference, is [`crate::qkv_post`]. On the device a head's region is `[token][head_dim]`.

use super::attention::LayerCache;
use super::launch::{DevicePtr, HalfType, Launch, Params};
use crate::attention::AttentionShape;
use crate::backend::NormParams;
use crate::kv::BLOCK_SIZE;

/// Threads of a block.
const THREADS: usize = 256;

/// Values a lane takes at once.
const PACK: usize = 8;

/// Widest head: two packs a lane of a warp.
const MAX_HEAD_DIM: usize = 512;

/// The struct of that name in `heads.cuh`, part of the parameters of what rotates heads and writes them to the cache.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Heads {
    cache: DevicePtr,
    tables: DevicePtr,
    positions: DevicePtr,
    row_slot: DevicePtr,
    rope: DevicePtr,
    first: u32,
    num_heads: u32,
    num_kv_heads: u32,
    head_dim: u32,
    max_blocks: u32,
    pairs: u32,
    interleaved: u32,
    fp8: u32,
}

impl Heads {
    /// The heads of the columns from `column` on, which begins one.
    ///
    /// # Panics
    /// If it doesn't.
    #[must_use]
    pub fn from_column(self, column: usize) -> Self {
        assert!(column.is_multiple_of(self.head_dim as usize), "heads: none begins at column {column}");
        Self { first: self.first + column as u32 / self.head_dim, ..self }
    }

    /// Width of a head.
    pub fn head_dim(&self) -> usize {
        self.head_dim as usize
    }

    /// The distance of rotated values in columns, unless they are neighbours.
    pub fn distance(&self) -> Option<usize> {
        (self.pairs > 0 && self.interleaved == 0).then_some(self.pairs as usize)
    }
}

/// The struct of that name in `qkv_post.cu`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct QkvPostParams {
    heads: Heads,
    qkv: DevicePtr,
    q_weight: DevicePtr,
    k_weight: DevicePtr,
    rows: u32,
    team: u32,
    eps: f32,
    offset: f32,
}

// SAFETY: `Heads` has five addresses and eight 4-byte numbers; then three addresses and four 4-byte numbers, no padding; the
// fields of the structs in `heads.cuh` and `qkv_post.cu`.
unsafe impl Params for QkvPostParams {
    const NAME: &'static str = "QkvPostParams";
}

/// Norms of each query and each key head before rope (Qwen3, Gemma 3).
#[derive(Clone, Copy, Debug)]
pub struct DeviceQkNorm {
    /// Weight of the query norm, `[head_dim]` of f32.
    pub q: DevicePtr,
    /// Weight of the key norm, `[head_dim]` of f32.
    pub k: DevicePtr,
    /// Epsilon, and whether the weights are zero-centred.
    pub params: NormParams,
}

/// Rotations of the step's rows.
#[derive(Clone, Copy, Debug)]
pub struct DeviceRope {
    /// What [`super::rope::RopeRows`] made: `[rows][pairs]` of (cosine, sine).
    pub rows: DevicePtr,
    /// Pairs of a head; the values behind them pass through.
    pub pairs: usize,
    /// Pairs are (2i, 2i + 1) instead of (i, i + pairs).
    pub interleaved: bool,
}

/// One launch over `qkv[rows, (num_heads + 2 num_kv_heads) * head_dim]`: queries are normed and rotated in place, keys
/// and values written to the cache.
#[derive(Clone, Copy, Debug)]
pub struct QkvPost<'a> {
    /// Heads and widths.
    pub shape: &'a AttentionShape,
    /// Where keys and values go.
    pub cache: LayerCache<'a>,
    /// Rows of `q | k | v`.
    pub qkv: DevicePtr,
    /// `[rows]` of u32.
    pub positions: DevicePtr,
    /// `[rows]` of i32: row of the block tables; -1 for a padding row, which is left alone.
    pub row_slot: DevicePtr,
    /// Norms of query and key heads.
    pub norms: Option<DeviceQkNorm>,
    /// Rotations; `None` for a layer without positions.
    pub rope: Option<DeviceRope>,
    /// Rows.
    pub rows: usize,
    /// Type of `qkv`.
    pub half: HalfType,
}

impl QkvPost<'_> {
    /// What the norms don't concern, for a product that ends with it.
    ///
    /// # Panics
    /// If shape and cache don't agree, or the heads are wider than 512 or no multiples of 8: a bug of the caller.
    pub fn heads(&self) -> Heads {
        let (shape, geometry) = (self.shape, self.cache.geometry);
        let head_dim = shape.head_dim_k;
        let tiled = head_dim.is_multiple_of(PACK) && head_dim <= MAX_HEAD_DIM && shape.head_dim_v == head_dim;
        assert!(tiled, "qkv_post: heads of {head_dim} and {}", shape.head_dim_v);
        let cached = (geometry.spec.num_kv_heads, geometry.spec.head_dim_k, geometry.spec.head_dim_v);
        assert!(cached == (shape.num_kv_heads, head_dim, head_dim), "qkv_post: cache of another shape");
        assert!(self.cache.layer < geometry.num_layers, "qkv_post: no such layer");
        assert!(geometry.k_bytes == BLOCK_SIZE * head_dim * geometry.spec.dtype.bytes(), "qkv_post: padded heads");
        let rope = self.rope.unwrap_or(DeviceRope { rows: DevicePtr::NULL, pairs: 0, interleaved: false });
        assert!(2 * rope.pairs <= head_dim, "qkv_post: rope wider than a head");
        Heads {
            cache: self.cache.base(),
            tables: self.cache.tables,
            positions: self.positions,
            row_slot: self.row_slot,
            rope: rope.rows,
            first: 0,
            num_heads: shape.num_heads as u32,
            num_kv_heads: shape.num_kv_heads as u32,
            head_dim: head_dim as u32,
            max_blocks: self.cache.max_blocks as u32,
            pairs: rope.pairs as u32,
            interleaved: rope.interleaved.into(),
            fp8: self.cache.is_fp8(self.half).into(),
        }
    }

    /// The launch: a team of lanes for every head of every row.
    ///
    /// # Panics
    /// As [`Self::heads`].
    pub fn launch(&self) -> Launch {
        let (shape, heads) = (self.shape, self.heads());
        let team = (heads.head_dim() / PACK).next_power_of_two().min(32);
        let norm = self.norms.map(|norms| norms.params);
        let params = QkvPostParams {
            heads,
            qkv: self.qkv,
            q_weight: self.norms.map_or(DevicePtr::NULL, |norms| norms.q),
            k_weight: self.norms.map_or(DevicePtr::NULL, |norms| norms.k),
            rows: self.rows as u32,
            team: team as u32,
            eps: norm.map_or(0.0, |params| params.eps),
            offset: if norm.is_some_and(|params| params.one_plus) { 1.0 } else { 0.0 },
        };
        let mut launch = Launch::new("qkv_post", format!("qkv_post_{}", self.half.name()), &params);
        let heads_per_block = THREADS / team;
        let num_heads = self.rows * (shape.num_heads + 2 * shape.num_kv_heads);
        let blocks = i32::try_from(num_heads.div_ceil(heads_per_block)).expect("qkv_post: rows");
        launch.grid = [blocks as u32, 1, 1];
        launch.threads = THREADS as u32;
        launch.shared_bytes = if heads.pairs > 0 { (heads_per_block * heads.head_dim() * 4) as u32 } else { 0 };
        launch.overlap = true;
        launch
    }
}
