//! A runner without a model: the next token of a sequence is a function of its history, so any mistake in
//! scheduling, caching or feeding back shows as a different text.
//!
//! Its "KV cache" holds tokens: history is read back through the block table, as attention would read keys.

use std::collections::{HashMap, VecDeque};

use sconce_kernels::kv::BLOCK_SIZE;

use super::{Collected, Runner, RunnerError, Sequences};
use crate::types::{Batch, BatchRow, BlockId, Masks, SampledToken, SeqId, StepOutput};

/// Samples on its own "device" at depth 1, returns one-hot logits at depth 0.
#[derive(Debug)]
pub struct FakeRunner {
    depth: usize,
    vocab_size: usize,
    cache: HashMap<(BlockId, usize), u32>,
    pending: VecDeque<(Batch, Masks)>,
    /// What the "device" sampled last for a sequence.
    sampled: HashMap<SeqId, u32>,
    logits: Vec<f32>,
    /// Batches by step number that fail when launched.
    pub fail_steps: Vec<u64>,
}

impl FakeRunner {
    /// A runner of the given depth (0 or 1) over a vocabulary of `vocab_size` tokens.
    pub fn new(depth: usize, vocab_size: usize) -> Self {
        Self {
            depth,
            vocab_size,
            cache: HashMap::new(),
            pending: VecDeque::new(),
            sampled: HashMap::new(),
            logits: Vec::new(),
            fail_steps: Vec::new(),
        }
    }

    /// What this runner answers after `history`: tests compute the expected text with it.
    pub fn next_token(history: &[u32], vocab_size: usize) -> u32 {
        let hash = history.iter().fold(0xcbf2_9ce4_8422_2325u64, |h, &t| {
            (h ^ u64::from(t)).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(17)
        });
        (hash % vocab_size as u64) as u32
    }

    /// `token`, or the first allowed one if it isn't. As of one-hot logits.
    pub fn allowed(token: u32, mask: Option<&[u32]>) -> u32 {
        let Some(mask) = mask else { return token };
        let may = |t: u32| mask.get(t as usize / 32).is_some_and(|word| word >> (t % 32) & 1 == 1);
        if may(token) { token } else { (0..mask.len() as u32 * 32).find(|&t| may(t)).unwrap_or(token) }
    }

    /// Writes a batch's tokens to the cache; returns each logits row's next token, by batch row.
    fn advance(&mut self, batch: &Batch) -> Vec<Vec<u32>> {
        batch.rows.iter().map(|row| self.advance_row(row)).collect()
    }

    fn advance_row(&mut self, row: &BatchRow) -> Vec<u32> {
        // Group 0 keeps every token in all tests that use this runner.
        let slot = |position: usize| (row.tables[0][position / BLOCK_SIZE], position % BLOCK_SIZE);
        // A position that nobody wrote reads as garbage and changes the text.
        let mut history: Vec<u32> =
            (0..row.start).map(|p| self.cache.get(&slot(p)).copied().unwrap_or(u32::MAX)).collect();
        for (i, &token) in row.tokens.iter().enumerate() {
            let fed_back = row.token_from_previous && i + 1 == row.tokens.len();
            let token = if fed_back { self.sampled.get(&row.seq).copied().unwrap_or(u32::MAX) } else { token };
            self.cache.insert(slot(history.len()), token);
            history.push(token);
        }
        let end = history.len();
        (end + 1 - row.num_logits..=end).map(|n| Self::next_token(&history[..n], self.vocab_size)).collect()
    }
}

impl Runner for FakeRunner {
    fn depth(&self) -> usize {
        self.depth
    }

    fn launch(&mut self, batch: &Batch, _: Sequences<'_>, _alive: &dyn Fn()) -> Result<(), RunnerError> {
        if self.fail_steps.contains(&batch.step) {
            return Err(RunnerError { message: "scripted failure".into(), fatal: false });
        }
        self.pending.push_back((batch.clone(), Masks::default()));
        Ok(())
    }

    fn sample(&mut self, masks: &Masks) -> Result<(), RunnerError> {
        if let Some((_, last)) = self.pending.back_mut() {
            last.clone_from(masks);
        }
        Ok(())
    }

    fn collect(&mut self) -> Result<Collected<'_>, RunnerError> {
        let Some((batch, masks)) = self.pending.pop_front() else {
            return Err(RunnerError { message: "nothing was launched".into(), fatal: true });
        };
        let rows = self.advance(&batch);
        if self.depth == 0 {
            self.logits.clear();
            for &token in rows.iter().flatten() {
                let at = self.logits.len();
                self.logits.resize(at + self.vocab_size, 0.0);
                self.logits[at + token as usize] = 50.0;
            }
            return Ok(Collected::Logits { data: &mut self.logits, vocab_size: self.vocab_size });
        }
        let mut output = StepOutput { step: batch.step, ..StepOutput::default() };
        for (row, tokens) in batch.rows.iter().zip(&rows).filter(|(row, _)| row.samples) {
            let Some(&token) = tokens.last() else { continue };
            let token = Self::allowed(token, masks.of(row.seq));
            self.sampled.insert(row.seq, token);
            output.sampled.push(SampledToken { seq: row.seq, token: Ok(token), logprobs: None });
        }
        Ok(Collected::Sampled(output))
    }
}
