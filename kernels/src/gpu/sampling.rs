//! Sampling on the device (`kernels/cuda/logits_prep.cu`, `sample.cu`, `sample_filtered.cu`): edits of the logits, then a token a row.
//!
//! The CPU's version, and the reference, is [`crate::sampling`]. The rows come from [`super::sample_rows`].

use super::launch::{DevicePtr, Launch, Params};
use super::sample_rows::SampleNeeds;

/// Largest vocabulary: a token's id takes 18 bits of the selection's key.
pub const MAX_VOCAB: usize = 1 << 18;

/// Tokens that top-k and top-p are resolved from without reading the row again, by default.
pub const LIST_CAPACITY: usize = 4096;

/// Logits a block takes.
const CHUNK: usize = 8192;
/// Logits a thread takes.
const PER_THREAD: usize = 16;
/// Buckets of a histogram, each of two u32.
const BUCKETS: usize = 1024;
/// `sizeof(RowState)`.
const STATE_BYTES: usize = 48;

/// The struct of that name in `logits_prep.cu`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct LogitsPrepParams {
    logits: DevicePtr,
    raw: DevicePtr,
    rows: DevicePtr,
    side: DevicePtr,
    counts: DevicePtr,
    rings: DevicePtr,
    allowed: DevicePtr,
    vocab: i32,
    logit_stride: i32,
    count_stride: i32,
    allowed_stride: i32,
}

// SAFETY: seven addresses and four 4-byte numbers, no padding; the fields of the struct in `logits_prep.cu`.
unsafe impl Params for LogitsPrepParams {
    const NAME: &'static str = "LogitsPrepParams";
}

/// The struct of that name in `sample.cuh`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct SampleParams {
    logits: DevicePtr,
    rows: DevicePtr,
    states: DevicePtr,
    histograms: DevicePtr,
    lists: DevicePtr,
    next_token: DevicePtr,
    rings: DevicePtr,
    counts: DevicePtr,
    results: DevicePtr,
    vocab: i32,
    logit_stride: i32,
    count_stride: i32,
    list_capacity: i32,
}

// SAFETY: nine addresses and four 4-byte numbers, no padding; the fields of the struct in `sample.cuh`.
unsafe impl Params for SampleParams {
    const NAME: &'static str = "SampleParams";
}

/// Blocks in x and y, and threads a block: a block a chunk of a row. Depends on the vocabulary alone.
pub(super) fn shape(vocab: usize, rows: usize) -> ([u32; 3], u32) {
    assert!((1..=MAX_VOCAB).contains(&vocab), "sampling: a vocabulary of {vocab}");
    assert!(rows <= u16::MAX as usize, "sampling: {rows} rows");
    let threads = vocab.min(CHUNK).div_ceil(PER_THREAD).next_power_of_two().max(32);
    ([vocab.div_ceil(CHUNK) as u32, rows as u32, 1], threads as u32)
}

/// A size as kernels take it.
pub(super) fn int(what: &str, value: usize) -> i32 {
    i32::try_from(value).unwrap_or_else(|_| panic!("{what}: {value}"))
}

/// Memory of the sampling kernels between themselves. Zero before the first step; each step leaves it zero.
#[derive(Clone, Copy, Debug)]
pub struct SampleWorkspace {
    /// Start, a multiple of 16.
    pub at: DevicePtr,
    /// Most sampling rows.
    pub rows: usize,
    /// Tokens a row's list holds: [`LIST_CAPACITY`].
    pub list_capacity: usize,
}

impl SampleWorkspace {
    /// Bytes for `rows` sampling rows.
    pub fn bytes(rows: usize, list_capacity: usize) -> usize {
        rows * (STATE_BYTES + 2 * BUCKETS * 4 + list_capacity * 8)
    }
}

/// Where everything lies that sampling reads and writes.
#[derive(Clone, Copy, Debug)]
pub struct Sampling {
    /// `[.., logit_stride]` f32, a multiple of 16; edited in place.
    pub logits: DevicePtr,
    /// Values from one row of logits to the next.
    pub logit_stride: usize,
    /// Logits a row.
    pub vocab: usize,
    /// [`super::sample_rows::SampleRow`] a row of the step.
    pub rows: DevicePtr,
    /// The lists of these rows, u32.
    pub side: DevicePtr,
    /// `[.., logit_stride]` f32: copies for log-probabilities.
    pub raw: DevicePtr,
    /// `[.., count_stride]` u16: the penalty pool.
    pub counts: DevicePtr,
    /// A multiple of 8, at least `vocab`.
    pub count_stride: usize,
    /// `[slots, RING]` u32: the last tokens of each slot.
    pub rings: DevicePtr,
    /// `[.., allowed_stride]` u32: what grammars allow.
    pub allowed: DevicePtr,
    /// Words a row of `allowed`.
    pub allowed_stride: usize,
    /// `[slots]` u32: receives the tokens.
    pub next_token: DevicePtr,
    /// Receives a [`super::sample_rows::SampleResult`] a row of the step.
    pub results: DevicePtr,
    /// Scratch.
    pub workspace: SampleWorkspace,
}

impl Sampling {
    /// The edits of `num_rows` rows; not needed when no row has any.
    ///
    /// # Panics
    /// If a size is out of range.
    pub fn prep(&self, num_rows: usize) -> Launch {
        self.check(num_rows);
        assert!(self.allowed_stride * 32 >= self.vocab || self.allowed == DevicePtr::NULL, "sampling: mask words");
        let params = LogitsPrepParams {
            logits: self.logits,
            raw: self.raw,
            rows: self.rows,
            side: self.side,
            counts: self.counts,
            rings: self.rings,
            allowed: self.allowed,
            vocab: int("vocab", self.vocab),
            logit_stride: int("logit_stride", self.logit_stride),
            count_stride: int("count_stride", self.count_stride),
            allowed_stride: int("allowed_stride", self.allowed_stride),
        };
        self.launch("logits_prep", "logits_prep", &params, num_rows)
    }

    /// The draws of `num_rows` rows, in order: one kernel when all are greedy, two without top-k and top-p, else three. A
    /// captured graph that must serve any step takes all.
    ///
    /// # Panics
    /// If a size is out of range.
    pub fn sample(&self, num_rows: usize, needs: SampleNeeds) -> Vec<Launch> {
        self.check(num_rows);
        let SampleWorkspace { at, rows, list_capacity } = self.workspace;
        let histograms = at.byte_add(rows * list_capacity * 8);
        let params = SampleParams {
            logits: self.logits,
            rows: self.rows,
            states: histograms.byte_add(rows * 2 * BUCKETS * 4),
            histograms,
            lists: at,
            next_token: self.next_token,
            rings: self.rings,
            counts: self.counts,
            results: self.results,
            vocab: int("vocab", self.vocab),
            logit_stride: int("logit_stride", self.logit_stride),
            count_stride: int("count_stride", self.count_stride),
            list_capacity: int("list_capacity", list_capacity),
        };
        let kernels = [
            ("sample", "sample_scan", true),
            ("sample", "sample_draw", needs.draws),
            ("sample_filtered", "sample_filtered", needs.filters),
        ];
        let wanted = kernels.into_iter().filter(|&(_, _, wanted)| wanted);
        wanted.map(|(module, kernel, _)| self.launch(module, kernel, &params, num_rows)).collect()
    }

    fn check(&self, num_rows: usize) {
        assert!(num_rows <= self.workspace.rows, "sampling: {num_rows} rows, space for {}", self.workspace.rows);
        assert!(self.logit_stride >= self.vocab, "sampling: logit stride {}", self.logit_stride);
        let counts_fit = self.count_stride >= self.vocab && self.count_stride.is_multiple_of(8);
        assert!(counts_fit || self.counts == DevicePtr::NULL, "sampling: count stride {}", self.count_stride);
    }

    fn launch<P: Params>(&self, module: &'static str, kernel: &str, params: &P, num_rows: usize) -> Launch {
        let mut launch = Launch::new(module, kernel, params);
        (launch.grid, launch.threads) = shape(self.vocab, num_rows);
        launch.overlap = true;
        launch
    }
}
