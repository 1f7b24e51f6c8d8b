//! `schedule`: fills one batch, running sequences first. Nothing about a sequence changes until the
//! plan is dispatched, so that a preemption can still take a row back.

use super::core::{InFlight, InFlightRow};
use super::entry::Entry;
use super::{Scheduler, SchedulerConfig};
use crate::types::{Batch, BatchRow, SeqId};

/// The batch being filled.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) rows: Vec<PlannedRow>,
    /// Tokens that may still be added.
    pub(super) budget: usize,
    /// Rows of logits that may still be added to score prompts.
    pub(super) prompt_logits: usize,
    /// A running sequence lacks blocks: nothing new is admitted in this step.
    pub(super) short_of_blocks: bool,
}

/// `len` tokens of a sequence from its `num_scheduled` on; their blocks are allocated.
#[derive(Debug)]
pub(super) struct PlannedRow {
    pub(super) seq: SeqId,
    pub(super) len: usize,
    /// Rows of logits that score its prompt.
    prompt_logits: usize,
}

impl Plan {
    fn new(config: &SchedulerConfig) -> Self {
        let (budget, prompt_logits) = (config.max_batch_tokens, config.max_prompt_logits);
        Self { rows: Vec::new(), budget, prompt_logits, short_of_blocks: false }
    }

    /// Takes back the row of a sequence.
    pub(super) fn remove(&mut self, seq: SeqId) {
        if let Some(at) = self.rows.iter().position(|r| r.seq == seq) {
            let row = self.rows.remove(at);
            self.budget += row.len;
            self.prompt_logits += row.prompt_logits;
        }
    }
}

impl Scheduler {
    /// The next batch: decodes first, then prefills under way, then waiting sequences, in turn.
    ///
    /// Empty (step 0, nothing to commit) when there is nothing to compute now: no work at all, work
    /// that only a batch in flight can enable, or `depth + 1` uncommitted batches.
    pub fn schedule(&mut self) -> Batch {
        if self.in_flight.len() > self.config.depth {
            return Batch::default();
        }
        loop {
            let mut plan = Plan::new(&self.config);
            self.plan_decodes(&mut plan);
            let share = self.prefill_share(&plan);
            self.plan_prefills(&mut plan, share);
            self.admit_waiting(&mut plan, share);
            self.extend_prefills(&mut plan);
            if !plan.rows.is_empty() || !self.break_stall() {
                return self.dispatch(plan);
            }
        }
    }

    /// Every running sequence with one token to compute.
    fn plan_decodes(&mut self, plan: &mut Plan) {
        for seq in self.running_now() {
            if self.remaining(seq) == 1 {
                self.grant(seq, 1, plan);
            }
        }
    }

    /// Every running sequence with more.
    fn plan_prefills(&mut self, plan: &mut Plan, share: usize) {
        for seq in self.running_now() {
            let remaining = self.remaining(seq);
            if remaining > 1 {
                self.grant(seq, remaining.min(share), plan);
            }
        }
    }

    /// Gives a running sequence up to `len` tokens of the batch, if its blocks can be had.
    pub(super) fn grant(&mut self, seq: SeqId, len: usize, plan: &mut Plan) {
        let Some(entry) = self.entries.get(&seq).filter(|e| e.running) else { return };
        let start = entry.num_scheduled;
        let end = entry.last_end(start + len.min(plan.budget), plan.prompt_logits);
        let prompt_logits = entry.num_prompt_logits(end);
        if end > start && self.make_room(seq, end, plan) {
            plan.budget -= end - start;
            plan.prompt_logits -= prompt_logits;
            plan.rows.push(PlannedRow { seq, len: end - start, prompt_logits });
        }
    }

    /// Most tokens that one prefill gets at first, so that a long prompt leaves some to those behind
    /// it. What they don't use goes back to it in `extend_prefills`.
    fn prefill_share(&self, plan: &Plan) -> usize {
        let under_way = self.running.values().filter(|&&seq| self.remaining(seq) > 1).count();
        let seats = self.config.max_num_seqs - self.running.len();
        let contenders = (under_way + seats.min(self.waiting.len())).clamp(1, self.config.max_shared_prefills);
        (plan.budget / contenders).max(self.kv.config().block_size)
    }

    /// Spends what is left of the batch on its prefills, oldest first, as far as blocks are at hand.
    fn extend_prefills(&mut self, plan: &mut Plan) {
        for row in &mut plan.rows {
            let Some(entry) = self.entries.get(&row.seq) else { continue };
            let more = entry.remaining(self.config.max_model_len).saturating_sub(row.len).min(plan.budget);
            let start = entry.num_scheduled;
            let end = entry.last_end(start + row.len + more, row.prompt_logits + plan.prompt_logits);
            if end > start + row.len && self.kv.allocate(row.seq, end).is_some() {
                plan.budget -= end - start - row.len;
                plan.prompt_logits -= entry.num_prompt_logits(end) - row.prompt_logits;
                (row.len, row.prompt_logits) = (end - start, entry.num_prompt_logits(end));
            }
        }
    }

    /// Makes the plan a batch in flight.
    fn dispatch(&mut self, plan: Plan) -> Batch {
        if plan.rows.is_empty() {
            return Batch::default();
        }
        self.totals.steps += 1;
        let mut batch = Batch { step: self.totals.steps, ..Batch::default() };
        let mut in_flight = InFlight { step: batch.step, num_tokens: 0, rows: Vec::with_capacity(plan.rows.len()) };
        for PlannedRow { seq, len, .. } in plan.rows {
            let Some(entry) = self.entries.get_mut(&seq) else { unreachable!("a planned sequence is live") };
            let row = batch_row(entry, len, self.kv.tables(seq).to_vec());
            let end = row.start + len;
            entry.num_scheduled = end;
            entry.in_flight += 1;
            entry.pending += usize::from(row.samples);
            in_flight.num_tokens += len;
            in_flight.rows.push(InFlightRow { seq, end, samples: row.samples });
            batch.rows.push(row);
        }
        self.in_flight.push_back(in_flight);
        batch
    }

    fn running_now(&self) -> Vec<SeqId> {
        self.running.values().copied().collect()
    }

    /// Tokens of a running sequence to compute next; 0 once it was preempted.
    fn remaining(&self, seq: SeqId) -> usize {
        let entry = self.entries.get(&seq).filter(|e| e.running);
        entry.map_or(0, |e| e.remaining(self.config.max_model_len))
    }
}

fn batch_row(entry: &Entry, len: usize, tables: Vec<Vec<crate::types::BlockId>>) -> BatchRow {
    let (start, end) = (entry.num_scheduled, entry.num_scheduled + len);
    let known = entry.seq.tokens.len();
    let mut tokens = entry.seq.tokens[start..end.min(known)].to_vec();
    tokens.resize(len, 0); // the placeholder of a token that is still being sampled
    BatchRow {
        seq: entry.seq.id,
        start,
        tokens,
        token_from_previous: end > known,
        num_logits: entry.num_logits(end),
        samples: entry.samples(end),
        tables,
    }
}
