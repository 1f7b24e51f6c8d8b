//! What `gpu-check` does on a card, on the emulated one: the whole engine, one step ahead, says what the CPU says,
//! whoever else is there; every measurement is made, at a size that takes no time.

mod constrained;
mod measured;

use std::path::Path;

use sconce::check::Open;
use sconce::check::checkpoint::Family;
use sconce::check::engine::{Subject, config, ids, request};
use sconce::check::report::{Found, Line, Outcome, Reason, Report};
use sconce::check::{attention, parity};
use sconce::config::{AttentionChoice, EngineConfig};
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
    emulated_devices(|open| passes(open, |folder, open| parity::logits(folder, Family::Llama, &config(), open)));
}

#[test]
fn logits_of_qwen2_are_those_of_the_cpu() {
    emulated_devices(|open| passes(open, |folder, open| parity::logits(folder, Family::Qwen2, &config(), open)));
}

#[test]
fn logits_of_qwen3_are_those_of_the_cpu() {
    emulated_devices(|open| passes(open, |folder, open| parity::logits(folder, Family::Qwen3, &config(), open)));
}

#[test]
fn logits_of_gemma3_are_those_of_the_cpu() {
    emulated_devices(|open| passes(open, |folder, open| parity::logits(folder, Family::Gemma3, &config(), open)));
}

/// Hopper's attention kernels: against the others, in an engine, and where they can't run.
#[test]
fn wgmma_is_checked_where_the_card_has_it() {
    let folder = tempfile::tempdir().expect("folder");
    let scale = attention::Scale { longest: 256, num_kv_heads: 1, launches: 1 };
    emulated_devices(|open| {
        let mut tell = |_: &Line| {};
        let mut report = Report::new(None, &mut tell);
        attention::wgmma(&mut report, folder.path(), scale, open);
        let [line] = report.lines() else { panic!("{:?}", report.lines()) };
        assert!(line.outcome == Outcome::Ok && line.detail["skipped"].is_string(), "{line:?}");

        let wgmma = EngineConfig { attention_kernel: AttentionChoice::Wgmma, ..config() };
        let llama = Subject::on_gpu(folder.path(), Family::Llama, &wgmma, open);
        let error = format!("{:?}", llama.err().expect("no such card"));
        assert!(error.contains("attention-kernel wgmma can't be used: it needs compute capability 9.0"), "{error}");

        let mut tell = |line: &Line| assert_eq!(line.outcome, Outcome::Ok, "{line:?}");
        let mut report = Report::new(None, &mut tell);
        let mut hopper = || {
            let mut device = open()?;
            device.set_hopper();
            Ok(device)
        };
        attention::wgmma(&mut report, folder.path(), scale, &mut hopper);
        assert!(report.lines().len() > 2, "{:?}", report.lines());
        let gemma = Subject::on_gpu(folder.path(), Family::Gemma3, &wgmma, &mut hopper);
        let error = format!("{:?}", gemma.err().expect("no such kernel"));
        assert!(error.contains("it has kernels for heads of 64 and 128 only; leave the setting out"), "{error}");
    });
}

/// One step ahead, several at once, more requests than slots, from the cache or not: each hears what it hears alone.
#[test]
fn an_answer_does_not_depend_on_what_else_runs() {
    emulated_devices(|open| passes(open, parity::invariance));
}

/// Blocks run out while a step is in flight: who is computed again says the same.
#[test]
fn an_answer_does_not_depend_on_preemption() {
    emulated_devices(|open| passes(open, parity::preemption));
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

/// Their prompts come in steps of some hundred rows, with more histories at once than a step's metadata has room for.
#[test]
fn sixty_four_sequences_at_once_say_what_each_says_alone() {
    const TOKENS: u32 = 8;
    let folder = tempfile::tempdir().expect("folder");
    emulated_devices(|open| {
        let wide = EngineConfig {
            max_num_seqs: 64,
            max_model_len: Some(32),
            max_batch_tokens: 640,
            deterministic: true,
            ..config()
        };
        let gpu = Subject::on_gpu(folder.path(), Family::Llama, &wide, open).expect("a GPU engine");
        let params = |i: usize| SamplingParams {
            temperature: if i.is_multiple_of(2) { 0.0 } else { 0.9 },
            seed: i as u64,
            frequency_penalty: 1.5,
            max_tokens: TOKENS,
            logprobs: Some(2),
            ..Default::default()
        };
        let requests: Vec<_> = (1..=64).map(|i| request(&ids(1 + i * 7 % 20, i), &params(i))).collect();
        let before = gpu.steps();
        let together = gpu.answers(&requests).expect("answers");
        // Everyone takes as many steps in a row: among fewer than twice as many, some step has them all.
        let steps = gpu.steps() - before;
        assert!(steps < u64::from(2 * TOKENS), "{steps} steps");
        for (request, together) in requests.iter().zip(&together).step_by(6) {
            let alone = gpu.answers(std::slice::from_ref(request)).expect("an answer");
            assert_eq!((&alone[0].tokens, &alone[0].logprobs), (&together.tokens, &together.logprobs));
        }
        gpu.stop().expect("nothing is left");
    });
}
