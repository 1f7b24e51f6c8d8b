//! In deterministic mode a row's bits depend on that row alone: not on how a prompt was cut, nor on who else is in the step.
//! The emulated products of the library always do so; what is shown is that none of them is used, and that our kernels agree.

use std::path::Path;

use sconce_emulator::{EmulatedDevice, Issued, emulated_device};

use crate::checkpoint::{Family, VOCAB, write};
use crate::sessions::{GpuSession, MAX_TOKENS, Piece, SLOTS};
use crate::{fixture, tokens};

#[test]
fn rows_have_the_same_bits_whole_in_chunks_and_one_by_one() {
    let folder = tempfile::tempdir().expect("folder");
    emulated_device(|device| {
        let checkpoint = write(folder.path(), Family::Gemma3, 6).expect("files");
        let mut gpu = GpuSession::open(device, &checkpoint, true);
        let tokens = tokens(70);
        let whole = gpu.step(0, 0, &tokens);
        for chunks in [[33, 37].as_slice(), &[1; 70], &[64, 1, 5]] {
            let (mut start, mut rows) = (0, Vec::new());
            for &chunk in chunks {
                rows.extend(gpu.step(2, start, &tokens[start..start + chunk]));
                start += chunk;
            }
            assert!(rows == whole, "chunks {chunks:?}");
        }
    });
}

/// Rows of a decode step: on both sides of what one tile of a product, a GEMV and the tiles beyond it take.
const BATCHES: [usize; 9] = [2, 8, 9, 16, 17, 32, 33, 63, 64];

/// The slot of the long sequence: its prompt is among those that are computed beside others.
const LONG: usize = 18;

/// The prompt of a slot and the token after it.
struct Sequence {
    prompt: Vec<u32>,
    /// Tokens of the prompt that are computed before anything else.
    ahead: usize,
    next: [u32; 1],
}

/// One for every slot, of 1 to 48 tokens: some fill a block, or begin the next. One is longer than what attention leaves
/// whole where the step decides.
fn sequences(vocab: usize) -> Vec<Sequence> {
    let id = |i: usize, slot: usize| ((i * i * 31 + i * 7 + slot * 113 + 3) % vocab) as u32;
    let length = |slot: usize| match slot {
        LONG => 235,
        _ if slot.is_multiple_of(4) => 27 + slot / 3,
        _ => 1 + slot % 9,
    };
    let of = |slot| {
        let ahead = if slot == LONG { 200 } else { 0 };
        Sequence { prompt: (0..length(slot)).map(|i| id(i, slot)).collect(), ahead, next: [id(99, slot)] }
    };
    (0..SLOTS).map(of).collect()
}

/// Every sequence's next row, in steps of 1 to 64 sequences, in changing places; and beside prompts that are computed.
fn check(device: EmulatedDevice, checkpoint: &Path, vocab: usize) {
    let mut gpu = GpuSession::open(device, checkpoint, true);
    let sequences = sequences(vocab);
    let prompt = |slot: usize| {
        let Sequence { prompt, ahead, .. } = &sequences[slot];
        Piece { slot, start: *ahead, tokens: &prompt[*ahead..] }
    };
    let next = |slot: usize| Piece { slot, start: sequences[slot].prompt.len(), tokens: &sequences[slot].next };
    for (index, tokens) in sequences[LONG].prompt[..sequences[LONG].ahead].chunks(100).enumerate() {
        gpu.step(LONG, index * 100, tokens);
    }
    // Prompts side by side, as many as a step takes.
    let mut prompts: Vec<Vec<f32>> = Vec::new();
    while prompts.len() < SLOTS {
        let (mut pieces, mut rows) = (Vec::new(), 0);
        for slot in prompts.len()..SLOTS {
            rows += prompt(slot).tokens.len();
            if rows > MAX_TOKENS {
                break;
            }
            pieces.push(prompt(slot));
        }
        let mut logits = gpu.batch(&pieces);
        for piece in pieces {
            let rest = logits.split_off(piece.tokens.len() * vocab);
            prompts.push(std::mem::replace(&mut logits, rest));
        }
    }
    let alone: Vec<Vec<f32>> = (0..SLOTS).map(|slot| gpu.batch(&[next(slot)])).collect();
    for rows in BATCHES {
        let slots: Vec<usize> = (0..rows).map(|i| (rows + 5 * i) % SLOTS).collect();
        let logits = gpu.batch(&slots.iter().map(|&slot| next(slot)).collect::<Vec<_>>());
        for (slot, row) in slots.iter().zip(logits.chunks(vocab)) {
            assert!(row == alone[*slot], "sequence {slot} in a batch of {rows}");
        }
    }
    // A prompt beside rows that decode; it was computed beside other prompts before.
    for slot in (0..SLOTS).step_by(9) {
        let others = (0..30).map(|i| (slot + 1 + 2 * i) % SLOTS);
        let pieces: Vec<_> = others.clone().map(next).chain([prompt(slot)]).collect();
        let logits = gpu.batch(&pieces);
        let (rows, whole) = logits.split_at(30 * vocab);
        assert!(whole == prompts[slot], "prompt {slot} beside rows that decode");
        for (other, row) in others.zip(rows.chunks(vocab)) {
            assert!(row == alone[other], "sequence {other} beside prompt {slot}");
        }
        assert!(gpu.batch(&[prompt(slot)]) == prompts[slot], "prompt {slot} alone");
    }
    let library = |issued: &Issued| matches!(issued, Issued::Gemm(..));
    assert!(!gpu.device().take_issued().iter().any(library), "a product of the library");
}

#[test]
fn a_row_has_the_same_bits_in_steps_of_1_to_64_sequences() {
    let folder = tempfile::tempdir().expect("folder");
    emulated_device(|device| {
        let checkpoint = write(folder.path(), Family::Llama, 8).expect("files");
        check(device, &checkpoint, VOCAB);
    });
}

#[test]
fn a_row_of_packed_weights_has_the_same_bits_in_steps_of_1_to_64_sequences() {
    emulated_device(|device| check(device, &fixture("llama-q4_0"), 128));
}
