//! Attention with Hopper's wgmma and tensor copies (`kernels/cuda/attention_sm90a.cuh`): where it can run, its sizes, its
//! parameters. The work list, the workspace and everything else of a launch are those of [`super::attention`].

use super::attention::{AttentionKernel, AttentionParams, AttentionTiles, DeviceLimits};
use super::device::{GpuDevice, GpuError};
use super::launch::{DevicePtr, HalfType, Launch, Params};
use super::tensor_map::{BOX_COLUMNS, TensorMap, TensorRows};
use crate::attention::AttentionShape;
use crate::kv::{ArenaGeometry, BLOCK_SIZE};

/// Threads of a block: a producer's warpgroup and two consumers'.
const THREADS: u32 = 384;

/// The compute capability whose cards have these instructions; later ones have others.
pub const COMPUTE: (u32, u32) = (9, 0);

/// Shared memory in front of the ring: barriers, and what aligns it.
const RING_OFFSET: usize = 2048;

/// Fewest and most stages of the ring. A consumer holds a tile's values while it waits for the next one's keys.
const STAGES: std::ops::RangeInclusive<usize> = 2..=8;

/// The struct of that name in `attention_sm90a.cuh`.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug)]
pub struct TensorAttentionParams {
    arena: TensorMap,
    attention: AttentionParams,
    first_row: u32,
    num_rows: u32,
    padding: [u32; 4],
}

// SAFETY: a map of 128 bytes, 104 bytes of `AttentionParams`, six 4-byte numbers: 256 bytes, no padding beside the
// named one; the fields of the struct in `attention_sm90a.cuh`.
unsafe impl Params for TensorAttentionParams {
    const NAME: &'static str = "TensorAttentionParams";
}

/// The KV arena as one matrix, a row a token of a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArenaMap {
    map: TensorMap,
    rows: usize,
}

impl ArenaMap {
    /// The map for a cache group's layers; `bytes` are the arena's.
    ///
    /// # Errors
    /// [`GpuError::Unusable`] where a block doesn't begin at a row, or the device has no tensor maps.
    pub fn new<D: GpuDevice>(
        device: &mut D,
        geometry: &ArenaGeometry,
        group: usize,
        half: HalfType,
        (arena, bytes): (DevicePtr, usize),
    ) -> Result<Self, GpuError> {
        let rows = arena_rows(geometry, group, half, (arena, bytes)).map_err(refused)?;
        Ok(Self { map: device.tensor_map(&rows)?, rows: rows.rows })
    }
}

/// The arena as rows of a cache group's heads, or why it is none.
fn arena_rows(
    geometry: &ArenaGeometry,
    group: usize,
    half: HalfType,
    (arena, bytes): (DevicePtr, usize),
) -> Result<TensorRows, &'static str> {
    let group = &geometry.groups[group];
    let width = group.spec.head_dim_k;
    let row_bytes = width * 2;
    let divides = [geometry.superpage_bytes, group.block_bytes, group.layer_bytes].map(|b| b.is_multiple_of(row_bytes));
    if !width.is_multiple_of(BOX_COLUMNS) || divides.contains(&false) {
        return Err("the cache's blocks don't begin at whole rows");
    }
    let rows = bytes / row_bytes;
    // The kernel adds a head's row to that of a block, also to the one behind the last that names an absent block.
    if rows + group.block_bytes / row_bytes > i32::MAX as usize {
        return Err("the cache has more rows than a coordinate counts");
    }
    Ok(TensorRows { at: arena, half, width, rows })
}

/// The sizes for a layer kind on a card that has the instructions.
///
/// # Errors
/// Why there is no kernel.
pub fn tiles(shape: &AttentionShape, fp8: bool, limits: DeviceLimits) -> Result<AttentionTiles, &'static str> {
    let head_dim = shape.head_dim_k;
    if shape.head_dim_v != head_dim || ![64, 128].contains(&head_dim) {
        return Err("it has kernels for heads of 64 and 128 only");
    }
    if fp8 {
        return Err("it reads no fp8 cache");
    }
    let kv_tile = 2 * BLOCK_SIZE;
    let stage = 2 * kv_tile * head_dim * 2;
    let stages = (limits.shared_bytes_per_block.saturating_sub(RING_OFFSET) / stage).min(*STAGES.end());
    if stages < *STAGES.start() {
        return Err("a block has too little shared memory");
    }
    Ok(AttentionTiles {
        kernel: AttentionKernel::Wgmma,
        head_dim,
        fp8,
        kv_tile,
        wide_rows: 128,
        narrow_slots: stages,
        wide_slots: stages,
        shared_bytes: RING_OFFSET + stages * stage,
        num_blocks: limits.num_sms,
    })
}

/// [`tiles`], on a device that may have no such instructions.
///
/// # Errors
/// [`GpuError::Unusable`] with the reason.
pub fn tiles_on<D: GpuDevice>(shape: &AttentionShape, fp8: bool, device: &D) -> Result<AttentionTiles, GpuError> {
    let info = device.info();
    if info.compute != COMPUTE {
        let (major, minor) = info.compute;
        let text = format!("it needs compute capability 9.0 (H100, H200), {} has {major}.{minor}", info.name);
        return Err(refused(&text));
    }
    tiles(shape, fp8, info.into()).map_err(refused)
}

fn refused(reason: &str) -> GpuError {
    GpuError::Unusable(format!("attention-kernel wgmma can't be used: {reason}; leave the setting out"))
}

/// The launch; `first_row` is the layer's in a block.
pub(super) fn launch(
    attention: AttentionParams,
    tiles: &AttentionTiles,
    half: HalfType,
    arena: &ArenaMap,
    layer_offset: usize,
) -> Launch {
    let (first_row, num_rows) = ((layer_offset / (tiles.head_dim * 2)) as u32, arena.rows as u32);
    let params = TensorAttentionParams { arena: arena.map, attention, first_row, num_rows, padding: [0; 4] };
    let kernel = format!("attention_sm90a_{}_{}", half.name(), tiles.head_dim);
    let mut launch = Launch::new("attention_sm90a", kernel, &params);
    launch.grid = [tiles.num_blocks as u32, 1, 1];
    launch.threads = THREADS;
    launch.shared_bytes = tiles.shared_bytes as u32;
    launch.overlap = true;
    launch
}
