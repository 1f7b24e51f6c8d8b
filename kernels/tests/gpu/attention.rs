//! Attention against `sconce_kernels::attention` on the same rounded values, and the same bits however a row is computed.
//!
//! The cache is filled here, in the device's order, around NaN; outputs start as NaN, and so do the partial results.
//! Grids are small, so that a block walks many items and items of one query tile meet in any order.

use half::{bf16, f16};
use sconce_kernels::arena::KvArena;
use sconce_kernels::attention::{self as cpu_attention, AttentionScratch, AttentionShape};
use sconce_kernels::device::Cpu;
use sconce_kernels::gpu::attention::{Attention, AttentionTiles, DeviceLimits};
use sconce_kernels::gpu::launch::DevicePtr;
use sconce_kernels::gpu::work_list::{SplitPolicy, WorkPlanner, WorkSpan};
use sconce_kernels::kv::{ArenaGeometry, BLOCK_SIZE, CacheGroup, CacheKind, CacheSpec, KvDtype, LayerSlot, SeqSpan};
use sconce_kernels::qkv_post::{QkvPost, qkv_post};

use super::cache::{PagedCache, cache_dtype, cached, slot_of};
use super::emu::{Emulator, emulated};
use super::testing::{Half, Random, assert_close};

/// Cards with 99, 163 and 227 KiB a block.
const SMALL: DeviceLimits =
    DeviceLimits { num_sms: 3, shared_bytes_per_block: 99 << 10, shared_bytes_per_sm: 100 << 10 };
const MIDDLE: DeviceLimits =
    DeviceLimits { num_sms: 2, shared_bytes_per_block: 163 << 10, shared_bytes_per_sm: 164 << 10 };
const LARGE: DeviceLimits =
    DeviceLimits { num_sms: 2, shared_bytes_per_block: 227 << 10, shared_bytes_per_sm: 228 << 10 };

fn shape(heads: (usize, usize), head_dim: usize) -> AttentionShape {
    AttentionShape {
        num_heads: heads.0,
        num_kv_heads: heads.1,
        head_dim_k: head_dim,
        head_dim_v: head_dim,
        scale: (head_dim as f32).powf(-0.5),
        softcap: None,
        kind: CacheKind::Full,
    }
}

/// Sequences of known rows.
struct World<T> {
    shape: AttentionShape,
    fp8: bool,
    /// `q | k | v` rows of every sequence; keys and values are what the cache makes of them.
    sequences: Vec<Vec<f32>>,
    sinks: Option<Vec<f32>>,
    seed: u64,
    element: std::marker::PhantomData<T>,
}

/// How a run is planned: the card, and where splits end.
type Way = (DeviceLimits, SplitPolicy);

impl<T: Half> World<T> {
    fn new(shape: AttentionShape, fp8: bool, lengths: &[usize], seed: u64) -> Self {
        let mut random = Random(seed);
        let (width, q_width) = (shape.qkv_width(), shape.num_heads * shape.head_dim_k);
        let sequences = lengths.iter().map(|len| {
            let mut rows: Vec<f32> = random.values(len * width);
            for row in rows.chunks_mut(width) {
                // Peaked softmaxes: scores of about +-4.
                row[..q_width].iter_mut().for_each(|q| *q = T::of(*q * 6.0).value());
                row[q_width..].iter_mut().for_each(|x| *x = cached(cache_dtype::<T>(fp8), T::of(*x * 2.0).value()));
            }
            rows
        });
        let sequences = sequences.collect();
        Self { shape, fp8, sequences, sinks: None, seed, element: std::marker::PhantomData }
    }

    fn len(&self, sequence: usize) -> usize {
        self.sequences[sequence].len() / self.shape.qkv_width()
    }

    fn lengths(&self) -> Vec<usize> {
        (0..self.sequences.len()).map(|sequence| self.len(sequence)).collect()
    }

    /// The cache with the tokens before `ends[sequence]`.
    fn cache(&self, ends: &[usize]) -> PagedCache {
        let shape = &self.shape;
        let mut cache = PagedCache::new(shape, cache_dtype::<T>(self.fp8), &self.lengths(), self.seed);
        for (sequence, &end) in ends.iter().enumerate() {
            for (token, row) in self.sequences[sequence].chunks(shape.qkv_width()).enumerate().take(end) {
                let heads = row[shape.num_heads * shape.head_dim_k..].chunks(shape.head_dim_k);
                for (head, values) in heads.enumerate() {
                    let (kv_head, is_value) = (head % shape.num_kv_heads, head >= shape.num_kv_heads);
                    cache.write((sequence, token), kv_head, is_value, values);
                }
            }
        }
        cache
    }

    /// Runs steps of `(sequence, rows)` from the beginning; returns each sequence's output rows.
    fn run(&self, emu: &mut Emulator, way: Way, steps: &[Vec<(usize, usize)>]) -> Vec<Vec<T>> {
        self.run_behind(emu, way, vec![0; self.sequences.len()], steps)
    }

    /// Runs steps behind the first `done` rows of each sequence. Two padding rows stand behind every span.
    fn run_behind(
        &self,
        emu: &mut Emulator,
        way: Way,
        mut done: Vec<usize>,
        steps: &[Vec<(usize, usize)>],
    ) -> Vec<Vec<T>> {
        let tiles = AttentionTiles::new(&self.shape, self.fp8, way.0).expect("a kernel");
        let mut planner = WorkPlanner::new(tiles.work_shape(&self.shape, way.1));
        let workspace = tiles.workspace(self.shape.num_kv_heads);
        let partials = emu.alloc::<f32>(workspace.partials);
        let tickets = emu.upload(&vec![0u32; workspace.tickets]);
        let sinks = self.sinks.as_ref().map(|sinks| emu.upload(sinks));
        let (width, out_width) = (self.shape.qkv_width(), self.shape.out_width());
        let mut outputs = vec![Vec::new(); self.sequences.len()];
        for step in steps {
            let (mut rows, mut spans) = (Vec::new(), Vec::new());
            let mut first_blocks = vec![usize::MAX; self.sequences.len()];
            for &(sequence, num_rows) in step {
                let start: usize = done[sequence];
                let (slot, first_row) = (slot_of(sequence), (rows.len() / width) as u32);
                spans.push(WorkSpan { slot, first_row, num_rows: num_rows as u32, start: start as u32 });
                rows.extend(self.sequences[sequence][start * width..][..num_rows * width].iter().map(|&x| T::of(x)));
                rows.resize(rows.len() + 2 * width, T::of(f32::NAN));
                first_blocks[sequence] = self.shape.kind.first_visible(start) / BLOCK_SIZE;
                done[sequence] += num_rows;
            }
            let cache = self.cache(&done);
            let device = cache.upload(emu, &first_blocks);
            let (qkv, out) = (emu.upload(&rows), emu.alloc::<T>(rows.len() / width * out_width));
            let work = emu.upload(planner.plan(&spans));
            let launch = Attention {
                shape: &self.shape,
                tiles: &tiles,
                cache: device.layer(),
                qkv: qkv.ptr(),
                out: out.ptr(),
                work: work.ptr(),
                partials: partials.ptr(),
                tickets: tickets.ptr(),
                sinks: sinks.as_ref().map_or(DevicePtr::NULL, |sinks| sinks.ptr()),
                half: T::TYPE,
            };
            emu.launch(&launch.launch());
            let out = out.read();
            for (&(sequence, _), span) in step.iter().zip(&spans) {
                let (first, end) = (span.first_row as usize, (span.first_row + span.num_rows) as usize);
                outputs[sequence].extend_from_slice(&out[first * out_width..end * out_width]);
                let padding = &out[end * out_width..(end + 2) * out_width];
                assert!(padding.iter().all(|x| x.value().is_nan()), "a padding row was written");
            }
            assert!(tickets.read().iter().all(|&ticket| ticket == 0), "a ticket was left");
        }
        outputs
    }

    /// All rows of all sequences in one step.
    fn whole(&self, emu: &mut Emulator, way: Way) -> Vec<Vec<T>> {
        self.run(emu, way, &[self.lengths().into_iter().enumerate().collect()])
    }

    /// The CPU's outputs of a sequence, in f32.
    fn reference(&self, sequence: usize) -> Vec<f32> {
        let (cpu, shape, len) = (Cpu::new(1), &self.shape, self.len(sequence));
        let spec = CacheSpec {
            kind: shape.kind,
            num_kv_heads: shape.num_kv_heads,
            head_dim_k: shape.head_dim_k,
            head_dim_v: shape.head_dim_v,
            dtype: KvDtype::F32,
        };
        let geometry = ArenaGeometry::new(&[CacheGroup { spec, layers: vec![0] }]);
        let table: Vec<u32> = (0..len.div_ceil(BLOCK_SIZE) as u32).collect();
        let superpages = table.len().div_ceil(geometry.groups[0].blocks_per_superpage);
        let mut arena = KvArena::new(geometry, superpages).expect("an arena");
        let spans = [SeqSpan { first_row: 0, num_rows: len, start: 0, table: &table }];
        let slot = LayerSlot { group: 0, index: 0 };
        let mut qkv = self.sequences[sequence].clone();
        qkv_post(&cpu, QkvPost { shape, norms: None, rope: None }, &mut qkv, &spans, (&mut arena, slot));
        let mut out = vec![0.0; len * shape.out_width()];
        let call = cpu_attention::Attention { shape, spans: &spans, arena: &arena, slot };
        cpu_attention::attention(&cpu, call, &qkv, &mut out, &mut AttentionScratch::default());
        out
    }

    /// Probabilities are rounded to `T` before they weigh values of at most 2, and the result is rounded once more.
    fn assert_matches(&self, emu: &mut Emulator, way: Way) {
        for (sequence, out) in self.whole(emu, way).iter().enumerate() {
            let out: Vec<f32> = out.iter().map(|x| x.value()).collect();
            assert_close(&out, &self.reference(sequence), T::ROUNDING, T::ROUNDING);
        }
    }
}

/// Bits, so that -0 is not 0.
fn bits<T: Half>(outputs: &[Vec<T>]) -> Vec<Vec<u32>> {
    outputs.iter().map(|rows| rows.iter().map(|x| x.value().to_bits()).collect()).collect()
}

fn fixed(tokens: usize) -> SplitPolicy {
    SplitPolicy::Fixed { tokens }
}

fn check_head_size<T: Half>(emu: &mut Emulator, head_dim: usize, limits: DeviceLimits) {
    for fp8 in [false, true] {
        // A small tile of one row, and one large tile with a small one behind it.
        let world = World::<T>::new(shape((4, 2), head_dim), fp8, &[1, 70], head_dim as u64);
        world.assert_matches(emu, (limits, SplitPolicy::Adaptive));
    }
}

macro_rules! head_sizes {
    ($($name:ident: $head_dim:literal),*) => { $(
        #[test]
        fn $name() {
            emulated(|emu| {
                check_head_size::<bf16>(emu, $head_dim, LARGE);
                check_head_size::<f16>(emu, $head_dim, SMALL);
            });
        }
    )* };
}
head_sizes!(heads_of_64_match_the_cpu: 64, heads_of_80_match_the_cpu: 80, heads_of_96_match_the_cpu: 96,
    heads_of_128_match_the_cpu: 128, heads_of_256_match_the_cpu: 256, heads_of_512_match_the_cpu: 512);

#[test]
fn every_group_ratio_matches_the_cpu() {
    emulated(|emu| {
        for heads in [(1, 1), (4, 2), (4, 1), (7, 1), (8, 1), (16, 1), (24, 1)] {
            World::<bf16>::new(shape(heads, 64), false, &[9, 1, 34], 2).assert_matches(emu, (SMALL, fixed(64)));
        }
    });
}

#[test]
fn every_length_matches_the_cpu() {
    emulated(|emu| {
        let lengths = [1, 31, 32, 33, 64, 65, 257];
        let world = World::<f16>::new(shape((3, 1), 64), false, &lengths, 3);
        world.assert_matches(emu, (LARGE, SplitPolicy::Adaptive));
        // Each last row alone, beside the others' last rows.
        let prompts: Vec<_> = lengths.iter().enumerate().map(|(sequence, len)| (sequence, len - 1)).collect();
        let last: Vec<_> = (0..lengths.len()).map(|sequence| (sequence, 1)).collect();
        let outputs = world.run(emu, (LARGE, fixed(64)), &[prompts, last]);
        for (sequence, out) in outputs.iter().enumerate() {
            let out: Vec<f32> = out.iter().map(|x| x.value()).collect();
            assert_close(&out, &world.reference(sequence), f16::ROUNDING, f16::ROUNDING);
        }
    });
}

#[test]
fn the_end_of_a_long_sequence_matches_the_cpu() {
    // Tables are read 32 blocks at a time: through several such windows, and beginning inside one.
    const LEN: usize = 2200;
    emulated(|emu| {
        for (head_dim, window, rows) in [(64, usize::MAX, 40), (64, 1500, 1), (256, usize::MAX, 1), (256, 1060, 9)] {
            let kind = CacheKind::SlidingWindow { window };
            let world = World::<f16>::new(AttentionShape { kind, ..shape((4, 1), head_dim) }, false, &[LEN], 14);
            let out = world.run_behind(emu, (LARGE, fixed(4096)), vec![LEN - rows], &[vec![(0, rows)]]);
            let out: Vec<f32> = out[0].iter().map(|x| x.value()).collect();
            let want = &world.reference(0)[(LEN - rows) * world.shape.out_width()..];
            assert_close(&out, want, f16::ROUNDING, f16::ROUNDING);
        }
    });
}

#[test]
fn windows_and_soft_caps_match_the_cpu() {
    emulated(|emu| {
        for (window, softcap) in [(1, None), (33, Some(3.0)), (64, None), (100, Some(20.0)), (1000, None)] {
            let kind = CacheKind::SlidingWindow { window };
            let shape = AttentionShape { softcap, kind, ..shape((4, 1), 64) };
            let world = World::<f16>::new(shape, window == 33, &[200, 7], window as u64);
            world.assert_matches(emu, (LARGE, fixed(128)));
            // Decoding: blocks below the window are gone by then.
            let steps = [vec![(0, 150), (1, 6)], vec![(0, 49)], vec![(1, 1), (0, 1)]];
            let outputs = world.run(emu, (SMALL, fixed(64)), &steps);
            let out: Vec<f32> = outputs[0].iter().map(|x| x.value()).collect();
            assert_close(&out, &world.reference(0), f16::ROUNDING, f16::ROUNDING);
        }
        let capped = AttentionShape { softcap: Some(5.0), ..shape((2, 1), 128) };
        World::<bf16>::new(capped, false, &[70], 4).assert_matches(emu, (MIDDLE, SplitPolicy::Adaptive));
    });
}

#[test]
fn a_sink_takes_its_share_of_the_sum() {
    emulated(|emu| {
        let mut world = World::<f16>::new(shape((4, 2), 64), false, &[100, 3], 5);
        let without = world.whole(emu, (LARGE, fixed(64)));
        // A share of almost nothing, of about half, of almost all, of all.
        let sinks = vec![-40.0, 3.0, 12.0, 200.0];
        world.sinks = Some(sinks.clone());
        let with = world.whole(emu, (LARGE, fixed(64)));
        assert_eq!(bits(&with), bits(&world.whole(emu, (LARGE, fixed(64)))));
        for sequence in 0..2 {
            for (at, (with, without)) in with[sequence].iter().zip(&without[sequence]).enumerate() {
                let (row, head) = (at / world.shape.out_width(), at % world.shape.out_width() / 64);
                let scores = world.scores(sequence, row, head);
                let max = scores.iter().copied().fold(f64::MIN, f64::max);
                let sum: f64 = scores.iter().map(|score| (score - max).exp()).sum();
                let share = sum / (sum + (f64::from(sinks[head]) - max).exp());
                let want = f64::from(without.value()) * share;
                let error = (f64::from(with.value()) - want).abs();
                assert!(error <= 2.0 * f64::from(f16::ROUNDING) * want.abs() + 1e-6, "{} not {want}", with.value());
            }
        }
    });
}

impl<T: Half> World<T> {
    /// Scaled scores of a row and head over the tokens up to its own, in f64; full attention.
    fn scores(&self, sequence: usize, row: usize, head: usize) -> Vec<f64> {
        let (shape, dim) = (&self.shape, self.shape.head_dim_k);
        let rows: Vec<&[f32]> = self.sequences[sequence].chunks(shape.qkv_width()).collect();
        let key_at = (shape.num_heads + head * shape.num_kv_heads / shape.num_heads) * dim;
        let query = &rows[row][head * dim..][..dim];
        let dot = |token: usize| {
            let key = &rows[token][key_at..][..dim];
            query.iter().zip(key).map(|(q, k)| f64::from(*q) * f64::from(*k)).sum::<f64>() * f64::from(shape.scale)
        };
        (0..=row).map(dot).collect()
    }
}

#[test]
fn any_number_of_splits_matches_the_cpu() {
    emulated(|emu| {
        let world = World::<bf16>::new(shape((4, 2), 64), false, &[400, 1, 130], 6);
        for tokens in [64, 128, 192, 448] {
            world.assert_matches(emu, (LARGE, fixed(tokens)));
        }
        // Many blocks and one long row: the adaptive plan splits too.
        let wide_card = DeviceLimits { num_sms: 20, ..LARGE };
        let steps = [vec![(0, 399)], vec![(0, 1)]];
        let out = world.run(emu, (wide_card, SplitPolicy::Adaptive), &steps).swap_remove(0);
        let out: Vec<f32> = out.iter().map(|x| x.value()).collect();
        assert_close(&out, &world.reference(0), bf16::ROUNDING, bf16::ROUNDING);
    });
}

/// The same rows as one prompt, in chunks, one by one, beside neighbours, at other blocks, on other cards.
fn check_bits<T: Half>(emu: &mut Emulator, mut world: World<T>, tokens: usize) {
    let lengths = world.lengths();
    let policy = fixed(tokens);
    let whole = bits(&world.whole(emu, (LARGE, policy)));
    // Alone, without the neighbours.
    for (sequence, &len) in lengths.iter().enumerate() {
        assert_eq!(
            bits(&world.run(emu, (LARGE, policy), &[vec![(sequence, len)]]))[sequence],
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
        assert_eq!(bits(&world.run(emu, (limits, policy), &steps)), whole, "chunks on {limits:?}");
    }
}

#[test]
fn a_row_has_the_same_bits_however_it_is_computed() {
    emulated(|emu| {
        check_bits(emu, World::<bf16>::new(shape((4, 1), 64), false, &[230, 40], 7), 64);
        let windowed = AttentionShape { kind: CacheKind::SlidingWindow { window: 70 }, ..shape((8, 2), 64) };
        check_bits(emu, World::<f16>::new(windowed, false, &[210, 3], 8), 128);
        check_bits(emu, World::<f16>::new(shape((3, 1), 128), true, &[200], 9), 64);
    });
}

#[test]
fn large_heads_have_the_same_bits_however_they_are_computed() {
    emulated(|emu| {
        check_bits(emu, World::<bf16>::new(shape((2, 1), 256), false, &[150], 10), 64);
        check_bits(emu, World::<bf16>::new(shape((8, 1), 512), false, &[70], 11), 32);
    });
}

#[test]
fn one_by_one_is_the_whole_prompt() {
    emulated(|emu| {
        let world = World::<bf16>::new(shape((2, 1), 80), true, &[70], 12);
        let steps: Vec<_> = (0..70).map(|_| vec![(0, 1)]).collect();
        let whole = bits(&world.whole(emu, (SMALL, fixed(64))));
        assert_eq!(bits(&world.run(emu, (SMALL, fixed(64)), &steps)), whole);
    });
}

#[test]
fn an_empty_list_and_an_empty_span_write_nothing() {
    emulated(|emu| {
        let world = World::<f16>::new(shape((2, 1), 64), false, &[5, 4], 13);
        let outputs = world.run(emu, (LARGE, SplitPolicy::Adaptive), &[vec![], vec![(0, 0), (1, 4)], vec![(0, 5)]]);
        assert_eq!(bits(&outputs), bits(&world.whole(emu, (LARGE, SplitPolicy::Adaptive))));
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
