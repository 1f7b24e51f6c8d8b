//! Sampling: a device with slots, a penalty pool and scratch, steps on it, and what the CPU draws for the same rows.
//!
//! - `draws`: tokens of random rows, faults, the distribution, independence of the other rows
//! - `edits`: what a sequence's history does to its logits, over many steps

mod draws;
mod edits;

use sconce_kernels::gpu::launch::DevicePtr;
use sconce_kernels::gpu::pod;
use sconce_kernels::gpu::sample_rows::{RING, SamplePlace, SampleResult, SampleRow, SampleTable};
use sconce_kernels::gpu::sampling::{SampleWorkspace, Sampling};
use sconce_kernels::gpu::token_history::{HistoryRow, TokenHistory};
use sconce_kernels::sampling::{History, SampleError, SampleSpec, Sampler};

use super::emu::{Buffer, Emulator};

/// One sequence of a test.
#[derive(Clone)]
pub(crate) struct Case<'a> {
    pub(crate) spec: SampleSpec<'a>,
    pub(crate) tokens: Vec<u32>,
    pub(crate) num_prompt: usize,
    pub(crate) logits: Vec<f32>,
}

impl<'a> Case<'a> {
    pub(crate) fn new(spec: SampleSpec<'a>, logits: Vec<f32>) -> Self {
        Self { spec, tokens: vec![0; 3], num_prompt: 1, logits }
    }

    fn history(&self) -> History<'_> {
        History { tokens: &self.tokens, num_prompt: self.num_prompt }
    }

    /// The CPU's token, and its logits after the edits (scaled, unless greedy).
    pub(crate) fn on_cpu(&self) -> (Result<u32, SampleError>, Vec<f32>) {
        let mut logits = self.logits.clone();
        (Sampler::default().sample(&self.spec, &self.history(), &mut logits), logits)
    }
}

/// A device that samples up to `rows` rows of `vocab` logits.
pub(crate) struct Rig {
    pub(crate) rows: usize,
    pub(crate) sampling: Sampling,
    pub(crate) logits: Buffer<f32>,
    pub(crate) raw: Buffer<f32>,
    pub(crate) counts: Buffer<u16>,
    pub(crate) next_token: Buffer<u32>,
    pub(crate) results: Buffer<SampleResult>,
    pub(crate) table: SampleTable,
    /// Whether rows ask for a copy of their raw logits.
    pub(crate) keeps_raw: bool,
    pub(crate) rings: Buffer<u32>,
    workspace: Buffer<u8>,
}

impl Rig {
    pub(crate) fn new(emu: &Emulator, vocab: usize, rows: usize, list_capacity: usize) -> Self {
        // Aligned rows for some vocabularies, rows at any address for others.
        let logit_stride = if vocab.is_multiple_of(2) { vocab.next_multiple_of(4) } else { vocab };
        let count_stride = vocab.next_multiple_of(8);
        let workspace = emu.upload(&vec![0u8; SampleWorkspace::bytes(rows, list_capacity)]);
        let (logits, raw) = (emu.alloc(rows * logit_stride), emu.alloc(rows * logit_stride));
        let (counts, rings) = (emu.alloc(rows * count_stride), emu.alloc(rows * RING));
        let (next_token, results) = (emu.alloc(rows), emu.alloc(rows));
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
        Self { rows, sampling, logits, raw, counts, next_token, results, table, keeps_raw: false, rings, workspace }
    }

    /// The slot of case `index`: not its row, so that a kernel can't mix them up. Logit rows go the other way round.
    pub(crate) fn slot(&self, index: usize) -> usize {
        (index + 1) % self.rows
    }

    pub(crate) fn logit_row(&self, index: usize) -> usize {
        self.rows - 1 - index
    }

    /// Gives the cases their slots: rings, and rows of the pool for those with penalties.
    pub(crate) fn admit(&mut self, emu: &mut Emulator, cases: &[Case<'_>]) {
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
        let (rows_at, tokens) = (emu.upload(&rows), emu.upload(&tokens));
        let history = TokenHistory {
            rows: rows_at.ptr(),
            tokens: tokens.ptr(),
            counts: self.sampling.counts,
            count_stride: self.sampling.count_stride,
            rings: self.rings.ptr(),
            vocab: self.sampling.vocab,
        };
        emu.launch(&history.launch(rows.len()));
        let rings = self.rings.read();
        for (i, case) in cases.iter().enumerate() {
            let last = case.tokens.iter().enumerate().skip(case.tokens.len().saturating_sub(RING));
            for (position, token) in last {
                assert_eq!(rings[self.slot(i) * RING + position % RING], *token, "ring of row {i}");
            }
        }
    }

    /// One step: the logits of every case, their edits, their draws; one absent row behind the cases if there is room.
    pub(crate) fn step(&mut self, emu: &mut Emulator, cases: &[Case<'_>]) -> Vec<SampleResult> {
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
            self.table.push(&case.spec, &place, vocab).expect("a row");
        }
        let num_rows = self.rows.min(cases.len() + 1);
        self.table.pad(num_rows);
        self.logits.write(&all);
        let (rows, side, allowed) = (emu.upload(&self.words()), emu.upload(self.table.side()), emu.upload(&allowed));
        let sampling = Sampling { rows: rows.ptr(), side: side.ptr(), allowed: allowed.ptr(), ..self.sampling };
        let needs = self.table.needs();
        if needs.edits {
            emu.launch(&sampling.prep(num_rows));
        }
        for launch in sampling.sample(num_rows, needs) {
            emu.launch(&launch);
        }
        self.check_left_clean(cases.len());
        self.results.read()[..cases.len()].to_vec()
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
    fn check_left_clean(&self, cases: usize) {
        let (next, results) = (self.next_token.read(), self.results.read());
        for i in cases..self.rows {
            assert_eq!(next[self.slot(i)], u32::MAX, "next token of an absent row");
            assert_eq!(results[i], SampleResult { token: u32::MAX, status: u32::MAX }, "result of an absent row");
        }
        for i in 0..cases {
            assert_eq!(next[self.slot(i)], results[i].token, "next token of row {i}");
        }
        let space = self.sampling.workspace;
        let bytes = self.workspace.read();
        let (histograms, states) = bytes[space.rows * space.list_capacity * 8..].split_at(space.rows * 8192);
        assert!(histograms.iter().all(|&byte| byte == 0), "a histogram is left");
        for state in states.chunks(48) {
            // Best, mass, ticket, flag, behind maximum, end and limit: the list's length.
            let left = state[..24].iter().chain(&state[36..40]).all(|&byte| byte == 0);
            assert!(left, "a state is left: {state:?}");
        }
    }
}

const HISTORY: HistoryRow =
    HistoryRow { slot: 0, count_row: 0, tokens_at: 0, num_tokens: 0, first_position: 0, num_prompt: 0 };
