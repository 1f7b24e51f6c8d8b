//! Attention against `sconce_kernels::attention` on the same rounded values, and the same bits however a row is computed.
//!
//! The cache is filled here, in the device's order, around NaN; outputs start as NaN, and so do the partial results.
//! Grids are small, so that a block walks many items and items of one query tile meet in any order. The device passes for
//! a Hopper card, which has every family of kernels.

use half::{bf16, f16};
use sconce_kernels::attention::AttentionShape;
use sconce_kernels::gpu::attention::{AttentionTiles, DeviceLimits};
use sconce_kernels::gpu::verify::Half;
use sconce_kernels::gpu::verify::attention::{Way, World, shape};
use sconce_kernels::gpu::work_list::SplitPolicy;
use sconce_kernels::kv::CacheKind;

use super::emu::{EmulatedBed as Bed, emulated_bed};

/// Cards with 99, 163 and 227 KiB a block.
const SMALL: DeviceLimits =
    DeviceLimits { num_sms: 3, shared_bytes_per_block: 99 << 10, shared_bytes_per_sm: 100 << 10 };
const MIDDLE: DeviceLimits =
    DeviceLimits { num_sms: 2, shared_bytes_per_block: 163 << 10, shared_bytes_per_sm: 164 << 10 };
const LARGE: DeviceLimits =
    DeviceLimits { num_sms: 2, shared_bytes_per_block: 227 << 10, shared_bytes_per_sm: 228 << 10 };

/// Bits, so that -0 is not 0.
fn bits<T: Half>(outputs: &[Vec<T>]) -> Vec<Vec<u32>> {
    outputs.iter().map(|rows| rows.iter().map(|x| x.value().to_bits()).collect()).collect()
}

fn fixed(tokens: usize) -> SplitPolicy {
    SplitPolicy::Fixed { tokens }
}

fn check_head_size<T: Half>(bed: &mut Bed, head_dim: usize, limits: DeviceLimits) {
    for fp8 in [false, true] {
        // A small tile of one row, and one large tile with a small one behind it.
        let world = World::<T>::new(shape((4, 2), head_dim), fp8, &[1, 70], head_dim as u64);
        matches(bed, world, (limits, SplitPolicy::Adaptive));
    }
}

fn matches<T: Half>(bed: &mut Bed, world: World<T>, way: Way) {
    for world in world.families(bed) {
        world.matches(bed, way).expect("matches");
    }
}

macro_rules! head_sizes {
    ($($name:ident: $head_dim:literal),*) => { $(
        #[test]
        fn $name() {
            emulated_bed(|bed| {
                bed.device().set_hopper();
                check_head_size::<bf16>(bed, $head_dim, LARGE);
                check_head_size::<f16>(bed, $head_dim, SMALL);
            });
        }
    )* };
}
head_sizes!(heads_of_64_match_the_cpu: 64, heads_of_80_match_the_cpu: 80, heads_of_96_match_the_cpu: 96,
    heads_of_128_match_the_cpu: 128, heads_of_256_match_the_cpu: 256, heads_of_512_match_the_cpu: 512);

#[test]
fn every_group_ratio_matches_the_cpu() {
    emulated_bed(|bed| {
        bed.device().set_hopper();
        for heads in [(1, 1), (4, 2), (4, 1), (7, 1), (8, 1), (16, 1), (24, 1)] {
            matches(bed, World::<bf16>::new(shape(heads, 64), false, &[9, 1, 34], 2), (SMALL, fixed(64)));
        }
    });
}

#[test]
fn every_length_matches_the_cpu() {
    emulated_bed(|bed| {
        bed.device().set_hopper();
        let lengths = [1, 31, 32, 33, 64, 65, 257];
        let world = World::<f16>::new(shape((3, 1), 64), false, &lengths, 3);
        matches(bed, world.clone(), (LARGE, SplitPolicy::Adaptive));
        // Each last row alone, beside the others' last rows.
        let prompts: Vec<_> = lengths.iter().enumerate().map(|(sequence, len)| (sequence, len - 1)).collect();
        let last: Vec<_> = (0..lengths.len()).map(|sequence| (sequence, 1)).collect();
        for world in world.families(bed) {
            let outputs = world.run(bed, (LARGE, fixed(64)), &[prompts.clone(), last.clone()]).expect("runs");
            for (sequence, out) in outputs.iter().enumerate() {
                world.close(sequence, 0, out).expect("matches");
            }
        }
    });
}

#[test]
fn the_end_of_a_long_sequence_matches_the_cpu() {
    // Tables are read 32 blocks at a time: through several such windows, and beginning inside one.
    const LEN: usize = 2200;
    emulated_bed(|bed| {
        bed.device().set_hopper();
        for (head_dim, window, rows) in [(64, usize::MAX, 40), (64, 1500, 1), (256, usize::MAX, 1), (256, 1060, 9)] {
            let kind = CacheKind::SlidingWindow { window };
            let world = World::<f16>::new(AttentionShape { kind, ..shape((4, 1), head_dim) }, false, &[LEN], 14);
            for world in world.families(bed) {
                let out = world.run_behind(bed, (LARGE, fixed(4096)), vec![LEN - rows], &[vec![(0, rows)]]);
                world.close(0, LEN - rows, &out.expect("runs")[0]).expect("matches");
            }
        }
    });
}

#[test]
fn windows_and_soft_caps_match_the_cpu() {
    emulated_bed(|bed| {
        bed.device().set_hopper();
        for (window, softcap) in [(1, None), (33, Some(3.0)), (64, None), (100, Some(20.0)), (1000, None)] {
            let kind = CacheKind::SlidingWindow { window };
            let shape = AttentionShape { softcap, kind, ..shape((4, 1), 64) };
            let world = World::<f16>::new(shape, window == 33, &[200, 7], window as u64);
            matches(bed, world.clone(), (LARGE, fixed(128)));
            // Decoding: blocks below the window are gone by then.
            let steps = [vec![(0, 150), (1, 6)], vec![(0, 49)], vec![(1, 1), (0, 1)]];
            for world in world.families(bed) {
                let outputs = world.run(bed, (SMALL, fixed(64)), &steps).expect("runs");
                world.close(0, 0, &outputs[0]).expect("matches");
            }
        }
        let capped = AttentionShape { softcap: Some(5.0), ..shape((2, 1), 128) };
        matches(bed, World::<bf16>::new(capped, false, &[70], 4), (MIDDLE, SplitPolicy::Adaptive));
    });
}

#[test]
fn a_sink_takes_its_share_of_the_sum() {
    emulated_bed(|bed| {
        bed.device().set_hopper();
        for world in World::<f16>::new(shape((4, 2), 64), false, &[100, 3], 5).families(bed) {
            check_sinks(bed, world);
        }
    });
}

fn check_sinks(bed: &mut Bed, mut world: World<f16>) {
    let without = world.whole(bed, (LARGE, fixed(64))).expect("runs");
    // A share of almost nothing, of about half, of almost all, of all.
    let sinks = vec![-40.0, 3.0, 12.0, 200.0];
    world.sinks = Some(sinks.clone());
    let with = world.whole(bed, (LARGE, fixed(64))).expect("runs");
    assert_eq!(bits(&with), bits(&world.whole(bed, (LARGE, fixed(64))).expect("runs")));
    for sequence in 0..2 {
        for (at, (with, without)) in with[sequence].iter().zip(&without[sequence]).enumerate() {
            let (row, head) = (at / world.shape.out_width(), at % world.shape.out_width() / 64);
            let scores = scores(&world, sequence, row, head);
            let max = scores.iter().copied().fold(f64::MIN, f64::max);
            let sum: f64 = scores.iter().map(|score| (score - max).exp()).sum();
            let share = sum / (sum + (f64::from(sinks[head]) - max).exp());
            let want = f64::from(without.value()) * share;
            let error = (f64::from(with.value()) - want).abs();
            assert!(error <= 2.0 * f64::from(f16::ROUNDING) * want.abs() + 1e-6, "{} not {want}", with.value());
        }
    }
}

/// Scaled scores of a row and head over the tokens up to its own, in f64; full attention.
fn scores<T>(world: &World<T>, sequence: usize, row: usize, head: usize) -> Vec<f64> {
    let (shape, dim) = (&world.shape, world.shape.head_dim_k);
    let rows: Vec<&[f32]> = world.sequences[sequence].chunks(shape.qkv_width()).collect();
    let key_at = (shape.num_heads + head * shape.num_kv_heads / shape.num_heads) * dim;
    let query = &rows[row][head * dim..][..dim];
    let dot = |token: usize| {
        let key = &rows[token][key_at..][..dim];
        query.iter().zip(key).map(|(q, k)| f64::from(*q) * f64::from(*k)).sum::<f64>() * f64::from(shape.scale)
    };
    (0..=row).map(dot).collect()
}

#[test]
fn any_number_of_splits_matches_the_cpu() {
    emulated_bed(|bed| {
        bed.device().set_hopper();
        let world = World::<bf16>::new(shape((4, 2), 64), false, &[400, 1, 130], 6);
        for tokens in [64, 128, 192, 448] {
            matches(bed, world.clone(), (LARGE, fixed(tokens)));
        }
        // Many blocks and one long row: the adaptive plan splits too.
        let wide_card = DeviceLimits { num_sms: 20, ..LARGE };
        let steps = [vec![(0, 399)], vec![(0, 1)]];
        for world in world.families(bed) {
            let out = world.run(bed, (wide_card, SplitPolicy::Adaptive), &steps).expect("runs").swap_remove(0);
            world.close(0, 0, &out).expect("matches");
        }
    });
}

/// The same rows as one prompt, in chunks, one by one, beside neighbours, at other blocks, on other cards.
fn check_bits<T: Half>(bed: &mut Bed, world: World<T>, tokens: usize) {
    for world in world.families(bed) {
        check_bits_of(bed, world, tokens);
    }
}

fn check_bits_of<T: Half>(bed: &mut Bed, mut world: World<T>, tokens: usize) {
    let lengths = world.lengths();
    let policy = fixed(tokens);
    let whole = bits(&world.whole(bed, (LARGE, policy)).expect("runs"));
    // Alone, without the neighbours.
    for (sequence, &len) in lengths.iter().enumerate() {
        assert_eq!(
            bits(&world.run(bed, (LARGE, policy), &[vec![(sequence, len)]]).expect("runs"))[sequence],
            whole[sequence],
            "alone"
        );
    }
    // In chunks of every kind, and the end token by token.
    let mut steps = Vec::new();
    let mut left = lengths.clone();
    for chunk in [5, 64, 33, 1, 1, 90].into_iter().chain(std::iter::repeat_n(1, 3)).chain([usize::MAX]) {
        let mut step = Vec::new();
        for (sequence, left) in left.iter_mut().enumerate() {
            let rows = chunk.min(*left);
            *left -= rows;
            if rows > 0 {
                step.push((sequence, rows));
            }
        }
        steps.push(step);
    }
    world.seed += 1;
    for limits in [LARGE, MIDDLE, SMALL, DeviceLimits { num_sms: 40, ..LARGE }] {
        assert_eq!(bits(&world.run(bed, (limits, policy), &steps).expect("runs")), whole, "chunks on {limits:?}");
    }
}

#[test]
fn a_row_has_the_same_bits_however_it_is_computed() {
    emulated_bed(|bed| {
        bed.device().set_hopper();
        check_bits(bed, World::<bf16>::new(shape((4, 1), 64), false, &[230, 40], 7), 64);
        let windowed = AttentionShape { kind: CacheKind::SlidingWindow { window: 70 }, ..shape((8, 2), 64) };
        check_bits(bed, World::<f16>::new(windowed, false, &[210, 3], 8), 128);
        check_bits(bed, World::<f16>::new(shape((3, 1), 128), true, &[200], 9), 64);
        check_bits(bed, World::<f16>::new(shape((3, 1), 128), false, &[200], 15), 64);
    });
}

#[test]
fn large_heads_have_the_same_bits_however_they_are_computed() {
    emulated_bed(|bed| {
        bed.device().set_hopper();
        check_bits(bed, World::<bf16>::new(shape((2, 1), 256), false, &[150], 10), 64);
        check_bits(bed, World::<bf16>::new(shape((8, 1), 512), false, &[70], 11), 32);
    });
}

#[test]
fn one_by_one_is_the_whole_prompt() {
    emulated_bed(|bed| {
        bed.device().set_hopper();
        let world = World::<bf16>::new(shape((2, 1), 80), true, &[70], 12);
        let steps: Vec<_> = (0..70).map(|_| vec![(0, 1)]).collect();
        let whole = bits(&world.whole(bed, (SMALL, fixed(64))).expect("runs"));
        assert_eq!(bits(&world.run(bed, (SMALL, fixed(64)), &steps).expect("runs")), whole);
    });
}

#[test]
fn an_empty_list_and_an_empty_span_write_nothing() {
    emulated_bed(|bed| {
        bed.device().set_hopper();
        let world = World::<f16>::new(shape((2, 1), 64), false, &[5, 4], 13);
        let outputs = world
            .run(bed, (LARGE, SplitPolicy::Adaptive), &[vec![], vec![(0, 0), (1, 4)], vec![(0, 5)]])
            .expect("runs");
        assert_eq!(bits(&outputs), bits(&world.whole(bed, (LARGE, SplitPolicy::Adaptive)).expect("runs")));
    });
}

#[test]
fn heads_without_a_kernel_have_no_tiles() {
    let odd = AttentionShape { head_dim_v: 128, ..shape((2, 1), 64) };
    assert_eq!(AttentionTiles::new(&odd, false, LARGE), None);
    assert_eq!(AttentionTiles::new(&shape((2, 1), 72), false, LARGE), None);
    let tiny = DeviceLimits { num_sms: 1, shared_bytes_per_block: 16 << 10, shared_bytes_per_sm: 16 << 10 };
    assert_eq!(AttentionTiles::new(&shape((2, 1), 128), false, tiny), None);
}

#[test]
fn tiles_fit_the_card_and_two_blocks_an_sm_where_they_can() {
    for limits in [SMALL, MIDDLE, LARGE] {
        for (head_dim, fp8) in [64, 80, 96, 128, 256, 512].into_iter().flat_map(|dim| [(dim, false), (dim, true)]) {
            let tiles = AttentionTiles::new(&shape((8, 2), head_dim), fp8, limits).expect("a kernel");
            let blocks = tiles.num_blocks / limits.num_sms;
            assert!(tiles.shared_bytes <= limits.shared_bytes_per_block, "{tiles:?}");
            assert!(blocks * (tiles.shared_bytes + 1024) <= limits.shared_bytes_per_sm, "{tiles:?}");
            if limits == LARGE {
                assert_eq!((blocks, tiles.wide_rows > 16), (2, true), "{tiles:?}");
                // A decoding SM has 48 KiB or more under way.
                let slot = tiles.kv_tile * head_dim * if fp8 { 1 } else { 2 };
                assert!(blocks * (tiles.narrow_slots - 1) * slot >= 48 << 10, "{tiles:?}");
            }
        }
    }
}
