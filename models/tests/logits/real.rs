//! Two real models, teacher-forced along transformers' greedy path on the same dequantised weights.
//! `SCONCE_TEST_MODELS` names the folder that holds them; without it the tests say so and pass.

use std::path::PathBuf;

use sconce_kernels::device::Precision;
use sconce_kernels::kv::KvDtype;

use crate::support::{Reference, Session, Setup, fixtures};

const STEPS: usize = 64;
const TOP: usize = 10;

/// What a run may differ by.
struct Bounds {
    /// Logits that our choice may lie below the reference's best, by the reference's own account.
    gap: f32,
    /// Part of the positions at which the choice is the reference's.
    agreement: f64,
}

fn check(file: &str, reference: &str, setup: Setup, bounds: &Bounds) {
    let Some(folder) = std::env::var_os("SCONCE_TEST_MODELS") else {
        println!("skipped: SCONCE_TEST_MODELS names no folder with {file}");
        return;
    };
    let path = PathBuf::from(folder).join(file);
    let reference = Reference::open(&fixtures().join("teacher_forced").join(reference));
    let (tokens, offsets, prompts) = (reference.ids("tokens"), reference.ids("offsets"), reference.ids("prompt_lens"));
    let (top_ids, top_logits) = (reference.ids("top_ids"), reference.floats("top_logits"));
    assert!(prompts.len() >= 20);
    let longest = offsets.windows(2).map(|w| w[1] - w[0]).max().expect("sequences") as usize;
    let mut session = Session::open(&path, setup, longest);
    let vocab = session.vocab();
    let (mut same, mut worst) = (0, 0f32);
    for (s, window) in offsets.windows(2).enumerate() {
        let sequence = &tokens[window[0] as usize..window[1] as usize];
        let prompt = prompts[s] as usize;
        let logits = session.chunked(sequence, &[256]);
        for p in 0..STEPS {
            let row = &logits[(prompt - 1 + p) * vocab..][..vocab];
            let choice = (0..vocab).max_by(|&a, &b| row[a].total_cmp(&row[b])).expect("logits") as u32;
            let at = (s * STEPS + p) * TOP;
            let ids = &top_ids[at..at + TOP];
            same += usize::from(choice == ids[0]);
            let rank = ids.iter().position(|&id| id == choice);
            let rank =
                rank.unwrap_or_else(|| panic!("{file}: sequence {s} step {p}: {choice} is not among the best ten"));
            worst = worst.max(top_logits[at] - top_logits[at + rank]);
        }
    }
    let agreement = same as f64 / (prompts.len() * STEPS) as f64;
    println!(
        "{file} {setup:?}: the reference's token at {:.2} % of positions, worst gap {worst:.4}",
        agreement * 100.0
    );
    assert!(worst <= bounds.gap, "worst gap {worst}");
    assert!(agreement >= bounds.agreement, "agreement {agreement}");
}

const SMOLLM2: (&str, &str) = ("SmolLM2-135M-Instruct.Q4_1.gguf", "smollm2-135m-q4_1.safetensors");
const GEMMA3: (&str, &str) = ("gemma-3-270m-q4_k_m.gguf", "gemma-3-270m-q4_k_m.safetensors");

#[test]
fn smollm2_f32() {
    check(SMOLLM2.0, SMOLLM2.1, Setup::reference(), &Bounds { gap: 0.1, agreement: 0.99 });
}

#[test]
fn gemma3_f32() {
    check(GEMMA3.0, GEMMA3.1, Setup::reference(), &Bounds { gap: 0.1, agreement: 0.99 });
}

fn int8() -> Setup {
    Setup { precision: Precision::Int8, kv: KvDtype::F16, ..Setup::reference() }
}

#[test]
fn smollm2_int8() {
    check(SMOLLM2.0, SMOLLM2.1, int8(), &Bounds { gap: 1.0, agreement: 0.9 });
}

#[test]
fn gemma3_int8() {
    check(GEMMA3.0, GEMMA3.1, int8(), &Bounds { gap: 1.0, agreement: 0.9 });
}
