//! Cosines and sines of a step's rows on the device (`kernels/cuda/rope.cu`), once a step for every rope table.
//!
//! The CPU's version, and the reference, is [`crate::rope`].

use super::launch::{DevicePtr, Launch, Params};
use crate::rope::RopeTable;

/// Threads of a block.
const THREADS: usize = 128;

/// The struct of that name in `rope.cu`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct RopeParams {
    positions: DevicePtr,
    inv_freq: DevicePtr,
    out: DevicePtr,
    rows: u32,
    pairs: u32,
    factor: f32,
    unused: u32,
}

// SAFETY: three addresses and four 4-byte numbers, no padding; the fields of the struct in `rope.cu`.
unsafe impl Params for RopeParams {
    const NAME: &'static str = "RopeParams";
}

/// `out[rows][rot_dim / 2]` of (cosine, sine) in f32 from `positions[rows]` of u32.
#[derive(Clone, Copy, Debug)]
pub struct RopeRows<'a> {
    /// Frequencies and their factor.
    pub table: &'a RopeTable,
    /// The table's frequencies on the device, `[rot_dim / 2]` of f32.
    pub inv_freq: DevicePtr,
    /// Positions of the rows.
    pub positions: DevicePtr,
    /// Where the pairs go: 8 bytes each.
    pub out: DevicePtr,
    /// Rows.
    pub rows: usize,
}

impl RopeRows<'_> {
    /// The launch: a thread a pair.
    ///
    /// # Panics
    /// If the grid passes 2^31 blocks.
    pub fn launch(&self) -> Launch {
        let pairs = self.table.inv_freq.len();
        let params = RopeParams {
            positions: self.positions,
            inv_freq: self.inv_freq,
            out: self.out,
            rows: self.rows as u32,
            pairs: pairs as u32,
            factor: self.table.attention_factor,
            unused: 0,
        };
        let mut launch = Launch::new("rope", "rope_rows", &params);
        let blocks = i32::try_from((self.rows * pairs).div_ceil(THREADS)).expect("rope: rows");
        launch.grid = [blocks as u32, 1, 1];
        launch.threads = THREADS as u32;
        launch.overlap = true;
        launch
    }
}
