//! The scheduler's state, its two queues and the ways in and out of them.

use std::collections::{BTreeMap, HashMap, VecDeque};

use super::entry::{Entry, most_tokens};
use super::turn::{Turn, Turns};
use super::{AddError, NewSequence, SchedulerConfig, SchedulerStats, SeqEvent};
use crate::kv::KvManager;
use crate::types::{SeqId, Sequence};

/// Decides what each batch computes and keeps every sequence's state.
///
/// The engine's loop: `schedule`, execute, sample, `commit`. With `depth` 1, `schedule` may be
/// called once more before the first batch is committed; commits come in order.
#[derive(Debug)]
pub struct Scheduler {
    pub(super) config: SchedulerConfig,
    pub(super) kv: KvManager,
    pub(super) entries: HashMap<SeqId, Entry>,
    /// Admitted sequences, in turn.
    pub(super) running: BTreeMap<Turn, SeqId>,
    /// The others, in turn.
    pub(super) waiting: BTreeMap<Turn, SeqId>,
    pub(super) turns: Turns,
    /// Uncommitted batches, oldest first.
    pub(super) in_flight: VecDeque<InFlight>,
    /// Sequences that are gone or preempted but whose blocks batches in flight still use, with the number of
    /// such batches. Their blocks are freed when it reaches 0.
    pub(super) draining: BTreeMap<SeqId, usize>,
    /// Events to hand out with the next commit, or before.
    pub(super) events: Vec<SeqEvent>,
    /// Totals and the queued prompt tokens; `stats` fills in the rest.
    pub(super) totals: SchedulerStats,
}

/// A scheduled batch, as far as its commit needs it.
#[derive(Debug)]
pub(super) struct InFlight {
    pub(super) step: u64,
    pub(super) num_tokens: usize,
    pub(super) rows: Vec<InFlightRow>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct InFlightRow {
    pub(super) seq: SeqId,
    /// Position after the last token computed.
    pub(super) end: usize,
    pub(super) samples: bool,
}

impl Scheduler {
    /// An idle scheduler over an empty cache. Limits out of range are brought into it.
    pub fn new(mut config: SchedulerConfig, kv: KvManager) -> Self {
        config.max_batch_tokens = config.max_batch_tokens.max(1);
        config.max_prompt_logits = config.max_prompt_logits.max(1);
        config.max_num_seqs = config.max_num_seqs.clamp(1, config.max_batch_tokens);
        config.max_shared_prefills = config.max_shared_prefills.max(1);
        config.depth = config.depth.min(1);
        Self {
            config,
            kv,
            entries: HashMap::new(),
            running: BTreeMap::new(),
            waiting: BTreeMap::new(),
            turns: Turns::default(),
            in_flight: VecDeque::new(),
            draining: BTreeMap::new(),
            events: Vec::new(),
            totals: SchedulerStats::default(),
        }
    }

    /// Queues a sequence.
    ///
    /// # Errors
    /// [`AddError`] when it could never be computed.
    pub fn add(&mut self, new: NewSequence) -> Result<(), AddError> {
        let limit = self.config.max_model_len;
        if new.prompt.is_empty() {
            return Err(AddError::EmptyPrompt);
        }
        // Scoring a prompt needs no room for output.
        if new.prompt.len() + usize::from(new.params.max_tokens > 0) > limit {
            return Err(AddError::TooLong { prompt: new.prompt.len(), limit });
        }
        if self.entries.contains_key(&new.id) || self.draining.contains_key(&new.id) {
            return Err(AddError::Duplicate(new.id));
        }
        let (needed, capacity) = (most_tokens(&new, limit), self.kv_capacity_tokens());
        if needed > capacity {
            return Err(AddError::NeverFits { needed, capacity });
        }
        let entry = self.entry(&new);
        self.totals.queued_prompt_tokens += entry.seq.num_prompt;
        self.waiting.insert(entry.turn, new.id);
        self.entries.insert(new.id, entry);
        Ok(())
    }

    fn entry(&mut self, new: &NewSequence) -> Entry {
        let (turn, charged) = self.turns.take(new);
        let seq = Sequence {
            id: new.id,
            tokens: new.prompt.to_vec(),
            num_prompt: new.prompt.len(),
            num_computed: 0,
            params: new.params.clone(),
            choice: new.choice,
            constrained: new.constrained,
        };
        Entry {
            seq,
            turn,
            claim: new.claim,
            charged,
            salt: new.salt,
            leader: new.leader,
            running: false,
            started: false,
            prompt_computed: false,
            num_scheduled: 0,
            in_flight: 0,
            pending: 0,
            hashes: Vec::new(),
            num_scored: 0,
            num_preemptions: 0,
            num_bypassed: 0,
        }
    }

    /// Forgets a sequence in whatever state, without an event. Its blocks are free at once, or when
    /// the batches in flight that use them are committed. False when there is no such sequence.
    pub fn abort(&mut self, seq: SeqId) -> bool {
        self.remove(seq)
    }

    /// Ends a sequence whose text met a stop string: as [`Self::abort`]; what is computed stays in the prefix cache.
    pub fn stop(&mut self, seq: SeqId) -> bool {
        self.remove(seq)
    }

    /// Takes a sequence out of its queue and gives its blocks back as soon as no batch uses them.
    pub(super) fn remove(&mut self, seq: SeqId) -> bool {
        let Some(entry) = self.entries.remove(&seq) else { return false };
        self.queue(entry.running).remove(&entry.turn);
        let used = if entry.started { entry.seq.tokens.len() as u64 } else { 0 };
        if entry.running {
            self.turns.stopped(entry.claim.tenant);
        }
        self.turns.settle(entry.claim.tenant, entry.charged, used);
        if !entry.started {
            self.totals.queued_prompt_tokens -= entry.seq.num_prompt;
        }
        self.release(seq, entry.in_flight);
        true
    }

    /// Frees a sequence's blocks after `in_flight` more commits of batches with a row of it.
    pub(super) fn release(&mut self, seq: SeqId, in_flight: usize) {
        if in_flight == 0 {
            self.kv.free(seq);
        } else {
            self.draining.insert(seq, in_flight);
        }
    }

    pub(super) fn queue(&mut self, running: bool) -> &mut BTreeMap<Turn, SeqId> {
        if running { &mut self.running } else { &mut self.waiting }
    }

    /// True while something is to be scheduled or committed.
    pub fn has_work(&self) -> bool {
        !self.entries.is_empty() || !self.in_flight.is_empty()
    }

    /// Sequences admitted and not finished.
    pub fn num_running(&self) -> usize {
        self.running.len()
    }

    /// Sequences that wait to be admitted, preempted ones included.
    pub fn num_waiting(&self) -> usize {
        self.waiting.len()
    }

    /// A live sequence; `None` once it has finished, failed or been aborted, also while a batch
    /// with a surplus row of it is in flight.
    pub fn sequence(&self, seq: SeqId) -> Option<&Sequence> {
        self.entries.get(&seq).map(|e| &e.seq)
    }

    /// Tokens that the cache holds for one sequence alone.
    pub fn kv_capacity_tokens(&self) -> usize {
        self.kv.config().capacity_tokens(self.span())
    }

    /// Counts for metrics.
    pub fn stats(&self) -> SchedulerStats {
        SchedulerStats {
            num_running: self.running.len(),
            num_waiting: self.waiting.len(),
            kv: self.kv.usage(),
            ..self.totals
        }
    }

    /// Most tokens of one sequence that uncommitted batches hold at once.
    pub(super) fn span(&self) -> usize {
        self.config.max_batch_tokens * (self.config.depth + 1)
    }
}
