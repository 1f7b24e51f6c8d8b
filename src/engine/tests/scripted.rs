//! What clients hear, and when, around a step that waits, panics or is the last.

use std::sync::mpsc;

use super::*;
use crate::runner::{Collected, RunnerError, Sequences};
use crate::types::Batch;

/// A fake runner with something to do before each launch, told the step's number.
struct Scripted<F> {
    inner: FakeRunner,
    before: F,
}

impl<F: FnMut(u64) -> Result<(), RunnerError> + Send> Runner for Scripted<F> {
    fn depth(&self) -> usize {
        self.inner.depth()
    }

    fn launch(&mut self, batch: &Batch, sequences: Sequences<'_>, alive: &dyn Fn()) -> Result<(), RunnerError> {
        (self.before)(batch.step)?;
        self.inner.launch(batch, sequences, alive)
    }

    fn collect(&mut self) -> Result<Collected<'_>, RunnerError> {
        self.inner.collect()
    }
}

fn start_scripted(
    config: SchedulerConfig,
    before: impl FnMut(u64) -> Result<(), RunnerError> + Send + 'static,
) -> Started {
    start_with(config, CacheKind::Full, Scripted { inner: FakeRunner::new(config.depth, VOCAB), before })
}

#[test]
fn a_request_hears_of_its_start_before_its_step_is_computed() {
    for depth in [0, 1] {
        let (launching, launched) = mpsc::channel();
        let (go, gate) = mpsc::channel::<()>();
        let engine = start_scripted(limits(depth), move |step| {
            launching.send(step).unwrap();
            // Open for good once the test has let go of it.
            let _ = gate.recv();
            Ok(())
        });
        let mut stream = engine.handle.submit(request(&[1, 2, 3], 2)).unwrap();
        assert_eq!(launched.recv(), Ok(1));
        assert_eq!(stream.try_next(), Some(EngineEvent::Started { choice: 0, cached_tokens: 0 }));
        assert_eq!(stream.try_next(), None);
        drop(go);
        assert_eq!(finish(&mut stream), (expected(&[1, 2, 3], 2), Ok(FinishReason::Length)));
    }
}

#[test]
fn a_full_queue_tells_how_long_until_seats_are_free() {
    let (launching, launched) = mpsc::channel();
    let (go, gate) = mpsc::channel::<()>();
    let config = SchedulerConfig { max_num_seqs: 1, ..limits(0) };
    let engine = start_scripted(config, move |step| {
        launching.send(step).unwrap();
        // The only step of the first request takes 60 ms, the next until the test ends.
        let _ = if step == 1 { gate.recv_timeout(Duration::from_millis(60)).ok() } else { gate.recv().ok() };
        Ok(())
    });
    finish(&mut engine.handle.submit(request(&[1], 1)).unwrap()).1.unwrap();
    let running = engine.handle.submit(request(&[2], 100)).unwrap();
    assert_eq!([launched.recv(), launched.recv()], [Ok(1), Ok(2)]);
    // A hundred tokens are computed in no time, but a hundred requests need the seat for 60 ms each.
    let waiting: Vec<_> = (0..100).map(|i| engine.handle.submit(request(&[i % 97], 1)).unwrap()).collect();
    let refused = engine.handle.submit(EngineRequest { num_choices: 12, ..request(&[1; 900], 1) });
    let Err(SubmitError::QueueFull { retry_after, .. }) = refused else { panic!("{refused:?}") };
    assert!((6..=60).contains(&retry_after.as_secs()), "{retry_after:?}");
    drop((go, running, waiting));
}

#[test]
fn a_panic_in_one_step_fails_the_requests_of_that_step() {
    for depth in [0, 1] {
        let config = SchedulerConfig { max_num_seqs: 1, ..limits(depth) };
        let engine = start_scripted(config, |step| {
            assert_ne!(step, 3, "scripted panic");
            Ok(())
        });
        let mut bad = engine.handle.submit(request(&[1], 20)).unwrap();
        let mut waiting = engine.handle.submit(request(&[2], 10)).unwrap();
        let (tokens, end) = finish(&mut bad);
        assert_eq!(tokens, expected(&[1], 2));
        assert!(matches!(end, Err(RequestError::Internal(_))), "{end:?}");
        assert_eq!(finish(&mut waiting), (expected(&[2], 10), Ok(FinishReason::Length)));
        assert!(engine.handle.is_healthy(Duration::from_secs(600)));
    }
}

#[test]
fn a_fatal_fault_tells_everyone_and_ends_the_engine() {
    for depth in [0, 1] {
        let (launching, launched) = mpsc::channel();
        let (go, gate) = mpsc::channel::<()>();
        // One runs, one waits in the scheduler, one (submitted during the last step) in the channel.
        let config = SchedulerConfig { max_num_seqs: 1, ..limits(depth) };
        let mut engine = start_scripted(config, move |step| {
            if step < 3 {
                return Ok(());
            }
            launching.send(step).unwrap();
            let _ = gate.recv();
            Err(RunnerError { message: "the device is gone".into(), fatal: true })
        });
        let mut streams: Vec<_> = (0..2).map(|i| engine.handle.submit(request(&[i; 30], 50)).unwrap()).collect();
        assert_eq!(launched.recv(), Ok(3));
        streams.push(engine.handle.submit(request(&[9; 30], 50)).unwrap());
        drop(go);
        for stream in &mut streams {
            assert_eq!(finish(stream).1, Err(RequestError::EngineDead));
            // Whoever has heard of it sees it.
            assert!(!engine.handle.is_healthy(Duration::from_secs(600)));
        }
        assert!(engine.thread.take().unwrap().join().is_err());
        // However many, they are refused for this reason and no other.
        for _ in 0..50 {
            assert_eq!(engine.handle.submit(request(&[1; 900], 1)).unwrap_err(), SubmitError::EngineDead);
        }
    }
}

#[test]
fn choices_share_a_prompt_and_stop_one_by_one() {
    let (go, gate) = mpsc::channel::<()>();
    // The second step samples the first token of choice 0; the third waits until the test has seen it.
    let engine = start_scripted(limits(0), move |step| {
        if step == 3 {
            let _ = gate.recv();
        }
        Ok(())
    });
    let mut go = Some(go);
    let mut stream = engine.handle.submit(EngineRequest { num_choices: 3, ..request(&[5; 100], 50) }).unwrap();
    let mut done = [false; 3];
    let mut cached = [0; 3];
    while done != [false, true, true] {
        match stream.blocking_next().unwrap() {
            EngineEvent::Started { choice, cached_tokens } => cached[choice as usize] = cached_tokens,
            EngineEvent::Token { choice: 0, .. } => {
                stream.stop_choice(0);
                go.take();
            }
            EngineEvent::Finished { choice, .. } => done[choice as usize] = true,
            _ => {}
        }
    }
    assert_eq!(cached, [0, 96, 96]);
}
