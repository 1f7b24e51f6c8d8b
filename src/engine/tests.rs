//! The loop with the fake runner: texts, aborts, deadlines, faults and shutdown, at depth 0 and 1.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sconce_kernels::kv::{BLOCK_SIZE, CacheKind};

use super::*;
use crate::kv::{KvConfig, KvGroupConfig, KvManager};
use crate::runner::FakeRunner;
use crate::scheduler::{Scheduler, SchedulerConfig};
use crate::types::{EngineEvent, FinishReason, RequestError, SamplingParams};

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

fn start(depth: usize, fail_steps: Vec<u64>) -> Started {
    let kv = KvManager::new(KvConfig {
        num_superpages: 64,
        block_size: BLOCK_SIZE,
        groups: vec![KvGroupConfig { kind: CacheKind::Full, blocks_per_superpage: 1 }],
        prefix_cache: true,
    });
    let config =
        SchedulerConfig { max_num_seqs: 8, max_batch_tokens: 64, max_model_len: 1024, depth, ..Default::default() };
    let (handle, end) = engine_channel(EngineInfo {
        max_model_len: 1024,
        vocab_size: VOCAB,
        kv_capacity_tokens: 64 * BLOCK_SIZE,
        max_queued_tokens: 10_000,
        max_num_seqs: 8,
        block_size: BLOCK_SIZE,
        num_blocks: 64,
    });
    let mut runner = FakeRunner::new(depth, VOCAB);
    runner.fail_steps = fail_steps;
    let scheduler = Scheduler::new(config, kv);
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
    let start = Instant::now();
    let stats = engine.handle.stats();
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
fn choices_share_a_prompt_and_stop_one_by_one() {
    let engine = start(0, vec![]);
    let prompt = [5; 100];
    let mut stream = engine.handle.submit(EngineRequest { num_choices: 3, ..request(&prompt, 50) }).unwrap();
    let mut done = [false; 3];
    let mut cached = [0; 3];
    while done != [false, true, true] {
        match stream.blocking_next().unwrap() {
            EngineEvent::Started { choice, cached_tokens } => cached[choice as usize] = cached_tokens,
            EngineEvent::Token { choice: 0, .. } => stream.stop_choice(0),
            EngineEvent::Finished { choice, .. } => done[choice as usize] = true,
            _ => {}
        }
    }
    assert_eq!(cached, [0, 96, 96]);
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
