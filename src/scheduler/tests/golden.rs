//! The main behaviours as traces. One line a turn of the engine's loop (schedule, then commit):
//!
//! ```text
//! step 2: d0 d1? p2[64..96) p3[0..9)*  free 3+2 | 0. 3+64 1~
//!   d0          one output token of sequence 0 is computed and the next one sampled
//!   d1?         the same, its token being a placeholder for what the batch in flight samples
//!   p2[64..96)  tokens 64 to 95 of sequence 2, of its prompt or again after a preemption
//!   p3[0..9)*   the same, and its next token is sampled; p3[0..9)^9 when 9 tokens' logits are wanted
//!   free 3+2    after scheduling: 3 blocks hold nothing, 2 are kept in the prefix cache
//!   | events of the commit of this batch (depth 1: of the batch before):
//!   0.          a token       3+64      started, 64 tokens found in the prefix cache
//!   1~          preempted     0=length  finished      2!  failed
//! ```

use std::collections::VecDeque;
use std::fmt::Write;

use super::{full, new_sequence, scheduler, sliding};
use crate::kv::KvGroupConfig;
use crate::scheduler::{NewSequence, Scheduler, SchedulerConfig, SeqEvent};
use crate::types::{Batch, BatchRow, Follow, SampledToken, SeqId, StepOutput};

const STOP_TOKEN: u32 = 9;

/// Limits that no trace meets unless it sets them.
fn limits() -> SchedulerConfig {
    SchedulerConfig { max_num_seqs: 8, max_batch_tokens: 64, max_model_len: 1000, max_bypass: 2, ..Default::default() }
}

struct Trace {
    scheduler: Scheduler,
    in_flight: VecDeque<Batch>,
    depth: usize,
    /// Sequences that sample a stop token in the step given.
    stops: Vec<(u64, u64)>,
    /// Sequences that a constraint makes go on with so many tokens after the step given, and whether they then end.
    forced: Vec<(u64, u64, usize, bool)>,
    text: String,
}

impl Trace {
    fn new(config: SchedulerConfig, num_superpages: usize, groups: &[KvGroupConfig]) -> Self {
        Self {
            scheduler: scheduler(config, num_superpages, 32, groups),
            in_flight: VecDeque::new(),
            depth: config.depth,
            stops: Vec::new(),
            forced: Vec::new(),
            text: String::new(),
        }
    }

    /// A sequence whose prompt is `len` tokens of text number `text`.
    fn add(&mut self, id: u64, text: u32, len: usize, max_tokens: u32) {
        self.add_with(new_sequence(id, &prompt(text, len), max_tokens), |_| {});
    }

    fn add_with(&mut self, mut new: NewSequence, change: impl FnOnce(&mut NewSequence)) {
        change(&mut new);
        self.scheduler.add(new).expect("fits");
    }

    fn note(&mut self, note: &str) {
        writeln!(self.text, "{note}").expect("strings grow");
    }

    fn steps(&mut self, count: usize) {
        for _ in 0..count {
            let batch = self.scheduler.schedule();
            self.scheduler.check_integrity().expect("integrity after schedule");
            let mut line = format!("step {}:", batch.step);
            batch.rows.iter().for_each(|row| line += &show_row(row, &self.scheduler));
            let kv = self.scheduler.stats().kv;
            write!(line, "  free {}+{} |", kv.free_blocks, kv.cached_blocks).expect("strings grow");
            let behind = if batch.is_empty() { 0 } else { self.depth };
            self.in_flight.extend((!batch.is_empty()).then_some(batch));
            if self.in_flight.len() > behind {
                self.commit(&mut line);
            }
            self.note(&line);
        }
    }

    /// Steps until a preempted sequence resumes or nothing is left. Shows only those in which more
    /// than decoding happens.
    fn run_to_resume(&mut self, id: u64) {
        while self.scheduler.has_work() {
            let length = self.text.len();
            self.steps(1);
            let line = self.text.split_off(length);
            if line.contains(['[', '~', '=']) {
                self.text += &line;
            }
            if line.contains(&format!(" p{id}[")) && self.text.contains(&format!(" {id}~")) {
                return;
            }
        }
    }

    /// Steps that nobody needs to see.
    fn skip(&mut self, count: usize) {
        let length = self.text.len();
        self.steps(count);
        self.text.truncate(length);
    }

    fn commit(&mut self, line: &mut String) {
        let Some(batch) = self.in_flight.pop_front() else { return };
        let token = |row: &BatchRow| {
            let stop = self.stops.contains(&(row.seq.0, batch.step));
            if stop { STOP_TOKEN } else { (1000 * row.seq.0 + batch.step) as u32 + 100 }
        };
        let sampled = batch.rows.iter().filter(|r| r.samples);
        let sampled = sampled.map(|r| SampledToken { seq: r.seq, token: Ok(token(r)), logprobs: None });
        let follow =
            |&(id, _, count, over): &(u64, u64, usize, bool)| Follow { seq: SeqId(id), forced: vec![7; count], over };
        let follows = self.forced.iter().filter(|(_, step, ..)| *step == batch.step).map(follow).collect();
        let sampled = sampled.collect();
        let output = StepOutput { step: batch.step, sampled, follows, ..StepOutput::default() };
        let events = self.scheduler.commit(&output);
        self.scheduler.check_integrity().expect("integrity after commit");
        events.iter().for_each(|event| *line += &show_event(event));
    }

    #[track_caller]
    fn expect(&self, expected: &str) {
        let lines =
            |text: &str| text.lines().map(|l| l.trim().to_owned()).filter(|l| !l.is_empty()).collect::<Vec<_>>();
        assert_eq!(lines(&self.text), lines(expected), "\nthe trace was:\n{}", self.text);
    }
}

fn prompt(text: u32, len: usize) -> Vec<u32> {
    (0..len as u32).map(|i| text * 10_000 + i).collect()
}

fn show_row(row: &BatchRow, scheduler: &Scheduler) -> String {
    let (id, end) = (row.seq.0, row.start + row.tokens.len());
    let num_prompt = scheduler.sequence(row.seq).map_or(0, |s| s.num_prompt);
    if row.start >= num_prompt && row.tokens.len() == 1 {
        assert!(row.samples);
        return format!(" d{id}{}", if row.token_from_previous { "?" } else { "" });
    }
    let logits = if row.num_logits > 1 { format!("^{}", row.num_logits) } else { String::new() };
    format!(" p{id}[{}..{end}){logits}{}", row.start, if row.samples { "*" } else { "" })
}

fn show_event(event: &SeqEvent) -> String {
    match event {
        SeqEvent::Started { seq, cached_tokens } => format!(" {}+{cached_tokens}", seq.0),
        SeqEvent::PromptLogprobs { seq, first, entries } => format!(" {}[{first};{}]", seq.0, entries.len()),
        SeqEvent::Token { seq, .. } => format!(" {}.", seq.0),
        SeqEvent::Finished { seq, reason, .. } => format!(" {}={}", seq.0, reason.as_str()),
        SeqEvent::Failed { seq, .. } => format!(" {}!", seq.0),
        SeqEvent::Preempted { seq } => format!(" {}~", seq.0),
    }
}

#[test]
fn a_long_prompt_is_computed_in_chunks_beside_decodes_and_short_prompts() {
    let mut trace = Trace::new(limits(), 16, &[full(1)]);
    trace.add(0, 0, 10, 8);
    trace.steps(1);
    trace.add(1, 1, 200, 2);
    trace.steps(1);
    trace.note("2 and 3 arrive");
    trace.add(2, 2, 20, 2);
    trace.add(3, 3, 5, 1);
    trace.steps(5);
    trace.expect(
        r#"
        step 1: p0[0..10)*  free 15+0 | 0+0 0.
        step 2: d0 p1[0..63)  free 13+0 | 1+0 0.
        2 and 3 arrive
        step 3: d0 p1[63..101) p2[0..20)* p3[0..5)*  free 9+0 | 2+0 3+0 0. 2. 3. 3=length
        step 4: d0 d2 p1[101..163)  free 8+0 | 0. 2. 2=length
        step 5: d0 p1[163..200)*  free 8+0 | 0. 1.
        step 6: d0 d1  free 8+0 | 0. 1. 1=length
        step 7: d0  free 9+6 | 0.
    "#,
    );
}

#[test]
fn tokens_that_must_follow_are_computed_together_and_may_end_a_sequence() {
    let mut trace = Trace::new(limits(), 16, &[full(1)]);
    trace.add(0, 0, 10, 8);
    trace.add(1, 1, 10, 20);
    trace.add(2, 2, 10, 20);
    trace.forced = vec![(0, 2, 9, true), (1, 2, 3, false), (1, 4, 0, true), (2, 3, 2, true)];
    trace.steps(5);
    trace.expect(
        r#"
        step 1: p0[0..10)* p1[0..10)* p2[0..10)*  free 13+0 | 0+0 1+0 2+0 0. 1. 2.
        step 2: d0 d1 d2  free 13+0 | 0. 0. 0. 0. 0. 0. 0. 0=length 1. 1. 1. 1. 2.
        step 3: d2 p1[11..15)*  free 14+0 | 2. 2. 2. 2=stop 1.
        step 4: d1  free 15+0 | 1. 1=stop
        step 0:  free 16+0 |
    "#,
    );
}

#[test]
fn a_prefix_is_found_again_but_never_the_whole_prompt() {
    let mut trace = Trace::new(limits(), 8, &[full(1)]);
    trace.add(0, 0, 64, 1);
    trace.steps(1);
    trace.note("the same prompt, a longer one, a tenant's");
    trace.add(1, 0, 64, 1);
    trace.steps(1);
    trace.add(2, 0, 70, 1);
    trace.add_with(new_sequence(3, &prompt(0, 70), 1), |new| new.salt = 7);
    trace.steps(2);
    trace.expect(
        r#"
        step 1: p0[0..64)*  free 6+0 | 0+0 0. 0=length
        the same prompt, a longer one, a tenant's
        step 2: p1[32..64)*  free 5+1 | 1+32 1. 1=length
        step 3: p2[64..70)* p3[0..58)  free 3+0 | 2+64 3+0 2. 2=length
        step 4: p3[58..70)*  free 3+2 | 3. 3=length
    "#,
    );
}

#[test]
fn the_youngest_of_equals_gives_way_and_resumes_from_the_cache() {
    let mut trace = Trace::new(limits(), 5, &[full(1)]);
    trace.add(0, 0, 31, 40);
    trace.add(1, 1, 31, 40);
    trace.steps(1);
    trace.skip(33);
    trace.note("both want a third block");
    trace.steps(8);
    trace.expect(
        r#"
        step 1: p0[0..31)* p1[0..31)*  free 3+0 | 0+0 1+0 0. 1.
        both want a third block
        step 35: d0  free 0+2 | 1~ 0.
        step 36: d0  free 0+2 | 0.
        step 37: d0  free 0+2 | 0.
        step 38: d0  free 0+2 | 0.
        step 39: d0  free 0+2 | 0.
        step 40: d0  free 0+2 | 0. 0=length
        step 41: d1  free 0+2 | 1.
        step 42: d1  free 0+2 | 1.
    "#,
    );
}

#[test]
fn after_its_last_preemption_all_it_may_need_is_reserved() {
    let mut trace = Trace::new(SchedulerConfig { max_preemptions: 1, ..limits() }, 7, &[full(1)]);
    trace.add(0, 0, 30, 150);
    trace.add(1, 1, 30, 40);
    trace.add(2, 2, 30, 100);
    trace.run_to_resume(2);
    trace.note("2 may reach 130 tokens, 5 blocks of 7; 3 needs 2 and 2 to spare for it, and waits");
    trace.add(3, 3, 60, 60);
    trace.run_to_resume(9);
    trace.expect(
        r#"
        step 1: p0[0..30)* p1[0..30)*  free 5+0 | 0+0 1+0 0. 1.
        step 40: d0 d1  free 1+0 | 0. 1. 1=length
        step 41: d0 p2[0..30)*  free 1+2 | 2+0 0. 2.
        step 100: d0  free 0+2 | 2~ 0.
        step 150: d0  free 0+1 | 0. 0=length
        step 151: p2[32..89)*  free 0+4 | 2.
        2 may reach 130 tokens, 5 blocks of 7; 3 needs 2 and 2 to spare for it, and waits
        step 191: d2  free 0+2 | 2. 2=length
        step 192: p3[0..60)*  free 0+5 | 3+0 3.
        step 251: d3  free 0+3 | 3. 3=length
    "#,
    );
}

#[test]
fn window_blocks_are_freed_as_they_leave_the_window() {
    let mut trace = Trace::new(SchedulerConfig { max_batch_tokens: 32, ..limits() }, 20, &[full(1), sliding(40, 1)]);
    trace.add(0, 0, 180, 4);
    trace.steps(6);
    let tables = trace.scheduler.kv.tables(SeqId(0));
    let nulls: Vec<_> = tables.iter().map(|t| t.iter().filter(|b| b.is_null()).count()).collect();
    assert_eq!(nulls, [0, 4]);
    trace.steps(3);
    trace.note("the window group still has the blocks that the hit needs");
    trace.add(1, 0, 180, 2);
    trace.steps(2);
    trace.expect(
        r#"
        step 1: p0[0..32)  free 18+0 | 0+0
        step 2: p0[32..64)  free 16+0 |
        step 3: p0[64..96)  free 14+0 |
        step 4: p0[96..128)  free 12+1 |
        step 5: p0[128..160)  free 10+2 |
        step 6: p0[160..180)*  free 8+3 | 0.
        step 7: d0  free 8+4 | 0.
        step 8: d0  free 8+4 | 0.
        step 9: d0  free 8+4 | 0. 0=length
        the window group still has the blocks that the hit needs
        step 10: p1[160..180)*  free 8+3 | 1+160 1.
        step 11: d1  free 8+4 | 1. 1=length
    "#,
    );
}

#[test]
fn one_step_ahead_tokens_are_placeholders_and_a_stop_is_seen_late() {
    let mut trace = Trace::new(SchedulerConfig { depth: 1, ..limits() }, 8, &[full(1)]);
    trace.add_with(new_sequence(0, &prompt(0, 40), 20), |new| {
        let mut params = (*new.params).clone();
        params.stop_token_ids = vec![STOP_TOKEN];
        new.params = params.into();
    });
    trace.add(1, 1, 20, 3);
    trace.stops.push((0, 3));
    trace.steps(6);
    assert!(!trace.scheduler.has_work());
    trace.expect(
        r#"
        step 1: p0[0..40)* p1[0..20)*  free 5+0 |
        step 2: d0? d1?  free 5+0 | 0+0 1+0 0. 1.
        step 3: d0? d1?  free 5+0 | 0. 1.
        step 4: d0?  free 5+0 | 0. 0=stop 1. 1=length
        step 0:  free 6+0 |
        step 0:  free 7+1 |
    "#,
    );
}

#[test]
fn small_ones_overtake_what_does_not_fit_but_not_for_ever() {
    let mut trace = Trace::new(limits(), 4, &[full(1)]);
    trace.add(0, 0, 60, 6);
    trace.steps(1);
    trace.note("1 needs 3 blocks; 2, 3, 4 need one each");
    trace.add(1, 1, 90, 1);
    (2..5).for_each(|id| trace.add(id, id as u32, 10, 1));
    trace.steps(6);
    trace.expect(
        r#"
        step 1: p0[0..60)*  free 2+0 | 0+0 0.
        1 needs 3 blocks; 2, 3, 4 need one each
        step 2: d0 p2[0..10)*  free 1+0 | 2+0 0. 2. 2=length
        step 3: d0 p3[0..10)*  free 1+0 | 3+0 0. 3. 3=length
        step 4: d0  free 2+0 | 0.
        step 5: d0  free 2+0 | 0.
        step 6: d0  free 1+0 | 0. 0=length
        step 7: p1[0..64)  free 0+2 | 1+0
    "#,
    );
}

#[test]
fn siblings_wait_for_the_prompt_they_share() {
    let mut trace = Trace::new(limits(), 16, &[full(1)]);
    trace.add(0, 0, 100, 2);
    for id in 1..3 {
        trace.add_with(new_sequence(id, &prompt(0, 100), 2), |new| new.leader = Some(SeqId(0)));
    }
    trace.add(3, 3, 10, 1);
    trace.steps(4);
    trace.expect(
        r#"
        step 1: p0[0..54) p3[0..10)*  free 13+0 | 0+0 3+0 3. 3=length
        step 2: p0[54..100)*  free 12+0 | 0.
        step 3: d0 p1[96..100)* p2[96..100)*  free 10+0 | 1+96 2+96 0. 0=length 1. 2.
        step 4: d1 d2  free 11+0 | 1. 1=length 2. 2=length
    "#,
    );
}

#[test]
fn prompts_are_scored_in_chunks_and_need_no_output() {
    let mut trace = Trace::new(limits(), 16, &[full(1)]);
    trace.add(0, 0, 64, 1);
    trace.steps(1);
    trace.note("the same prompt, scored: no hit");
    for (id, max_tokens) in [(1, 0), (2, 1)] {
        trace.add_with(new_sequence(id, &prompt(0, 80), max_tokens), |new| {
            let mut params = (*new.params).clone();
            params.prompt_logprobs = Some(0);
            new.params = params.into();
        });
    }
    trace.steps(3);
    trace.expect(
        r#"
        step 1: p0[0..64)*  free 14+0 | 0+0 0. 0=length
        the same prompt, scored: no hit
        step 2: p1[0..32)^32 p2[0..32)^32  free 12+2 | 1+0 2+0
        step 3: p1[32..64)^32 p2[32..64)^32  free 10+2 |
        step 4: p1[64..80)^16 p2[64..80)^16*  free 8+2 | 1=length 2. 2=length
    "#,
    );
}

#[test]
fn scored_prompts_are_cut_smaller_for_their_logits() {
    let limits = SchedulerConfig { max_prompt_logits: 10, ..limits() };
    let mut trace = Trace::new(limits, 16, &[full(1)]);
    for id in 0..2 {
        trace.add_with(new_sequence(id, &prompt(id as u32, 15), 2), |new| {
            let mut params = (*new.params).clone();
            params.prompt_logprobs = Some(0);
            new.params = params.into();
        });
    }
    trace.add(2, 2, 50, 2);
    trace.steps(4);
    trace.expect(
        r#"
        step 1: p0[0..10)^10 p2[0..50)*  free 13+0 | 0+0 2+0 2.
        step 2: d2 p0[10..15)^5* p1[0..5)^5  free 12+0 | 1+0 2. 2=length 0.
        step 3: d0 p1[5..15)^10*  free 13+1 | 0. 0=length 1.
        step 4: d1  free 14+1 | 1. 1=length
    "#,
    );
}
