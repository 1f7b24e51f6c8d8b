//! The constraints of live sequences: masks are computed by threads of their own while the model computes logits.
//!
//! A state is at one place at a time: here, or with a worker from `begin` to `finish` of one step.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crossbeam::channel::{Receiver, Sender, unbounded};

use crate::types::{Batch, ConstraintError, ConstraintState, Follow, Masks, SampledToken, SeqId, StepOutput};

/// More workers would only compete with those who compute logits.
const MAX_WORKERS: usize = 8;

/// A sequence whose constraint failed, and why.
pub(super) type Fault = (SeqId, ConstraintError);

type State = Box<dyn ConstraintState>;

struct Job {
    seq: SeqId,
    state: State,
    mask: Vec<u32>,
}

struct Done {
    job: Job,
    result: Result<(), ConstraintError>,
}

/// States by sequence, and the workers.
pub(super) struct Constraints {
    states: HashMap<SeqId, State>,
    /// Words of a mask.
    width: usize,
    workers: Option<(Sender<Job>, Receiver<Done>)>,
    /// States that are with a worker.
    away: usize,
    /// Masks that are used again.
    spare: Vec<Vec<u32>>,
}

impl Constraints {
    /// For tokens below `vocab_size`. Workers are started when the first mask is wanted.
    pub(super) fn new(vocab_size: usize) -> Self {
        let (states, spare) = (HashMap::new(), Vec::new());
        Self { states, width: vocab_size.div_ceil(32), workers: None, away: 0, spare }
    }

    pub(super) fn insert(&mut self, seq: SeqId, state: State) {
        self.states.insert(seq, state);
    }

    pub(super) fn remove(&mut self, seq: SeqId) {
        self.states.remove(&seq);
    }

    /// Whether some row of `batch` needs a mask.
    pub(super) fn concern(&self, batch: &Batch) -> bool {
        !self.states.is_empty() && batch.rows.iter().any(|row| row.samples && self.states.contains_key(&row.seq))
    }

    /// Gives the states of `batch`'s sampling rows to workers: of those whose tokens are all known, or of the others,
    /// once the batch before has been committed.
    pub(super) fn begin(&mut self, batch: &Batch, fed_back: bool) {
        for row in batch.rows.iter().filter(|row| row.samples && row.token_from_previous == fed_back) {
            let Some(state) = self.states.remove(&row.seq) else { continue };
            let mut mask = self.spare.pop().unwrap_or_default();
            mask.clear();
            mask.resize(self.width, 0);
            let (jobs, _) = self.workers.get_or_insert_with(start_workers);
            // Workers end when their channel does, not before.
            if jobs.send(Job { seq: row.seq, state, mask }).is_ok() {
                self.away += 1;
            }
        }
    }

    /// Waits for what was begun. Sequences whose mask could not be had have none.
    pub(super) fn finish(&mut self, batch: &Batch) -> (Masks, Vec<Fault>) {
        let (mut rows, mut faults) = (HashMap::new(), Vec::new());
        while self.away > 0 {
            let Some(Done { job, result }) = self.workers.as_ref().and_then(|(_, done)| done.recv().ok()) else {
                break;
            };
            self.away -= 1;
            match result {
                Ok(()) => {
                    self.states.insert(job.seq, job.state);
                    rows.insert(job.seq, job.mask);
                }
                Err(error) => faults.push((job.seq, error)),
            }
        }
        let mut masks = Masks { width: self.width, ..Masks::default() };
        for row in batch.rows.iter().filter(|row| row.samples) {
            if let Some(mask) = rows.remove(&row.seq) {
                masks.seqs.push(row.seq);
                masks.words.extend_from_slice(&mask);
                self.spare.push(mask);
            }
        }
        (masks, faults)
    }

    /// Tells the constraints which tokens were sampled, and `output` what they add. With `jump`, tokens that must follow
    /// are taken at once, but for sequences of which `keeps_all` says that each token must be sampled.
    pub(super) fn accept(
        &mut self,
        output: &mut StepOutput,
        jump: bool,
        keeps_all: impl Fn(SeqId) -> bool,
    ) -> Vec<Fault> {
        let mut faults = Vec::new();
        if self.states.is_empty() {
            return faults;
        }
        for SampledToken { seq, token, .. } in &output.sampled {
            let (Some(state), Ok(token)) = (self.states.get_mut(seq), token) else { continue };
            let jump = jump && !keeps_all(*seq);
            match guarded(|| follow(state, *token, jump)) {
                Ok((forced, over)) => output.follows.push(Follow { seq: *seq, forced, over }),
                Err(error) => faults.push((*seq, error)),
            }
        }
        faults
    }
}

fn follow(state: &mut State, token: u32, jump: bool) -> Result<(Vec<u32>, bool), ConstraintError> {
    state.accept(token)?;
    let forced = if jump && !state.is_over() { state.take_forced()? } else { Vec::new() };
    Ok((forced, state.is_over()))
}

fn guarded<T>(f: impl FnOnce() -> Result<T, ConstraintError>) -> Result<T, ConstraintError> {
    let failed = |_| Err(ConstraintError::Failed("the constraint failed unexpectedly".to_owned()));
    catch_unwind(AssertUnwindSafe(f)).unwrap_or_else(failed)
}

fn start_workers() -> (Sender<Job>, Receiver<Done>) {
    let (jobs, queue) = unbounded::<Job>();
    let (finished, done) = unbounded();
    let count = std::thread::available_parallelism().map_or(1, usize::from).min(MAX_WORKERS);
    for _ in 0..count {
        let (queue, finished) = (queue.clone(), finished.clone());
        std::thread::spawn(move || {
            for mut job in queue {
                let result = guarded(|| job.state.allowed(&mut job.mask));
                if finished.send(Done { job, result }).is_err() {
                    return;
                }
            }
        });
    }
    (jobs, done)
}
