//! Embedding of a step's tokens on the device (`kernels/cuda/embed.cu`; of packed tables `dequant.cu`).

use super::launch::{DevicePtr, HalfType, Launch, Params};
use super::quant::kernel_name;
use crate::dtype::WeightType;

/// Token of a row that takes what the sampler left for its slot.
pub const TAKE_SAMPLED: u32 = u32::MAX;

/// Most threads a block has, each taking 8 values.
const MAX_THREADS: usize = 256;

/// Values a thread takes at once.
const PACK: usize = 8;

/// The struct of that name in `embed.cu`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct EmbedParams {
    table: DevicePtr,
    tokens: DevicePtr,
    row_slot: DevicePtr,
    next_token: DevicePtr,
    out: DevicePtr,
    vocab: i32,
    width: i32,
    scale: f32,
    rows: i32,
}

// SAFETY: five addresses and four 4-byte numbers, no padding; the fields of the struct in `embed.cu`.
unsafe impl Params for EmbedParams {
    const NAME: &'static str = "EmbedParams";
}

/// `out[m] = table[token of row m] * scale`.
#[derive(Clone, Copy, Debug)]
pub struct Embed {
    /// `[vocab, width]`.
    pub table: DevicePtr,
    /// Type of a table packed by [`super::quant::QuantLayout`]; `None`: of type `half`.
    pub packed: Option<WeightType>,
    /// Rows of the table; a token beyond gives a row of zeros.
    pub vocab: usize,
    /// `[rows]` u32; [`TAKE_SAMPLED`] for the sampled token of the row's slot.
    pub tokens: DevicePtr,
    /// `[rows]` i32; -1 for a padding row, which is not written.
    pub row_slot: DevicePtr,
    /// `[slots]` u32: the latest sampled tokens.
    pub next_token: DevicePtr,
    /// `[rows, width]`, of type `half`.
    pub out: DevicePtr,
    /// Rows of the step, padding included.
    pub rows: usize,
    /// Columns: a multiple of 8.
    pub width: usize,
    /// Factor, e.g. Gemma's square root of the width.
    pub scale: f32,
    /// Type of `out`, and of a table that is not packed.
    pub half: HalfType,
}

impl Embed {
    /// The launch: a block a row.
    ///
    /// # Panics
    /// If the width is not a positive multiple of 8, or a size passes `i32::MAX`.
    pub fn launch(&self) -> Launch {
        assert!(self.width > 0 && self.width.is_multiple_of(PACK), "embed: width {} is no multiple of 8", self.width);
        let params = EmbedParams {
            table: self.table,
            tokens: self.tokens,
            row_slot: self.row_slot,
            next_token: self.next_token,
            out: self.out,
            vocab: i32::try_from(self.vocab).expect("embed: vocab"),
            width: i32::try_from(self.width).expect("embed: width"),
            scale: self.scale,
            rows: i32::try_from(self.rows).expect("embed: rows"),
        };
        let (module, form) = match self.packed {
            None => ("embed", "embed".to_owned()),
            Some(ty) => {
                assert!(self.width.is_multiple_of(32), "embed: width {} is no multiple of 32", self.width);
                ("dequant", format!("embed_{}", kernel_name(ty).expect("embed: a dense type is not packed")))
            }
        };
        let mut launch = Launch::new(module, format!("{form}_{}", self.half.name()), &params);
        launch.grid = [self.rows as u32, 1, 1];
        // The packed kernel counts on whole blocks.
        launch.threads = if self.packed.is_some() {
            MAX_THREADS
        } else {
            self.width.div_ceil(PACK).next_multiple_of(32).min(MAX_THREADS)
        } as u32;
        launch.overlap = true;
        launch
    }
}
