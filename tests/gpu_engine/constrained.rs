//! Constrained sequences one step ahead: masks come late, and say what may be drawn.

use std::sync::Arc;

use sconce::check::checkpoint::Family;
use sconce::check::engine::{Subject, config, ids, request};
use sconce::config::EngineConfig;
use sconce::types::{Constraint, ConstraintError, ConstraintState, FinishReason, SamplingParams};
use sconce_emulator::emulated_devices;

/// Each token leaves this rest when divided by 7, the next one a rest one higher; complete after `len`.
#[derive(Clone, Copy, Debug)]
struct Rests {
    rest: u32,
    len: usize,
}

impl Constraint for Rests {
    fn begin(&self) -> Box<dyn ConstraintState> {
        Box::new(*self)
    }
}

impl ConstraintState for Rests {
    fn allowed(&mut self, mask: &mut [u32]) -> Result<(), ConstraintError> {
        let tokens = (0..mask.len() as u32 * 32).filter(|token| token % 7 == self.rest);
        tokens.for_each(|token| mask[token as usize / 32] |= 1 << (token % 32));
        Ok(())
    }

    fn accept(&mut self, token: u32) -> Result<(), ConstraintError> {
        if token % 7 != self.rest {
            return Err(ConstraintError::Failed(format!("{token} was not allowed")));
        }
        (self.rest, self.len) = ((self.rest + 1) % 7, self.len - 1);
        Ok(())
    }

    fn take_forced(&mut self) -> Result<Vec<u32>, ConstraintError> {
        panic!("one step ahead, every token is sampled");
    }

    fn is_over(&self) -> bool {
        self.len == 0
    }
}

#[test]
fn constrained_sequences_run_beside_free_ones() {
    let folder = tempfile::tempdir().expect("folder");
    emulated_devices(|open| {
        let gpu =
            Subject::on_gpu(folder.path(), Family::Llama, &EngineConfig { deterministic: true, ..config() }, open)
                .expect("a GPU engine");
        // More than may run at once; drawn and greedy, some with a list of edits too.
        let requests: Vec<_> = (0..9)
            .map(|i| {
                let params = SamplingParams {
                    temperature: [0.0, 1.0][i % 2],
                    frequency_penalty: [0.0, 0.5, 0.0][i % 3],
                    seed: i as u64,
                    max_tokens: 12,
                    ..Default::default()
                };
                let mut request = request(&ids(10 + 5 * i, i), &params);
                if i % 3 != 0 {
                    request.constraint = Some(Arc::new(Rests { rest: i as u32 % 7, len: 4 + 2 * i }));
                }
                request
            })
            .collect();
        let together = gpu.answers(&requests).expect("answers");
        for (i, (request, answer)) in requests.iter().zip(&together).enumerate() {
            let alone = gpu.answers(std::slice::from_ref(request)).expect("an answer");
            assert_eq!(alone[0].tokens, answer.tokens, "request {i}");
            if i % 3 != 0 {
                let ends = 4 + 2 * i <= 12;
                let rests: Vec<u32> = answer.tokens.iter().map(|token| token % 7).collect();
                let wanted: Vec<u32> = (0..if ends { 4 + 2 * i } else { 12 }).map(|at| (i + at) as u32 % 7).collect();
                assert_eq!(rests, wanted, "request {i}");
                assert_eq!(answer.reason, Some(if ends { FinishReason::Stop } else { FinishReason::Length }));
            }
        }
        gpu.stop().expect("nothing is left");
    });
}
