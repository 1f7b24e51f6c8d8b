//! RMS norm: every form, type and width class against `sconce_kernels::norm`.

use half::{bf16, f16};
use sconce_kernels::backend::NormParams;
use sconce_kernels::gpu::launch::DevicePtr;
use sconce_kernels::gpu::norm::{NormTarget, RmsNorm};
use sconce_kernels::gpu::verify::norm::check;
use sconce_kernels::gpu::verify::{Half, Random};

use super::emu::{emulated, emulated_bed};

/// One pack; a partial warp of packs; several packs a thread; more than a thread keeps in registers.
const WIDTHS: [usize; 5] = [8, 96, 576, 4096, 8 * (4 * 256 + 33)];

#[test]
fn every_form_matches_the_cpu() {
    emulated_bed(|bed| {
        for width in WIDTHS {
            for rows in [0, 1, 3] {
                check::<bf16, _>(bed, rows, width, rows == 3).expect("matches");
                check::<f16, _>(bed, rows, width, rows == 1).expect("matches");
            }
        }
    });
}

#[test]
fn a_row_may_be_normalised_in_place() {
    emulated(|emu| {
        let (rows, width) = (2, 9000);
        let mut random = Random(5);
        let x = random.halves::<bf16>(rows * width);
        let (from, to) = (emu.upload(&x), emu.alloc::<bf16>(rows * width));
        let weight = emu.upload(&random.values(width));
        for out in [to.ptr(), from.ptr()] {
            let params = NormParams { eps: 1e-5, one_plus: false };
            let (x, weight, target, half) = (from.ptr(), weight.ptr(), NormTarget::Rows, bf16::TYPE);
            emu.launch(&RmsNorm { x, weight, out, target, rows, width, params, half }.launch());
        }
        assert_eq!(from.read(), to.read());
    });
}

#[test]
#[should_panic(expected = "multiple of 8")]
fn a_width_that_packs_do_not_tile_is_refused() {
    let (x, weight, out) = (DevicePtr::NULL, DevicePtr::NULL, DevicePtr::NULL);
    let params = NormParams { eps: 1e-5, one_plus: false };
    let _ = RmsNorm { x, weight, out, target: NormTarget::Rows, rows: 1, width: 12, params, half: bf16::TYPE }.launch();
}
