//! Waiting sequences enter in turn. One that doesn't fit may be overtaken, but only so often;
//! then nobody enters before it, and the running ones, as they end, make room for it.

use std::ops::Bound;

use super::plan::Plan;
use super::{Scheduler, SeqEvent};
use crate::kv::{Admission, extend_hashes};
use crate::types::SeqId;

/// Blocks of each group kept free for each running sequence when another is admitted.
const GROWTH_BLOCKS: usize = 3;
/// Waiting sequences that don't fit are passed over in one step up to this many.
const MAX_PASSED_OVER: usize = 8;

/// Waiting sequences looked at in one step although their tenant has no right to a seat.
const MAX_SEATLESS: usize = 256;

impl Scheduler {
    /// Admits waiting sequences while batch, seats and blocks last, and plans their first chunks.
    pub(super) fn admit_waiting(&mut self, plan: &mut Plan, share: usize) {
        let mut passed_over: Vec<SeqId> = Vec::new();
        let mut after = Bound::Unbounded;
        let mut seatless = 0;
        while let Some((&turn, &seq)) = self.waiting.range((after, Bound::Unbounded)).next() {
            after = Bound::Excluded(turn);
            if plan.short_of_blocks || plan.budget == 0 || self.must_hold_back(&passed_over) {
                return;
            }
            if !self.is_ready(seq) || !self.has_logits_for(seq, plan) {
                continue;
            }
            if self.running.len() >= self.config.max_num_seqs && !self.make_seat(seq, plan) {
                // Another tenant's may have a right to one.
                seatless += 1;
                if seatless >= MAX_SEATLESS || self.turns.num_active() == 1 {
                    return;
                }
                continue;
            }
            if self.admit(seq) {
                self.count_bypass(&passed_over);
                let remaining = self.entries.get(&seq).map_or(0, |e| e.remaining(self.config.max_model_len));
                self.grant(seq, remaining.min(share), plan);
            } else {
                passed_over.push(seq);
            }
        }
    }

    /// True when nobody may overtake the sequences that didn't fit.
    fn must_hold_back(&self, passed_over: &[SeqId]) -> bool {
        let aged = |seq| self.entries.get(seq).is_some_and(|e| e.num_bypassed >= self.config.max_bypass);
        passed_over.len() >= MAX_PASSED_OVER || passed_over.iter().any(aged)
    }

    fn count_bypass(&mut self, passed_over: &[SeqId]) {
        for seq in passed_over {
            if let Some(entry) = self.entries.get_mut(seq) {
                entry.num_bypassed += 1;
            }
        }
    }

    /// False while a batch in flight still computes it (it was preempted), or while its sibling's
    /// prompt, which it will share, isn't published.
    fn is_ready(&self, seq: SeqId) -> bool {
        let Some(entry) = self.entries.get(&seq) else { return false };
        let leader = entry.leader.and_then(|leader| self.entries.get(&leader));
        entry.in_flight == 0 && leader.is_none_or(|l| l.prompt_computed)
    }

    /// False for a prompt to be scored when those before it take all logits of this batch. (They are at it for a few
    /// steps only, so whoever overtakes it then doesn't count.)
    fn has_logits_for(&self, seq: SeqId, plan: &Plan) -> bool {
        plan.prompt_logits > 0 || self.entries.get(&seq).is_some_and(|e| !e.is_scoring())
    }

    /// Blocks that a running sequence may soon need, in each group: a few, so that admissions don't
    /// lead to preemptions at once; not all, since most sequences end before their limit.
    fn growth_blocks(&self, seq: SeqId) -> usize {
        let Some(entry) = self.entries.get(&seq) else { return 0 };
        let tokens = entry.most_tokens(self.config.max_model_len).saturating_sub(entry.seq.tokens.len());
        tokens.div_ceil(self.kv.config().block_size).min(GROWTH_BLOCKS)
    }

    /// Gives a waiting sequence its prefix hit and a promise of blocks: for all its tokens so far,
    /// or, after repeated preemption, for all it may ever have.
    fn admit(&mut self, seq: SeqId) -> bool {
        let span = self.span();
        let headroom = self.running.values().map(|&other| self.growth_blocks(other)).sum();
        let Some(entry) = self.entries.get_mut(&seq) else { return false };
        let config = self.kv.config();
        if config.prefix_cache {
            extend_hashes(&mut entry.hashes, &entry.seq.tokens, config.block_size, entry.salt);
        }
        let most_tokens = entry.most_tokens(self.config.max_model_len);
        let reserve_tokens =
            if entry.is_reserved(self.config.max_preemptions) { most_tokens } else { entry.seq.tokens.len() };
        let ask =
            Admission { hashes: &entry.hashes, max_hit_tokens: entry.max_hit_tokens(), reserve_tokens, span, headroom };
        let mut hit = self.kv.admit(seq, ask);
        if hit.is_none() && self.running.is_empty() {
            // Its prefix may lie scattered over superpages that it needs whole.
            hit = self.kv.admit(seq, Admission { max_hit_tokens: 0, ..ask });
        }
        let Some(hit_tokens) = hit else { return false };
        entry.num_scheduled = hit_tokens;
        entry.seq.num_computed = hit_tokens;
        entry.num_bypassed = 0;
        entry.running = true;
        if !entry.started {
            entry.started = true;
            self.totals.queued_prompt_tokens -= entry.seq.num_prompt;
            self.totals.prefix_queries += entry.seq.num_prompt as u64;
            self.totals.prefix_hits += hit_tokens as u64;
            self.events.push(SeqEvent::Started { seq, cached_tokens: hit_tokens });
        }
        let turn = entry.turn;
        let tenant = entry.claim.tenant;
        self.waiting.remove(&turn);
        self.running.insert(turn, seq);
        self.turns.admitted(tenant, turn);
        true
    }
}
