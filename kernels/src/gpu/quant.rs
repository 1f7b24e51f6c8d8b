//! Block-quantised weights in the device's order (`kernels/cuda/quant.cuh` draws it), and their expansion.
//!
//! The device computes with the file's own integers and scales, in as many bytes as the file has, give or take the padding
//! of rows to 16 and of columns to 256, and two bits a hundred for 6-bit scales that become bytes.

use std::ops::Range;

use super::launch::{DevicePtr, HalfType, Launch, Params};
use crate::dtype::WeightType;
use crate::error::KernelError;
use crate::packed::blocks::Block;
use crate::packed::layout::{Format, Scales, with_format};

/// Rows of a tile.
pub(super) const TILE: usize = 16;
/// Columns of a slice.
const SLICE: usize = 256;
/// Steps of 32 columns in a slice.
const STEPS: usize = 8;
/// Slices that a block of the expansion takes: a warp each.
const SLICES_A_BLOCK: usize = 8;

/// Sizes of a packed matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuantLayout {
    ty: WeightType,
    rows: usize,
    cols: usize,
    slice_bytes: usize,
}

/// Where the parts of a slice begin, in bytes.
struct Parts {
    high: usize,
    head: usize,
    mins_head: usize,
    subs: usize,
    end: usize,
}

/// Bits of the low plane: the device holds 8-bit values as two planes of 4.
const fn low_bits<F: Format>() -> usize {
    if F::LOW == 8 { 4 } else { F::LOW }
}

const fn high_bits<F: Format>() -> usize {
    F::LOW + F::HIGH - low_bits::<F>()
}

const fn parts<F: Format>() -> Parts {
    let high = 512 * low_bits::<F>();
    let head = high + 512 * high_bits::<F>();
    let block = matches!(F::SCALES, Scales::Block);
    let scales = TILE * if block { 2 * STEPS } else { 2 };
    let subs = head + if F::MIN { 2 * scales } else { scales };
    let bytes = match F::SCALES {
        Scales::Block => 0,
        Scales::Super if F::MIN => 2 * TILE * F::SUBS,
        Scales::Super | Scales::SuperNibbles => TILE * F::SUBS,
    };
    Parts { high, head, mins_head: if block { head + scales } else { head }, subs, end: subs + bytes }
}

impl QuantLayout {
    /// The layout of `rows x cols` values.
    ///
    /// # Errors
    /// For a dense type, or columns that are no whole blocks.
    pub fn new(ty: WeightType, rows: usize, cols: usize) -> Result<Self, KernelError> {
        ty.row_bytes(cols).filter(|_| !ty.is_dense()).ok_or(KernelError::RowLength { ty, cols })?;
        let slice_bytes = with_format!(ty, F => parts::<F>().end, dense => 0);
        Ok(Self { ty, rows, cols, slice_bytes })
    }

    /// Type of the values.
    pub fn ty(&self) -> WeightType {
        self.ty
    }

    /// Tiles of 16 rows.
    pub fn tiles(&self) -> usize {
        self.rows.div_ceil(TILE)
    }

    fn slices(&self) -> usize {
        self.cols.div_ceil(SLICE)
    }

    /// Bytes from one tile to the next.
    pub fn tile_bytes(&self) -> usize {
        self.slices() * self.slice_bytes
    }

    /// Bytes of the matrix.
    pub fn bytes(&self) -> usize {
        self.tiles() * self.tile_bytes()
    }

    /// Packs some of the tiles of `data`, the whole matrix as the file has it, into `out`: threads may share them out.
    ///
    /// # Errors
    /// If `data` or `out` has another length than that takes.
    pub fn pack(&self, data: &[u8], tiles: Range<usize>, out: &mut [u8]) -> Result<(), KernelError> {
        let row_bytes = self.ty.row_bytes(self.cols).unwrap_or_default();
        KernelError::check("bytes of a quantised matrix", self.rows * row_bytes, data.len())?;
        KernelError::check("bytes of packed tiles", tiles.len() * self.tile_bytes(), out.len())?;
        out.fill(0);
        for (tile, out) in tiles.zip(out.chunks_exact_mut(self.tile_bytes().max(1))) {
            for row in tile * TILE..(tile * TILE + TILE).min(self.rows) {
                let data = &data[row * row_bytes..][..row_bytes];
                with_format!(self.ty, F => self.pack_row::<F>(data, row % TILE, out), dense => {});
            }
        }
        Ok(())
    }

    /// Puts one row into its tile.
    fn pack_row<F: Format>(&self, data: &[u8], row: usize, tile: &mut [u8]) {
        let mut block = Block::new();
        let blocks = data.chunks_exact(self.ty.block_bytes());
        let unit_steps = self.ty.block_len() / 32;
        for (i, bytes) in blocks.enumerate() {
            (F::READ)(bytes, &mut block);
            let (slice, first_step) = (i * unit_steps / STEPS, i * unit_steps % STEPS);
            let out = &mut tile[slice * self.slice_bytes..][..self.slice_bytes];
            for (step, q) in block.q.as_chunks::<32>().0.iter().take(unit_steps).enumerate() {
                pack_step::<F>(q, row, first_step + step, out);
            }
            pack_scales::<F>(&block, row, first_step, out);
        }
    }
}

/// Adds the 32 values of a row's step to the planes of a slice.
fn pack_step<F: Format>(q: &[u8; 32], row: usize, step: usize, out: &mut [u8]) {
    let (low, high) = (low_bits::<F>(), high_bits::<F>());
    let place = row / 8 * STEPS + step;
    for t in 0..4 {
        let (mut low_word, mut high_word) = (0, 0);
        for element in 0..8 {
            let column = if F::HALVES { element / 4 * 16 + 4 * t + element % 4 } else { 8 * t + element };
            let q = u32::from(q[column]);
            low_word |= (q & ((1 << low) - 1)) << (low * (element / 2) + element % 2 * 16);
            if high > 0 {
                high_word |= (q >> low) << (high * (element / 2) + element % 2 * 16);
            }
        }
        let lane = row % 8 * 4 + t;
        add_fields(out, low, lane, place, low_word);
        if high > 0 {
            add_fields(&mut out[parts::<F>().high..], high, lane, place, high_word);
        }
    }
}

/// Ors a lane's eight values of a step, spread in `word` as if they were its first ones, into a plane of `bits` bits.
fn add_fields(plane: &mut [u8], bits: usize, lane: usize, place: usize, word: u32) {
    let per_word = 4 / bits;
    let (at, shift) = (place / per_word, bits * (place % per_word * 4));
    let byte = (at / 4 * 32 + lane) * 16 + at % 4 * 4;
    for (byte, bits) in plane[byte..byte + 4].iter_mut().zip((word << shift).to_le_bytes()) {
        *byte |= bits;
    }
}

/// Writes the scales of a row's block, whose first step in the slice is `step`.
fn pack_scales<F: Format>(block: &Block, row: usize, step: usize, out: &mut [u8]) {
    let (parts, g, half) = (parts::<F>(), row % 8, row / 8);
    let mut put = |at: usize, bits: u16| out[at..at + 2].copy_from_slice(&bits.to_le_bytes());
    if F::SCALES == Scales::Block {
        let at = ((g * 2 + half) * STEPS + step) * 2;
        put(parts.head + at, block.d);
        if F::MIN {
            put(parts.mins_head + at, block.m);
        }
        return;
    }
    let head = parts.head + g * if F::MIN { 8 } else { 4 } + half * 2;
    put(head, block.d);
    if F::MIN {
        put(head + 4, block.m);
    }
    for i in 0..F::SUBS {
        let at = parts.subs + (g * 2 + half) * F::SUBS + i;
        out[at] = match F::SCALES {
            Scales::SuperNibbles => block.scales[i] | block.mins[i] << 4,
            _ if F::MIN => block.scales[i],
            _ => block.scales[i] ^ 0x80,
        };
        if F::MIN && F::SCALES == Scales::Super {
            out[at + TILE * F::SUBS] = block.mins[i];
        }
    }
}

/// Name of a type in kernel names; `None` for dense ones.
pub(super) fn kernel_name(ty: WeightType) -> Option<&'static str> {
    Some(match ty {
        WeightType::Q4_0 => "q4_0",
        WeightType::Q4_1 => "q4_1",
        WeightType::Q5_0 => "q5_0",
        WeightType::Q5_1 => "q5_1",
        WeightType::Q8_0 => "q8_0",
        WeightType::Q2K => "q2_k",
        WeightType::Q3K => "q3_k",
        WeightType::Q4K => "q4_k",
        WeightType::Q5K => "q5_k",
        WeightType::Q6K => "q6_k",
        WeightType::F32 | WeightType::F16 | WeightType::BF16 => return None,
    })
}

/// The struct of that name in `dequant.cu`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct DequantParams {
    w: DevicePtr,
    out: DevicePtr,
    n: i32,
    k: i32,
    slices: i32,
    groups: i32,
}

// SAFETY: two addresses and four 4-byte numbers, no padding; the fields of the struct in `dequant.cu`.
unsafe impl Params for DequantParams {
    const NAME: &'static str = "DequantParams";
}

/// `out[rows, cols]` of type `half` from a packed matrix: what a library's product of many rows reads.
///
/// # Panics
/// If a size passes `i32::MAX`.
pub fn dequantize(layout: &QuantLayout, packed: DevicePtr, out: DevicePtr, half: HalfType) -> Launch {
    let int = |value: usize| i32::try_from(value).expect("dequantize: sizes");
    let groups = layout.slices().div_ceil(SLICES_A_BLOCK);
    let params = DequantParams {
        w: packed,
        out,
        n: int(layout.rows),
        k: int(layout.cols),
        slices: int(layout.slices()),
        groups: int(groups),
    };
    let ty = kernel_name(layout.ty).unwrap_or_default();
    let mut launch = Launch::new("dequant", format!("dequant_{ty}_{}", half.name()), &params);
    launch.grid = [int(layout.tiles() * groups) as u32, 1, 1];
    launch.threads = 32 * SLICES_A_BLOCK as u32;
    launch.overlap = true;
    launch
}
