//! Tenants share the machine by their weights, and a flood of one is not felt by the others.

use super::{full, new_sequence, scheduler};
use crate::scheduler::{Scheduler, SchedulerConfig, SeqEvent};
use crate::types::{Claim, SampledToken, SeqId, StepOutput};

struct World {
    scheduler: Scheduler,
    /// Sequences in the order in which they started.
    started: Vec<u64>,
    /// Tokens generated, by sequence.
    tokens: Vec<u64>,
    preempted: Vec<u64>,
}

impl World {
    fn new(max_num_seqs: usize) -> Self {
        let limits = SchedulerConfig { max_num_seqs, max_batch_tokens: 64, ..SchedulerConfig::default() };
        let scheduler = scheduler(limits, 512, 32, &[full(1)]);
        Self { scheduler, started: Vec::new(), tokens: Vec::new(), preempted: Vec::new() }
    }

    /// Adds a sequence with a prompt of its own; gives its id.
    fn add(&mut self, claim: Claim, prompt: usize, output: u32) -> u64 {
        let id = self.tokens.len() as u64;
        let tokens: Vec<u32> = (0..prompt as u32).map(|i| id as u32 * 1000 + i).collect();
        let mut new = new_sequence(id, &tokens, output);
        new.claim = claim;
        self.scheduler.add(new).expect("fits");
        self.tokens.push(0);
        id
    }

    fn add_many(&mut self, count: usize, claim: Claim, prompt: usize, output: u32) {
        for _ in 0..count {
            self.add(claim, prompt, output);
        }
    }

    fn step(&mut self) {
        let batch = self.scheduler.schedule();
        self.scheduler.check_integrity().expect("integrity");
        let mut events = self.scheduler.take_events();
        if !batch.is_empty() {
            let token = |seq: SeqId| SampledToken { seq, token: Ok(seq.0 as u32 + batch.step as u32), logprobs: None };
            let sampled = batch.rows.iter().filter(|r| r.samples).map(|r| token(r.seq)).collect();
            events.extend(self.scheduler.commit(&StepOutput { step: batch.step, sampled, ..StepOutput::default() }));
        }
        for event in events {
            match event {
                SeqEvent::Started { seq, .. } => self.started.push(seq.0),
                SeqEvent::Token { seq, .. } => self.tokens[seq.0 as usize] += 1,
                SeqEvent::Preempted { seq } => self.preempted.push(seq.0),
                _ => {}
            }
        }
    }

    fn run(&mut self) -> &[u64] {
        while self.scheduler.has_work() {
            self.step();
        }
        &self.started
    }
}

fn tenant(tenant: u64) -> Claim {
    Claim { tenant, ..Claim::default() }
}

#[test]
fn a_long_queue_waits_behind_itself() {
    let mut world = World::new(1);
    world.add_many(4, tenant(1), 10, 4);
    world.add_many(2, tenant(2), 10, 4);
    world.add(tenant(3), 10, 4);
    assert_eq!(world.run(), [0, 4, 6, 1, 5, 2, 3]);
    assert!(world.preempted.is_empty());
}

#[test]
fn one_tenant_is_served_by_arrival_and_priorities_go_first() {
    let mut world = World::new(1);
    for output in [3, 300, 3, 40] {
        world.add(tenant(1), 10, output);
    }
    world.add(Claim { priority: -2, ..tenant(1) }, 10, 3);
    world.add(Claim { priority: -5, ..tenant(2) }, 10, 3);
    world.add(Claim { priority: 1, ..tenant(3) }, 10, 3);
    assert_eq!(world.run(), [5, 4, 0, 1, 2, 3, 6]);
}

#[test]
fn seats_are_shared_by_weight() {
    let mut world = World::new(8);
    let heavy = Claim { weight: 3, ..tenant(1) };
    world.add_many(200, heavy, 20, 30);
    world.add_many(200, tenant(2), 20, 30);
    (0..400).for_each(|_| world.step());
    let (first, second) = world.tokens.split_at(200);
    let share = first.iter().sum::<u64>() as f64 / second.iter().sum::<u64>() as f64;
    assert!((2.6..3.4).contains(&share), "{share}");
}

#[test]
fn one_that_was_idle_gets_a_seat_at_once() {
    let mut world = World::new(4);
    let flood: Vec<u64> = (0..40).map(|_| world.add(tenant(1), 20, 400)).collect();
    (0..20).for_each(|_| world.step());
    let quiet = world.add(tenant(2), 20, 3);
    world.step();
    assert_eq!(world.started.last(), Some(&quiet), "in the very next step");
    assert_eq!(world.preempted, [flood[3]], "the last of the flood gave way");
    // Its share is half of the seats; for more it waits like anyone.
    let more: Vec<u64> = (0..3).map(|_| world.add(tenant(2), 20, 400)).collect();
    (0..8).for_each(|_| world.step());
    assert_eq!(world.scheduler.num_running(), 4);
    let running = more.iter().filter(|&&id| world.tokens[id as usize] > 0).count();
    assert_eq!(running, 2);
    assert!(world.preempted.len() == 3 && world.preempted.iter().all(|id| flood.contains(id)));
    world.run();
    assert!(flood.iter().all(|&id| world.tokens[id as usize] == 400), "nothing is lost");
}

#[test]
fn what_was_charged_too_much_is_given_back() {
    let mut world = World::new(1);
    // Charged for 200 tokens, but aborted at once: its tenant isn't behind for it.
    let gone = world.add(tenant(1), 10, 190);
    assert!(world.scheduler.abort(SeqId(gone)));
    let first = world.add(tenant(1), 10, 4);
    let second = world.add(tenant(2), 10, 4);
    let third = world.add(tenant(1), 10, 4);
    assert_eq!(world.run(), [first, second, third]);
}
