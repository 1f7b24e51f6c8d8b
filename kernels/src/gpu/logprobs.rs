//! Log-probabilities on the device (`kernels/cuda/logprobs.cu`): of drawn tokens after sampling, of prompt tokens any time
//! before their logits are edited.
//!
//! The CPU's version, and the reference, is [`crate::sampling::logprobs`].

use super::launch::{DevicePtr, Launch, Params};
use super::pod::Pod;
use super::sample_rows::SampleRow;
use super::sampling::{int, shape};
use crate::sampling::LogProbs;

/// Most likely tokens that may be asked for.
pub const MAX_TOP: usize = 20;

/// `sizeof(ScorePartial)`.
const PARTIAL_BYTES: usize = 176;
/// Stands for the token that a sampling row draws.
const DRAWN_TOKEN: u32 = u32::MAX;

/// The struct of that name in `logprobs.cu`: one row to score.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScoreRow {
    logit_row: i32,
    raw_row: i32,
    target: u32,
    sample_row: i32,
    num_top: u32,
}

impl ScoreRow {
    /// A row that writes nowhere.
    pub const ABSENT: Self = Self { logit_row: -1, raw_row: -1, target: 0, sample_row: -1, num_top: 0 };

    /// Scores `token` by a row of logits that isn't edited.
    pub fn prompt(logit_row: u32, token: u32, num_top: u32) -> Self {
        Self { logit_row: logit_row as i32, target: token, num_top, ..Self::ABSENT }
    }

    /// Scores what `row`, the `index`th sampling row, drew: by the copy of its logits if they were edited.
    pub fn drawn(index: usize, row: &SampleRow, num_top: u32) -> Self {
        let (logit_row, raw_row) = (row.logit_row, row.raw_row);
        Self { logit_row, raw_row, target: DRAWN_TOKEN, sample_row: int("sampling row", index), num_top }
    }
}

/// The struct of that name in `logprobs.cu`: what is known of one row.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ScoreRecord {
    /// The token scored.
    pub token: u32,
    /// Its rank, 1 for the most likely.
    pub rank: u32,
    /// Its log-probability, -9999 at least.
    pub logprob: f32,
    num_top: u32,
    top_tokens: [u32; MAX_TOP],
    top_logprobs: [f32; MAX_TOP],
}

// SAFETY: 4-byte numbers.
unsafe impl Pod for ScoreRow {}
// SAFETY: 4-byte numbers.
unsafe impl Pod for ScoreRecord {}

const _: () = assert!(size_of::<ScoreRow>() == 20 && size_of::<ScoreRecord>() == 176);

impl ScoreRecord {
    /// As the CPU tells it.
    pub fn log_probs(&self) -> LogProbs {
        let pairs = self.top_tokens.into_iter().zip(self.top_logprobs);
        LogProbs { logprob: self.logprob, rank: self.rank, top: pairs.take(self.num_top as usize).collect() }
    }
}

/// The struct of that name in `logprobs.cu`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct LogprobsParams {
    logits: DevicePtr,
    raw: DevicePtr,
    rows: DevicePtr,
    results: DevicePtr,
    partials: DevicePtr,
    tickets: DevicePtr,
    records: DevicePtr,
    vocab: i32,
    logit_stride: i32,
}

// SAFETY: seven addresses and two 4-byte numbers, no padding; the fields of the struct in `logprobs.cu`.
unsafe impl Params for LogprobsParams {
    const NAME: &'static str = "LogprobsParams";
}

/// Rows to score.
#[derive(Clone, Copy, Debug)]
pub struct Logprobs {
    /// `[.., logit_stride]` f32, a multiple of 16.
    pub logits: DevicePtr,
    /// Values from one row of logits to the next.
    pub logit_stride: usize,
    /// Logits a row.
    pub vocab: usize,
    /// `[.., logit_stride]` f32: the copies that `logits_prep` made.
    pub raw: DevicePtr,
    /// [`ScoreRow`] a row.
    pub rows: DevicePtr,
    /// What sampling gave, a [`super::sample_rows::SampleResult`] a sampling row.
    pub results: DevicePtr,
    /// Receives a [`ScoreRecord`] a row.
    pub records: DevicePtr,
    /// Scratch of [`Self::workspace_bytes`], a multiple of 16. Zero before the first launch.
    pub workspace: DevicePtr,
    /// Most rows the workspace was made for.
    pub max_rows: usize,
}

impl Logprobs {
    /// Bytes of scratch for `rows` rows.
    pub fn workspace_bytes(rows: usize, vocab: usize) -> usize {
        rows * (shape(vocab, 1).0[0] as usize * PARTIAL_BYTES + 4)
    }

    /// The launch for `num_rows` rows: at most 65,535, more take several.
    ///
    /// # Panics
    /// If a size is out of range.
    pub fn launch(&self, num_rows: usize) -> Launch {
        assert!(num_rows <= self.max_rows, "logprobs: {num_rows} rows, space for {}", self.max_rows);
        assert!(self.logit_stride >= self.vocab, "logprobs: logit stride {}", self.logit_stride);
        let (grid, threads) = shape(self.vocab, num_rows);
        let params = LogprobsParams {
            logits: self.logits,
            raw: self.raw,
            rows: self.rows,
            results: self.results,
            partials: self.workspace,
            tickets: self.workspace.byte_add(self.max_rows * grid[0] as usize * PARTIAL_BYTES),
            records: self.records,
            vocab: int("vocab", self.vocab),
            logit_stride: int("logit_stride", self.logit_stride),
        };
        let mut launch = Launch::new("logprobs", "logprobs", &params);
        (launch.grid, launch.threads) = (grid, threads);
        launch.overlap = true;
        launch
    }
}
