//! Products of many rows on the device (`kernels/cuda/gemm_tile.cu`, `gemm_quant.cu`), each row with the bits that the GEMV
//! gives it, whatever the tile.

use super::gemv::{Gemv, GemvOutput, GemvWeight};
use super::launch::Launch;

/// Blocks that keep a card busy: the SMs of an H100. To be measured.
const WAVE: usize = 132;

/// Stages of operands in shared memory.
const STAGES: usize = 3;

/// Columns of `k` in a stage: of a dense product, which has the weight there too, and of a packed one.
const DENSE_WIDTH: usize = 64;
const PACKED_WIDTH: usize = 128;

/// How much of a product a block computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tile {
    /// Dense: 128 rows of the weight and 128 of `x`. Packed: 64 of either.
    Large,
    /// For few rows, or where large tiles are too few. Dense: 64 rows of either. Packed: 64 rows of the weight, 32 of `x`.
    Small,
}

impl Tile {
    /// The tile to prefer: large where that makes enough blocks and at most a quarter of them is empty.
    pub fn of(product: &Gemv) -> Self {
        let sizes = Self::Large.sizes(product.format);
        let waste = product.m.next_multiple_of(sizes.rows) * 4 > product.m * 5;
        if waste || sizes.blocks(product) < WAVE { Self::Small } else { Self::Large }
    }

    fn sizes(self, format: GemvWeight) -> Sizes {
        match (format, self) {
            (GemvWeight::Dense, Self::Large) => Sizes { columns: 128, rows: 128, threads: 256 },
            (GemvWeight::Dense, Self::Small) => Sizes { columns: 64, rows: 64, threads: 128 },
            (GemvWeight::Packed(_), Self::Large) => Sizes { columns: 64, rows: 64, threads: 128 },
            (GemvWeight::Packed(_), Self::Small) => Sizes { columns: 64, rows: 32, threads: 128 },
        }
    }
}

/// A tile's `kColumns`, `kRows` and `kThreads` in `gemm.cuh`.
struct Sizes {
    columns: usize,
    rows: usize,
    threads: u32,
}

impl Sizes {
    fn blocks(&self, product: &Gemv) -> usize {
        product.m.div_ceil(self.rows) * product.n.div_ceil(self.columns)
    }
}

/// The launch of a product of any number of rows.
///
/// # Panics
/// If a norm stands in front, or a gate or heads behind; or as [`Gemv::launch`], but for the rows.
pub fn launch(product: &Gemv, tile: Tile) -> Launch {
    let plain = matches!(product.output, GemvOutput::Half | GemvOutput::F32 | GemvOutput::Added);
    assert!(plain && product.norm.is_none(), "gemm: a norm in front, or {:?}", product.output);
    let sizes = tile.sizes(product.format);
    let form = match tile {
        Tile::Large => "gemm_large",
        Tile::Small => "gemm_small",
    };
    let mut launch = product.kernel(("gemm_tile", "gemm_quant"), form, product.m.div_ceil(sizes.rows));
    launch.grid = [u32::try_from(sizes.blocks(product)).expect("gemm: blocks"), 1, 1];
    launch.threads = sizes.threads;
    let stage = match product.format {
        GemvWeight::Dense => (sizes.columns + sizes.rows) * DENSE_WIDTH,
        GemvWeight::Packed(_) => sizes.rows * PACKED_WIDTH,
    };
    launch.shared_bytes = (STAGES * stage * 2) as u32;
    launch
}
