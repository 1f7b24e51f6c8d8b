//! What the sampling kernels read about a step: one record a sampling row, and a side array of the lists it points into.
//!
//! Everything that the host can decide is decided here: which bad words are too long to match, whether stop tokens are
//! still masked, logarithms and inverses. What only the device knows (the latest tokens) is left to it.

use super::pod::Pod;
use crate::error::KernelError;
use crate::sampling::{GREEDY_BELOW, SampleSpec};

/// Last tokens of a slot that the device keeps: no bad word may have more tokens in front of its last one.
pub const RING: usize = 64;

/// Bits of [`SampleRow::flags`]; the constants of `sampling.cuh`.
const EDITED: u32 = 1;
const GREEDY: u32 = 2;
const FILTERED: u32 = 4;

/// `status` of a [`SampleResult`]: a token was drawn.
pub const DRAWN: u32 = 0;
/// The logits hold a NaN or a positive infinity.
pub const NOT_FINITE: u32 = 1;
/// Every token is forbidden.
pub const NOTHING_LEFT: u32 = 2;

/// The struct of that name in `sampling.cuh`: one sampling row.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SampleRow {
    pub(super) logit_row: i32,
    slot: i32,
    flags: u32,
    position: u32,
    seed_low: u32,
    seed_high: u32,
    choice: u32,
    inverse_temperature: f32,
    floor: f32,
    top_p: f32,
    top_k: u32,
    repetition: f32,
    presence: f32,
    frequency: f32,
    count_row: i32,
    pub(super) raw_row: i32,
    allowed_row: i32,
    bias_at: u32,
    num_bias: u32,
    masked_at: u32,
    num_masked: u32,
    words_at: u32,
    num_words: u32,
}

impl SampleRow {
    /// Whether its logits are edited, so that the raw ones are found in their copy alone.
    pub fn is_edited(&self) -> bool {
        self.flags & EDITED != 0
    }
}

/// The struct of that name in `sampling.cuh`: what became of one sampling row.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SampleResult {
    /// The token; 0 when there is none.
    pub token: u32,
    /// [`DRAWN`], [`NOT_FINITE`] or [`NOTHING_LEFT`].
    pub status: u32,
}

// SAFETY: 4-byte numbers.
unsafe impl Pod for SampleRow {}
// SAFETY: 4-byte numbers.
unsafe impl Pod for SampleResult {}

const _: () = assert!(size_of::<SampleRow>() == 92 && size_of::<SampleResult>() == 8);

/// Where one sequence stands in this step.
#[derive(Clone, Copy, Debug, Default)]
pub struct SamplePlace {
    /// Its row of the logits.
    pub logit_row: u32,
    /// Its slot.
    pub slot: u32,
    /// Position of the token to draw: prompt and output so far.
    pub position: u32,
    /// Output tokens so far, those included that the host doesn't know yet.
    pub num_output: u32,
    /// Its row of the penalty pool: given exactly when penalties are active.
    pub count_row: Option<u32>,
    /// A row for a copy of the logits as the model gave them, for log-probabilities; made only if they are edited.
    pub raw_row: Option<u32>,
    /// Its row of the grammar masks.
    pub allowed_row: Option<u32>,
}

/// The kernels that a step has work for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SampleNeeds {
    /// `logits_prep`.
    pub edits: bool,
    /// `sample_draw`: some row is not greedy.
    pub draws: bool,
    /// `sample_filtered`: some row that draws has top-k or top-p.
    pub filters: bool,
}

/// Rows and lists of one step, reused between steps.
#[derive(Clone, Debug, Default)]
pub struct SampleTable {
    rows: Vec<SampleRow>,
    side: Vec<u32>,
}

impl SampleTable {
    /// Forgets the last step.
    pub fn clear(&mut self) {
        self.rows.clear();
        self.side.clear();
    }

    /// One record a sampling row.
    pub fn rows(&self) -> &[SampleRow] {
        &self.rows
    }

    /// What the records point into.
    pub fn side(&self) -> &[u32] {
        &self.side
    }

    /// Which kernels have work.
    pub fn needs(&self) -> SampleNeeds {
        let any = |bits, wanted| self.rows.iter().any(|row| row.logit_row >= 0 && row.flags & bits == wanted);
        SampleNeeds { edits: any(EDITED, EDITED), draws: any(GREEDY, 0), filters: any(GREEDY | FILTERED, FILTERED) }
    }

    /// Adds rows that write nowhere until there are `rows`.
    pub fn pad(&mut self, rows: usize) {
        let absent = SampleRow { logit_row: -1, ..Self::row(&SampleSpec::default(), &SamplePlace::default(), 1) };
        self.rows.resize(self.rows.len().max(rows), absent);
    }

    /// Adds the row of one sequence; `spec.allowed` is not looked at, its words lie in row `place.allowed_row`.
    ///
    /// # Errors
    /// When a bad word has more than [`RING`] tokens in front of its last one.
    ///
    /// # Panics
    /// If penalties are active without a row of the pool, or the other way round.
    pub fn push(&mut self, spec: &SampleSpec<'_>, place: &SamplePlace, vocab: usize) -> Result<(), KernelError> {
        assert_eq!(spec.penalties.is_active(), place.count_row.is_some(), "a row of the penalty pool");
        if let Some(word) = spec.bad_words.iter().find(|word| word.len() > RING + 1) {
            return Err(KernelError::Index { what: "token of a bad word", index: word.len() - 1, len: RING + 1 });
        }
        let mut row = Self::row(spec, place, vocab);
        self.add_bias(spec, &mut row);
        self.add_masked(spec, place, &mut row);
        self.add_words(spec, place, &mut row);
        let lists = row.num_bias + row.num_masked + row.num_words;
        if lists > 0 || place.count_row.is_some() || place.allowed_row.is_some() {
            row.flags |= EDITED;
        } else {
            row.raw_row = -1;
        }
        self.rows.push(row);
        Ok(())
    }

    /// The record without its lists.
    fn row(spec: &SampleSpec<'_>, place: &SamplePlace, vocab: usize) -> SampleRow {
        let greedy = spec.temperature < GREEDY_BELOW;
        let top_k = if spec.filters.top_k as usize >= vocab { 0 } else { spec.filters.top_k };
        let filtered = top_k > 0 || spec.filters.top_p < 1.0;
        let index = |row: Option<u32>| row.map_or(-1, |row| row as i32);
        SampleRow {
            logit_row: place.logit_row as i32,
            slot: place.slot as i32,
            flags: if greedy { GREEDY } else { 0 } | if filtered { FILTERED } else { 0 },
            position: place.position,
            seed_low: spec.seed as u32,
            seed_high: (spec.seed >> 32) as u32,
            choice: spec.choice,
            inverse_temperature: if greedy { 1.0 } else { 1.0 / spec.temperature },
            floor: spec.filters.min_p_floor().max(f32::MIN),
            top_p: spec.filters.top_p,
            top_k,
            repetition: spec.penalties.repetition,
            presence: spec.penalties.presence,
            frequency: spec.penalties.frequency,
            count_row: index(place.count_row),
            raw_row: index(place.raw_row),
            allowed_row: index(place.allowed_row),
            bias_at: 0,
            num_bias: 0,
            masked_at: 0,
            num_masked: 0,
            words_at: 0,
            num_words: 0,
        }
    }

    /// Tokens ascending, then their biases; what a token is given twice stays in order.
    fn add_bias(&mut self, spec: &SampleSpec<'_>, row: &mut SampleRow) {
        let mut bias = spec.logit_bias.to_vec();
        bias.sort_by_key(|&(token, _)| token);
        (row.bias_at, row.num_bias) = (self.side.len() as u32, bias.len() as u32);
        self.side.extend(bias.iter().map(|&(token, _)| token));
        self.side.extend(bias.iter().map(|&(_, value)| value.to_bits()));
    }

    /// Stop tokens while the output is too short, and bad words of one token.
    fn add_masked(&mut self, spec: &SampleSpec<'_>, place: &SamplePlace, row: &mut SampleRow) {
        row.masked_at = self.side.len() as u32;
        if place.num_output < spec.min_tokens {
            self.side.extend(spec.stop_tokens.into_iter().flatten());
        }
        self.side.extend(spec.bad_words.iter().filter(|word| word.len() == 1).flatten());
        row.num_masked = self.side.len() as u32 - row.masked_at;
    }

    /// Longer bad words that the output is long enough for: bounds, then tokens.
    fn add_words(&mut self, spec: &SampleSpec<'_>, place: &SamplePlace, row: &mut SampleRow) {
        let fits = |word: &&Vec<u32>| word.len() > 1 && word.len() - 1 <= place.num_output as usize;
        let words = || spec.bad_words.iter().filter(fits);
        (row.words_at, row.num_words) = (self.side.len() as u32, words().count() as u32);
        if row.num_words == 0 {
            return;
        }
        let mut at = row.words_at + row.num_words + 1;
        self.side.push(at);
        for word in words() {
            at += word.len() as u32;
            self.side.push(at);
        }
        self.side.extend(words().flatten());
    }
}
