//! Open requests on the engine thread: which sequences are whose and where events go.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::handle::{EngineRequest, EngineStats};
use crate::scheduler::{NewSequence, SeqEvent};
use crate::types::{Batch, EngineEvent, RequestError, SeqId};

/// Weight of the newest sample in a running average.
const SMOOTHING: f64 = 0.2;

/// A running average; nothing until the first sample.
#[derive(Default)]
struct Average(Option<f64>);

impl Average {
    fn add(&mut self, sample: f64) {
        let old = self.0.unwrap_or(sample);
        self.0 = Some(old + SMOOTHING * (sample - old));
    }

    fn get(&self) -> f64 {
        self.0.unwrap_or(0.0)
    }
}

struct Choice {
    seq: SeqId,
    open: bool,
    /// When it left the queue; until then it is counted in `queued_tokens` and `queued_sequences`.
    started: Option<Instant>,
}

struct OpenRequest {
    events: mpsc::UnboundedSender<EngineEvent>,
    choices: Vec<Choice>,
    num_prompt: usize,
    deadline: Option<Instant>,
}

/// The table of open requests.
#[derive(Default)]
pub(super) struct Requests {
    open: HashMap<u64, OpenRequest>,
    owner: HashMap<SeqId, (u64, u32)>,
    next_seq: u64,
    /// Prompt tokens per second.
    prefill_rate: Average,
    /// Seconds from leaving the queue to the end of a sequence.
    residence: Average,
}

impl Requests {
    /// Registers a request; returns its sequences, one a choice, for the scheduler.
    pub(super) fn open(
        &mut self,
        id: u64,
        request: EngineRequest,
        events: mpsc::UnboundedSender<EngineEvent>,
    ) -> Vec<NewSequence> {
        let leader = SeqId(self.next_seq);
        let sequences: Vec<NewSequence> = (0..request.num_choices)
            .map(|choice| {
                let seq = SeqId(self.next_seq);
                self.next_seq += 1;
                self.owner.insert(seq, (id, choice));
                NewSequence {
                    id: seq,
                    prompt: request.prompt.clone(),
                    params: request.params.clone(),
                    salt: request.cache_salt,
                    choice,
                    leader: (choice > 0).then_some(leader),
                    constrained: request.constraint.is_some(),
                    claim: request.claim,
                }
            })
            .collect();
        let choices = sequences.iter().map(|s| Choice { seq: s.id, open: true, started: None }).collect();
        self.open
            .insert(id, OpenRequest { events, choices, num_prompt: request.prompt.len(), deadline: request.deadline });
        sequences
    }

    /// Forgets a request; returns the sequences that are still open.
    pub(super) fn close(&mut self, id: u64, stats: &EngineStats) -> Vec<SeqId> {
        let Some(request) = self.open.remove(&id) else { return Vec::new() };
        for choice in &request.choices {
            self.owner.remove(&choice.seq);
            match choice.started {
                None => stats.leave_queue(1, request.num_prompt as u64),
                Some(started) if choice.open => self.residence.add(started.elapsed().as_secs_f64()),
                Some(_) => {}
            }
        }
        request.choices.iter().filter(|c| c.open).map(|c| c.seq).collect()
    }

    /// Marks a choice as ended by its reader; returns its sequence if it was open.
    pub(super) fn stop_choice(&mut self, id: u64, choice: u32, stats: &EngineStats) -> Option<SeqId> {
        let entry = self.open.get_mut(&id)?.choices.get_mut(choice as usize)?;
        let seq = entry.open.then_some(entry.seq);
        self.end_choice(id, choice, stats);
        seq
    }

    /// Requests whose deadline lies before `now`.
    pub(super) fn expired(&self, now: Instant) -> Vec<u64> {
        self.open.iter().filter(|(_, r)| r.deadline.is_some_and(|d| d <= now)).map(|(&id, _)| id).collect()
    }

    /// Tells a request that it failed. It stays in the table until `close`.
    pub(super) fn fail(&self, id: u64, error: RequestError) {
        if let Some(request) = self.open.get(&id) {
            send(request, EngineEvent::Error(error));
        }
    }

    /// Tells every open request that it failed, and forgets them.
    pub(super) fn fail_all(&mut self, error: &RequestError) {
        for request in self.open.values() {
            send(request, EngineEvent::Error(error.clone()));
        }
        self.open.clear();
        self.owner.clear();
    }

    /// The request that owns a sequence.
    pub(super) fn owner(&self, seq: SeqId) -> Option<u64> {
        self.owner.get(&seq).map(|&(id, _)| id)
    }

    /// Sends what a step brought. Returns the requests of which a sequence failed: they end as a whole.
    pub(super) fn emit(&mut self, events: Vec<SeqEvent>, stats: &EngineStats) -> Vec<u64> {
        let mut failed = Vec::new();
        for event in events {
            match event {
                SeqEvent::Started { seq, cached_tokens } => self.started(seq, cached_tokens, stats),
                SeqEvent::PromptLogprobs { seq, first, entries } => {
                    self.forward(seq, |choice| EngineEvent::PromptLogprobs { choice, first, entries });
                }
                SeqEvent::Token { seq, token, logprobs } => {
                    self.forward(seq, |choice| EngineEvent::Token { choice, token, logprobs });
                }
                SeqEvent::Finished { seq, reason, stop_token } => {
                    self.forward(seq, |choice| EngineEvent::Finished { choice, reason, stop_token });
                    if let Some(&(id, choice)) = self.owner.get(&seq) {
                        self.end_choice(id, choice, stats);
                    }
                }
                SeqEvent::Failed { seq, message } => {
                    if let Some(id) = self.owner(seq) {
                        self.fail(id, RequestError::Internal(message));
                        failed.push(id);
                    }
                }
                SeqEvent::Preempted { .. } => {}
            }
        }
        failed
    }

    /// Updates the prefill rate from a step that took `elapsed`.
    pub(super) fn note_step(&mut self, batch: &Batch, elapsed: Duration) {
        let prefill: usize = batch.rows.iter().filter(|r| r.tokens.len() > 1).map(|r| r.tokens.len()).sum();
        if prefill > 0 {
            self.prefill_rate.add(prefill as f64 / elapsed.as_secs_f64().max(1e-6));
        }
    }

    /// Prompt tokens computed per second, of late.
    pub(super) fn prefill_rate(&self) -> u64 {
        self.prefill_rate.get() as u64
    }

    /// How long a sequence is in execution, of late: the average of those that ended, or the mean age of those that
    /// run if that is more, as it is when the first long ones come.
    pub(super) fn residence(&self) -> Duration {
        let now = Instant::now();
        let running = self.open.values().flat_map(|r| &r.choices).filter(|c| c.open).filter_map(|c| c.started);
        let (count, total) = running.fold((0_u32, 0.0), |(n, sum), at| (n + 1, sum + (now - at).as_secs_f64()));
        Duration::from_secs_f64(self.residence.get().max(total / f64::from(count.max(1))))
    }

    fn started(&mut self, seq: SeqId, cached_tokens: usize, stats: &EngineStats) {
        if let Some((request, choice)) = self.find(seq) {
            let num_prompt = request.num_prompt as u64;
            // A sequence that resumes after preemption starts a second time.
            let entry = &mut request.choices[choice];
            if entry.started.is_none() {
                entry.started = Some(Instant::now());
                stats.leave_queue(1, num_prompt);
                send(request, EngineEvent::Started { choice: choice as u32, cached_tokens });
            }
        }
    }

    fn end_choice(&mut self, id: u64, choice: u32, stats: &EngineStats) {
        let Some(request) = self.open.get_mut(&id) else { return };
        if let Some(entry) = request.choices.get_mut(choice as usize)
            && std::mem::take(&mut entry.open)
            && let Some(started) = entry.started
        {
            self.residence.add(started.elapsed().as_secs_f64());
        }
        if request.choices.iter().all(|c| !c.open) {
            self.close(id, stats);
        }
    }

    fn forward(&mut self, seq: SeqId, event: impl FnOnce(u32) -> EngineEvent) {
        if let Some((request, choice)) = self.find(seq) {
            send(request, event(choice as u32));
        }
    }

    fn find(&mut self, seq: SeqId) -> Option<(&mut OpenRequest, usize)> {
        let &(id, choice) = self.owner.get(&seq)?;
        Some((self.open.get_mut(&id)?, choice as usize))
    }
}

/// A reader that has gone needs no events; its abort is on the way.
fn send(request: &OpenRequest, event: EngineEvent) {
    let _ = request.events.send(event);
}
