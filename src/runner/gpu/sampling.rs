//! Sampling on the device: what the kernels must know of a step's rows, and their memory.

use sconce_kernels::error::KernelError;
use sconce_kernels::gpu::device::{Download, GpuDevice, GpuError};
use sconce_kernels::gpu::launch::DevicePtr;
use sconce_kernels::gpu::logprobs::{Logprobs, ScoreRecord, ScoreRow};
use sconce_kernels::gpu::pod::{bytes, words};
use sconce_kernels::gpu::sample_rows::{RING, SamplePlace, SampleResult, SampleTable};
use sconce_kernels::gpu::sampling::{LIST_CAPACITY, SampleWorkspace, Sampling};
use sconce_kernels::gpu::token_history::{HistoryRow, TokenHistory};
use sconce_kernels::gpu::weights::GpuLogits;

use super::results::{Drawn, Plan, Scored};
use crate::sampler;
use crate::types::{BatchRow, Masks, SeqId, Sequence};

/// What a sampler has room for.
#[derive(Clone, Copy, Debug)]
pub(super) struct SamplerSizes {
    /// Sequences that it remembers something of.
    pub(super) slots: usize,
    /// Rows of a step that sample.
    pub(super) rows: usize,
    /// Rows of a step whose log-probabilities are wanted.
    pub(super) scores: usize,
}

/// Device memory of the sampler.
#[derive(Debug)]
struct Memory {
    /// Copies of logits that are edited, `[rows, stride]`.
    raw: DevicePtr,
    /// `[slots, stride]`
    counts: DevicePtr,
    /// `[slots, RING]`
    rings: DevicePtr,
    /// [`SampleResult`] a row, then [`ScoreRecord`] a row.
    results: DevicePtr,
    workspace: DevicePtr,
    score_workspace: DevicePtr,
    /// What constraints allow, `[rows, stride / 32]`.
    masks: DevicePtr,
}

/// Builds the sampling part of steps.
#[derive(Debug)]
pub(super) struct DeviceSampler {
    memory: Memory,
    vocab: usize,
    stride: usize,
    sizes: SamplerSizes,
    table: SampleTable,
    scores: Vec<ScoreRow>,
    /// Constrained sequences that sample, in the order of their masks.
    constrained: Vec<SeqId>,
    mask_words: Vec<u32>,
    histories: Vec<HistoryRow>,
    history_tokens: Vec<u32>,
    plan: Plan,
}

/// Where the step's tables lie in the metadata, in words from its extra part.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tables {
    rows: usize,
    side: usize,
    scores: usize,
    histories: usize,
    history_tokens: usize,
}

impl DeviceSampler {
    /// Takes the sampler's memory.
    ///
    /// # Errors
    /// When there is none.
    pub(super) fn new<D: GpuDevice>(
        device: &mut D,
        vocab: usize,
        stride: usize,
        sizes: SamplerSizes,
    ) -> Result<Self, GpuError> {
        let count_bytes = sizes.slots * stride * 2;
        let workspace_bytes = SampleWorkspace::bytes(sizes.rows, LIST_CAPACITY);
        let score_bytes = Logprobs::workspace_bytes(sizes.scores, vocab);
        let memory = Memory {
            raw: device.alloc(sizes.rows * stride * 4, "copies of logits")?,
            counts: device.alloc(count_bytes, "penalty counts")?,
            rings: device.alloc(sizes.slots * RING * 4, "latest tokens")?,
            results: device.alloc(sizes.result_bytes(), "sampled tokens")?,
            workspace: device.alloc(workspace_bytes, "sampling")?,
            score_workspace: device.alloc(score_bytes, "log-probabilities")?,
            masks: device.alloc(sizes.rows * stride.div_ceil(32) * 4, "masks of constraints")?,
        };
        device.fill(memory.counts, 0, count_bytes)?;
        device.fill(memory.rings, 0, sizes.slots * RING * 4)?;
        device.fill(memory.workspace, 0, workspace_bytes)?;
        device.fill(memory.score_workspace, 0, score_bytes)?;
        Ok(Self {
            memory,
            vocab,
            stride,
            sizes,
            table: SampleTable::default(),
            scores: Vec::new(),
            constrained: Vec::new(),
            mask_words: Vec::new(),
            histories: Vec::new(),
            history_tokens: Vec::new(),
            plan: Plan::default(),
        })
    }

    /// Forgets the last step.
    pub(super) fn clear(&mut self) {
        self.table.clear();
        self.scores.clear();
        self.constrained.clear();
        self.histories.clear();
        self.history_tokens.clear();
        self.plan = Plan::default();
    }

    /// A sequence that has just got `slot`: what the sampler keeps of it begins with its tokens so far.
    pub(super) fn admit(&mut self, sequence: &Sequence, slot: u32) {
        let penalties = sampler::spec(&sequence.params, sequence.choice).penalties.is_active();
        let words = sequence.params.bad_words.iter().any(|word| word.len() > 1);
        if !penalties && !words {
            return;
        }
        let first = if penalties { 0 } else { sequence.tokens.len().saturating_sub(RING) };
        let tokens = &sequence.tokens[first..];
        self.histories.push(HistoryRow {
            slot: slot as i32,
            count_row: if penalties { slot as i32 } else { -1 },
            tokens_at: self.history_tokens.len() as u32,
            num_tokens: tokens.len() as u32,
            first_position: first as u32,
            num_prompt: sequence.num_prompt as u32,
        });
        self.history_tokens.extend_from_slice(tokens);
    }

    /// Adds a row of the batch, whose logits begin at row `first_logit`.
    pub(super) fn add(&mut self, row: &BatchRow, sequence: &Sequence, slot: u32, first_logit: usize) {
        if let Some(top) = sequence.params.prompt_logprobs {
            self.add_prompt(row, sequence, first_logit, top);
        }
        if !row.samples {
            return;
        }
        let params = &sequence.params;
        let position = row.start + row.tokens.len();
        let index = self.table.rows().len();
        let spec = sampler::spec(params, sequence.choice);
        let place = SamplePlace {
            logit_row: (first_logit + row.num_logits - 1) as u32,
            slot,
            position: position as u32,
            num_output: position.saturating_sub(sequence.num_prompt) as u32,
            count_row: spec.penalties.is_active().then_some(slot),
            raw_row: params.logprobs.map(|_| index as u32),
            allowed_row: sequence.constrained.then_some(self.constrained.len() as u32),
        };
        if sequence.constrained {
            self.constrained.push(row.seq);
        }
        let pushed = self.table.push(&spec, &place, self.vocab);
        let drawn = pushed.map_err(|error: KernelError| error.to_string()).map(|()| {
            let score = params.logprobs.map(|top| {
                self.scores.push(ScoreRow::drawn(index, &self.table.rows()[index], top));
                self.scores.len() - 1
            });
            Drawn { result: index, score }
        });
        self.plan.sampled.push((row.seq, drawn));
    }

    fn add_prompt(&mut self, row: &BatchRow, sequence: &Sequence, first_logit: usize, top: u32) {
        let first = row.start + row.tokens.len() + 1 - row.num_logits;
        let targets = sequence.tokens.get(first..sequence.num_prompt).unwrap_or_default();
        let targets = &targets[..targets.len().min(row.num_logits)];
        if targets.is_empty() {
            return;
        }
        let (seq, score, len) = (row.seq, self.scores.len(), targets.len());
        self.plan.prompts.push(Scored { seq, first, score, len });
        let rows = targets.iter().zip(first_logit as u32..);
        self.scores.extend(rows.map(|(&token, logit)| ScoreRow::prompt(logit, token, top)));
    }

    /// Appends the step's tables to the metadata.
    pub(super) fn write(&self, metadata: &mut Vec<u32>) -> Tables {
        let mut push = |words: &[u32]| {
            let at = metadata.len().next_multiple_of(4);
            metadata.resize(at, 0);
            metadata.extend_from_slice(words);
            at
        };
        Tables {
            rows: push(words(self.table.rows())),
            side: push(self.table.side()),
            scores: push(words(&self.scores)),
            histories: push(words(&self.histories)),
            history_tokens: push(&self.history_tokens),
        }
    }

    /// Issues what begins the histories of new sequences, and forgets it.
    ///
    /// # Errors
    /// When the device fails.
    pub(super) fn launch_histories<D: GpuDevice>(
        &mut self,
        device: &mut D,
        (extra, tables): (DevicePtr, Tables),
    ) -> Result<(), GpuError> {
        let history = TokenHistory {
            rows: extra.byte_add(tables.histories * 4),
            tokens: extra.byte_add(tables.history_tokens * 4),
            counts: self.memory.counts,
            count_stride: self.stride,
            rings: self.memory.rings,
            vocab: self.vocab,
        };
        if !self.histories.is_empty() {
            device.launch(&history.launch(self.histories.len()))?;
        }
        self.histories.clear();
        self.history_tokens.clear();
        Ok(())
    }

    /// Issues the kernels of the step, whose tables lie at `extra`, and the copy of their results to the host.
    ///
    /// # Errors
    /// When the device fails.
    pub(super) fn launch<D: GpuDevice>(
        &mut self,
        device: &mut D,
        logits: &GpuLogits,
        next_token: DevicePtr,
        (extra, tables): (DevicePtr, Tables),
    ) -> Result<(Plan, Download), GpuError> {
        self.launch_histories(device, (extra, tables))?;
        let at = |words: usize| extra.byte_add(words * 4);
        let Memory { raw, counts, rings, results, workspace, score_workspace, masks } = self.memory;
        let sampling = Sampling {
            logits: logits.at,
            logit_stride: logits.stride,
            vocab: self.vocab,
            rows: at(tables.rows),
            side: at(tables.side),
            raw,
            counts,
            count_stride: self.stride,
            rings,
            allowed: masks,
            allowed_stride: self.mask_width(),
            next_token,
            results,
            workspace: SampleWorkspace { at: workspace, rows: self.sizes.rows, list_capacity: LIST_CAPACITY },
        };
        let (num_rows, needs) = (self.table.rows().len(), self.table.needs());
        if num_rows > 0 {
            if needs.edits {
                device.launch(&sampling.prep(num_rows))?;
            }
            for launch in sampling.sample(num_rows, needs) {
                device.launch(&launch)?;
            }
        }
        if !self.scores.is_empty() {
            let scores = Logprobs {
                logits: logits.at,
                logit_stride: logits.stride,
                vocab: self.vocab,
                rows: at(tables.scores),
                raw,
                results,
                records: results.byte_add(self.sizes.records_offset()),
                workspace: score_workspace,
                max_rows: self.sizes.scores,
            };
            device.launch(&scores.launch(self.scores.len()))?;
        }
        let bytes = self.sizes.records_offset() + self.scores.len() * size_of::<ScoreRecord>();
        let download = device.begin_download(results, bytes)?;
        Ok((std::mem::take(&mut self.plan), download))
    }

    /// Issues the copy of the step's masks, if there are any: the one upload that comes late. Nothing is allowed to a
    /// sequence that has no mask any more; nobody reads what it samples.
    ///
    /// # Errors
    /// When the device fails.
    pub(super) fn send_masks<D: GpuDevice>(&mut self, device: &mut D, masks: &Masks) -> Result<(), GpuError> {
        if self.constrained.is_empty() {
            return Ok(());
        }
        let width = self.mask_width();
        self.mask_words.clear();
        for (index, &seq) in self.constrained.iter().enumerate() {
            self.mask_words.extend_from_slice(masks.of(seq).unwrap_or_default());
            self.mask_words.resize((index + 1) * width, 0);
        }
        device.upload(self.memory.masks, bytes(&self.mask_words))
    }

    /// Words of a mask.
    fn mask_width(&self) -> usize {
        self.stride.div_ceil(32)
    }

    /// Bytes of a step's masks at most.
    pub(super) fn mask_bytes(&self) -> usize {
        self.sizes.rows * self.mask_width() * 4
    }

    /// Whether the histories of this step must go ahead before another is added: the metadata has room for so many of
    /// the longest.
    pub(super) fn histories_are_full(&self, max_model_len: usize) -> bool {
        self.history_tokens.len() > (MAX_HISTORIES - 1) * max_model_len
    }
}

/// Longest histories that a step's metadata has room for.
const MAX_HISTORIES: usize = 16;

/// Bytes of biases, masked tokens and bad words that a row may bring: what `http` lets through.
const SIDE_BYTES: usize = 80 << 10;

impl SamplerSizes {
    /// Where the [`ScoreRecord`]s of a step's results begin.
    pub(super) fn records_offset(&self) -> usize {
        (self.rows * size_of::<SampleResult>()).next_multiple_of(16)
    }

    /// Bytes that a step's results have at most.
    pub(super) fn result_bytes(&self) -> usize {
        self.records_offset() + self.scores * size_of::<ScoreRecord>()
    }

    /// Bytes that a step's tables have at most.
    pub(super) fn tables_bytes(&self, max_model_len: usize) -> usize {
        // Rows of 92, 20 and 24 bytes; the lists of a row; the tokens of sequences that get a slot.
        self.rows * (128 + SIDE_BYTES) + self.scores * 32 + max_model_len * 4 * MAX_HISTORIES + 256
    }
}
