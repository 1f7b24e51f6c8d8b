//! Constrained sequences: the same text one step ahead or not, forced tokens unsampled, faults kept apart.

use super::*;
use crate::types::{Constraint, ConstraintError, ConstraintState};

/// Of each eight tokens the last three must be 50, 51, 52, the others must be even; complete after `len` tokens.
#[derive(Clone, Copy, Debug)]
struct Bars {
    len: usize,
    /// Where telling fails, and where it panics.
    fails: Option<usize>,
    panics: Option<usize>,
}

struct BarsState {
    bars: Bars,
    at: usize,
}

fn bars(len: usize) -> Bars {
    Bars { len, fails: None, panics: None }
}

impl Bars {
    fn forced(at: usize) -> Option<u32> {
        (at % 8 >= 5).then(|| 50 + (at % 8 - 5) as u32)
    }

    fn mask(at: usize) -> Vec<u32> {
        let mut mask = vec![0; VOCAB.div_ceil(32)];
        let even = (0..VOCAB as u32).filter(|t| t % 2 == 0);
        for t in Self::forced(at).map_or_else(|| even.collect(), |t| vec![t]) {
            mask[t as usize / 32] |= 1 << (t % 32);
        }
        mask
    }

    /// What the fake runner says under it.
    fn expected(&self, prompt: &[u32], max_tokens: usize) -> Vec<u32> {
        let mut history = prompt.to_vec();
        for at in 0..self.len.min(max_tokens) {
            let token = FakeRunner::next_token(&history, VOCAB);
            history.push(FakeRunner::allowed(token, Some(&Self::mask(at))));
        }
        history.split_off(prompt.len())
    }
}

impl Constraint for Bars {
    fn begin(&self) -> Box<dyn ConstraintState> {
        Box::new(BarsState { bars: *self, at: 0 })
    }
}

impl ConstraintState for BarsState {
    fn allowed(&mut self, mask: &mut [u32]) -> Result<(), ConstraintError> {
        assert_ne!(Some(self.at), self.bars.panics, "scripted panic");
        assert!(mask.iter().all(|&word| word == 0));
        mask.copy_from_slice(&Bars::mask(self.at));
        if Some(self.at) == self.bars.fails { Err(ConstraintError::TooCostly("too dear".to_owned())) } else { Ok(()) }
    }

    fn accept(&mut self, token: u32) -> Result<(), ConstraintError> {
        let allowed = FakeRunner::allowed(token, Some(&Bars::mask(self.at))) == token;
        self.at += 1;
        if allowed { Ok(()) } else { Err(ConstraintError::Failed(format!("{token} must not follow"))) }
    }

    fn take_forced(&mut self) -> Result<Vec<u32>, ConstraintError> {
        let forced: Vec<u32> = (self.at..self.bars.len).map_while(Bars::forced).collect();
        self.at += forced.len();
        Ok(forced)
    }

    fn is_over(&self) -> bool {
        self.at >= self.bars.len
    }
}

fn constrained(bars: Bars, prompt: &[u32], max_tokens: u32) -> EngineRequest {
    EngineRequest { constraint: Some(Arc::new(bars)), ..request(prompt, max_tokens) }
}

#[test]
fn constrained_text_is_the_same_at_every_depth_and_beside_free_text() {
    for depth in [0, 1] {
        let engine = start(depth, vec![]);
        let prompts: Vec<Vec<u32>> =
            (0..30u32).map(|i| (0..1 + i * 5 % 90).map(|j| (i + j * 3) % 97).collect()).collect();
        let ask = |(i, prompt): (usize, &Vec<u32>)| match i % 3 {
            0 => request(prompt, 20),
            1 => constrained(bars(3 + i), prompt, 20),
            _ => constrained(bars(100), prompt, 20),
        };
        let mut streams: Vec<_> =
            prompts.iter().enumerate().map(|request| engine.handle.submit(ask(request)).unwrap()).collect();
        for (i, (prompt, stream)) in prompts.iter().zip(&mut streams).enumerate() {
            let wanted = match i % 3 {
                0 => (expected(prompt, 20), Ok(FinishReason::Length)),
                1 if 3 + i <= 20 => (bars(3 + i).expected(prompt, 20), Ok(FinishReason::Stop)),
                _ => (bars(100).expected(prompt, 20), Ok(FinishReason::Length)),
            };
            assert_eq!(finish(stream), wanted, "depth {depth}, request {i}");
        }
    }
}

#[test]
fn forced_tokens_are_not_sampled() {
    let engine = start(0, vec![]);
    let mut stream = engine.handle.submit(constrained(bars(80), &[1, 2, 3], 200)).unwrap();
    assert_eq!(finish(&mut stream), (bars(80).expected(&[1, 2, 3], 80), Ok(FinishReason::Stop)));
    // Five of eight tokens are sampled, one a step.
    let mut next = engine.handle.submit(request(&[1], 1)).unwrap();
    finish(&mut next).1.unwrap();
    let steps = engine.handle.stats().steps.load(std::sync::atomic::Ordering::Relaxed);
    assert!((50..60).contains(&steps), "{steps}");
}

#[test]
fn with_logprobs_every_token_is_sampled() {
    let engine = start(0, vec![]);
    let mut ask = constrained(bars(16), &[1, 2, 3], 200);
    ask.params = Arc::new(SamplingParams { logprobs: Some(1), ..(*ask.params).clone() });
    let mut stream = engine.handle.submit(ask).unwrap();
    let mut scored = 0;
    while let Some(event) = stream.blocking_next() {
        match event {
            EngineEvent::Token { logprobs, .. } => scored += usize::from(logprobs.is_some()),
            EngineEvent::Finished { .. } => break,
            _ => {}
        }
    }
    assert_eq!(scored, 16);
}

#[test]
fn a_fault_of_a_constraint_is_its_requests_alone() {
    for depth in [0, 1] {
        let engine = start(depth, vec![]);
        let mut failing = engine.handle.submit(constrained(Bars { fails: Some(9), ..bars(50) }, &[7], 50)).unwrap();
        let mut panicking = engine.handle.submit(constrained(Bars { panics: Some(4), ..bars(50) }, &[8], 50)).unwrap();
        let mut good = engine.handle.submit(constrained(bars(30), &[9], 50)).unwrap();
        let (tokens, end) = finish(&mut failing);
        assert_eq!((tokens, end), (bars(50).expected(&[7], 9), Err(RequestError::Constraint("too dear".to_owned()))));
        let (tokens, end) = finish(&mut panicking);
        assert_eq!(tokens, bars(50).expected(&[8], 4));
        assert!(matches!(end, Err(RequestError::Internal(_))), "{end:?}");
        assert_eq!(finish(&mut good), (bars(30).expected(&[9], 30), Ok(FinishReason::Stop)));
        // Nothing of them is left.
        let mut after = engine.handle.submit(request(&[4], 30)).unwrap();
        assert_eq!(finish(&mut after), (expected(&[4], 30), Ok(FinishReason::Length)));
        settle(&engine.handle);
    }
}

#[test]
fn choices_have_a_state_each() {
    for depth in [0, 1] {
        let engine = start(depth, vec![]);
        let ask = EngineRequest { num_choices: 4, ..constrained(bars(21), &[5; 40], 50) };
        let mut stream = engine.handle.submit(ask).unwrap();
        let (mut texts, mut open) = (vec![Vec::new(); 4], 4);
        while open > 0 {
            match stream.blocking_next().unwrap() {
                EngineEvent::Token { choice, token, .. } => texts[choice as usize].push(token),
                EngineEvent::Finished { reason, .. } => {
                    assert_eq!(reason, FinishReason::Stop);
                    open -= 1;
                }
                EngineEvent::Error(error) => panic!("{error}"),
                _ => {}
            }
        }
        assert_eq!(texts, vec![bars(21).expected(&[5; 40], 50); 4]);
    }
}
