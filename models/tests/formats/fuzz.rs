//! Seeded mutations of small sound files: every outcome is a checkpoint or a one-line error, no panic, and no
//! allocation beyond the file's size.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use sconce_models::checkpoint::Checkpoint;
use sconce_models::config::{SpecOptions, model_spec};

use crate::gguf_writer::Writer;
use crate::safetensors_broken::bytes;
use crate::support::assert_one_line;

/// Remembers the largest allocation of each thread.
struct Watch;

thread_local! {
    static LARGEST: Cell<usize> = const { Cell::new(0) };
}

#[global_allocator]
static WATCH: Watch = Watch;

fn note(size: usize) {
    let _ = LARGEST.try_with(|largest| largest.set(largest.get().max(size)));
}

// SAFETY: every call goes to the system allocator unchanged.
unsafe impl GlobalAlloc for Watch {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(layout.size());
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        note(size);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

/// xorshift64*; the seed is in the failure message.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % bound
    }
}

/// One to four changes in the first `header` bytes: flipped bits, special numbers, a cut, a doubled piece.
fn mutate(random: &mut Random, sound: &[u8], header: usize) -> Vec<u8> {
    const SPECIAL: [u64; 8] = [0, 1, 2, 0x7F, 0xFF, 0xFFFF_FFFF, i64::MAX as u64, u64::MAX];
    let mut bytes = sound.to_vec();
    for _ in 0..=random.below(4) {
        let at = random.below(header.min(bytes.len()).max(1));
        match random.below(8) {
            0..=3 => bytes[at] ^= 1 << random.below(8),
            4 => bytes[at] = random.below(256) as u8,
            5 => {
                let width = [1, 4, 8][random.below(3)].min(bytes.len() - at);
                bytes[at..at + width].copy_from_slice(&SPECIAL[random.below(8)].to_le_bytes()[..width]);
            }
            6 => bytes.truncate(at.max(1)),
            _ => {
                let piece = bytes[at..(at + random.below(32)).min(bytes.len())].to_vec();
                bytes.splice(at..at, piece);
            }
        }
    }
    bytes
}

/// Opens the checkpoint at `path`; returns whether it was accepted.
fn try_open(path: &std::path::Path, named: &std::path::Path, size: usize, round: usize) -> bool {
    LARGEST.set(0);
    let outcome = Checkpoint::open(path).and_then(|checkpoint| {
        let mut sum = 0;
        for info in checkpoint.tensors() {
            let view = checkpoint.tensor(&info.name).expect("listed");
            let (row, outer) = view.shape.split_last().map_or((1, &[][..]), |(row, outer)| (*row, outer));
            let row_bytes = view.ty.row_bytes(row).expect("whole rows");
            assert_eq!(Some(view.data.len()), outer.iter().try_fold(row_bytes, |n, d| n.checked_mul(*d)), "{info:?}");
            // To the last byte.
            sum += view.data.iter().map(|&b| usize::from(b)).sum::<usize>();
        }
        assert!(sum <= size * 255, "tensors share bytes");
        model_spec(&checkpoint, &SpecOptions::default())
    });
    // Messages, paths and the first few entries of a table need a little, whatever the file's size.
    let largest = LARGEST.get();
    assert!(largest <= size.max(16 << 10), "round {round}: allocated {largest} bytes for a file of {size}");
    match outcome {
        Ok(_) => true,
        Err(error) => {
            assert_one_line(&error, named);
            false
        }
    }
}

#[test]
fn mutated_gguf_files() {
    let w = Writer::llama();
    let sound = w.bytes();
    let header = sound.len() - w.tensors.iter().map(|t| t.data.len()).sum::<usize>();
    let dir = tempfile::tempdir().expect("temporary folder");
    let path = dir.path().join("m.gguf");
    let mut random = Random(0x5EED);
    let mut accepted = 0;
    for round in 0..20_000 {
        let bytes = mutate(&mut random, &sound, header);
        std::fs::write(&path, &bytes).expect("write");
        accepted += usize::from(try_open(&path, dir.path(), bytes.len(), round));
    }
    assert!((100..19_000).contains(&accepted), "{accepted} accepted: the mutations are too strong or too weak");
}

#[test]
fn mutated_safetensors_folders() {
    let header = r#"{"model.embed_tokens.weight":{"dtype":"BF16","shape":[4,4],"data_offsets":[0,32]},"b":{"dtype":"F32","shape":[2],"data_offsets":[32,40]}}"#;
    let config = br#"{"architectures":["Gemma3ForCausalLM"],"num_hidden_layers":2,"hidden_size":4,"rope_scaling":{"rope_type":"yarn","factor":8.0},"vocab_size":4,"sliding_window":8}"#;
    let sound = bytes(header, 40);
    let dir = tempfile::tempdir().expect("temporary folder");
    let mut random = Random(0xF00D);
    let mut accepted = 0;
    for round in 0..10_000 {
        // By turns one file is sound and the other is not.
        let (weights, config) = if round % 2 == 0 {
            (mutate(&mut random, &sound, 8 + header.len()), config.to_vec())
        } else {
            (sound.clone(), mutate(&mut random, config, config.len()))
        };
        std::fs::write(dir.path().join("model.safetensors"), &weights).expect("write");
        std::fs::write(dir.path().join("config.json"), &config).expect("write");
        accepted += usize::from(try_open(dir.path(), dir.path(), weights.len() + config.len(), round));
    }
    assert!((100..9_500).contains(&accepted), "{accepted} accepted: the mutations are too strong or too weak");
}
