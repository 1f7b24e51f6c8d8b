//! Products of many rows: every output, edges of the tiles, and each row's bits those of the GEMV.

use half::{bf16, f16};
use sconce_kernels::dtype::WeightType;
use sconce_kernels::gpu::gemm_tile::{self, Tile};
use sconce_kernels::gpu::gemv::{Gemv, GemvOutput, GemvWeight};
use sconce_kernels::gpu::launch::{DevicePtr, HalfType};
use sconce_kernels::gpu::verify::Half;
use sconce_kernels::gpu::verify::packed::TYPES;
use sconce_kernels::gpu::verify::product::Case;

use super::emu::{EmulatedBed as Bed, emulated_bed};

fn check<T: Half>(
    bed: &mut Bed,
    ty: Option<WeightType>,
    shape: (usize, usize, usize),
    bias: bool,
    (output, tile): (GemvOutput, Tile),
) {
    Case::<T>::of(ty, shape, bias, false, output)
        .and_then(|case| case.check_tiles(bed, tile))
        .expect("the GEMV's bits");
}

/// (m, n, k): one of everything; edges on, before and behind those of tiles; k that ends in the first slice, in a warp's
/// second turn, and behind turns of every warp; more groups of tiles than one.
const SHAPES: [(usize, usize, usize); 7] =
    [(1, 1, 8), (7, 17, 40), (64, 64, 128), (65, 129, 1096), (129, 24, 2056), (66, 72, 976), (1030, 130, 72)];

fn check_dense<T: Half>(bed: &mut Bed) {
    for (i, shape) in SHAPES.into_iter().enumerate() {
        for (j, output) in [GemvOutput::Half, GemvOutput::F32, GemvOutput::Added].into_iter().enumerate() {
            let tile = if (i + j) % 2 == 0 { Tile::Large } else { Tile::Small };
            check::<T>(bed, None, shape, j % 2 == 0, (output, tile));
        }
    }
}

#[test]
fn rows_of_bf16_tiles_are_the_gemvs() {
    emulated_bed(|bed| {
        check_dense::<bf16>(bed);
    });
}

#[test]
fn rows_of_f16_tiles_are_the_gemvs() {
    emulated_bed(|bed| {
        check_dense::<f16>(bed);
    });
}

fn check_packed<T: Half>(bed: &mut Bed) {
    for ty in TYPES {
        // Less than a slice, or one; a slice and a half, or two; every warp's turn and a second one.
        let [short, middle, long] = if ty.block_len() == 32 { [96, 416, 2144] } else { [256, 512, 2304] };
        check::<T>(bed, Some(ty), (7, 17, short), true, (GemvOutput::F32, Tile::Large));
        check::<T>(bed, Some(ty), (33, 64, middle), false, (GemvOutput::Half, Tile::Small));
        check::<T>(bed, Some(ty), (65, 80, middle), true, (GemvOutput::Added, Tile::Large));
        check::<T>(bed, Some(ty), (40, 24, long), false, (GemvOutput::F32, Tile::Small));
        check::<T>(bed, Some(ty), (64, 16, long), true, (GemvOutput::Half, Tile::Large));
    }
}

#[test]
fn rows_of_packed_tiles_and_bf16_are_the_gemvs() {
    emulated_bed(|bed| {
        check_packed::<bf16>(bed);
    });
}

#[test]
fn rows_of_packed_tiles_and_f16_are_the_gemvs() {
    emulated_bed(|bed| {
        check_packed::<f16>(bed);
    });
}

#[test]
fn no_rows_launch_nothing() {
    emulated_bed(|bed| {
        check::<bf16>(bed, None, (0, 16, 64), false, (GemvOutput::F32, Tile::Large));
        check::<bf16>(bed, Some(WeightType::Q4_0), (0, 16, 64), false, (GemvOutput::F32, Tile::Small));
    });
}

#[test]
fn large_tiles_are_for_products_that_fill_the_card_with_them() {
    let product = |m, n| Gemv {
        x: DevicePtr::NULL,
        weight: DevicePtr::NULL,
        format: GemvWeight::Dense,
        bias: None,
        norm: None,
        y: DevicePtr::NULL,
        y_stride: n,
        m,
        n,
        k: 4096,
        output: GemvOutput::Half,
        half: HalfType::Bf16,
    };
    let of = |m, n| Tile::of(&product(m, n));
    assert_eq!([of(2048, 4096), of(128, 28672), of(1000, 4096)], [Tile::Large; 3]);
    // Too few blocks; a second tile of one row.
    assert_eq!([of(128, 4096), of(129, 28672)], [Tile::Small; 2]);
    let launch = gemm_tile::launch(&product(129, 28672), Tile::Small);
    assert_eq!((launch.grid, launch.threads, launch.shared_bytes), ([3 * 448, 1, 1], 128, 48 << 10));
}
