//! Seeded random runs over many configurations: tiny pools, one and two groups, depth 0 and 1,
//! additions, aborts, stop strings, faults. After every step the invariants are checked, and every
//! token that comes out must be what the model alone, without any scheduler, would have said.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use super::shadow::{Shadow, mix, next_token};
use super::{full, sliding};
use crate::kv::{KvConfig, KvManager};
use crate::scheduler::{AddError, NewSequence, Scheduler, SchedulerConfig, SeqEvent};
use crate::types::{Batch, BatchRow, Claim, FinishReason, SamplingParams, SeqId};

const VOCAB: u32 = 24;
const STOP_TOKEN: u32 = 5;
/// No sequence may live longer than this many steps. Alone one takes at most about 60; at most
/// `MAX_LIVE` are ahead of it.
const MAX_LIFE: u64 = 800;
const MAX_LIVE: usize = 14;

pub(super) struct Random(pub(super) u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(1);
        mix(self.0, 0x5ced)
    }

    /// A number in `low..=high`.
    pub(super) fn within(&mut self, low: usize, high: usize) -> usize {
        low + (self.next() % (high - low + 1) as u64) as usize
    }

    fn percent(&mut self, chance: u64) -> bool {
        self.next() % 100 < chance
    }
}

/// What a client would know of its sequence.
struct Client {
    new: NewSequence,
    born: u64,
    tokens: Vec<u32>,
    scored: Vec<u32>,
    preemptions: u32,
}

struct Run {
    random: Random,
    scheduler: Scheduler,
    shadow: Shadow,
    clients: HashMap<SeqId, Client>,
    live: Vec<SeqId>,
    in_flight: VecDeque<Batch>,
    depth: usize,
    steps: u64,
    next_id: u64,
    faults: u64,
    limits: SchedulerConfig,
    longest_life: u64,
    most_preemptions: u32,
}

impl Run {
    fn new(seed: u64) -> Self {
        let mut random = Random(seed << 32);
        // Barely room for one sequence, in superpages that scattered window blocks keep from the other group.
        let tight = random.percent(30);
        let groups = match random.within(0, 3) {
            _ if tight => vec![full(1), sliding(random.within(8, 16), 3)],
            0 => vec![full(random.within(1, 4))],
            1 => vec![sliding(random.within(1, 13), random.within(1, 3))],
            2 => vec![full(random.within(1, 4)), sliding(random.within(1, 13), random.within(1, 3))],
            _ => vec![sliding(random.within(4, 9), 2), full(random.within(1, 3))],
        };
        let block_size = if tight { random.within(3, 5) } else { random.within(1, 5) };
        let kv = KvConfig {
            num_superpages: if tight { random.within(6, 10) } else { random.within(4, 40) },
            block_size,
            groups,
            prefix_cache: random.percent(85),
        };
        let limits = SchedulerConfig {
            max_num_seqs: random.within(1, 7),
            max_batch_tokens: random.within(1, 24),
            max_prompt_logits: random.within(1, 24),
            max_model_len: random.within(20, 50),
            depth: random.within(0, 1),
            max_shared_prefills: random.within(1, 4),
            max_bypass: random.within(0, 5),
            max_preemptions: random.within(0, 3) as u32,
        };
        Self {
            scheduler: Scheduler::new(limits, KvManager::new(kv.clone())),
            shadow: Shadow::new(kv, VOCAB),
            clients: HashMap::new(),
            live: Vec::new(),
            in_flight: VecDeque::new(),
            depth: limits.depth,
            steps: 0,
            next_id: 0,
            faults: u64::from(random.percent(50)),
            limits,
            random,
            longest_life: 0,
            most_preemptions: 0,
        }
    }

    /// Adds a request of one or more sibling sequences. Prompts share prefixes.
    fn add(&mut self) {
        let random = &mut self.random;
        let family = random.within(0, 3) as u64;
        let shared = random.within(0, 20);
        let own = random.within(1, 12);
        let tail = random.next();
        let prompt = (0..shared).map(|i| mix(family, i as u64)).chain((0..own).map(|i| mix(tail, i as u64)));
        let prompt: Arc<[u32]> = prompt.map(|t| (t % u64::from(VOCAB)) as u32).collect();
        let params = SamplingParams {
            max_tokens: if random.percent(10) { 0 } else { random.within(1, 30) as u32 },
            stop_token_ids: if random.percent(50) { vec![STOP_TOKEN] } else { Vec::new() },
            prompt_logprobs: random.percent(15).then_some(0),
            min_tokens: random.within(0, 3) as u32,
            ..SamplingParams::default()
        };
        let params = Arc::new(params);
        let salt = random.within(0, 1) as u64;
        let choices = if random.percent(20) { random.within(2, 3) } else { 1 };
        let leader = SeqId(self.next_id);
        let tenant = random.within(0, 2) as u64;
        let priority = if random.percent(10) { -1 } else { 0 };
        let claim = Claim { tenant, weight: 1 + tenant as u32, priority };
        for choice in 0..choices as u32 {
            let new = NewSequence {
                id: SeqId(self.next_id),
                prompt: prompt.clone(),
                params: params.clone(),
                salt,
                choice,
                leader: (choice > 0).then_some(leader),
                constrained: false,
                claim,
            };
            self.next_id += 1;
            self.add_one(new);
        }
    }

    fn add_one(&mut self, new: NewSequence) {
        let needed = (new.prompt.len() + new.params.max_tokens as usize).min(self.limits.max_model_len);
        let fits = needed <= self.scheduler.kv_capacity_tokens();
        let short = new.prompt.len() + usize::from(new.params.max_tokens > 0) <= self.limits.max_model_len;
        match self.scheduler.add(new.clone()) {
            Ok(()) => assert!(fits && short),
            Err(AddError::NeverFits { .. }) => return assert!(short && !fits),
            Err(AddError::TooLong { .. }) => return assert!(!short),
            Err(error) => panic!("{error}"),
        }
        self.shadow.tokens.insert(new.id, (new.prompt.to_vec(), 0));
        self.live.push(new.id);
        self.clients
            .insert(new.id, Client { born: self.steps, new, tokens: Vec::new(), scored: Vec::new(), preemptions: 0 });
    }

    fn forget(&mut self, seq: SeqId) -> Client {
        self.live.retain(|&s| s != seq);
        let client = self.clients.remove(&seq).expect("an event of a live sequence");
        self.longest_life = self.longest_life.max(self.steps - client.born);
        client
    }

    /// One turn of the engine's loop, with a client's whims before it.
    fn step(&mut self, adding: bool) {
        self.steps += 1;
        if adding && self.live.len() < MAX_LIVE && self.random.percent(35) {
            self.add();
        }
        if !self.live.is_empty() && self.random.percent(2) {
            let seq = self.live[self.random.within(0, self.live.len() - 1)];
            let gone = if self.random.percent(50) { self.scheduler.abort(seq) } else { self.scheduler.stop(seq) };
            assert!(gone, "{seq} was live");
            self.forget(seq);
            self.check();
        }
        let oldest = self.scheduler.running.first_key_value().map(|(&turn, _)| turn);
        let stalls = self.scheduler.stats().stalls;
        let batch = self.scheduler.schedule();
        self.check();
        if let Some(oldest) = oldest.filter(|_| self.scheduler.stats().stalls == stalls) {
            // Unless somebody came whose turn is before its own.
            let first = self.scheduler.running.first_key_value().map(|(&turn, _)| turn);
            assert!(first.is_some_and(|first| first <= oldest), "the oldest running sequence was preempted");
        }
        // With depth 1 one batch stays uncommitted, most of the time.
        let behind = if batch.is_empty() || self.random.percent(15) { 0 } else { self.depth };
        if batch.is_empty() {
            let stuck = self.in_flight.is_empty() && self.scheduler.has_work();
            assert!(!stuck, "deadlock");
        } else {
            self.check_batch(&batch);
            self.in_flight.push_back(batch);
        }
        while self.in_flight.len() > behind {
            self.commit();
        }
    }

    fn commit(&mut self) {
        let Some(batch) = self.in_flight.pop_front() else { return };
        let events = if self.random.percent(self.faults) {
            self.shadow.poison(&batch);
            self.scheduler.fail_batch(batch.step, "fault")
        } else {
            let (scheduler, random, faults) = (&self.scheduler, &mut self.random, self.faults);
            let live = |seq| scheduler.sequence(seq).is_some();
            let output = self.shadow.execute(&batch, &live, &mut || faults > 0 && random.next() % 400 == 0);
            self.scheduler.commit(&output)
        };
        self.check();
        events.into_iter().for_each(|event| self.on_event(event));
    }

    fn on_event(&mut self, event: SeqEvent) {
        match event {
            // An event may come after the client has left.
            SeqEvent::Started { seq, cached_tokens } => {
                if let Some(client) = self.clients.get(&seq) {
                    assert!(cached_tokens < client.new.prompt.len());
                    assert!(cached_tokens == 0 || client.new.params.prompt_logprobs.is_none());
                }
            }
            SeqEvent::Preempted { seq } => {
                if let Some(client) = self.clients.get_mut(&seq) {
                    client.preemptions += 1;
                    self.most_preemptions = self.most_preemptions.max(client.preemptions);
                }
            }
            SeqEvent::PromptLogprobs { seq, first, entries } => {
                let client = self.clients.get_mut(&seq).expect("live");
                assert_eq!(first, client.scored.len() + 1, "prompt log-probabilities with a gap or twice");
                let rest = client.new.prompt.len().saturating_sub(first);
                client.scored.extend(entries.iter().take(rest).map(|e| e.token));
            }
            SeqEvent::Token { seq, token, .. } => self.clients.get_mut(&seq).expect("live").tokens.push(token),
            SeqEvent::Failed { seq, .. } => {
                assert!(self.faults > 0);
                self.forget(seq);
            }
            SeqEvent::Finished { seq, reason, stop_token } => {
                let client = self.forget(seq);
                let expected = self.alone(&client.new);
                assert_eq!((client.tokens, reason, stop_token), expected, "{seq}: not what the model says alone");
                if client.new.params.prompt_logprobs.is_some() {
                    assert_eq!(client.scored, client.new.prompt[1..], "{seq}: prompt not scored");
                }
            }
        }
    }

    /// What comes out without a scheduler.
    fn alone(&self, new: &NewSequence) -> (Vec<u32>, FinishReason, Option<u32>) {
        let mut tokens = new.prompt.to_vec();
        let n = new.prompt.len();
        while tokens.len() - n < new.params.max_tokens as usize && tokens.len() < self.limits.max_model_len {
            let token = next_token(&tokens, VOCAB);
            tokens.push(token);
            if new.params.stops_at(token, (tokens.len() - n) as u32) {
                return (tokens[n..].to_vec(), FinishReason::Stop, Some(token));
            }
        }
        (tokens[n..].to_vec(), FinishReason::Length, None)
    }

    fn check(&self) {
        if let Err(broken) = self.scheduler.check_integrity() {
            panic!("after step {}: {broken}", self.steps);
        }
    }

    /// Limits hold, and no row writes where a batch in flight of another sequence may still read.
    fn check_batch(&self, batch: &Batch) {
        assert!(batch.num_tokens() <= self.limits.max_batch_tokens, "batch too large");
        let prompt_logits = |row: &BatchRow| row.num_logits - usize::from(row.samples);
        let num_prompt_logits: usize = batch.rows.iter().map(prompt_logits).sum();
        assert!(num_prompt_logits <= self.limits.max_prompt_logits, "too many logits");
        assert!(self.scheduler.num_running() <= self.limits.max_num_seqs, "too many sequences");
        for (i, row) in batch.rows.iter().enumerate() {
            assert!(!row.tokens.is_empty() && batch.rows[..i].iter().all(|r| r.seq != row.seq));
            assert!(self.depth == 1 || !row.token_from_previous);
        }
        let block_size = self.scheduler.kv.config().block_size;
        for (group, _) in self.scheduler.kv.config().groups.iter().enumerate() {
            let mut written = HashMap::new();
            for row in &batch.rows {
                let end = row.start + row.tokens.len();
                for &block in &row.tables[group][row.start / block_size..end.div_ceil(block_size)] {
                    assert_eq!(written.insert(block, row.seq), None, "two rows write block {block}");
                }
            }
            let others = self.in_flight.iter().chain([batch]).flat_map(|b| &b.rows);
            for row in others {
                let visible = self.shadow.first_visible(group, row.start) / block_size;
                for block in &row.tables[group][visible..] {
                    let writer = written.get(block).copied().unwrap_or(row.seq);
                    assert_eq!(writer, row.seq, "block {block} is written while {} may read it", row.seq);
                }
            }
        }
    }

    fn finish(&mut self) {
        let mut turns = 0;
        while self.scheduler.has_work() {
            self.step(false);
            turns += 1;
            assert!(turns < 5000, "work doesn't end");
        }
        assert!(self.live.is_empty() && self.in_flight.is_empty());
        let stats = self.scheduler.stats();
        assert_eq!(stats.kv.used_blocks, 0, "leaked blocks");
        assert_eq!(stats.queued_prompt_tokens, 0);
        assert_eq!(self.scheduler.kv.num_seqs(), 0);
    }
}

#[test]
fn random_steps_keep_every_promise() {
    let total: u64 = if cfg!(debug_assertions) { 10_000 } else { 100_000 };
    let (mut steps, mut seed) = (0, 0);
    let (mut preemptions, mut stalls, mut hits, mut longest) = (0, 0, 0, 0);
    while steps < total {
        seed += 1;
        let mut run = Run::new(seed);
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for _ in 0..200 {
                run.step(true);
            }
            run.finish();
        }));
        assert!(result.is_ok(), "seed {seed} failed in step {}", run.steps);
        assert!(run.longest_life < MAX_LIFE, "seed {seed}: a sequence took {} steps", run.longest_life);
        let stats = run.scheduler.stats();
        steps += run.steps;
        preemptions += stats.preemptions;
        stalls += stats.stalls;
        let allowed = u64::from(run.limits.max_preemptions) + stats.stalls;
        assert!(u64::from(run.most_preemptions) <= allowed, "seed {seed}: preempted too often");
        hits += stats.prefix_hits;
        longest = longest.max(run.longest_life);
    }
    // The run is only worth something if it met the hard cases.
    let met = format!("{steps} steps, {preemptions} preemptions, {stalls} stalls, {hits} hits, longest life {longest}");
    assert!(preemptions > steps / 500 && hits > steps / 20 && longest > 30, "{met}");
    assert!(stalls > 0 || cfg!(debug_assertions), "{met}");
}
