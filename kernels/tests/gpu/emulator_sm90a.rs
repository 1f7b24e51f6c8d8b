//! The emulation of Hopper's instructions: a product by tensor copies and wgmma is the product, and planted faults show.

use std::panic::{AssertUnwindSafe, catch_unwind};

use half::{bf16, f16};
use sconce_kernels::gpu::device::GpuDevice;
use sconce_kernels::gpu::launch::{DevicePtr, HalfType, Launch, Params};
use sconce_kernels::gpu::tensor_map::{TensorMap, TensorRows};
use sconce_kernels::gpu::verify::{Half, Random, assert_close, floats};

use super::emu::{EmulatedBed as Bed, emulated_bed};

/// The struct of that name in `emu/selftest_sm90a.cu`.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
pub(crate) struct HopperTestParams {
    map: TensorMap,
    a: DevicePtr,
    out: DevicePtr,
    row: i32,
    transposed: i32,
    fault: i32,
    padding: [i32; 9],
}

// SAFETY: 128 bytes, two addresses, twelve 4-byte numbers: 192 bytes, no padding beside the named one.
unsafe impl Params for HopperTestParams {
    const NAME: &'static str = "HopperTestParams";
}

const DIM: usize = 64;

/// Faults by their numbers in `selftest_sm90a.cu`, and what tells of them.
const FAULTS: [(i32, &str); 6] = [
    (2, "wgmma without a wgmma_fence"),
    (3, "waits in mbarrier_wait"),
    (5, "shared memory changed while a product read it"),
    (6, "an accumulator was written while its product was under way"),
    (7, "an A fragment changed while its product was under way"),
    (8, "products are under way at the end"),
];

/// Faults by which something is read too early: a copy, a sum.
const EARLY: [i32; 2] = [1, 4];

/// Multiplies random matrices, B being the rows from `row` on of `num_rows`; what came out, and what should.
fn run<T: Half>(bed: &mut Bed, (row, num_rows): (i32, usize), transposed: bool, fault: i32) -> (Vec<f32>, Vec<f32>) {
    let mut random = Random(7 + num_rows as u64);
    let (a, b) = (random.halves::<T>(DIM * DIM), random.halves::<T>(num_rows * DIM));
    let (a_at, b_at) = (bed.upload(&a).expect("room"), bed.upload(&b).expect("room"));
    let out = bed.alloc::<f32>(DIM * DIM).expect("room");
    let rows = TensorRows { at: b_at.ptr(), half: T::TYPE, width: DIM, rows: num_rows };
    let map = bed.device().tensor_map(&rows).expect("a map");
    let transposed_at = i32::from(transposed);
    let params =
        HopperTestParams { map, a: a_at.ptr(), out: out.ptr(), row, transposed: transposed_at, fault, padding: [0; 9] };
    let name = if T::TYPE == HalfType::Bf16 { "bf16" } else { "f16" };
    let mut launch = Launch::new("selftest_sm90a", format!("hopper_product_{name}"), &params);
    (launch.threads, launch.shared_bytes) = (128, 2048 + 8192);
    bed.launch(&launch).expect("runs");
    let (a, b) = (floats(&a), floats(&b));
    let at = |i: usize, j: usize| {
        let i = row + i as i32;
        if (0..num_rows as i32).contains(&i) { b[i as usize * DIM + j] } else { 0.0 }
    };
    let element = |m: usize, n: usize, k: usize| a[m * DIM + k] * if transposed { at(k, n) } else { at(n, k) };
    let want = (0..DIM * DIM).map(|i| (0..DIM).map(|k| element(i / DIM, i % DIM, k)).sum()).collect();
    (bed.read(&out).expect("reads"), want)
}

#[test]
fn a_product_by_tensor_copies_and_wgmma_is_the_product() {
    emulated_bed(|bed| {
        for place in [(0, 64), (5, 200), (-3, 64), (30, 64), (1000, 64)] {
            for transposed in [false, true] {
                let (got, want) = run::<bf16>(bed, place, transposed, 0);
                assert_close(&got, &want, 1e-5, 1e-4).expect("the product");
                let (got, want) = run::<f16>(bed, place, transposed, 0);
                assert_close(&got, &want, 1e-5, 1e-4).expect("the product");
            }
        }
    });
}

#[test]
fn faults_of_asynchronous_products_are_reported() {
    emulated_bed(|bed| {
        for (fault, expected) in FAULTS {
            let panic = catch_unwind(AssertUnwindSafe(|| run::<bf16>(bed, (0, 64), false, fault)));
            let text = panic.expect_err("a fault").downcast::<String>().expect("a text");
            assert!(text.contains(expected), "fault {fault}: {text}");
        }
        for fault in EARLY {
            let (got, _) = run::<bf16>(bed, (0, 64), false, fault);
            assert!(got[..128].iter().all(|value| value.is_nan()), "fault {fault} does not show");
        }
    });
}
