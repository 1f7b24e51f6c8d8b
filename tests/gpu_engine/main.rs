//! What `gpu-check` does on a card, on the emulated one: the whole engine, one step ahead, says what the CPU says,
//! whoever else is there; every measurement is made, at a size that takes no time.

mod measured;

use std::path::Path;

use sconce::check::Open;
use sconce::check::checkpoint::Family;
use sconce::check::engine::{Subject, config, ids, request};
use sconce::check::parity;
use sconce::check::report::{Found, Reason};
use sconce::config::EngineConfig;
use sconce::types::SamplingParams;
use sconce_emulator::{EmulatedDevice, emulated_devices};

/// A check of `gpu-check` that must pass.
fn passes(
    open: Open<'_, EmulatedDevice>,
    check: impl FnOnce(&Path, Open<'_, EmulatedDevice>) -> Result<Found, Reason>,
) {
    let folder = tempfile::tempdir().expect("folder");
    check(folder.path(), open).expect("passes");
}

#[test]
fn logits_of_llama_are_those_of_the_cpu() {
    emulated_devices(|open| passes(open, |folder, open| parity::logits(folder, Family::Llama, open)));
}

#[test]
fn logits_of_qwen2_are_those_of_the_cpu() {
    emulated_devices(|open| passes(open, |folder, open| parity::logits(folder, Family::Qwen2, open)));
}

#[test]
fn logits_of_qwen3_are_those_of_the_cpu() {
    emulated_devices(|open| passes(open, |folder, open| parity::logits(folder, Family::Qwen3, open)));
}

#[test]
fn logits_of_gemma3_are_those_of_the_cpu() {
    emulated_devices(|open| passes(open, |folder, open| parity::logits(folder, Family::Gemma3, open)));
}

/// One step ahead, several at once, more requests than slots, from the cache or not: each hears what it hears alone.
#[test]
fn an_answer_does_not_depend_on_what_else_runs() {
    emulated_devices(|open| passes(open, parity::invariance));
}

#[test]
fn graphs_give_what_single_launches_give() {
    emulated_devices(|open| passes(open, parity::graphs));
}

/// Clients that go, at any time, leave nothing behind.
#[test]
fn requests_that_are_dropped_free_their_blocks() {
    emulated_devices(|open| passes(open, |folder, open| parity::aborts(folder, 120, open)));
}

/// More histories at once than a step's metadata has room for: long prompts with penalties, all admitted together.
#[test]
fn histories_beyond_the_room_of_a_step_go_ahead() {
    let folder = tempfile::tempdir().expect("folder");
    emulated_devices(|open| {
        let wide = EngineConfig {
            max_num_seqs: 24,
            max_model_len: Some(64),
            max_batch_tokens: 1600,
            deterministic: true,
            ..config()
        };
        let gpu = Subject::on_gpu(folder.path(), Family::Llama, &wide, open).expect("a GPU engine");
        let params = SamplingParams { temperature: 0.0, frequency_penalty: 1.5, max_tokens: 3, ..Default::default() };
        let requests: Vec<_> = (0..24).map(|i| request(&ids(60, i), &params)).collect();
        let together = gpu.answers(&requests).expect("answers");
        for (request, together) in requests.iter().zip(&together).step_by(7) {
            let alone = gpu.answers(std::slice::from_ref(request)).expect("an answer");
            assert_eq!(alone[0].tokens, together.tokens);
        }
        gpu.stop().expect("nothing is left");
    });
}
