//! A fake device. Its KV cache holds, for every (group, block, offset), a digest of the token prefix
//! whose keys and values were written there; "attention" demands to find exactly the reading
//! sequence's prefix at every position it can see. Its "sampler" is a function of all tokens.

use std::collections::HashMap;

use sconce_kernels::kv::CacheKind;

use crate::kv::KvConfig;
use crate::types::{Batch, BatchRow, SampledToken, SeqId, StepOutput, TokenLogprobs};

/// Written by rows whose sequence is gone and by failed batches: nobody may ever read it.
const POISON: u64 = 0xdead;

pub(super) fn mix(a: u64, b: u64) -> u64 {
    let mut x = a.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ b.wrapping_add(0xd1b5_4a32_d192_ed03);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Digests of all prefixes of `tokens`.
fn prefixes(tokens: &[u32]) -> Vec<u64> {
    let chain = tokens.iter().scan(1, |digest, &t| {
        *digest = mix(*digest, u64::from(t));
        Some(*digest)
    });
    chain.collect()
}

/// The model: the next token after `tokens`.
pub(super) fn next_token(tokens: &[u32], vocab: u32) -> u32 {
    (prefixes(tokens).last().map_or(0, |&d| mix(d, 77)) % u64::from(vocab)) as u32
}

pub(super) struct Shadow {
    config: KvConfig,
    vocab: u32,
    cells: HashMap<(usize, u32, usize), u64>,
    /// All tokens of each sequence as the device knows them, and the step that sampled the last.
    pub(super) tokens: HashMap<SeqId, (Vec<u32>, u64)>,
}

impl Shadow {
    pub(super) fn new(config: KvConfig, vocab: u32) -> Self {
        Self { config, vocab, cells: HashMap::new(), tokens: HashMap::new() }
    }

    /// The batch as one that failed half-way: what it would write is garbage.
    pub(super) fn poison(&mut self, batch: &Batch) {
        for row in &batch.rows {
            self.write(row, &vec![POISON; row.start + row.tokens.len()]);
            if row.samples {
                // The next batch, scheduled already, still expects a token.
                self.sample(row.seq, batch.step);
            }
        }
    }

    /// Executes a batch: all rows write, then all rows read, then some sample. `live` tells whether
    /// a sequence still exists, `fault` whether sampling it fails.
    pub(super) fn execute(
        &mut self,
        batch: &Batch,
        live: &dyn Fn(SeqId) -> bool,
        fault: &mut dyn FnMut() -> bool,
    ) -> StepOutput {
        let mut output = StepOutput { step: batch.step, ..StepOutput::default() };
        for row in &batch.rows {
            self.check_tokens(row, batch.step);
            let digests = prefixes(&self.tokens[&row.seq].0);
            let end = row.start + row.tokens.len();
            let poisoned = vec![POISON; end];
            self.write(row, if live(row.seq) { &digests } else { &poisoned });
        }
        for row in batch.rows.iter().filter(|r| live(r.seq)) {
            self.read(row);
        }
        for row in &batch.rows {
            self.score(row, &mut output);
            if row.samples {
                let token = self.sample(row.seq, batch.step);
                let token = if fault() { Err("fault".to_owned()) } else { Ok(token) };
                output.sampled.push(SampledToken { seq: row.seq, token, logprobs: None });
            }
        }
        output
    }

    fn sample(&mut self, seq: SeqId, step: u64) -> u32 {
        let (tokens, last_step) = self.tokens.get_mut(&seq).expect("sampled sequences are known");
        let token = next_token(tokens, self.vocab);
        tokens.push(token);
        *last_step = step;
        token
    }

    /// The row's tokens are the sequence's, in place, and a placeholder stands for what the previous batch sampled.
    fn check_tokens(&self, row: &BatchRow, step: u64) {
        let (tokens, last_step) = &self.tokens[&row.seq];
        let end = row.start + row.tokens.len();
        assert!(end <= tokens.len(), "{}: tokens from the future in step {step}", row.seq);
        let known = row.tokens.len() - usize::from(row.token_from_previous);
        assert_eq!(row.tokens[..known], tokens[row.start..row.start + known], "{}: wrong tokens", row.seq);
        if row.token_from_previous {
            assert_eq!((end, *last_step), (tokens.len(), step - 1), "{}: wrong placeholder", row.seq);
        }
        if row.samples {
            assert_eq!(end, tokens.len(), "{}: samples in the middle", row.seq);
        }
    }

    fn write(&mut self, row: &BatchRow, digests: &[u64]) {
        for (group, table) in row.tables.iter().enumerate() {
            for (pos, &digest) in digests.iter().enumerate().take(row.start + row.tokens.len()).skip(row.start) {
                let block = table[pos / self.config.block_size];
                assert!(!block.is_null(), "{}: no block for position {pos} in group {group}", row.seq);
                self.cells.insert((group, block.0, pos % self.config.block_size), digest);
            }
        }
    }

    fn read(&self, row: &BatchRow) {
        let digests = prefixes(&self.tokens[&row.seq].0);
        for (group, table) in row.tables.iter().enumerate() {
            let visible = self.first_visible(group, row.start)..row.start + row.tokens.len();
            for pos in visible {
                let block = table[pos / self.config.block_size];
                let cell = self.cells.get(&(group, block.0, pos % self.config.block_size));
                assert_eq!(cell, Some(&digests[pos]), "{}: wrong KV at {pos} in group {group}, block {block}", row.seq);
            }
        }
    }

    pub(super) fn first_visible(&self, group: usize, pos: usize) -> usize {
        match self.config.groups[group].kind {
            CacheKind::Full => 0,
            CacheKind::SlidingWindow { window } => (pos + 1).saturating_sub(window),
        }
    }

    /// Prompt log-probabilities: row `i` of the logits describes the token after it.
    fn score(&self, row: &BatchRow, output: &mut StepOutput) {
        let end = row.start + row.tokens.len();
        assert!(row.num_logits <= row.tokens.len(), "{}: more logits than tokens", row.seq);
        let first = end - row.num_logits + 1;
        let tokens = &self.tokens[&row.seq].0;
        let describe = |pos: usize| TokenLogprobs { token: tokens[pos], logprob: 0.0, rank: 1, top: Vec::new() };
        let entries: Vec<_> = (first..(end + 1).min(tokens.len())).map(describe).collect();
        if row.num_logits > usize::from(row.samples) {
            output.prompt_logprobs.push((row.seq, first, entries));
        }
    }
}
