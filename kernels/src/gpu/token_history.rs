//! What the sampler keeps of a sequence, written when it gets its slot (`kernels/cuda/token_history.cu`): the ring of its
//! last tokens for bad words, its row of the penalty pool. Each drawn token is added by the kernels of `sampling`.

use super::launch::{DevicePtr, Launch, Params};
use super::pod::Pod;
use super::sampling::{int, shape};

/// The struct of that name in `token_history.cu`: one sequence.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HistoryRow {
    /// Its slot; -1: absent.
    pub slot: i32,
    /// Its row of the penalty pool; -1: none.
    pub count_row: i32,
    /// First of its tokens in the array.
    pub tokens_at: u32,
    /// How many there are: all of them for penalties, the last [`super::sample_rows::RING`] for bad words.
    pub num_tokens: u32,
    /// Position of the first of them in the sequence.
    pub first_position: u32,
    /// Tokens at lower positions are prompt.
    pub num_prompt: u32,
}

// SAFETY: 4-byte numbers.
unsafe impl Pod for HistoryRow {}

const _: () = assert!(size_of::<HistoryRow>() == 24);

/// The struct of that name in `token_history.cu`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct TokenHistoryParams {
    rows: DevicePtr,
    tokens: DevicePtr,
    counts: DevicePtr,
    rings: DevicePtr,
    vocab: i32,
    count_stride: i32,
}

// SAFETY: four addresses and two 4-byte numbers, no padding; the fields of the struct in `token_history.cu`.
unsafe impl Params for TokenHistoryParams {
    const NAME: &'static str = "TokenHistoryParams";
}

/// Sequences that got a slot since the last step.
#[derive(Clone, Copy, Debug)]
pub struct TokenHistory {
    /// [`HistoryRow`] a sequence.
    pub rows: DevicePtr,
    /// Their tokens, u32.
    pub tokens: DevicePtr,
    /// `[.., count_stride]` u16: the penalty pool.
    pub counts: DevicePtr,
    /// A multiple of 8, at least `vocab`.
    pub count_stride: usize,
    /// `[slots, RING]` u32.
    pub rings: DevicePtr,
    /// Logits a row.
    pub vocab: usize,
}

impl TokenHistory {
    /// The launch for `num_rows` sequences.
    ///
    /// # Panics
    /// If a size is out of range.
    pub fn launch(&self, num_rows: usize) -> Launch {
        let counts_fit = self.count_stride >= self.vocab && self.count_stride.is_multiple_of(8);
        assert!(counts_fit || self.counts == DevicePtr::NULL, "token_history: count stride {}", self.count_stride);
        let params = TokenHistoryParams {
            rows: self.rows,
            tokens: self.tokens,
            counts: self.counts,
            rings: self.rings,
            vocab: int("vocab", self.vocab),
            count_stride: int("count_stride", self.count_stride),
        };
        let mut launch = Launch::new("token_history", "token_history", &params);
        (launch.grid, launch.threads) = shape(self.vocab, num_rows);
        launch.overlap = true;
        launch
    }
}
