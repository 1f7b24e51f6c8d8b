//! What a microkernel gets, where its results go, and which ones each instruction set has.

use super::activation::ActBlock;
use super::layout::TILE;
use crate::device::Isa;
use crate::dtype::WeightType;

/// Operands of one microkernel call: some rows of activations, some tiles of weights, all columns.
pub(crate) struct Args {
    /// First tile.
    pub(crate) tile: *const u8,
    /// Bytes from tile to tile.
    pub(crate) tile_bytes: usize,
    /// Bytes from a tile to its scales.
    pub(crate) scales_at: usize,
    /// Columns, in a block-quantised kernel a multiple of 32 (of 256 for K-quants).
    pub(crate) cols: usize,
    /// First row in f32, `cols` apart; read by dense kernels.
    pub(crate) x: *const f32,
    /// First row in 8 bits, `cols` apart; read by block-quantised kernels.
    pub(crate) q: *const i8,
    /// Its scales, `cols / 32` a row.
    pub(crate) blocks: *const ActBlock,
    /// Weights that a later call reads: worth fetching, `ahead_lines` lines of 64 bytes a block. Only a hint.
    pub(crate) ahead: *const u8,
    pub(crate) ahead_lines: usize,
    /// Where results go.
    pub(crate) sink: Sink,
}

/// The place of a microkernel's results in y.
pub(crate) struct Sink {
    /// y at the first row and the first tile's first output.
    pub(crate) y: *mut f32,
    /// Elements from row to row of y.
    pub(crate) stride: usize,
    /// Outputs from here to the end of the matrix; the rest of the last tile is padding.
    pub(crate) outputs: usize,
    /// Bias at the first tile's first output, or null.
    pub(crate) bias: *const f32,
    /// Add to y instead of replacing it.
    pub(crate) accumulate: bool,
}

impl Sink {
    /// Writes the 16 results of row `i` and tile `j`.
    ///
    /// # Safety
    /// `y` and `bias` must be valid for the row's outputs of this tile that exist.
    #[inline(always)]
    pub(crate) unsafe fn put(&self, i: usize, j: usize, values: &[f32; TILE]) {
        let count = TILE.min(self.outputs - j * TILE);
        // SAFETY: row and tile are within the operands, `count` stops at the last output (caller).
        let (y, bias) = unsafe { (self.y.add(i * self.stride + j * TILE), self.bias.wrapping_add(j * TILE)) };
        let mut values = *values;
        // SAFETY: as above; `bias` is only read when there is one.
        unsafe {
            if count == TILE {
                if !self.bias.is_null() {
                    add(&mut values, &*bias.cast());
                }
                if self.accumulate {
                    add(&mut values, &*y.cast_const().cast());
                }
                *y.cast::<[f32; TILE]>() = values;
            } else {
                for (r, mut value) in values.into_iter().enumerate().take(count) {
                    if !self.bias.is_null() {
                        value += *bias.add(r);
                    }
                    if self.accumulate {
                        value += *y.add(r);
                    }
                    *y.add(r) = value;
                }
            }
        }
    }
}

#[inline(always)]
fn add(values: &mut [f32; TILE], other: &[f32; TILE]) {
    for (a, b) in values.iter_mut().zip(other) {
        *a += b;
    }
}

/// A microkernel for a fixed number of rows and tiles.
///
/// # Safety (of `run`)
/// The instruction set is present and `Args` describes memory of `rows` rows and `tiles` tiles.
#[derive(Clone, Copy)]
pub(crate) struct Variant {
    pub(crate) rows: usize,
    pub(crate) tiles: usize,
    pub(crate) run: unsafe fn(&Args),
}

/// The microkernels of one type: `single` for one row, `batch` for more. Most tiles first, then most rows; each has a
/// variant of one tile, and of one row for each number of tiles.
#[derive(Clone, Copy)]
pub(crate) struct Set {
    pub(crate) single: &'static [Variant],
    pub(crate) batch: &'static [Variant],
}

impl Set {
    /// The variants to use for `rows` rows and at most `tiles` tiles, all of the same number of tiles.
    pub(crate) fn of(&self, rows: usize, tiles: usize) -> &'static [Variant] {
        let all = if rows == 1 { self.single } else { self.batch };
        let start = all.iter().position(|v| v.tiles <= tiles).unwrap_or(all.len() - 1);
        let width = all[start].tiles;
        let end = start + all[start..].iter().take_while(|v| v.tiles == width).count();
        &all[start..end]
    }
}

/// Kernels that multiply packed blocks with 8-bit activations; `None` for dense types.
pub(crate) fn int8_kernels(isa: Isa, ty: WeightType) -> Option<Set> {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => super::avx512::int8_kernels(ty),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => super::avx2::int8_kernels(ty),
        _ => super::portable::int8_kernels(ty),
    }
}

/// Kernels that multiply dense weights (`ty` F32, F16 or BF16) with f32 activations.
pub(crate) fn dense_kernels(isa: Isa, ty: WeightType) -> Set {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => super::avx512::dense_kernels(ty),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => super::avx2::dense_kernels(ty),
        _ => super::portable::dense_kernels(ty),
    }
}
