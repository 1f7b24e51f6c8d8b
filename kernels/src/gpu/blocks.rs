//! Upkeep of the KV cache on the device (`kernels/cuda/blocks.cu`): copies of blocks, changes of block tables.

use super::launch::{DevicePtr, Launch, Params};
use crate::kv::REGION_ALIGN;

/// Threads a block.
const THREADS: usize = 256;

/// Bytes a thread block copies.
const CHUNK_BYTES: usize = THREADS * 4 * 16;

/// Most thread blocks that write table entries; each loops.
const MAX_UPDATE_BLOCKS: usize = 32;

/// The struct of that name in `blocks.cu`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct CopyBlocksParams {
    arena: DevicePtr,
    pairs: DevicePtr,
    block_bytes: u64,
}

// SAFETY: three 8-byte fields, no padding; the fields of the struct in `blocks.cu`.
unsafe impl Params for CopyBlocksParams {
    const NAME: &'static str = "CopyBlocksParams";
}

/// The struct of that name in `blocks.cu`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct UpdateTablesParams {
    tables: DevicePtr,
    entries: DevicePtr,
    count: DevicePtr,
    capacity: u64,
}

// SAFETY: four 8-byte fields, no padding; the fields of the struct in `blocks.cu`.
unsafe impl Params for UpdateTablesParams {
    const NAME: &'static str = "UpdateTablesParams";
}

/// Copies `num_pairs` blocks of `block_bytes` inside the arena; `pairs[num_pairs][2]` holds u64 byte offsets, from and to.
/// No block may be written that another pair reads or writes.
///
/// # Panics
/// If the block is not whole cache lines, or there are more than 65,535 pairs.
pub fn copy_blocks(arena: DevicePtr, pairs: DevicePtr, num_pairs: usize, block_bytes: usize) -> Launch {
    assert!(block_bytes > 0 && block_bytes.is_multiple_of(REGION_ALIGN), "copy_blocks: blocks of {block_bytes} bytes");
    assert!(num_pairs <= 65_535, "copy_blocks: {num_pairs} pairs");
    let params = CopyBlocksParams { arena, pairs, block_bytes: block_bytes as u64 };
    let mut launch = Launch::new("blocks", "copy_blocks", &params);
    launch.grid = [block_bytes.div_ceil(CHUNK_BYTES) as u32, num_pairs as u32, 1];
    launch.threads = THREADS as u32;
    launch.overlap = true;
    launch
}

/// Writes `tables[index] = value` for the first `*count` of `entries[capacity][2]` (u32 index and value, no index twice).
/// `count` is a u32 on the device, so that one captured launch serves every step.
pub fn update_tables(tables: DevicePtr, entries: DevicePtr, count: DevicePtr, capacity: usize) -> Launch {
    let params = UpdateTablesParams { tables, entries, count, capacity: capacity as u64 };
    let mut launch = Launch::new("blocks", "update_tables", &params);
    launch.grid = [capacity.div_ceil(THREADS).min(MAX_UPDATE_BLOCKS) as u32, 1, 1];
    launch.threads = THREADS as u32;
    launch.overlap = true;
    launch
}
