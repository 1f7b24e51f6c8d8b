//! Who gives way when blocks or seats run out. A preempted sequence waits at its place and is
//! computed again, mostly from the prefix cache; its client only notices the pause.
//!
//! Progress is guaranteed: the oldest running sequence is never preempted for another, everyone else
//! can be for it, and alone it fits (`add` saw to that), if need be after a fresh start.

use std::cmp::Reverse;

use super::entry::Entry;
use super::plan::Plan;
use super::{Scheduler, SeqEvent};
use crate::types::SeqId;

impl Scheduler {
    /// Allocates blocks for the first `num_tokens` tokens of a running sequence, preempting others
    /// if need be. False when it has to wait, or was itself preempted.
    pub(super) fn make_room(&mut self, seq: SeqId, num_tokens: usize, plan: &mut Plan) -> bool {
        while self.kv.allocate(seq, num_tokens).is_none() {
            plan.short_of_blocks = true;
            if !self.draining.is_empty() {
                return false; // the next commit frees blocks: see whether they do
            }
            let Some(victim) = self.pick_victim() else { return false };
            self.preempt(victim, plan);
            if victim == seq {
                return false;
            }
        }
        true
    }

    /// The running sequence that loses least: fewest tokens computed that nobody else holds, the
    /// youngest of several. Never the oldest, nor one that everything was reserved for.
    fn pick_victim(&self) -> Option<SeqId> {
        let younger = self.running.iter().skip(1);
        let candidates = younger
            .filter_map(|(_, seq)| self.entries.get(seq))
            .filter(|e| !e.is_reserved(self.config.max_preemptions));
        let cost = |e: &&Entry| self.kv.exclusive_tokens(e.seq.id, e.num_scheduled);
        candidates.min_by_key(|e| (cost(e), Reverse(e.turn))).map(|e| e.seq.id)
    }

    /// Nothing could be planned and nothing is in flight although sequences run: those that all was
    /// reserved for hold what the oldest needs. Preempts the youngest. Left alone, the oldest
    /// itself starts afresh: its window blocks lie scattered in superpages that its other groups
    /// need; admitted to an empty cache, with all it may need, it packs them tightly. False when nothing runs.
    pub(super) fn break_stall(&mut self) -> bool {
        if !self.in_flight.is_empty() {
            return false;
        }
        let Some((_, &youngest)) = self.running.last_key_value() else { return false };
        self.totals.stalls += 1;
        self.release_to_queue(youngest);
        if self.running.is_empty()
            && let Some(entry) = self.entries.get_mut(&youngest)
        {
            entry.num_preemptions = entry.num_preemptions.max(self.config.max_preemptions);
        }
        true
    }

    /// Frees a seat for a waiting sequence whose tenant has fewer than its share: the last in turn of the tenant that is
    /// furthest above its own gives way. False when nobody is.
    pub(super) fn make_seat(&mut self, seq: SeqId, plan: &mut Plan) -> bool {
        let seats = self.config.max_num_seqs;
        let surplus = |e: &Entry| self.turns.surplus(e.claim.tenant, seats);
        if self.entries.get(&seq).is_none_or(|e| surplus(e) >= 0) {
            return false;
        }
        let others = self.running.iter().skip(1).filter_map(|(_, other)| self.entries.get(other));
        let victims = others.filter(|e| !e.is_reserved(self.config.max_preemptions) && surplus(e) > 0);
        let Some(victim) = victims.max_by_key(|e| (surplus(e), e.turn)).map(|e| e.seq.id) else { return false };
        self.preempt(victim, plan);
        true
    }

    fn preempt(&mut self, seq: SeqId, plan: &mut Plan) {
        plan.remove(seq);
        self.release_to_queue(seq);
    }

    /// A running sequence waits again, without its blocks.
    fn release_to_queue(&mut self, seq: SeqId) {
        let Some(entry) = self.entries.get_mut(&seq) else { return };
        self.totals.preemptions += 1;
        self.totals.preempted_tokens += entry.num_scheduled as u64;
        entry.running = false;
        entry.num_scheduled = 0;
        entry.seq.num_computed = 0;
        entry.num_preemptions += 1;
        let (turn, in_flight) = (entry.turn, entry.in_flight);
        let tenant = entry.claim.tenant;
        self.running.remove(&turn);
        self.waiting.insert(turn, seq);
        self.turns.stopped(tenant);
        self.release(seq, in_flight);
        self.events.push(SeqEvent::Preempted { seq });
    }
}
