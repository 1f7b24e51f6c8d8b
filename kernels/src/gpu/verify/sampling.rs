//! Sampling: a device with slots, a penalty pool and scratch, steps on it, and what the CPU draws for the same rows.

use super::super::device::GpuDevice;
use super::super::launch::DevicePtr;
use super::super::pod;
use super::super::sample_rows::{RING, SamplePlace, SampleResult, SampleRow, SampleTable};
use super::super::sampling::{SampleWorkspace, Sampling};
use super::super::token_history::{HistoryRow, TokenHistory};
use super::{Array, Bed, Checked, ensure};
use crate::sampling::{History, SampleError, SampleSpec, Sampler};

/// One sequence of a step.
#[derive(Clone)]
pub struct Case<'a> {
    /// What it asks for.
    pub spec: SampleSpec<'a>,
    /// Its tokens.
    pub tokens: Vec<u32>,
    /// Leading ones that are the prompt.
    pub num_prompt: usize,
    /// What the model said.
    pub logits: Vec<f32>,
}

impl<'a> Case<'a> {
    /// A sequence of a few tokens.
    pub fn new(spec: SampleSpec<'a>, logits: Vec<f32>) -> Self {
        Self { spec, tokens: vec![0; 3], num_prompt: 1, logits }
    }

    fn history(&self) -> History<'_> {
        History { tokens: &self.tokens, num_prompt: self.num_prompt }
    }

    /// The CPU's token, and its logits after the edits (scaled, unless greedy).
    pub fn on_cpu(&self) -> (Result<u32, SampleError>, Vec<f32>) {
        let mut logits = self.logits.clone();
        (Sampler::default().sample(&self.spec, &self.history(), &mut logits), logits)
    }
}

/// A device that samples up to `rows` rows of `vocab` logits.
pub struct Rig {
    /// Rows at most.
    pub rows: usize,
    /// Where everything lies.
    pub sampling: Sampling,
    /// Logits, edited in place.
    pub logits: Array<f32>,
    /// Their copies.
    pub raw: Array<f32>,
    /// The penalty pool.
    pub counts: Array<u16>,
    /// Tokens by slot.
    pub next_token: Array<u32>,
    /// Tokens by row.
    pub results: Array<SampleResult>,
    /// The latest step's rows.
    pub table: SampleTable,
    /// Whether rows ask for a copy of their raw logits.
    pub keeps_raw: bool,
    /// The last tokens of each slot.
    pub rings: Array<u32>,
    workspace: Array<u8>,
}

impl Rig {
    /// Memory for steps of `rows` rows.
    ///
    /// # Errors
    /// When the device fails, or something is left or written that should not be.
    pub fn new<D: GpuDevice>(bed: &mut Bed<D>, vocab: usize, rows: usize, list_capacity: usize) -> Checked<Self> {
        // Aligned rows for some vocabularies, rows at any address for others.
        let logit_stride = if vocab.is_multiple_of(2) { vocab.next_multiple_of(4) } else { vocab };
        let count_stride = vocab.next_multiple_of(8);
        let workspace = bed.upload(&vec![0u8; SampleWorkspace::bytes(rows, list_capacity)])?;
        let (logits, raw) = (bed.alloc(rows * logit_stride)?, bed.alloc(rows * logit_stride)?);
        let (counts, rings) = (bed.alloc(rows * count_stride)?, bed.alloc(rows * RING)?);
        let (next_token, results) = (bed.alloc(rows)?, bed.alloc(rows)?);
        let sampling = Sampling {
            logits: logits.ptr(),
            logit_stride,
            vocab,
            rows: DevicePtr::NULL,
            side: DevicePtr::NULL,
            raw: raw.ptr(),
            counts: counts.ptr(),
            count_stride,
            rings: rings.ptr(),
            allowed: DevicePtr::NULL,
            allowed_stride: vocab.div_ceil(32),
            next_token: next_token.ptr(),
            results: results.ptr(),
            workspace: SampleWorkspace { at: workspace.ptr(), rows, list_capacity },
        };
        let table = SampleTable::default();
        Ok(Self { rows, sampling, logits, raw, counts, next_token, results, table, keeps_raw: false, rings, workspace })
    }

    /// The slot of case `index`: not its row, so that a kernel can't mix them up. Logit rows go the other way round.
    pub fn slot(&self, index: usize) -> usize {
        (index + 1) % self.rows
    }

    /// The row of case `index`'s logits.
    pub fn logit_row(&self, index: usize) -> usize {
        self.rows - 1 - index
    }

    /// Gives the cases their slots: rings, and rows of the pool for those with penalties.
    ///
    /// # Errors
    /// When the device fails, or something is left or written that should not be.
    pub fn admit<D: GpuDevice>(&mut self, bed: &mut Bed<D>, cases: &[Case<'_>]) -> Checked {
        let mut tokens: Vec<u32> = Vec::new();
        let mut rows = vec![HistoryRow { slot: -1, count_row: -1, tokens_at: 0, num_tokens: 1, ..HISTORY }];
        for (i, case) in cases.iter().enumerate() {
            let counted = case.spec.penalties.is_active();
            let first = if counted { 0 } else { case.tokens.len().saturating_sub(RING) };
            rows.push(HistoryRow {
                slot: self.slot(i) as i32,
                count_row: if counted { i as i32 } else { -1 },
                tokens_at: tokens.len() as u32,
                num_tokens: (case.tokens.len() - first) as u32,
                first_position: first as u32,
                num_prompt: case.num_prompt as u32,
            });
            tokens.extend(&case.tokens[first..]);
        }
        let (rows_at, tokens) = (bed.upload(&rows)?, bed.upload(&tokens)?);
        let history = TokenHistory {
            rows: rows_at.ptr(),
            tokens: tokens.ptr(),
            counts: self.sampling.counts,
            count_stride: self.sampling.count_stride,
            rings: self.rings.ptr(),
            vocab: self.sampling.vocab,
        };
        bed.launch(&history.launch(rows.len()))?;
        let rings = bed.read(&self.rings)?;
        for (i, case) in cases.iter().enumerate() {
            let last = case.tokens.iter().enumerate().skip(case.tokens.len().saturating_sub(RING));
            for (position, token) in last {
                ensure(rings[self.slot(i) * RING + position % RING] == *token, || format!("ring of row {i}"))?;
            }
        }
        Ok(())
    }

    /// One step: the logits of every case, their edits, their draws; one absent row behind the cases if there is room.
    ///
    /// # Errors
    /// When the device fails, or something is left or written that should not be.
    pub fn step<D: GpuDevice>(&mut self, bed: &mut Bed<D>, cases: &[Case<'_>]) -> Checked<Vec<SampleResult>> {
        let (vocab, stride) = (self.sampling.vocab, self.sampling.logit_stride);
        let mut all = vec![f32::NAN; self.rows * stride];
        let mut allowed = vec![0u32; self.rows * self.sampling.allowed_stride];
        self.table.clear();
        for (i, case) in cases.iter().enumerate() {
            let row = self.logit_row(i);
            all[row * stride..][..vocab].copy_from_slice(&case.logits);
            if let Some(words) = case.spec.allowed {
                allowed[row * self.sampling.allowed_stride..][..words.len()].copy_from_slice(words);
            }
            let place = SamplePlace {
                logit_row: row as u32,
                slot: self.slot(i) as u32,
                position: case.tokens.len() as u32,
                num_output: (case.tokens.len() - case.num_prompt) as u32,
                count_row: case.spec.penalties.is_active().then_some(i as u32),
                raw_row: self.keeps_raw.then_some(i as u32),
                allowed_row: case.spec.allowed.map(|_| row as u32),
            };
            self.table.push(&case.spec, &place, vocab)?;
        }
        let num_rows = self.rows.min(cases.len() + 1);
        self.table.pad(num_rows);
        bed.write(&self.logits, &all)?;
        let (rows, side, allowed) = (bed.upload(&self.words())?, bed.upload(self.table.side())?, bed.upload(&allowed)?);
        let sampling = Sampling { rows: rows.ptr(), side: side.ptr(), allowed: allowed.ptr(), ..self.sampling };
        let needs = self.table.needs();
        if needs.edits {
            bed.launch(&sampling.prep(num_rows))?;
        }
        for launch in sampling.sample(num_rows, needs) {
            bed.launch(&launch)?;
        }
        self.check_left_clean(bed, cases.len())?;
        Ok(bed.read(&self.results)?[..cases.len()].to_vec())
    }

    /// The step's rows, the absent ones with every flag set: it is their missing row of logits that counts.
    fn words(&self) -> Vec<u32> {
        let mut words = pod::words(self.table.rows()).to_vec();
        for row in words.chunks_mut(size_of::<SampleRow>() / 4).filter(|row| row[0] == u32::MAX) {
            row[2] = 1 | 4;
        }
        words
    }

    /// What absent rows must not have touched, and what the next step wants to find.
    fn check_left_clean<D: GpuDevice>(&self, bed: &mut Bed<D>, cases: usize) -> Checked {
        let (next, results) = (bed.read(&self.next_token)?, bed.read(&self.results)?);
        let absent = SampleResult { token: u32::MAX, status: u32::MAX };
        let untouched = |i: usize| next[self.slot(i)] == u32::MAX && results[i] == absent;
        ensure((cases..self.rows).all(untouched), || "an absent row was written".to_owned())?;
        for i in 0..cases {
            ensure(next[self.slot(i)] == results[i].token, || format!("next token of row {i}"))?;
        }
        let space = self.sampling.workspace;
        let bytes = bed.read(&self.workspace)?;
        let (histograms, states) = bytes[space.rows * space.list_capacity * 8..].split_at(space.rows * 8192);
        ensure(histograms.iter().all(|&byte| byte == 0), || "a histogram is left".to_owned())?;
        for state in states.chunks(48) {
            // Best, mass, ticket, flag, behind maximum, end and limit: the list's length.
            let left = state[..24].iter().chain(&state[36..40]).all(|&byte| byte == 0);
            ensure(left, || format!("a state is left: {state:?}"))?;
        }
        Ok(())
    }
}

const HISTORY: HistoryRow =
    HistoryRow { slot: 0, count_row: 0, tokens_at: 0, num_tokens: 0, first_position: 0, num_prompt: 0 };
