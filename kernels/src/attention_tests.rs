//! Attention through the cache against a naive f64 reference, and bit-identity however it is cut.
//!
//! Every run writes through `qkv_post` into an arena poisoned with NaN, at shuffled blocks, with
//! table entries below the window nulled; outputs start as NaN.

use half::{bf16, f16};

use super::*;
use crate::kv::{ArenaGeometry, CacheGroup, CacheSpec, KvDtype, NULL_BLOCK};
use crate::qkv_post::{QkNorm, QkvPost, qkv_post};
use crate::rope::{RopeRows, RopeTable};
use crate::testing::{assert_close, cpus, random};

const LAYERS: usize = 2;

fn shape((num_heads, num_kv_heads): (usize, usize), (head_dim_k, head_dim_v): (usize, usize)) -> AttentionShape {
    let scale = (head_dim_k as f32).powf(-0.5);
    AttentionShape { num_heads, num_kv_heads, head_dim_k, head_dim_v, scale, softcap: None, kind: CacheKind::Full }
}

/// Sequences of known rows, and where their blocks lie.
struct World {
    shape: AttentionShape,
    dtype: KvDtype,
    /// Rows of `qkv`, by sequence.
    sequences: Vec<Vec<f32>>,
    tables: Vec<Vec<u32>>,
}

impl World {
    fn new(shape: AttentionShape, dtype: KvDtype, lengths: &[usize], seed: u64) -> Self {
        let width = shape.qkv_width();
        let sequences = lengths
            .iter()
            .zip(seed..)
            .map(|(len, seed)| random(len * width, seed).into_iter().map(|x| 2.0 * x).collect::<Vec<f32>>());
        let mut world = Self { shape, dtype, sequences: sequences.collect(), tables: Vec::new() };
        world.deal_blocks(lengths, seed);
        world
    }

    /// Gives each sequence blocks of a seeded shuffle.
    fn deal_blocks(&mut self, lengths: &[usize], seed: u64) {
        let blocks: Vec<usize> = lengths.iter().map(|len| len.div_ceil(BLOCK_SIZE)).collect();
        let total = blocks.iter().sum::<usize>() + 5;
        let keys = random(total, seed ^ 0xb10c);
        let mut ids: Vec<u32> = (0..total as u32).collect();
        ids.sort_by(|&a, &b| keys[a as usize].total_cmp(&keys[b as usize]));
        self.tables = blocks.iter().map(|&count| ids.split_off(ids.len() - count)).collect();
    }

    fn arena(&self) -> KvArena {
        let spec = CacheSpec {
            kind: self.shape.kind,
            num_kv_heads: self.shape.num_kv_heads,
            head_dim_k: self.shape.head_dim_k,
            head_dim_v: self.shape.head_dim_v,
            dtype: self.dtype,
        };
        let geometry = ArenaGeometry::new(&[CacheGroup { spec, layers: (0..LAYERS).collect() }]);
        let blocks = self.tables.iter().map(Vec::len).sum::<usize>() + 5;
        let superpages = blocks.div_ceil(geometry.groups[0].blocks_per_superpage);
        let mut arena = KvArena::new(geometry, superpages).unwrap();
        arena.poison(0xff);
        arena
    }

    /// Runs steps of `(sequence, rows)` and returns each sequence's outputs.
    fn run(&self, cpu: &Cpu, steps: &[Vec<(usize, usize)>]) -> Vec<Vec<f32>> {
        let (shape, width, slot) = (&self.shape, self.shape.qkv_width(), LayerSlot { group: 0, index: 1 });
        let (mut arena, mut scratch) = (self.arena(), AttentionScratch::default());
        let mut done = vec![0; self.sequences.len()];
        let mut outputs = vec![Vec::new(); self.sequences.len()];
        for step in steps {
            let (mut qkv, mut parts, mut tables) = (Vec::new(), Vec::new(), Vec::new());
            for &(sequence, num_rows) in step {
                let start: usize = done[sequence];
                parts.push((sequence, qkv.len() / width, num_rows, start));
                qkv.extend_from_slice(&self.sequences[sequence][start * width..(start + num_rows) * width]);
                let dead = shape.kind.first_visible(start) / BLOCK_SIZE;
                let mut table = self.tables[sequence].clone();
                table[..dead].fill(NULL_BLOCK);
                table.truncate((start + num_rows).div_ceil(BLOCK_SIZE));
                tables.push(table);
                done[sequence] += num_rows;
            }
            let spans: Vec<SeqSpan<'_>> = parts
                .iter()
                .zip(&tables)
                .map(|(&(_, first_row, num_rows, start), table)| SeqSpan { first_row, num_rows, start, table })
                .collect();
            let mut out = vec![f32::NAN; qkv.len() / width * shape.out_width()];
            qkv_post(cpu, QkvPost { shape, norms: None, rope: None }, &mut qkv, &spans, (&mut arena, slot));
            let call = Attention { shape, spans: &spans, arena: &arena, slot };
            attention(cpu, call, &qkv, &mut out, &mut scratch);
            for (sequence, first_row, num_rows, _) in parts {
                let rows = first_row * shape.out_width()..(first_row + num_rows) * shape.out_width();
                outputs[sequence].extend_from_slice(&out[rows]);
            }
        }
        outputs
    }

    /// All sequences at once.
    fn whole(&self, cpu: &Cpu) -> Vec<Vec<f32>> {
        let width = self.shape.qkv_width();
        self.run(cpu, &[self.sequences.iter().map(|rows| rows.len() / width).enumerate().collect()])
    }

    fn cached(&self, x: f32) -> f64 {
        f64::from(match self.dtype {
            KvDtype::F16 => f16::from_f32(x).to_f32(),
            KvDtype::Bf16 => bf16::from_f32(x).to_f32(),
            KvDtype::F32 => x,
            KvDtype::E4m3 => unreachable!("not on a CPU"),
        })
    }

    /// Naive f64 attention of one sequence, from its `qkv` rows.
    fn reference(&self, sequence: usize) -> Vec<f64> {
        let (shape, width) = (&self.shape, self.shape.qkv_width());
        let rows: Vec<&[f32]> = self.sequences[sequence].chunks(width).collect();
        let (dk, dv) = (shape.head_dim_k, shape.head_dim_v);
        let mut out = Vec::new();
        for (position, row) in rows.iter().enumerate() {
            for head in 0..shape.num_heads {
                let kv_head = head / shape.group();
                let k_at = (shape.num_heads + kv_head) * dk;
                let v_at = (shape.num_heads + shape.num_kv_heads) * dk + kv_head * dv;
                let first = shape.kind.first_visible(position);
                let score = |token: usize| {
                    let products = (0..dk).map(|d| f64::from(row[head * dk + d]) * self.cached(rows[token][k_at + d]));
                    let score = products.sum::<f64>() * f64::from(shape.scale);
                    shape.softcap.map_or(score, |cap| f64::from(cap) * (score / f64::from(cap)).tanh())
                };
                let scores: Vec<f64> = (first..=position).map(score).collect();
                let max = scores.iter().copied().fold(f64::MIN, f64::max);
                let weights: Vec<f64> = scores.iter().map(|score| (score - max).exp()).collect();
                let sum: f64 = weights.iter().sum();
                out.extend((0..dv).map(|d| {
                    let values = weights.iter().zip(first..).map(|(w, token)| w * self.cached(rows[token][v_at + d]));
                    values.sum::<f64>() / sum
                }));
            }
        }
        out
    }

    fn assert_matches_reference(&self, cpu: &Cpu) {
        for (sequence, out) in self.whole(cpu).iter().enumerate() {
            assert_close(out, &self.reference(sequence), 3e-6);
        }
    }
}

#[test]
fn every_head_size_and_group_ratio_matches_the_reference() {
    let dims =
        [(64, 64), (80, 80), (96, 96), (128, 128), (256, 256), (512, 512), (2, 2), (6, 14), (66, 34), (192, 128)];
    let heads = [(1, 1), (3, 1), (4, 1), (8, 1), (6, 2)];
    for cpu in cpus() {
        for (dims, heads) in dims.into_iter().flat_map(|dims| heads.map(|heads| (dims, heads))) {
            World::new(shape(heads, dims), KvDtype::F16, &[33, 1, 40], 1).assert_matches_reference(&cpu);
        }
    }
}

#[test]
fn every_length_window_cap_and_dtype_matches_the_reference() {
    for cpu in cpus() {
        for dtype in [KvDtype::F16, KvDtype::Bf16, KvDtype::F32] {
            let full = shape((3, 1), (16, 16));
            let lengths = [1, 31, 32, 33, 255, 256, 257, 600];
            World::new(full, dtype, &lengths, 2).assert_matches_reference(&cpu);
            World::new(AttentionShape { softcap: Some(1.5), ..full }, dtype, &[257, 3], 3)
                .assert_matches_reference(&cpu);
            for window in [1, 31, 32, 33, 300, 700] {
                let kind = CacheKind::SlidingWindow { window };
                let shape = AttentionShape { kind, softcap: Some(3.0), ..full };
                World::new(shape, dtype, &[600, 64], 4).assert_matches_reference(&cpu);
            }
        }
    }
}

#[test]
fn a_rows_bits_do_not_depend_on_chunks_batch_blocks_or_threads() {
    let lengths = [600, 257, 33];
    for cpu in cpus() {
        for dtype in [KvDtype::F16, KvDtype::Bf16, KvDtype::F32] {
            for kind in
                [CacheKind::Full, CacheKind::SlidingWindow { window: 100 }, CacheKind::SlidingWindow { window: 300 }]
            {
                let shape = AttentionShape { kind, softcap: Some(5.0), ..shape((6, 2), (20, 24)) };
                let mut world = World::new(shape, dtype, &lengths, 5);
                let whole = world.whole(&cpu);
                assert!(whole.iter().flatten().all(|x| x.is_finite()));

                for threads in [1, 3] {
                    let other = Cpu { isa: cpu.isa, ..Cpu::new(threads) };
                    assert_eq!(world.whole(&other), whole, "{threads} threads");
                }
                for (sequence, &len) in lengths.iter().enumerate() {
                    let alone = world.run(&cpu, &[vec![(sequence, len)]]);
                    assert_eq!(alone[sequence], whole[sequence], "alone");
                    let one_by_one: Vec<_> = (0..len).map(|_| vec![(sequence, 1)]).collect();
                    assert_eq!(world.run(&cpu, &one_by_one)[sequence], whole[sequence], "one by one");
                }
                for size in [7, 32, 100, 255] {
                    let mut left = lengths;
                    let mut steps = Vec::new();
                    while left.iter().any(|&left| left > 0) {
                        let mut step = Vec::new();
                        for (sequence, left) in left.iter_mut().enumerate().rev() {
                            let rows = (size + 11 * sequence).min(*left);
                            *left -= rows;
                            step.extend((rows > 0).then_some((sequence, rows)));
                        }
                        steps.push(step);
                    }
                    world.deal_blocks(&lengths, 90 + size as u64);
                    assert_eq!(world.run(&cpu, &steps), whole, "chunks of {size}, other blocks");
                }
            }
        }
    }
}

#[test]
fn a_long_decode_is_split_and_keeps_its_bits() {
    let steps = [vec![(0, 2999), (1, 19)], vec![(0, 1), (1, 1)]];
    // One head: a decode step is a register tile of one query, a prompt has tiles of six.
    for heads in [(4, 1), (1, 1)] {
        let mut world = World::new(shape(heads, (32, 40)), KvDtype::F16, &[3000, 20], 6);
        for cpu in cpus() {
            let whole = world.whole(&cpu);
            world.deal_blocks(&[3000, 20], 7);
            for threads in [1, 2, 3] {
                let other = Cpu { isa: cpu.isa, ..Cpu::new(threads) };
                assert_eq!(world.run(&other, &steps), whole);
            }
        }
    }
}

#[test]
fn norms_and_rope_reach_queries_and_cached_keys() {
    let (heads, dk) = ((4, 2), 16);
    let shape = shape(heads, (dk, 8));
    let len = 45;
    let (q_weight, k_weight) = (random(dk, 20), random(dk, 21));
    let norms = QkNorm { q: &q_weight, k: &k_weight, eps: 1e-6, one_plus: true };
    let table = RopeTable {
        inv_freq: vec![1.0, 0.3, 0.1, 0.03, 0.01, 0.003],
        attention_factor: 1.0,
        rot_dim: 12,
        interleaved: false,
    };
    let mut rope = RopeRows::default();
    table.rows(&(0..len as u32).collect::<Vec<_>>(), &mut rope);
    for cpu in cpus() {
        let mut world = World::new(shape, KvDtype::F32, &[len], 8);
        let mut expected = world.sequences[0].clone();
        for (row, values) in expected.chunks_mut(shape.qkv_width()).enumerate() {
            for (head, values) in values[..6 * dk].chunks_mut(dk).enumerate() {
                let weight = if head < 4 { &q_weight } else { &k_weight };
                let mean = values.iter().map(|x| x * x).sum::<f32>() / dk as f32;
                values.iter_mut().zip(weight).for_each(|(x, w)| *x *= (1.0 + w) / (mean + 1e-6).sqrt());
                rope.rotate(row, values);
            }
        }
        let (mut arena, slot) = (world.arena(), LayerSlot { group: 0, index: 0 });
        let span = SeqSpan { first_row: 0, num_rows: len, start: 0, table: &world.tables[0] };
        let mut qkv = world.sequences[0].clone();
        let post = QkvPost { shape: &shape, norms: Some(norms), rope: Some(&rope) };
        qkv_post(&cpu, post, &mut qkv, &[span], (&mut arena, slot));
        assert_close(&qkv, &expected.iter().map(|&x| f64::from(x)).collect::<Vec<_>>(), 1e-6);
        let mut out = vec![f32::NAN; len * shape.out_width()];
        let call = Attention { shape: &shape, spans: &[span], arena: &arena, slot };
        attention(&cpu, call, &qkv, &mut out, &mut AttentionScratch::default());
        world.sequences[0] = expected;
        assert_close(&out, &world.reference(0), 3e-6);
    }
}

#[test]
fn rows_outside_every_span_stay_untouched() {
    let cpu = Cpu::new(2);
    let world = World::new(shape((2, 1), (8, 8)), KvDtype::F16, &[4], 9);
    let (mut arena, slot) = (world.arena(), LayerSlot { group: 0, index: 0 });
    let mut qkv = random(4 * world.shape.qkv_width(), 1);
    let span = SeqSpan { first_row: 1, num_rows: 2, start: 0, table: &world.tables[0] };
    qkv_post(&cpu, QkvPost { shape: &world.shape, norms: None, rope: None }, &mut qkv, &[span], (&mut arena, slot));
    let mut out = vec![7.0; 4 * world.shape.out_width()];
    let call = Attention { shape: &world.shape, spans: &[span], arena: &arena, slot };
    attention(&cpu, call, &qkv, &mut out, &mut AttentionScratch::default());
    let width = world.shape.out_width();
    assert!(out[..width].iter().chain(&out[3 * width..]).all(|&x| x == 7.0));
    assert!(out[width..3 * width].iter().all(|&x| x.is_finite() && x != 7.0));
}

#[test]
fn a_thousand_sequences_keep_their_bits() {
    let lengths = vec![3; 1024];
    let world = World::new(shape((2, 1), (8, 8)), KvDtype::F16, &lengths, 10);
    let cpu = Cpu::new(2);
    let all = |rows| (0..lengths.len()).map(|sequence| (sequence, rows)).collect::<Vec<_>>();
    let stepwise = world.run(&cpu, &[all(2), all(1)]);
    assert_eq!(world.whole(&cpu), stepwise);
    for sequence in [0, 511, 1023] {
        assert_eq!(world.run(&cpu, &[vec![(sequence, 3)]])[sequence], stepwise[sequence]);
    }
}

#[test]
fn a_row_at_the_end_of_a_131072_token_context_matches_the_reference() {
    const CONTEXT: usize = 131_072;
    let world = World::new(shape((2, 1), (8, 8)), KvDtype::F32, &[CONTEXT], 11);
    let (shape, width, slot) = (&world.shape, world.shape.qkv_width(), LayerSlot { group: 0, index: 1 });
    let last = &world.sequences[0][(CONTEXT - 1) * width..];
    let span = SeqSpan { first_row: 0, num_rows: CONTEXT, start: 0, table: &world.tables[0] };
    for threads in [1, 2] {
        let (cpu, mut arena, mut qkv) = (Cpu::new(threads), world.arena(), world.sequences[0].clone());
        qkv_post(&cpu, QkvPost { shape, norms: None, rope: None }, &mut qkv, &[span], (&mut arena, slot));
        let end = SeqSpan { num_rows: 1, start: CONTEXT - 1, ..span };
        let call = Attention { shape, spans: &[end], arena: &arena, slot };
        let mut out = vec![f32::NAN; shape.out_width()];
        attention(&cpu, call, last, &mut out, &mut AttentionScratch::default());
        let want: Vec<f64> = (0..2).flat_map(|head| last_row(&world, &last[head * 8..][..8])).collect();
        assert_close(&out, &want, 3e-6);
    }
}

/// f64 attention of one query over all of sequence 0 of a world of one KV head of width 8.
fn last_row(world: &World, query: &[f32]) -> Vec<f64> {
    let (mut sum, mut values) = (0.0, vec![0.0; 8]);
    for row in world.sequences[0].chunks(world.shape.qkv_width()) {
        let dot: f64 = query.iter().zip(&row[16..24]).map(|(q, k)| f64::from(*q) * f64::from(*k)).sum();
        let weight = (dot * f64::from(world.shape.scale)).exp();
        sum += weight;
        values.iter_mut().zip(&row[24..]).for_each(|(value, v)| *value += weight * f64::from(*v));
    }
    values.iter().map(|value| value / sum).collect()
}
