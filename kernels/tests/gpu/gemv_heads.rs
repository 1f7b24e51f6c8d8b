//! Products that end with rope and the write of keys and values, and what they don't take.

use half::{bf16, f16};
use sconce_kernels::dtype::WeightType;
use sconce_kernels::gpu::gemv::GemvWeight;
use sconce_kernels::gpu::launch::DevicePtr;
use sconce_kernels::gpu::qkv_post::{DeviceRope, QkvPost};
use sconce_kernels::gpu::verify::heads::{KINDS, Kind, check, layer, packed_takes};
use sconce_kernels::gpu::verify::{Half, PagedCache, cache_dtype};

use super::emu::emulated_bed;

#[test]
fn dense_products_of_every_head_size_and_rope_kind_match() {
    emulated_bed(|bed| {
        for (i, kind) in KINDS.into_iter().enumerate() {
            let (k, norm) = ([40, 264][i % 2], i % 3 == 0);
            check::<bf16, _>(bed, None, &layer(kind, i % 2 == 1), k, norm).expect("matches");
            check::<f16, _>(bed, None, &layer(kind, i % 2 == 0), k, !norm).expect("matches");
        }
    });
}

#[test]
fn packed_products_of_every_head_size_and_rope_kind_match() {
    emulated_bed(|bed| {
        let types = [WeightType::Q4K, WeightType::Q8_0, WeightType::Q6K];
        for (i, kind) in KINDS.into_iter().filter(|&kind| packed_takes(kind)).enumerate() {
            let (ty, norm) = (Some(types[i % 3]), i % 2 == 0);
            check::<bf16, _>(bed, ty, &layer(kind, i % 2 == 1), 256, norm).expect("matches");
            check::<f16, _>(bed, ty, &layer(kind, i % 2 == 0), 256, !norm).expect("matches");
        }
    });
}

#[test]
fn heads_that_a_block_would_cut_are_refused() {
    let cases: [(Kind, bool, bool); 5] = [
        (((1, 1, 64), Some(64), false), true, true),
        (((1, 1, 64), Some(16), false), true, false),
        (((1, 1, 80), Some(20), false), false, false),
        (((1, 1, 80), Some(20), true), true, true),
        (((1, 1, 72), Some(72), true), false, false),
    ];
    emulated_bed(|bed| {
        for (kind, dense, packed) in cases {
            let layer = layer(kind, false);
            let cache = PagedCache::new(&layer.shape, cache_dtype::<bf16>(false), &[1], 1);
            let device = cache.upload(bed, &[0]).expect("memory");
            let nowhere = DevicePtr::NULL;
            let rope = layer.rope.as_ref().map(|table| DeviceRope {
                rows: nowhere,
                pairs: table.inv_freq.len(),
                interleaved: table.interleaved,
            });
            let (shape, cache, half) = (&layer.shape, device.layer(), bf16::TYPE);
            let (qkv, positions, row_slot) = (nowhere, nowhere, nowhere);
            let post = QkvPost { shape, cache, qkv, positions, row_slot, norms: None, rope, rows: 0, half };
            let takes = |format: GemvWeight| format.takes(&post.heads());
            assert_eq!(
                (takes(GemvWeight::Dense), takes(GemvWeight::Packed(WeightType::Q4K))),
                (dense, packed),
                "{kind:?}"
            );
        }
    });
}
