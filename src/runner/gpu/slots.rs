//! Which slot of the device's arrays a sequence has.

use std::collections::HashMap;

use crate::runner::Sequences;
use crate::types::{Batch, SeqId};

/// A sequence keeps its slot while it lives, unless others need it while it waits: it then begins anew in another one.
#[derive(Debug)]
pub(super) struct Slots {
    of: HashMap<SeqId, u32>,
    free: Vec<u32>,
}

impl Slots {
    /// `count` slots.
    pub(super) fn new(count: usize) -> Self {
        Self { of: HashMap::new(), free: (0..count as u32).rev().collect() }
    }

    /// The slot of each row of `batch`, and the rows whose sequence has just got one. `protected` sequences are in a
    /// batch whose tokens the host hasn't seen: their slots are not taken.
    ///
    /// # Panics
    /// If there are more sequences in flight than slots: a bug of the configuration.
    pub(super) fn assign(
        &mut self,
        batch: &Batch,
        sequences: Sequences<'_>,
        protected: impl Fn(SeqId) -> bool,
        slots: &mut Vec<u32>,
    ) -> Vec<usize> {
        self.of.retain(|&seq, &mut slot| {
            let alive = sequences(seq).is_some();
            if !alive {
                self.free.push(slot);
            }
            alive
        });
        slots.clear();
        let mut new = Vec::new();
        for (index, row) in batch.rows.iter().enumerate() {
            let slot = self.of.get(&row.seq).copied().unwrap_or_else(|| {
                new.push(index);
                let slot = self.free.pop().unwrap_or_else(|| self.take(batch, &protected));
                self.of.insert(row.seq, slot);
                slot
            });
            slots.push(slot);
        }
        new
    }

    /// Takes the slot of a sequence that waits.
    fn take(&mut self, batch: &Batch, protected: &impl Fn(SeqId) -> bool) -> u32 {
        let waits = |seq: SeqId| !protected(seq) && batch.rows.iter().all(|row| row.seq != seq);
        let seq = self.of.keys().copied().find(|&seq| waits(seq)).expect("a slot for every sequence in flight");
        self.of.remove(&seq).expect("found above")
    }
}
