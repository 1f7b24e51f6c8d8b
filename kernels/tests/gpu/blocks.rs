//! Copies of KV blocks and changes of block tables.

use sconce_kernels::gpu::blocks::{copy_blocks, update_tables};
use sconce_kernels::gpu::verify::Random;

use super::emu::emulated;

#[test]
fn blocks_are_copied_whole_and_nothing_else() {
    emulated(|emu| {
        // Less than a thread block copies, just as much, a line more.
        for block in [64, 16 * 1024, 16 * 1024 + 64] {
            let mut random = Random(block as u64);
            let arena: Vec<u8> = (0..7 * block).map(|_| random.bits() as u8).collect();
            let pairs: Vec<u64> = [(5, 0), (2, 6), (5, 3)].iter().flat_map(|&(from, to)| [from, to]).collect();
            let offsets: Vec<u64> = pairs.iter().map(|index| index * block as u64).collect();
            let (at, pairs_at) = (emu.upload(&arena), emu.upload(&offsets));
            emu.launch(&copy_blocks(at.ptr(), pairs_at.ptr(), 0, block));
            assert!(at.read() == arena, "no pair, no copy");
            emu.launch(&copy_blocks(at.ptr(), pairs_at.ptr(), 3, block));
            let mut want = arena;
            for pair in pairs.chunks(2) {
                let from = pair[0] as usize * block;
                want.copy_within(from..from + block, pair[1] as usize * block);
            }
            assert!(at.read() == want, "blocks of {block} bytes");
        }
    });
}

#[test]
fn table_entries_up_to_the_count_are_written() {
    emulated(|emu| {
        const LEN: usize = 30_000;
        for (capacity, count) in [(1, 0), (1, 1), (256, 255), (9000, 8999), (300, 1_000_000)] {
            // Every index once: a stride that has no factor in common with the length.
            let entries: Vec<u32> = (0..capacity).flat_map(|i| [(i * 7919 % LEN) as u32, i as u32]).collect();
            let tables = emu.alloc::<u32>(LEN);
            let (entries_at, count_at) = (emu.upload(&entries), emu.upload(&[count as u32]));
            emu.launch(&update_tables(tables.ptr(), entries_at.ptr(), count_at.ptr(), capacity));
            let mut want = vec![u32::MAX; LEN];
            for entry in entries.chunks(2).take(count) {
                want[entry[0] as usize] = entry[1];
            }
            assert!(tables.read() == want, "{count} of {capacity}");
        }
    });
}
