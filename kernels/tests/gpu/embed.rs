//! Embedding: tokens of the step, sampled tokens, padding rows, tokens beyond the table.

use half::{bf16, f16};
use sconce_kernels::gpu::embed::{Embed, TAKE_SAMPLED};

use super::emu::{Emulator, emulated};
use super::testing::{Half, Random};

fn check<T: Half>(emu: &mut Emulator, rows: usize, width: usize) {
    const VOCAB: usize = 37;
    const SLOTS: usize = 5;
    let mut random = Random((rows + width) as u64);
    let table = random.halves::<T>(VOCAB * width);
    let next: Vec<u32> = (0..SLOTS).map(|_| random.below(VOCAB) as u32).collect();
    let tokens: Vec<u32> = (0..rows)
        .map(|row| match row % 4 {
            1 => TAKE_SAMPLED,
            3 => VOCAB as u32 + row as u32,
            _ => random.below(VOCAB) as u32,
        })
        .collect();
    let slots: Vec<i32> = (0..rows).map(|row| if row % 5 == 4 { -1 } else { random.below(SLOTS) as i32 }).collect();

    let (table_at, tokens_at, slots_at) = (emu.upload(&table), emu.upload(&tokens), emu.upload(&slots));
    let (next_at, out) = (emu.upload(&next), emu.alloc::<T>(rows * width));
    let embed = Embed {
        table: table_at.ptr(),
        vocab: VOCAB,
        tokens: tokens_at.ptr(),
        row_slot: slots_at.ptr(),
        next_token: next_at.ptr(),
        out: out.ptr(),
        rows,
        width,
        scale: 22.6,
        half: T::TYPE,
    };
    emu.launch(&embed.launch());

    for (row, got) in out.read().chunks(width).enumerate() {
        if slots[row] < 0 {
            assert!(got.iter().all(|value| value.value().is_nan()), "padding row {row} is written");
            continue;
        }
        let token = if tokens[row] == TAKE_SAMPLED { next[slots[row] as usize] } else { tokens[row] } as usize;
        let want = |i: usize| if token < VOCAB { T::of(table[token * width + i].value() * 22.6) } else { T::of(0.0) };
        assert!((0..width).all(|i| got[i].value() == want(i).value()), "row {row}");
    }
}

#[test]
fn rows_are_the_scaled_rows_of_their_tokens() {
    emulated(|emu| {
        for (rows, width) in [(0, 8), (1, 8), (11, 640), (6, 2056)] {
            check::<bf16>(emu, rows, width);
            check::<f16>(emu, rows, width);
        }
    });
}
