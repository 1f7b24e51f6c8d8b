//! The loop: receive, schedule, execute, sample, commit, emit. Runs on one thread and owns everything it touches.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crossbeam::channel::{RecvTimeoutError, TryRecvError};

use super::constraints::{Constraints, Fault};
use super::handle::{Command, EngineEnd};
use super::requests::Requests;
use super::sampling::sample_batch;
use crate::runner::{Collected, Runner, RunnerError};
use crate::sampler::Sampler;
use crate::scheduler::{Scheduler, SeqEvent};
use crate::telemetry::{EngineGauges, Telemetry};
use crate::types::{Batch, ConstraintError, EngineEvent, Masks, RequestError};

/// Longest sleep of an idle engine; only a bound, commands wake it at once.
const IDLE_WAIT: Duration = Duration::from_secs(3600);

/// Scheduler, runner and sampler together: the only place that sees all three.
pub struct Engine<R: Runner> {
    scheduler: Scheduler,
    runner: R,
    sampler: Sampler,
    requests: Requests,
    constraints: Constraints,
    in_flight: VecDeque<Launched>,
    end: EngineEnd,
    telemetry: Option<Arc<Telemetry>>,
    reported_preemptions: u64,
    reported_allocations: u64,
}

struct Launched {
    batch: Batch,
    masks: Masks,
    at: Instant,
}

/// Whether the loop goes on.
#[derive(PartialEq, Eq)]
enum Flow {
    Continue,
    Stop,
}

impl<R: Runner> Engine<R> {
    /// An engine that answers the handles of `end`.
    pub fn new(scheduler: Scheduler, runner: R, end: EngineEnd, telemetry: Option<Arc<Telemetry>>) -> Self {
        Self {
            scheduler,
            runner,
            sampler: Sampler::default(),
            requests: Requests::default(),
            constraints: Constraints::new(end.info().vocab_size),
            in_flight: VecDeque::new(),
            end,
            telemetry,
            reported_preemptions: 0,
            reported_allocations: 0,
        }
    }

    /// Runs until shut down or until every handle is gone.
    ///
    /// # Panics
    /// When no later step can succeed. All requests are told first.
    pub fn run(mut self) {
        while self.receive() == Flow::Continue {
            self.step();
        }
        self.close(&RequestError::Shutdown);
    }

    /// Takes no more requests and tells every one that is here, open or not yet received.
    fn close(&mut self, error: &RequestError) {
        self.end.close();
        self.requests.fail_all(error);
        for command in self.end.commands.try_iter() {
            if let Command::Add { events, .. } = command {
                // As everywhere: who has gone needs no answer.
                let _ = events.send(EngineEvent::Error(error.clone()));
            }
        }
    }

    /// One turn: at most one batch is launched and at most one committed.
    pub fn step(&mut self) {
        self.expire();
        let batch = self.scheduler.schedule();
        // A request learns that it has left the queue now, not when its first step is computed.
        let events = self.scheduler.take_events();
        self.emit(events);
        // Before the step: it may take seconds, and scrapers ask meanwhile.
        self.report();
        let idle = batch.is_empty();
        if !idle {
            self.launch(batch);
        }
        if self.in_flight.len() > self.runner.depth() || (idle && !self.in_flight.is_empty()) {
            self.collect();
        }
        self.end.stats().steps.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes all commands; waits for one when there is nothing to do.
    fn receive(&mut self) -> Flow {
        loop {
            let busy = self.scheduler.has_work() || !self.in_flight.is_empty();
            self.end.stats().busy.store(busy, Ordering::Relaxed);
            self.end.beat();
            let command = if busy {
                match self.end.commands.try_recv() {
                    Ok(command) => command,
                    Err(TryRecvError::Empty) => return Flow::Continue,
                    Err(TryRecvError::Disconnected) => return Flow::Stop,
                }
            } else {
                // An abort may have ended the last work since the last step.
                self.report();
                match self.end.commands.recv_timeout(IDLE_WAIT) {
                    Ok(command) => command,
                    Err(RecvTimeoutError::Timeout) => continue,
                    Err(RecvTimeoutError::Disconnected) => return Flow::Stop,
                }
            };
            match command {
                Command::Add { id, request, events } => {
                    let constraint = request.constraint.clone();
                    for sequence in self.requests.open(id, request, events) {
                        let seq = sequence.id;
                        if let Err(error) = self.scheduler.add(sequence) {
                            self.requests.fail(id, RequestError::Internal(error.to_string()));
                            self.drop_request(id);
                            break;
                        }
                        if let Some(constraint) = &constraint {
                            self.constraints.insert(seq, constraint.begin());
                        }
                    }
                }
                Command::Abort { id } => self.drop_request(id),
                Command::StopChoice { id, choice } => {
                    if let Some(seq) = self.requests.stop_choice(id, choice, self.end.stats()) {
                        self.constraints.remove(seq);
                        self.scheduler.stop(seq);
                    }
                }
                Command::Shutdown => return Flow::Stop,
            }
        }
    }

    fn drop_request(&mut self, id: u64) {
        for seq in self.requests.close(id, self.end.stats()) {
            self.constraints.remove(seq);
            self.scheduler.abort(seq);
        }
    }

    /// Fails requests whose deadline has passed.
    fn expire(&mut self) {
        for id in self.requests.expired(Instant::now()) {
            self.requests.fail(id, RequestError::Timeout);
            self.drop_request(id);
        }
    }

    /// Launches the forward pass of `batch`, then its sampling.
    fn launch(&mut self, batch: Batch) {
        // Where launching computes, that is the step's time.
        let at = Instant::now();
        let constrained = self.constraints.concern(&batch);
        self.constraints.begin(&batch, false);
        let (runner, scheduler, end) = (&mut self.runner, &self.scheduler, &self.end);
        let mut launched = guarded(|| runner.launch(&batch, &|seq| scheduler.sequence(seq), &|| end.beat()));
        let mut masks = Masks::default();
        if constrained {
            if launched.is_ok() {
                // What may follow a token is known when the token is.
                self.collect_all();
                self.constraints.begin(&batch, true);
            }
            masks = self.finish_masks(&batch);
        }
        if launched.is_ok() {
            let runner = &mut self.runner;
            launched = guarded(|| runner.sample(&masks));
        }
        match launched {
            Ok(()) => self.in_flight.push_back(Launched { batch, masks, at }),
            Err(error) => {
                // Batches are answered in order: those launched before it come first.
                self.collect_all();
                self.fail_batch(batch.step, &error);
            }
        }
    }

    /// The masks that were begun. Who has none for want of an answer fails, with its request.
    fn finish_masks(&mut self, batch: &Batch) -> Masks {
        let (masks, faults) = self.constraints.finish(batch);
        self.fail_constrained(faults);
        masks
    }

    fn fail_constrained(&mut self, faults: Vec<Fault>) {
        for (seq, error) in faults {
            let Some(id) = self.requests.owner(seq) else { continue };
            let error = match error {
                ConstraintError::TooCostly(message) => RequestError::Constraint(message),
                ConstraintError::Failed(message) => RequestError::Internal(message),
            };
            self.requests.fail(id, error);
            self.drop_request(id);
        }
    }

    fn collect_all(&mut self) {
        while !self.in_flight.is_empty() {
            self.collect();
        }
    }

    fn collect(&mut self) {
        let Some(Launched { batch, masks, at }) = self.in_flight.pop_front() else { return };
        let (runner, sampler, scheduler) = (&mut self.runner, &mut self.sampler, &self.scheduler);
        let output = guarded(|| {
            Ok(match runner.collect()? {
                Collected::Sampled(output) => output,
                Collected::Logits { data, vocab_size } => {
                    sample_batch(sampler, scheduler, (&batch, &masks), data, vocab_size)
                }
            })
        });
        match output {
            Ok(mut output) => {
                let jump = self.runner.depth() == 0;
                let scored = |seq| self.scheduler.sequence(seq).is_none_or(|s| s.params.logprobs.is_some());
                let faults = self.constraints.accept(&mut output, jump, scored);
                self.fail_constrained(faults);
                self.requests.note_step(&batch, at.elapsed());
                let events = self.scheduler.commit(&output);
                self.emit(events);
            }
            Err(error) => self.fail_batch(batch.step, &error),
        }
    }

    fn emit(&mut self, events: Vec<SeqEvent>) {
        for event in &events {
            if let SeqEvent::Finished { seq, .. } | SeqEvent::Failed { seq, .. } = event {
                self.constraints.remove(*seq);
            }
        }
        for id in self.requests.emit(events, self.end.stats()) {
            self.drop_request(id);
        }
    }

    fn fail_batch(&mut self, step: u64, error: &RunnerError) {
        if error.fatal {
            tracing::error!(step, error = %error.message, "a step failed for good; all requests are told");
            self.close(&RequestError::EngineDead);
            std::panic::resume_unwind(Box::new(error.message.clone()));
        }
        tracing::error!(step, error = %error.message, "a step failed; its requests are told");
        let events = self.scheduler.fail_batch(step, "a step of the model failed");
        self.emit(events);
    }

    /// Publishes the numbers that other threads read.
    fn report(&mut self) {
        let stats = self.end.stats();
        let now = self.scheduler.stats();
        stats.num_running.store(now.num_running as u64, Ordering::Relaxed);
        stats.num_waiting.store(now.num_waiting as u64, Ordering::Relaxed);
        stats.used_blocks.store(now.kv.used_blocks as u64, Ordering::Relaxed);
        stats.prefill_tokens_per_second.store(self.requests.prefill_rate(), Ordering::Relaxed);
        stats.residence_ms.store(self.requests.residence().as_millis() as u64, Ordering::Relaxed);
        let Some(telemetry) = &self.telemetry else { return };
        telemetry.engine(&EngineGauges {
            running: now.num_running as u64,
            waiting: now.num_waiting as u64,
            kv_usage: now.kv.used_fraction,
            queue_tokens: stats.queued_tokens.load(Ordering::Relaxed),
        });
        telemetry.preempted(now.preemptions - self.reported_preemptions);
        self.reported_preemptions = now.preemptions;
        let allocations = self.runner.late_allocations();
        telemetry.allocated_late(allocations - self.reported_allocations);
        self.reported_allocations = allocations;
    }
}

/// Turns a panic of the model into an error of the batch.
fn guarded<T>(f: impl FnOnce() -> Result<T, RunnerError>) -> Result<T, RunnerError> {
    catch_unwind(AssertUnwindSafe(f))
        .unwrap_or_else(|payload| Err(RunnerError { message: format!("panic: {}", describe(&payload)), fatal: false }))
}

fn describe(payload: &Box<dyn std::any::Any + Send>) -> &str {
    payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("unknown")
}
