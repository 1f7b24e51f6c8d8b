//! Twice as much work as fits: preemption must not waste the machine.

use super::random::Random;
use super::{full, new_sequence, scheduler, sliding};
use crate::kv::KvGroupConfig;
use crate::scheduler::{Scheduler, SchedulerConfig, SeqEvent};
use crate::types::{SampledToken, SeqId, StepOutput};

/// Runs 300 requests that all wait at once; returns the part of the computed tokens that was computed
/// again, and the most preemptions of one request.
fn waste(num_superpages: usize, groups: &[KvGroupConfig], prompts: usize, outputs: usize) -> (f64, usize) {
    let limits = SchedulerConfig { max_num_seqs: 64, max_batch_tokens: 256, ..SchedulerConfig::default() };
    let mut scheduler: Scheduler = scheduler(limits, num_superpages, 32, groups);
    let mut random = Random(1);
    let mut needed = 0;
    for id in 0..300 {
        let (prompt, output) = (random.within(16, prompts), random.within(16, outputs));
        needed += (prompt + output - 1) as u64;
        let tokens: Vec<u32> = (0..prompt).map(|i| (id * 1000 + i) as u32).collect();
        scheduler.add(new_sequence(id as u64, &tokens, output as u32)).expect("fits");
    }
    let mut preempted = vec![0; 300];
    while scheduler.has_work() {
        let batch = scheduler.schedule();
        assert!(!batch.is_empty(), "deadlock");
        let token = |seq: SeqId| SampledToken { seq, token: Ok(seq.0 as u32 + batch.step as u32), logprobs: None };
        let sampled = batch.rows.iter().filter(|r| r.samples).map(|r| token(r.seq)).collect();
        for event in scheduler.commit(&StepOutput { step: batch.step, sampled, ..StepOutput::default() }) {
            if let SeqEvent::Preempted { seq } = event {
                preempted[seq.0 as usize] += 1;
            }
        }
    }
    let computed = scheduler.stats().computed_tokens;
    ((computed - needed) as f64 / computed as f64, preempted.into_iter().max().unwrap_or(0))
}

#[test]
fn little_is_computed_twice_under_overload() {
    let one = [full(1)];
    let two = [full(4), sliding(128, 1)];
    // Short prompts with long answers need twice (the last: four times) as many blocks as there are.
    for (num_superpages, groups, prompts, outputs, limit) in [
        (256, &one[..], 400, 400, 0.05),
        (512, &one[..], 50, 900, 0.05),
        (160, &two[..], 400, 400, 0.05),
        (100, &two[..], 50, 900, 0.05),
        (256, &one[..], 50, 900, 0.1),
    ] {
        let (waste, most_preemptions) = waste(num_superpages, groups, prompts, outputs);
        assert!(waste <= limit, "{waste} of the tokens were computed twice, with {num_superpages} superpages");
        assert!(most_preemptions <= 2);
    }
}
