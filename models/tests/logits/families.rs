//! Every committed checkpoint: f32 arithmetic to 1e-4, whole, in chunks and one by one, on every instruction set.

use std::path::PathBuf;

use sconce_kernels::device::{Isa, Precision};
use sconce_kernels::kv::KvDtype;

use crate::support::{Reference, Session, Setup, fixtures, relative_error, rms_error};

/// Of logits in f32 against transformers, relative to the largest logit.
const F32_BOUND: f32 = 1e-4;
/// Of logits with activations rounded to 8 bits, root mean square.
const INT8_BOUND: f32 = 0.03;

/// (checkpoint, its reference), sorted.
fn cases() -> Vec<(PathBuf, PathBuf)> {
    let expected = fixtures().join("expected");
    let mut cases = Vec::new();
    for entry in std::fs::read_dir(&expected).expect("fixtures") {
        let reference = entry.expect("entry").path();
        let name = reference.file_stem().expect("stem").to_string_lossy().into_owned();
        let checkpoint = match name.strip_prefix("gguf-") {
            Some("llama-split") => fixtures().join("gguf/llama-split-00001-of-00003.gguf"),
            Some(name) => fixtures().join("gguf").join(name).with_extension("gguf"),
            None => fixtures().join("checkpoints").join(name.strip_suffix(".short").unwrap_or(&name)),
        };
        cases.push((checkpoint, reference));
    }
    cases.sort();
    assert!(cases.len() > 40);
    cases
}

fn open(case: &(PathBuf, PathBuf), setup: Setup) -> (Session, Vec<u32>, Reference) {
    let reference = Reference::open(&case.1);
    let tokens = reference.ids("token_ids");
    // The short factors of LongRoPE apply where the configured context is the original one.
    let short = case.1.to_string_lossy().contains(".short.");
    let setup = Setup { max_model_len: short.then_some(64), ..setup };
    (Session::open(&case.0, setup, tokens.len()), tokens, reference)
}

#[test]
fn f32_arithmetic_agrees_with_transformers() {
    for case in cases() {
        for isa in [Isa::Portable, Isa::Avx2, Isa::Avx512].into_iter().filter(|&isa| isa <= Isa::detect()) {
            let (mut session, tokens, reference) = open(&case, Setup { isa, ..Setup::reference() });
            let expected = reference.floats("logits");
            let whole = session.step(0, &tokens);
            let error = relative_error(&whole, &expected);
            assert!(error < F32_BOUND, "{} on {isa:?}: {error:e}", case.1.display());
            let decode = reference.floats("decode_logits");
            let last = &whole[whole.len() - decode.len()..];
            let error = relative_error(last, &decode);
            assert!(error < F32_BOUND, "{} on {isa:?}, decode: {error:e}", case.1.display());
        }
    }
}

#[test]
fn rows_are_bit_identical_however_the_prompt_is_cut() {
    for case in cases() {
        for (precision, kv) in
            [(Precision::F32, KvDtype::F32), (Precision::Int8, KvDtype::F16), (Precision::Int8, KvDtype::Bf16)]
        {
            let setup = Setup { precision, kv, ..Setup::reference() };
            let (mut session, tokens, _) = open(&case, setup);
            let whole = session.step(0, &tokens);
            for chunks in [&[1][..], &[33, 7, 1, 1, 20], &[64, 1]] {
                let (mut other, ..) = open(&case, Setup { threads: 1 + chunks.len() % 3, ..setup });
                let cut = other.chunked(&tokens, chunks);
                let same = whole.iter().zip(&cut).all(|(a, b)| a.to_bits() == b.to_bits());
                assert!(same, "{} {precision:?} {kv:?} in chunks of {chunks:?}", case.1.display());
            }
        }
    }
}

#[test]
fn int8_activations_stay_within_their_bound() {
    for case in cases() {
        for isa in [Isa::Portable, Isa::Avx2, Isa::Avx512].into_iter().filter(|&isa| isa <= Isa::detect()) {
            let setup = Setup { isa, precision: Precision::Int8, kv: KvDtype::F16, ..Setup::reference() };
            let (mut session, tokens, reference) = open(&case, setup);
            let error = rms_error(&session.step(0, &tokens), &reference.floats("logits"));
            println!("{:>40} {isa:?}: {error:.4}", case.1.file_stem().expect("stem").to_string_lossy());
            assert!(error < INT8_BOUND, "{} on {isa:?}: {error}", case.1.display());
        }
    }
}
