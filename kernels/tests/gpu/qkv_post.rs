//! Norms, rope and cache writes against `sconce_kernels::qkv_post`.

use half::{bf16, f16};
use sconce_kernels::backend::NormParams;
use sconce_kernels::gpu::qkv_post::QkvPost;
use sconce_kernels::gpu::rope::RopeRows;
use sconce_kernels::gpu::verify::qkv_post::{Layer, check, rope, shape};
use sconce_kernels::gpu::verify::{Half, PagedCache, cache_dtype, slot_of};
use sconce_kernels::rope::RopeTable;

use super::emu::emulated_bed;
use super::testing::upload;

#[test]
fn every_head_size_and_rope_kind_matches_the_cpu() {
    emulated_bed(|bed| {
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
                check::<bf16, _>(bed, &layer, dim as u64).expect("matches");
                check::<f16, _>(bed, &layer, rot_dim as u64).expect("matches");
            }
        }
    });
}

#[test]
fn norms_match_the_cpu_with_and_without_rope() {
    emulated_bed(|bed| {
        for (dim, one_plus, rotated) in [(64, false, true), (80, true, false), (128, true, true), (512, false, false)] {
            let norm = Some(NormParams { eps: 1e-6, one_plus });
            let rope = rotated.then(|| rope(dim, false));
            let layer = Layer { shape: shape(4, 1, dim), norm, rope, fp8: one_plus };
            check::<bf16, _>(bed, &layer, 20).expect("matches");
            check::<f16, _>(bed, &layer, 21).expect("matches");
        }
        let plain = Layer { shape: shape(1, 1, 64), norm: None, rope: None, fp8: false };
        check::<f16, _>(bed, &plain, 22).expect("matches");
    });
}

#[test]
fn values_beyond_the_cache_saturate() {
    emulated_bed(|bed| {
        let shape = shape(1, 1, 64);
        for (fp8, largest) in [(false, 65504.0), (true, 448.0)] {
            let cache = PagedCache::new(&shape, cache_dtype::<f16>(fp8), &[1], 1);
            let device = cache.upload(bed, &[0]).expect("memory");
            let mut row = vec![f16::from_f32(1000.0); 3 * 64];
            (row[64], row[128], row[129]) = (f16::INFINITY, f16::NEG_INFINITY, f16::NAN);
            let (qkv, positions, slots) = (upload(bed, &row), upload(bed, &[0u32]), upload(bed, &[slot_of(0) as i32]));
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
            bed.launch(&launch.launch()).expect("launches");
            let mut after = cache.clone();
            after.download(bed, &device).expect("memory");
            let (key, value) = (after.read((0, 0), 0, false), after.read((0, 0), 0, true));
            assert_eq!((key[0], value[0], key[1]), (largest, -largest, 1000f32.min(largest)));
            assert!(value[1].is_nan());
        }
    });
}

#[test]
fn angles_hold_at_the_end_of_a_long_context() {
    emulated_bed(|bed| {
        let table = RopeTable { attention_factor: 1.0, ..rope(128, false) };
        let positions = [0, 1, 4095, 105_616, 131_071];
        let (positions_at, inv_freq) = (upload(bed, &positions), upload(bed, &table.inv_freq));
        let out = bed.alloc::<f32>(2 * 64 * positions.len()).expect("memory");
        let (rows, out_at) = (positions.len(), out.ptr());
        let launch =
            RopeRows { table: &table, inv_freq: inv_freq.ptr(), positions: positions_at.ptr(), out: out_at, rows };
        bed.launch(&launch.launch()).expect("launches");
        for (i, pair) in bed.read(&out).expect("memory").chunks(2).enumerate() {
            let angle = f64::from(positions[i / 64] as f32 * table.inv_freq[i % 64]);
            let (sine, cosine) = angle.sin_cos();
            assert!((f64::from(pair[0]) - cosine).abs() < 1e-6 && (f64::from(pair[1]) - sine).abs() < 1e-6, "pair {i}");
        }
    });
}
