//! Attention on the device (`kernels/cuda/attention.cuh`): tile sizes for a card, workspace, the launch.
//!
//! The CPU's version, and the reference, is [`crate::attention`]. The list that the kernel works off is made in
//! [`super::work_list`]. Hopper's own kernel is in [`super::attention_sm90a`].

use super::attention_sm90a::{self, ArenaMap};
use super::device::DeviceInfo;
use super::launch::{DevicePtr, HalfType, Launch, Params};
use super::work_list::{NARROW_ROWS, SplitPolicy, WorkShape};
use crate::attention::AttentionShape;
use crate::kv::{BLOCK_SIZE, CacheKind, GroupGeometry, KvDtype};

/// Threads of a block.
const THREADS: usize = 128;

/// Warps of a block.
const WARPS: usize = THREADS / 32;

/// Most blocks of an SM: what registers allow.
const MAX_BLOCKS_PER_SM: usize = 2;

/// Bytes that name a block's unit, in front of its shared memory.
const UNIT_BYTES: usize = 80;

/// Shared memory that a block takes beside its own, in bytes.
const RESERVED_SHARED: usize = 1024;

/// Fewest and most slots of the ring: a tile read and one under way; as many as the kernel can wait for.
const SLOTS: std::ops::RangeInclusive<usize> = 2..=8;

/// Units of partial results a block of the launch, all KV heads together: for heads of 128 about 70 MB on the largest
/// cards, which eight sequences of 131,072 tokens need where splits are fixed at 1024.
const UNITS_PER_BLOCK: usize = 32;

/// Window of a layer without one.
const NO_WINDOW: u32 = i32::MAX as u32;

/// The struct of that name in `attention.cuh`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct AttentionParams {
    qkv: DevicePtr,
    out: DevicePtr,
    cache: DevicePtr,
    tables: DevicePtr,
    work: DevicePtr,
    partials: DevicePtr,
    tickets: DevicePtr,
    sinks: DevicePtr,
    row_stride: u32,
    max_blocks: u32,
    num_kv_heads: u32,
    group: u32,
    window: u32,
    narrow_slots: u32,
    wide_slots: u32,
    totals: u32,
    score_factor: f32,
    cap_factor: f32,
}

// SAFETY: eight addresses and ten 4-byte numbers, no padding; the fields of the struct in `attention.cuh`.
unsafe impl Params for AttentionParams {
    const NAME: &'static str = "AttentionParams";
}

/// A family of kernels; all of them work off the same lists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AttentionKernel {
    /// `mma.sync` and `cp.async`: every card, head size and cache type.
    #[default]
    Mma,
    /// `wgmma` and tensor copies: Hopper, heads of 64 and 128, a 16-bit cache.
    Wgmma,
}

/// What of a card decides the tiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceLimits {
    /// Streaming multiprocessors.
    pub num_sms: usize,
    /// Dynamic shared memory that a block may have, in bytes.
    pub shared_bytes_per_block: usize,
    /// Shared memory of an SM, in bytes.
    pub shared_bytes_per_sm: usize,
}

impl From<&DeviceInfo> for DeviceLimits {
    fn from(info: &DeviceInfo) -> Self {
        let DeviceInfo { num_sms, shared_bytes, shared_bytes_per_sm, .. } = *info;
        Self { num_sms, shared_bytes_per_block: shared_bytes, shared_bytes_per_sm }
    }
}

/// Sizes of one layer kind's kernel on one card.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttentionTiles {
    /// The kernels whose sizes these are.
    pub kernel: AttentionKernel,
    /// Width of a head.
    pub head_dim: usize,
    /// The cache is FP8 e4m3.
    pub fp8: bool,
    /// Tokens of a KV tile.
    pub kv_tile: usize,
    /// Rows of the large query tile; [`NARROW_ROWS`] where it doesn't fit.
    pub wide_rows: usize,
    /// Slots of the ring behind a small query tile; of the wgmma kernel, stages of two slots, here and below.
    pub narrow_slots: usize,
    /// Slots of the ring behind a large one.
    pub wide_slots: usize,
    /// Dynamic shared memory of a block.
    pub shared_bytes: usize,
    /// Blocks of the launch: all that run at once.
    pub num_blocks: usize,
}

/// Device memory that a layer kind's launches share; they run one after another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttentionWorkspace {
    /// [`WorkShape::num_units`].
    pub num_units: usize,
    /// f32 values of the partial results.
    pub partials: usize,
    /// u32 tickets, which the caller sets to zero once.
    pub tickets: usize,
}

/// Where a layer's keys and values lie.
#[derive(Clone, Copy, Debug)]
pub struct LayerCache<'a> {
    /// First byte of the arena.
    pub arena: DevicePtr,
    /// Strides inside a block.
    pub geometry: &'a GroupGeometry,
    /// Index of the layer in its group.
    pub layer: usize,
    /// `[slots][max_blocks]` of u32: a block's byte offset in the arena / 64.
    pub tables: DevicePtr,
    /// Entries of a row of `tables`.
    pub max_blocks: usize,
}

/// One launch: `out[rows, heads * head_dim]` from the queries in `qkv` and the cache.
#[derive(Clone, Copy, Debug)]
pub struct Attention<'a> {
    /// Heads, widths, scale, window, soft cap.
    pub shape: &'a AttentionShape,
    /// Sizes on this card.
    pub tiles: &'a AttentionTiles,
    /// Keys and values, those of the step's rows written already.
    pub cache: LayerCache<'a>,
    /// Rows of `q | k | v`, the queries normed and rotated.
    pub qkv: DevicePtr,
    /// The arena as a matrix, where the tiles are those of [`AttentionKernel::Wgmma`].
    pub arena: Option<&'a ArenaMap>,
    /// Output rows; rows outside every span of the list are left alone.
    pub out: DevicePtr,
    /// The list of [`super::work_list::WorkPlanner::plan`].
    pub work: DevicePtr,
    /// Values of [`AttentionWorkspace::partials`].
    pub partials: DevicePtr,
    /// Values of [`AttentionWorkspace::tickets`].
    pub tickets: DevicePtr,
    /// `[heads]` f32 logits that take part in the softmax's sum alone, or null.
    pub sinks: DevicePtr,
    /// Type of `qkv` and `out`.
    pub half: HalfType,
}

impl AttentionTiles {
    /// The sizes for a layer kind on a card. `None` where there is no kernel: key and value heads of different or
    /// unusual widths (not 64, 80, 96, 128, 256, 512), or too little shared memory.
    pub fn new(shape: &AttentionShape, fp8: bool, limits: DeviceLimits) -> Option<Self> {
        let head_dim = shape.head_dim_k;
        if shape.head_dim_v != head_dim || ![64, 80, 96, 128, 256, 512].contains(&head_dim) {
            return None;
        }
        let wide_rows = wide_rows(head_dim);
        let mut tiles = Self {
            kernel: AttentionKernel::Mma,
            head_dim,
            fp8,
            kv_tile: if head_dim <= 128 { 64 } else { 32 },
            wide_rows,
            narrow_slots: 0,
            wide_slots: 0,
            shared_bytes: 0,
            num_blocks: 0,
        };
        let shared = |blocks: usize| {
            (limits.shared_bytes_per_sm / blocks).saturating_sub(RESERVED_SHARED).min(limits.shared_bytes_per_block)
        };
        // Two blocks an SM, else large tiles, else whatever runs.
        for (blocks, wide_rows) in [(MAX_BLOCKS_PER_SM, wide_rows), (1, wide_rows), (1, NARROW_ROWS)] {
            tiles.wide_rows = wide_rows;
            if tiles.fit(shared(blocks)) {
                tiles.num_blocks = limits.num_sms * blocks;
                return Some(tiles);
            }
        }
        None
    }

    /// Chooses the ring's length for `budget` bytes; false if not even the shortest fits.
    fn fit(&mut self, budget: usize) -> bool {
        let slot = self.kv_tile * pitch(self.head_dim * if self.fp8 { 1 } else { 2 });
        let slots = |rows: usize| {
            let slots = budget.saturating_sub(self.ring_offset(rows)) / slot;
            slots.min(*SLOTS.end())
        };
        (self.narrow_slots, self.wide_slots) = (slots(NARROW_ROWS), slots(self.wide_rows));
        let end = |rows, slots| self.ring_offset(rows) + slots * slot;
        self.shared_bytes = end(NARROW_ROWS, self.narrow_slots).max(end(self.wide_rows, self.wide_slots));
        self.narrow_slots.min(self.wide_slots) >= *SLOTS.start()
    }

    /// Bytes in front of the ring: the unit, what warps that share rows exchange, the queries.
    fn ring_offset(&self, rows: usize) -> usize {
        let shares_rows = rows == NARROW_ROWS || self.head_dim == 512;
        let exchange = if shares_rows { rows * (4 * WARPS + 2 * self.kv_tile + 16) } else { 0 };
        UNIT_BYTES + exchange + rows * pitch(2 * self.head_dim)
    }

    /// f32 values of the partial result of 16 rows.
    fn unit(&self) -> usize {
        NARROW_ROWS * (self.head_dim.next_multiple_of(64) + 2 * WARPS)
    }

    /// The memory that launches over `num_kv_heads` heads need.
    pub fn workspace(&self, num_kv_heads: usize) -> AttentionWorkspace {
        // A block of Hopper's has an SM to itself.
        let blocks_per_block = if self.kernel == AttentionKernel::Wgmma { MAX_BLOCKS_PER_SM } else { 1 };
        let num_units = (UNITS_PER_BLOCK * self.num_blocks * blocks_per_block).div_ceil(num_kv_heads);
        // The kernel keeps a large tile's place a block, whether such tiles are used or not.
        let totals = self.num_blocks * wide_rows(self.head_dim) / NARROW_ROWS;
        let partials = (num_units * num_kv_heads + totals) * self.unit();
        AttentionWorkspace { num_units, partials, tickets: num_units * num_kv_heads }
    }

    /// What the planner of these launches' lists must know.
    pub fn work_shape(&self, shape: &AttentionShape, splits: SplitPolicy) -> WorkShape {
        WorkShape {
            group: shape.group(),
            num_kv_heads: shape.num_kv_heads,
            kv_tile: self.kv_tile,
            wide_rows: self.wide_rows,
            kind: shape.kind,
            num_blocks: self.num_blocks,
            num_units: self.workspace(shape.num_kv_heads).num_units,
            splits,
        }
    }
}

/// Rows of the kernel's large query tile: what 255 registers a thread hold.
fn wide_rows(head_dim: usize) -> usize {
    match head_dim {
        512 => 32,
        256 => 64,
        _ => 128,
    }
}

/// Distance of rows of `bytes` bytes in shared memory: an odd number of 16-byte chunks.
fn pitch(bytes: usize) -> usize {
    ((bytes / 16) | 1) * 16
}

impl LayerCache<'_> {
    /// Address of the layer's first region in a block of offset 0.
    pub(super) fn base(&self) -> DevicePtr {
        self.arena.byte_add(self.geometry.k_offset(self.layer, 0))
    }

    /// Whether elements are e4m3, checked to be that or `half`.
    pub(super) fn is_fp8(&self, half: HalfType) -> bool {
        match (self.geometry.spec.dtype, half) {
            (KvDtype::E4m3, _) => true,
            (KvDtype::Bf16, HalfType::Bf16) | (KvDtype::F16, HalfType::F16) => false,
            (dtype, half) => panic!("a {} cache beside {} activations", dtype.name(), half.name()),
        }
    }
}

impl Attention<'_> {
    /// The launch: one block for every place the card has.
    ///
    /// # Panics
    /// If shape, tiles and cache don't agree: a bug of the caller.
    pub fn launch(&self) -> Launch {
        let (params, tiles) = (self.params(), self.tiles);
        if tiles.kernel == AttentionKernel::Wgmma {
            let arena = self.arena.expect("attention: no map of the arena");
            let layer_offset = self.cache.geometry.k_offset(self.cache.layer, 0);
            return attention_sm90a::launch(params, tiles, self.half, arena, layer_offset);
        }
        let (half, suffix) = (self.half.name(), if tiles.fp8 { "_fp8" } else { "" });
        let module = match self.half {
            HalfType::Bf16 => "attention_bf16",
            HalfType::F16 => "attention_f16",
        };
        let mut launch = Launch::new(module, format!("attention_{half}_{}{suffix}", tiles.head_dim), &params);
        launch.grid = [tiles.num_blocks as u32, 1, 1];
        launch.threads = THREADS as u32;
        launch.shared_bytes = tiles.shared_bytes as u32;
        launch.overlap = true;
        launch
    }

    /// The parameters, with shape, tiles and cache checked against each other.
    fn params(&self) -> AttentionParams {
        let (shape, tiles, geometry) = (self.shape, self.tiles, self.cache.geometry);
        let dims = (shape.head_dim_k, shape.head_dim_v, self.cache.is_fp8(self.half));
        assert!(dims == (tiles.head_dim, tiles.head_dim, tiles.fp8), "attention: tiles of another shape");
        let cached = (geometry.spec.num_kv_heads, geometry.spec.head_dim_k, geometry.spec.head_dim_v);
        assert!(
            cached == (shape.num_kv_heads, shape.head_dim_k, shape.head_dim_v),
            "attention: cache of another shape"
        );
        assert!(self.cache.layer < geometry.num_layers, "attention: no such layer");
        assert!(shape.num_heads == shape.group() * shape.num_kv_heads, "attention: ragged head groups");
        assert!(
            geometry.k_bytes == BLOCK_SIZE * tiles.head_dim * geometry.spec.dtype.bytes(),
            "attention: padded heads"
        );
        assert!(shape.scale > 0.0, "attention: scale {}", shape.scale);
        let log2e = std::f32::consts::LOG2_E;
        let (score_factor, cap_factor) = match shape.softcap {
            None => (shape.scale * log2e, 0.0),
            Some(cap) => (cap * log2e, 2.0 * log2e * shape.scale / cap),
        };
        let workspace = tiles.workspace(shape.num_kv_heads);
        AttentionParams {
            qkv: self.qkv,
            out: self.out,
            cache: self.cache.base(),
            tables: self.cache.tables,
            work: self.work,
            partials: self.partials,
            tickets: self.tickets,
            sinks: self.sinks,
            row_stride: shape.qkv_width() as u32,
            max_blocks: self.cache.max_blocks as u32,
            num_kv_heads: shape.num_kv_heads as u32,
            group: shape.group() as u32,
            window: match shape.kind {
                CacheKind::Full => NO_WINDOW,
                CacheKind::SlidingWindow { window } => window.clamp(1, NO_WINDOW as usize) as u32,
            },
            narrow_slots: tiles.narrow_slots as u32,
            wide_slots: tiles.wide_slots as u32,
            totals: (workspace.num_units * shape.num_kv_heads) as u32,
            score_factor,
            cap_factor,
        }
    }
}
