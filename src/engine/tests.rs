//! The loop with the fake runner: texts, aborts, deadlines, faults and shutdown, at depth 0 and 1.

mod constrained;
mod scripted;

use std::sync::Arc;
use std::time::{Duration, Instant};

use sconce_kernels::kv::{BLOCK_SIZE, CacheKind};

use super::*;
use crate::kv::{KvConfig, KvGroupConfig, KvManager};
use crate::runner::{Collected, FakeRunner, Runner, RunnerError, Sequences};
use crate::scheduler::{Scheduler, SchedulerConfig};
use crate::types::{Batch, Claim, EngineEvent, FinishReason, RequestError, SamplingParams};

const VOCAB: usize = 97;

struct Started {
    handle: EngineHandle,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Drop for Started {
    fn drop(&mut self) {
        self.handle.shutdown();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn limits(depth: usize) -> SchedulerConfig {
    SchedulerConfig { max_num_seqs: 8, max_batch_tokens: 64, max_model_len: 1024, depth, ..Default::default() }
}

fn start(depth: usize, fail_steps: Vec<u64>) -> Started {
    let mut runner = FakeRunner::new(depth, VOCAB);
    runner.fail_steps = fail_steps;
    start_with(limits(depth), CacheKind::Full, runner)
}

fn start_with(config: SchedulerConfig, kind: CacheKind, runner: impl Runner + 'static) -> Started {
    let kv = KvConfig {
        num_superpages: 64,
        block_size: BLOCK_SIZE,
        groups: vec![KvGroupConfig { kind, blocks_per_superpage: 1 }],
        prefix_cache: true,
    };
    let (handle, end) = engine_channel(EngineInfo {
        max_model_len: config.max_model_len,
        vocab_size: VOCAB,
        kv_capacity_tokens: kv.capacity_tokens(config.max_batch_tokens),
        max_queued_tokens: 10_000,
        max_num_seqs: config.max_num_seqs,
        block_size: BLOCK_SIZE,
        num_blocks: 64,
    });
    let scheduler = Scheduler::new(config, KvManager::new(kv));
    let thread = std::thread::spawn(move || Engine::new(scheduler, runner, end, None).run());
    Started { handle, thread: Some(thread) }
}

fn request(prompt: &[u32], max_tokens: u32) -> EngineRequest {
    EngineRequest {
        request_id: "test".into(),
        prompt: prompt.into(),
        params: Arc::new(SamplingParams { temperature: 0.0, max_tokens, ..Default::default() }),
        num_choices: 1,
        cache_salt: 0,
        claim: Claim::default(),
        constraint: None,
        arrival: Instant::now(),
        deadline: None,
    }
}

fn expected(prompt: &[u32], n: usize) -> Vec<u32> {
    let mut history = prompt.to_vec();
    for _ in 0..n {
        history.push(FakeRunner::next_token(&history, VOCAB));
    }
    history.split_off(prompt.len())
}

/// Tokens of choice 0 and how it ended.
fn finish(stream: &mut RequestStream) -> (Vec<u32>, Result<FinishReason, RequestError>) {
    let mut tokens = Vec::new();
    loop {
        match stream.blocking_next() {
            Some(EngineEvent::Token { token, .. }) => tokens.push(token),
            Some(EngineEvent::Finished { reason, .. }) => return (tokens, Ok(reason)),
            Some(EngineEvent::Error(error)) => return (tokens, Err(error)),
            Some(_) => {}
            None => return (tokens, Err(RequestError::EngineDead)),
        }
    }
}

/// Waits until nothing is held any more.
fn settle(handle: &EngineHandle) {
    let start = Instant::now();
    let stats = handle.stats();
    let idle = || {
        use std::sync::atomic::Ordering::Relaxed;
        stats.used_blocks.load(Relaxed) == 0 && stats.queued_tokens.load(Relaxed) == 0 && !stats.busy.load(Relaxed)
    };
    while !idle() {
        assert!(start.elapsed() < Duration::from_secs(10), "blocks leaked: {stats:?}");
        std::thread::yield_now();
    }
}

#[test]
fn many_requests_at_once_each_hear_their_own_text() {
    for depth in [0, 1] {
        let engine = start(depth, vec![]);
        let prompts: Vec<Vec<u32>> =
            (0..40u32).map(|i| (0..1 + i * 7 % 150).map(|j| (i * j + j) % 97).collect()).collect();
        let mut streams: Vec<_> = prompts.iter().map(|p| engine.handle.submit(request(p, 20)).unwrap()).collect();
        for (prompt, stream) in prompts.iter().zip(&mut streams) {
            assert_eq!(finish(stream), (expected(prompt, 20), Ok(FinishReason::Length)), "depth {depth}");
        }
    }
}

#[test]
fn a_repeated_prompt_is_answered_from_the_cache_with_the_same_text() {
    let engine = start(0, vec![]);
    let prompt: Vec<u32> = (0..200).map(|i| i % 89).collect();
    let mut cached = Vec::new();
    for _ in 0..2 {
        let mut stream = engine.handle.submit(request(&prompt, 5)).unwrap();
        let Some(EngineEvent::Started { cached_tokens, .. }) = stream.blocking_next() else { panic!("no start") };
        cached.push(cached_tokens);
        assert_eq!(finish(&mut stream).0, expected(&prompt, 5));
    }
    assert_eq!(cached, [0, 192]);
}

#[test]
fn a_deadline_ends_one_request() {
    let engine = start(0, vec![]);
    let late = EngineRequest { deadline: Some(Instant::now()), ..request(&[1, 2, 3], 900) };
    let mut late = engine.handle.submit(late).unwrap();
    let mut good = engine.handle.submit(request(&[4], 30)).unwrap();
    assert_eq!(finish(&mut late).1, Err(RequestError::Timeout));
    assert_eq!(finish(&mut good), (expected(&[4], 30), Ok(FinishReason::Length)));
}

#[test]
fn a_failed_step_fails_its_requests_and_no_other() {
    for depth in [0, 1] {
        let engine = start(depth, vec![3]);
        let mut bad = engine.handle.submit(request(&[1], 200)).unwrap();
        assert!(matches!(finish(&mut bad).1, Err(RequestError::Internal(_))));
        let mut good = engine.handle.submit(request(&[2], 10)).unwrap();
        assert_eq!(finish(&mut good), (expected(&[2], 10), Ok(FinishReason::Length)));
    }
}

#[test]
fn dropping_a_stream_frees_its_blocks() {
    let engine = start(1, vec![]);
    for i in 0..50 {
        drop(engine.handle.submit(request(&[i; 90], 800)).unwrap());
    }
    let mut last = engine.handle.submit(request(&[3], 5)).unwrap();
    assert_eq!(finish(&mut last).0, expected(&[3], 5));
    settle(&engine.handle);
}

#[test]
fn shutdown_tells_everyone_and_later_submissions_are_refused() {
    let mut engine = start(0, vec![]);
    let mut stream = engine.handle.submit(request(&[1], 1000)).unwrap();
    engine.handle.shutdown();
    assert!(matches!(finish(&mut stream).1, Err(RequestError::Shutdown) | Ok(FinishReason::Length)));
    engine.thread.take().unwrap().join().unwrap();
    assert!(!engine.handle.is_healthy(Duration::from_secs(5)));
    assert_eq!(engine.handle.submit(request(&[1], 1)).unwrap_err(), SubmitError::EngineDead);
}

#[test]
fn what_never_fits_and_what_is_too_much_is_refused() {
    let engine = start(0, vec![]);
    let error = engine.handle.submit(request(&[1; 100], 2000)).unwrap_err();
    assert_eq!(error, SubmitError::NeverFits { needed: 2100, capacity: 2048 });
    let mut held = Vec::new();
    let refused = (0..200).find_map(|_| match engine.handle.submit(request(&[1; 900], 100)) {
        Ok(stream) => {
            held.push(stream);
            None
        }
        Err(error) => Some(error),
    });
    assert!(
        matches!(refused, Some(SubmitError::QueueFull { retry_after, .. }) if retry_after >= Duration::from_secs(1))
    );
}

#[test]
fn the_logprobs_of_a_prompt_do_not_depend_on_its_chunks() {
    // Half of it is what the fake model would have said, so that likely tokens occur too.
    let mut prompt: Vec<u32> = (0..50).map(|i| i * i % 97).collect();
    prompt.extend(expected(&prompt, 50));
    let score = |max_prompt_logits: usize| {
        let config = SchedulerConfig { max_prompt_logits, ..limits(0) };
        let engine = start_with(config, CacheKind::Full, FakeRunner::new(0, VOCAB));
        let params = SamplingParams { temperature: 0.0, max_tokens: 2, prompt_logprobs: Some(3), ..Default::default() };
        let mut stream =
            engine.handle.submit(EngineRequest { params: Arc::new(params), ..request(&prompt, 0) }).unwrap();
        let mut scored = Vec::new();
        loop {
            match stream.blocking_next().unwrap() {
                EngineEvent::PromptLogprobs { first, entries, .. } => {
                    assert_eq!(first, scored.len() + 1);
                    assert!(entries.len() <= max_prompt_logits);
                    scored.extend(entries);
                }
                EngineEvent::Finished { .. } => return scored,
                EngineEvent::Error(error) => panic!("{error}"),
                _ => {}
            }
        }
    };
    let whole = score(usize::MAX);
    assert_eq!(whole.iter().map(|e| e.token).collect::<Vec<_>>(), prompt[1..]);
    for (i, entry) in whole.iter().enumerate() {
        assert_eq!(entry.top[0].token, FakeRunner::next_token(&prompt[..=i], VOCAB));
    }
    for max_prompt_logits in [1, 7, 64] {
        assert_eq!(score(max_prompt_logits), whole, "{max_prompt_logits}");
    }
}

#[test]
fn an_endless_context_overflows_nothing() {
    let config = SchedulerConfig { max_model_len: usize::MAX, ..limits(0) };
    let engine = start_with(config, CacheKind::SlidingWindow { window: 40 }, FakeRunner::new(0, VOCAB));
    assert_eq!(engine.handle.info().kv_capacity_tokens, usize::MAX);
    let mut endless = engine.handle.submit(request(&[7; 100], u32::MAX)).unwrap();
    let mut tokens = 0;
    while tokens < 300 {
        match endless.blocking_next().unwrap() {
            EngineEvent::Token { .. } => tokens += 1,
            EngineEvent::Started { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    drop(endless);
    let mut next = engine.handle.submit(request(&[1, 2], 3)).unwrap();
    assert_eq!(finish(&mut next), (expected(&[1, 2], 3), Ok(FinishReason::Length)));
}

/// Computes in `launch`, as the CPU does, for a time that a test can bound its rate by.
struct SlowRunner(FakeRunner);

impl SlowRunner {
    const STEP: Duration = Duration::from_millis(20);
}

impl Runner for SlowRunner {
    fn depth(&self) -> usize {
        self.0.depth()
    }

    fn launch(&mut self, batch: &Batch, sequences: Sequences<'_>, alive: &dyn Fn()) -> Result<(), RunnerError> {
        let start = Instant::now();
        while start.elapsed() < Self::STEP {
            std::hint::spin_loop();
        }
        self.0.launch(batch, sequences, alive)
    }

    fn collect(&mut self) -> Result<Collected<'_>, RunnerError> {
        self.0.collect()
    }
}

#[test]
fn the_prefill_rate_counts_the_time_that_launching_takes() {
    use std::sync::atomic::Ordering::Relaxed;
    let engine = start_with(limits(0), CacheKind::Full, SlowRunner(FakeRunner::new(0, VOCAB)));
    let mut stream = engine.handle.submit(request(&[7; 200], 2)).unwrap();
    assert!(finish(&mut stream).1.is_ok());
    let fastest = (64.0 / SlowRunner::STEP.as_secs_f64()) as u64;
    let rate = engine.handle.stats().prefill_tokens_per_second.load(Relaxed);
    assert!((1..=fastest).contains(&rate), "{rate} tokens a second, at most {fastest} can be");
}
