//! The packed layout of block-quantised weights, one for all types.
//!
//! A matrix is cut into tiles of 16 rows; the last one is padded with zeros. A tile is
//! `[quants of every block of 32 columns][scales of every unit]`, rounded up to 64 bytes.
//!
//! Quants of a block: 8 *groups* of 4 columns; in a group, byte `4 * row + column` is that value: 64 bytes, one
//! AVX-512 register whose 32-bit lanes are rows. A plane of `b` bits stores the 8 groups in `b` chunks of 64 bytes:
//! group `g` lies in chunk `g % b` at bit `g / b * b`. A value is its low plane plus its high plane shifted by `LOW`.
//!
//! Scales of a unit (32 columns, or 256 for K-quants), each item for 16 rows:
//! `[d: f16][m or dmin: f16, if MIN][sub-scales: i8 each][sub-minima: u8 each, if MIN]`
//! (Q2_K: scale and minimum are nibbles of one byte). Nothing is rounded: unpacking gives the file's values exactly.

use super::blocks::{self, Block};
use crate::dtype::WeightType;

/// Rows of a tile.
pub(crate) const TILE: usize = 16;

/// Where a block's scale comes from.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scales {
    /// f16 for each 32 columns.
    Block,
    /// f16 for 256 columns times a byte for each sub-block.
    Super,
    /// The same, scale and minimum in one byte.
    SuperNibbles,
}

/// A block-quantised type as the kernels see it; all its facts are constants.
pub(crate) trait Format {
    /// Bits of the low plane: 2, 4 or 8.
    const LOW: usize;
    /// Bits of the high plane: 0, 1 or 2.
    const HIGH: usize;
    /// A scale for each 16 columns instead of 32.
    const HALVES: bool;
    /// `log2` of the constant subtracted from each value; 0 if the type stores minima instead.
    const CENTER_LOG2: u32;
    /// Where scales come from.
    const SCALES: Scales;
    /// Takes a block of the file apart.
    const READ: fn(&[u8], &mut Block);

    /// Whether the type stores minima.
    const MIN: bool = Self::CENTER_LOG2 == 0;
    /// The constant subtracted from each value.
    const CENTER: i32 = if Self::MIN { 0 } else { 1 << Self::CENTER_LOG2 };
    /// Columns that share an f16 scale.
    const UNIT: usize = if matches!(Self::SCALES, Scales::Block) { 32 } else { 256 };
    /// Sub-blocks in a unit.
    const SUBS: usize = if matches!(Self::SCALES, Scales::Block) {
        1
    } else if Self::HALVES {
        16
    } else {
        8
    };
    /// Bytes of a block's quants, for 16 rows.
    const QUANT_BYTES: usize = 64 * (Self::LOW + Self::HIGH);
    /// Bytes before the sub-scales of a unit.
    const HEAD_BYTES: usize = if Self::MIN { 64 } else { 32 };
    /// Bytes of a unit's scales, for 16 rows.
    const SCALE_BYTES: usize = Self::HEAD_BYTES
        + match Self::SCALES {
            Scales::Block => 0,
            Scales::SuperNibbles => Self::SUBS * TILE,
            Scales::Super if Self::MIN => 2 * Self::SUBS * TILE,
            Scales::Super => Self::SUBS * TILE,
        };
}

macro_rules! formats {
    ($($name:ident: $low:literal + $high:literal, halves $halves:literal, center $center:literal, $scales:ident, $read:path;)*) => {$(
        pub(crate) struct $name;
        impl Format for $name {
            const LOW: usize = $low;
            const HIGH: usize = $high;
            const HALVES: bool = $halves;
            const CENTER_LOG2: u32 = $center;
            const SCALES: Scales = Scales::$scales;
            const READ: fn(&[u8], &mut Block) = $read;
        }
    )*};
}

formats! {
    Q4_0: 4 + 0, halves false, center 3, Block, blocks::q4_0;
    Q4_1: 4 + 0, halves false, center 0, Block, blocks::q4_1;
    Q5_0: 4 + 1, halves false, center 4, Block, blocks::q5_0;
    Q5_1: 4 + 1, halves false, center 0, Block, blocks::q5_1;
    Q8_0: 8 + 0, halves false, center 7, Block, blocks::q8_0;
    Q2K: 2 + 0, halves true, center 0, SuperNibbles, blocks::q2_k;
    Q3K: 2 + 1, halves true, center 2, Super, blocks::q3_k;
    Q4K: 4 + 0, halves false, center 0, Super, blocks::q4_k;
    Q5K: 4 + 1, halves false, center 0, Super, blocks::q5_k;
    Q6K: 4 + 2, halves true, center 5, Super, blocks::q6_k;
}

/// Runs `$body` with `$F` bound to the format of `$ty`; `$dense` for types without blocks.
macro_rules! with_format {
    ($ty:expr, $F:ident => $body:expr, dense => $dense:expr) => {
        match $ty {
            WeightType::Q4_0 => {
                type $F = $crate::packed::layout::Q4_0;
                $body
            }
            WeightType::Q4_1 => {
                type $F = $crate::packed::layout::Q4_1;
                $body
            }
            WeightType::Q5_0 => {
                type $F = $crate::packed::layout::Q5_0;
                $body
            }
            WeightType::Q5_1 => {
                type $F = $crate::packed::layout::Q5_1;
                $body
            }
            WeightType::Q8_0 => {
                type $F = $crate::packed::layout::Q8_0;
                $body
            }
            WeightType::Q2K => {
                type $F = $crate::packed::layout::Q2K;
                $body
            }
            WeightType::Q3K => {
                type $F = $crate::packed::layout::Q3K;
                $body
            }
            WeightType::Q4K => {
                type $F = $crate::packed::layout::Q4K;
                $body
            }
            WeightType::Q5K => {
                type $F = $crate::packed::layout::Q5K;
                $body
            }
            WeightType::Q6K => {
                type $F = $crate::packed::layout::Q6K;
                $body
            }
            WeightType::F32 | WeightType::F16 | WeightType::BF16 => $dense,
        }
    };
}
pub(crate) use with_format;

/// A type without blocks: a tile is `[column][row]` of these.
pub(crate) trait Element {
    /// Bytes of an element.
    const BYTES: usize;
    /// The type, for kernels that load it in their own way.
    const TYPE: WeightType;
    /// The value of `BYTES` little-endian bytes.
    fn value(bytes: &[u8]) -> f32;
}

/// Elements of 4 bytes, f32.
pub(crate) struct Single;
/// Elements of 2 bytes, f16.
pub(crate) struct Half;
/// Elements of 2 bytes, bfloat16.
pub(crate) struct Brain;

impl Element for Single {
    const BYTES: usize = 4;
    const TYPE: WeightType = WeightType::F32;
    #[inline(always)]
    fn value(b: &[u8]) -> f32 {
        f32::from_le_bytes([b[0], b[1], b[2], b[3]])
    }
}

impl Element for Half {
    const BYTES: usize = 2;
    const TYPE: WeightType = WeightType::F16;
    #[inline(always)]
    fn value(b: &[u8]) -> f32 {
        half::f16::from_le_bytes([b[0], b[1]]).to_f32()
    }
}

impl Element for Brain {
    const BYTES: usize = 2;
    const TYPE: WeightType = WeightType::BF16;
    #[inline(always)]
    fn value(b: &[u8]) -> f32 {
        half::bf16::from_le_bytes([b[0], b[1]]).to_f32()
    }
}

/// Runs `$body` with `$E` bound to the element of `$ty`, a type without blocks (others are read as F32: callers check).
macro_rules! with_element {
    ($ty:expr, $E:ident => $body:expr) => {
        match $ty {
            WeightType::F16 => {
                type $E = $crate::packed::layout::Half;
                $body
            }
            WeightType::BF16 => {
                type $E = $crate::packed::layout::Brain;
                $body
            }
            _ => {
                type $E = $crate::packed::layout::Single;
                $body
            }
        }
    };
}
pub(crate) use with_element;

/// Sizes of a packed matrix.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Geometry {
    /// Tiles of 16 rows.
    pub(crate) tiles: usize,
    /// Bytes from one tile to the next, a multiple of 64.
    pub(crate) tile_bytes: usize,
    /// Bytes from a tile's start to its scales (0 for dense types).
    pub(crate) scales_at: usize,
}

impl Geometry {
    /// Sizes of `rows x cols` values; `None` if `cols` isn't a whole number of blocks or the size overflows.
    pub(crate) fn new(ty: WeightType, rows: usize, cols: usize) -> Option<Self> {
        ty.row_bytes(cols)?;
        let (scales_at, bytes) = with_format!(ty, F => {
            let quants = (cols / 32).checked_mul(F::QUANT_BYTES)?;
            (quants, quants.checked_add((cols / F::UNIT).checked_mul(F::SCALE_BYTES)?)?)
        }, dense => (0, cols.checked_mul(TILE * ty.block_bytes())?));
        let tile_bytes = bytes.checked_next_multiple_of(64)?;
        Some(Self { tiles: rows.div_ceil(TILE), tile_bytes, scales_at })
    }

    /// Bytes of the whole matrix.
    pub(crate) fn bytes(&self) -> Option<usize> {
        self.tiles.checked_mul(self.tile_bytes).filter(|&b| b <= isize::MAX as usize)
    }
}
