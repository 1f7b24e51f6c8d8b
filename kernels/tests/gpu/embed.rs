//! Embedding: tokens of the step, sampled tokens, padding rows, tokens beyond the table.

use half::{bf16, f16};
use sconce_kernels::dtype::WeightType;
use sconce_kernels::gpu::embed::{Embed, TAKE_SAMPLED};
use sconce_kernels::gpu::verify::{Half, Random, floats};

use super::emu::{Emulator, emulated};
use sconce_kernels::gpu::verify::packed::{TYPES, packed_matrix};

fn check<T: Half>(emu: &mut Emulator, ty: Option<WeightType>, rows: usize, width: usize) {
    const VOCAB: usize = 37;
    const SLOTS: usize = 5;
    let mut random = Random((rows + width) as u64);
    let dense = random.halves::<T>(VOCAB * width);
    let (packed, table) =
        ty.map_or((Vec::new(), floats(&dense)), |ty| packed_matrix(&mut random, ty, VOCAB, width).expect("packs"));
    let next: Vec<u32> = (0..SLOTS).map(|_| random.below(VOCAB) as u32).collect();
    let tokens: Vec<u32> = (0..rows)
        .map(|row| match row % 4 {
            1 => TAKE_SAMPLED,
            3 => VOCAB as u32 + row as u32,
            _ => random.below(VOCAB) as u32,
        })
        .collect();
    let slots: Vec<i32> = (0..rows).map(|row| if row % 5 == 4 { -1 } else { random.below(SLOTS) as i32 }).collect();

    let (dense_at, packed_at) = (emu.upload(&dense), emu.upload(&packed));
    let (tokens_at, slots_at) = (emu.upload(&tokens), emu.upload(&slots));
    let (next_at, out) = (emu.upload(&next), emu.alloc::<T>(rows * width));
    let embed = Embed {
        table: if ty.is_some() { packed_at.ptr() } else { dense_at.ptr() },
        packed: ty,
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
        let want = |i: usize| if token < VOCAB { T::of(table[token * width + i] * 22.6) } else { T::of(0.0) };
        assert!((0..width).all(|i| got[i].value() == want(i).value()), "row {row}");
    }
}

#[test]
fn rows_are_the_scaled_rows_of_their_tokens() {
    emulated(|emu| {
        for (rows, width) in [(0, 8), (1, 8), (11, 640), (6, 2056)] {
            check::<bf16>(emu, None, rows, width);
            check::<f16>(emu, None, rows, width);
        }
        for ty in TYPES {
            // Slices that end in the middle, where blocks of 32 allow it; more slices than warps.
            for width in if ty.block_len() == 32 { [96, 2336] } else { [256, 2304] } {
                check::<bf16>(emu, Some(ty), 11, width);
                check::<f16>(emu, Some(ty), 3, width);
            }
        }
    });
}
