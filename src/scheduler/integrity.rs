//! What must hold of the scheduler between calls.

use super::Scheduler;

impl Scheduler {
    /// Checks queues, counts and the whole KV cache against each other. Slow; for tests.
    ///
    /// # Errors
    /// Names the first broken invariant.
    pub fn check_integrity(&self) -> Result<(), String> {
        self.kv.check_integrity()?;
        let ensure = |holds: bool, seq, what: &str| if holds { Ok(()) } else { Err(format!("{seq}: {what}")) };
        for (&seq, entry) in &self.entries {
            let queue = if entry.running { &self.running } else { &self.waiting };
            ensure(queue.get(&entry.turn) == Some(&seq), seq, "not in its queue")?;
            let rows = self.in_flight.iter().flat_map(|b| &b.rows).filter(|r| r.seq == seq);
            ensure(rows.clone().count() == entry.in_flight, seq, "batches in flight miscounted")?;
            ensure(rows.filter(|r| r.samples).count() == entry.pending, seq, "pending tokens miscounted")?;
            ensure(entry.seq.num_computed <= entry.num_scheduled, seq, "computed more than scheduled")?;
            ensure(entry.num_scheduled <= entry.seq.tokens.len() + entry.pending, seq, "scheduled unknown tokens")?;
            let covered =
                self.kv.tables(seq).iter().all(|t| t.len() * self.kv.config().block_size >= entry.num_scheduled);
            ensure(covered, seq, "scheduled without blocks")?;
            let holds = !self.kv.tables(seq).is_empty();
            let should = entry.running || self.draining.contains_key(&seq);
            ensure(holds == should, seq, "holds blocks while waiting, or none while running")?;
        }
        let unstarted = self.entries.values().filter(|e| !e.started).map(|e| e.seq.num_prompt);
        if unstarted.sum::<usize>() != self.totals.queued_prompt_tokens {
            return Err("queued prompt tokens miscounted".to_owned());
        }
        let queued = self.running.len() + self.waiting.len();
        if queued != self.entries.len() {
            return Err(format!("{queued} sequences queued, {} live", self.entries.len()));
        }
        for (&id, tenant) in &self.turns.tenants {
            let own = self.entries.values().filter(|e| e.claim.tenant == id);
            let counts = (own.clone().count(), own.filter(|e| e.running).count());
            if counts != (tenant.live, tenant.running) {
                return Err(format!("tenant {id} has {counts:?} sequences, counted {tenant:?}"));
            }
        }
        for (&seq, &count) in &self.draining {
            let rows = self.in_flight.iter().flat_map(|b| &b.rows).filter(|r| r.seq == seq).count();
            ensure(rows == count && count > 0, seq, "draining miscounted")?;
        }
        let holders = self.running.len() + self.draining.len();
        let in_cache = self.kv.num_seqs();
        if in_cache != holders {
            return Err(format!("{in_cache} sequences hold blocks, expected {holders}"));
        }
        Ok(())
    }
}
