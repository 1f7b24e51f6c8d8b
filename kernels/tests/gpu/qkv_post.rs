//! Norms, rope and cache writes against `sconce_kernels::qkv_post`: queries in place, keys and values in the cache, and
//! nothing else changed.

use half::{bf16, f16};
use sconce_kernels::arena::KvArena;
use sconce_kernels::attention::AttentionShape;
use sconce_kernels::backend::NormParams;
use sconce_kernels::device::Cpu;
use sconce_kernels::gpu::qkv_post::{DeviceQkNorm, DeviceRope, QkvPost};
use sconce_kernels::gpu::rope::RopeRows;
use sconce_kernels::kv::{ArenaGeometry, CacheGroup, CacheKind, CacheSpec, KvDtype, LayerSlot, SeqSpan};
use sconce_kernels::qkv_post::{self as cpu_post, QkNorm};
use sconce_kernels::rope::{RopeRows as CpuRows, RopeTable};

use super::cache::{PagedCache, cache_dtype, cached, slot_of};
use super::emu::{Emulator, emulated};
use super::testing::{Half, Random, assert_close, floats};

fn shape(num_heads: usize, num_kv_heads: usize, dim: usize) -> AttentionShape {
    let (scale, kind) = (1.0, CacheKind::Full);
    AttentionShape { num_heads, num_kv_heads, head_dim_k: dim, head_dim_v: dim, scale, softcap: None, kind }
}

fn rope(rot_dim: usize, interleaved: bool) -> RopeTable {
    let pairs = rot_dim / 2;
    let inv_freq = (0..pairs).map(|i| 10_000f32.powf(-(i as f32) / pairs as f32)).collect();
    RopeTable { inv_freq, attention_factor: 1.25, rot_dim, interleaved }
}

/// What a layer does.
struct Layer {
    shape: AttentionShape,
    norm: Option<NormParams>,
    rope: Option<RopeTable>,
    fp8: bool,
}

/// Sequences of a step: (first position, rows); a padding row follows each.
const PARTS: [(usize, usize); 3] = [(0, 2), (31, 3), (1000, 1)];

/// The CPU's rows after norms and rope, in f32: q, k and v.
fn reference(layer: &Layer, norm: Option<QkNorm<'_>>, rows: &[f32], positions: &[u32]) -> Vec<f32> {
    let cpu = Cpu::new(1);
    let shape = &layer.shape;
    let (num_kv_heads, head_dim) = (shape.num_kv_heads, shape.head_dim_k);
    let (kind, dtype) = (shape.kind, KvDtype::F32);
    let spec = CacheSpec { kind, num_kv_heads, head_dim_k: head_dim, head_dim_v: head_dim, dtype };
    let geometry = ArenaGeometry::new(&[CacheGroup { spec, layers: vec![0] }]);
    let mut arena = KvArena::new(geometry, 1).expect("an arena");
    let mut qkv = rows.to_vec();
    let mut angles = CpuRows::default();
    if let Some(table) = &layer.rope {
        table.rows(positions, &mut angles);
    }
    let rope = layer.rope.as_ref().map(|_| &angles);
    let post = cpu_post::QkvPost { shape, norms: norm, rope };
    let span = SeqSpan { first_row: 0, num_rows: positions.len(), start: 0, table: &[0] };
    cpu_post::qkv_post(&cpu, post, &mut qkv, &[span], (&mut arena, LayerSlot { group: 0, index: 0 }));
    qkv
}

fn check<T: Half>(emu: &mut Emulator, layer: &Layer, seed: u64) {
    let (shape, dim) = (&layer.shape, layer.shape.head_dim_k);
    let (width, dtype) = (shape.qkv_width(), cache_dtype::<T>(layer.fp8));
    let mut random = Random(seed);
    let (mut positions, mut slots, mut places) = (Vec::new(), Vec::new(), Vec::new());
    for (sequence, (first, rows)) in PARTS.into_iter().enumerate() {
        for position in first..first + rows {
            positions.push(position as u32);
            slots.push(slot_of(sequence) as i32);
            places.push(Some((sequence, position)));
        }
        positions.push(7);
        slots.push(-1);
        places.push(None);
    }
    let rows = positions.len();
    let qkv: Vec<T> = random.values(rows * width).into_iter().map(|x| T::of(3.0 * x)).collect();
    let (q_weight, k_weight) = (random.values(dim), random.values(dim));
    let norm = |params: NormParams| QkNorm { q: &q_weight, k: &k_weight, eps: params.eps, one_plus: params.one_plus };
    let want = reference(layer, layer.norm.map(norm), &floats(&qkv), &positions);

    let lengths = PARTS.map(|(first, rows)| first + rows);
    let mut cache = PagedCache::new(shape, dtype, &lengths, seed);
    let untouched = cache.clone();
    let device = cache.upload(emu, &[0; 3]);
    let (qkv_at, positions_at, slots_at) = (emu.upload(&qkv), emu.upload(&positions), emu.upload(&slots));
    let (q_at, k_at) = (emu.upload(&q_weight), emu.upload(&k_weight));
    let norms = layer.norm.map(|params| DeviceQkNorm { q: q_at.ptr(), k: k_at.ptr(), params });
    let pairs = layer.rope.as_ref().map_or(0, |table| table.inv_freq.len());
    let angles = emu.alloc::<f32>(2 * rows * pairs);
    let rope = layer.rope.as_ref().map(|table| {
        let inv_freq = emu.upload(&table.inv_freq);
        let (positions, out) = (positions_at.ptr(), angles.ptr());
        emu.launch(&RopeRows { table, inv_freq: inv_freq.ptr(), positions, out, rows }.launch());
        DeviceRope { rows: angles.ptr(), pairs, interleaved: table.interleaved }
    });
    let launch = QkvPost {
        shape,
        cache: device.layer(),
        qkv: qkv_at.ptr(),
        positions: positions_at.ptr(),
        row_slot: slots_at.ptr(),
        norms,
        rope,
        rows,
        half: T::TYPE,
    };
    emu.launch(&launch.launch());

    let mut after = cache.clone();
    after.download(&device);
    let out = qkv_at.read();
    let q_width = shape.num_heads * dim;
    for (row, place) in places.iter().enumerate() {
        let (got, was) = (&out[row * width..][..width], &qkv[row * width..][..width]);
        assert_eq!(got[q_width..], was[q_width..], "keys and values of qkv stay");
        let Some(place) = *place else {
            assert_eq!(got, was, "a padding row");
            continue;
        };
        let want = &want[row * width..][..width];
        assert_close(&floats(&got[..q_width]), &want[..q_width], T::ROUNDING, 1e-5);
        for (head, want) in want[q_width..].chunks(dim).enumerate() {
            let (kv_head, is_value) = (head % shape.num_kv_heads, head >= shape.num_kv_heads);
            let stored = after.read(place, kv_head, is_value);
            // One rounding of nearly the same f32; values are the same to the bit.
            let rounding = if dtype == KvDtype::E4m3 { 1.0 / 16.0 } else { T::ROUNDING };
            assert_close(&stored, want, if is_value { 0.0 } else { rounding } + rounding, 1.0 / 512.0);
            let exact: Vec<f32> = want.iter().map(|&x| cached(dtype, x)).collect();
            if is_value {
                assert_eq!(stored, exact, "values");
            }
            cache.write(place, kv_head, is_value, &stored);
        }
    }
    assert_eq!(after.count_changed(&cache), 0, "bytes written outside the rows");
    assert!(after.count_changed(&untouched) > 0);
}

#[test]
fn every_head_size_and_rope_kind_matches_the_cpu() {
    emulated(|emu| {
        for (dim, rot_dim, interleaved) in [
            (64, 64, false),
            (64, 16, true),
            (80, 20, false),
            (96, 96, true),
            (128, 128, false),
            (128, 64, true),
            (256, 256, false),
            (512, 170, false),
        ] {
            for fp8 in [false, true] {
                let shape = shape(3, 2, dim);
                let layer = Layer { shape, norm: None, rope: Some(rope(rot_dim, interleaved)), fp8 };
                check::<bf16>(emu, &layer, dim as u64);
                check::<f16>(emu, &layer, rot_dim as u64);
            }
        }
    });
}

#[test]
fn norms_match_the_cpu_with_and_without_rope() {
    emulated(|emu| {
        for (dim, one_plus, rotated) in [(64, false, true), (80, true, false), (128, true, true), (512, false, false)] {
            let norm = Some(NormParams { eps: 1e-6, one_plus });
            let rope = rotated.then(|| rope(dim, false));
            let layer = Layer { shape: shape(4, 1, dim), norm, rope, fp8: one_plus };
            check::<bf16>(emu, &layer, 20);
            check::<f16>(emu, &layer, 21);
        }
        let plain = Layer { shape: shape(1, 1, 64), norm: None, rope: None, fp8: false };
        check::<f16>(emu, &plain, 22);
    });
}

#[test]
fn values_beyond_the_cache_saturate() {
    emulated(|emu| {
        let shape = shape(1, 1, 64);
        for (fp8, largest) in [(false, 65504.0), (true, 448.0)] {
            let cache = PagedCache::new(&shape, cache_dtype::<f16>(fp8), &[1], 1);
            let device = cache.upload(emu, &[0]);
            let mut row = vec![f16::from_f32(1000.0); 3 * 64];
            (row[64], row[128], row[129]) = (f16::INFINITY, f16::NEG_INFINITY, f16::NAN);
            let (qkv, positions, slots) = (emu.upload(&row), emu.upload(&[0u32]), emu.upload(&[slot_of(0) as i32]));
            let launch = QkvPost {
                shape: &shape,
                cache: device.layer(),
                qkv: qkv.ptr(),
                positions: positions.ptr(),
                row_slot: slots.ptr(),
                norms: None,
                rope: None,
                rows: 1,
                half: f16::TYPE,
            };
            emu.launch(&launch.launch());
            let mut after = cache.clone();
            after.download(&device);
            let (key, value) = (after.read((0, 0), 0, false), after.read((0, 0), 0, true));
            assert_eq!((key[0], value[0], key[1]), (largest, -largest, 1000f32.min(largest)));
            assert!(value[1].is_nan());
        }
    });
}

#[test]
fn angles_hold_at_the_end_of_a_long_context() {
    emulated(|emu| {
        let table = RopeTable { attention_factor: 1.0, ..rope(128, false) };
        let positions = [0, 1, 4095, 105_616, 131_071];
        let (positions_at, inv_freq) = (emu.upload(&positions), emu.upload(&table.inv_freq));
        let out = emu.alloc::<f32>(2 * 64 * positions.len());
        let (rows, out_at) = (positions.len(), out.ptr());
        let launch =
            RopeRows { table: &table, inv_freq: inv_freq.ptr(), positions: positions_at.ptr(), out: out_at, rows };
        emu.launch(&launch.launch());
        for (i, pair) in out.read().chunks(2).enumerate() {
            let angle = f64::from(positions[i / 64] as f32 * table.inv_freq[i % 64]);
            let (sine, cosine) = angle.sin_cos();
            assert!((f64::from(pair[0]) - cosine).abs() < 1e-6 && (f64::from(pair[1]) - sine).abs() < 1e-6, "pair {i}");
        }
    });
}
