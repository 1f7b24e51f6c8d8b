//! GEMV: every output, norms in front, edges of the tiles, independence of the number of rows.

use half::{bf16, f16};
use sconce_kernels::activation::GateActivation;
use sconce_kernels::dtype::WeightType;
use sconce_kernels::gpu::gemv::GemvOutput;
use sconce_kernels::gpu::verify::Half;
use sconce_kernels::gpu::verify::packed::TYPES;
use sconce_kernels::gpu::verify::product::Case;

use super::emu::{EmulatedBed as Bed, emulated_bed};

const GATED: GemvOutput = GemvOutput::Gated(GateActivation::Silu);

/// (m, n, k): one element of everything; a row beyond a tile; slices that end within, on and behind a warp's turn; several tiles of rows.
const SHAPES: [(usize, usize, usize); 7] =
    [(1, 1, 8), (3, 17, 40), (8, 16, 128), (2, 33, 1032), (7, 8, 1024), (5, 40, 2096), (19, 24, 264)];

fn check<T: Half>(
    bed: &mut Bed,
    ty: Option<WeightType>,
    shape: (usize, usize, usize),
    bias: bool,
    norm: bool,
    output: GemvOutput,
) {
    Case::<T>::of(ty, shape, bias, norm, output).and_then(|case| case.check(bed)).expect("matches");
}

fn check_type<T: Half>(bed: &mut Bed) {
    for (i, shape) in SHAPES.into_iter().enumerate() {
        for output in [GemvOutput::Half, GemvOutput::F32, GemvOutput::Added, GATED] {
            check::<T>(bed, None, shape, i % 2 == 0, false, output);
        }
        check::<T>(bed, None, shape, i % 2 == 1, true, if i % 2 == 0 { GemvOutput::F32 } else { GATED });
    }
}

#[test]
fn products_of_bf16_match() {
    emulated_bed(|bed| {
        check_type::<bf16>(bed);
    });
}

#[test]
fn products_of_f16_match() {
    emulated_bed(|bed| {
        check_type::<f16>(bed);
    });
}

#[test]
fn every_activation_is_applied_to_the_gate() {
    emulated_bed(|bed| {
        for activation in [GateActivation::GeluTanh, GateActivation::Gelu] {
            check::<bf16>(bed, None, (2, 24, 64), true, false, GemvOutput::Gated(activation));
        }
    });
}

#[test]
fn a_rows_bits_do_not_depend_on_the_number_of_rows() {
    emulated_bed(|bed| {
        for (norm, output) in [(false, GemvOutput::F32), (true, GATED)] {
            let case = Case::<bf16>::of(None, (8, 20, 1544), true, norm, output).expect("operands");
            let all = case.run(bed, 0, 8).expect("runs");
            for (first, m) in [(0, 1), (7, 1), (2, 3), (1, 7)] {
                assert_eq!(
                    case.run(bed, first, m).expect("runs"),
                    all[first * 20..(first + m) * 20],
                    "rows {first}..{}",
                    first + m
                );
            }
        }
    });
}

#[test]
fn no_rows_launch_nothing() {
    emulated_bed(|bed| check::<bf16>(bed, None, (0, 16, 64), false, true, GemvOutput::F32));
}

/// Widths of whole blocks: less than a slice, a slice, more slices than warps and a part of one.
fn packed_widths(ty: WeightType) -> [usize; 3] {
    if ty.block_len() == 32 { [96, 256, 2144] } else { [256, 512, 2304] }
}

fn check_packed<T: Half>(bed: &mut Bed) {
    for ty in TYPES {
        let [short, slice, long] = packed_widths(ty);
        check::<T>(bed, Some(ty), (3, 17, short), true, false, GemvOutput::F32);
        check::<T>(bed, Some(ty), (9, 32, slice), true, true, GATED);
        check::<T>(bed, Some(ty), (8, 16, long), false, false, GemvOutput::Added);
    }
}

#[test]
fn products_of_packed_weights_and_bf16_match() {
    emulated_bed(|bed| {
        check_packed::<bf16>(bed);
    });
}

#[test]
fn products_of_packed_weights_and_f16_match() {
    emulated_bed(|bed| {
        check_packed::<f16>(bed);
    });
}

#[test]
fn a_rows_bits_do_not_depend_on_the_number_of_rows_with_packed_weights() {
    emulated_bed(|bed| {
        for ty in [WeightType::Q4K, WeightType::Q2K, WeightType::Q8_0] {
            let case = Case::<bf16>::of(Some(ty), (8, 16, 2304), false, true, GATED).expect("operands");
            let all = case.run(bed, 0, 8).expect("runs");
            for (first, m) in [(0, 1), (5, 2), (1, 7)] {
                assert_eq!(
                    case.run(bed, first, m).expect("runs"),
                    all[first * 16..(first + m) * 16],
                    "{ty:?}, {m} rows"
                );
            }
        }
    });
}
