//! The emulator itself: it reports planted faults, and its operations are those of the PTX ISA.

use half::{bf16, f16};
use sconce_kernels::gpu::launch::{DevicePtr, Launch, Params};
use sconce_kernels::gpu::verify::{Half, Random, assert_close, e4m3, floats};

use super::emu::{Emulator, emulated, emulated_fault};

/// The struct of that name in `emu/selftest.cu`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct SelfTestParams {
    input: DevicePtr,
    out: DevicePtr,
    n: i32,
    correct: i32,
}

// SAFETY: two addresses and two 4-byte numbers, no padding; the fields of the struct in `selftest.cu`.
unsafe impl Params for SelfTestParams {
    const NAME: &'static str = "SelfTestParams";
}

fn launch(kernel: &str, threads: u32, input: DevicePtr, out: DevicePtr, n: usize, correct: i32) -> Launch {
    let params = SelfTestParams { input, out, n: n as i32, correct };
    let mut launch = Launch::new("selftest", kernel, &params);
    (launch.threads, launch.shared_bytes) = (threads, 4096);
    launch
}

/// Runs a kernel with a planted fault, or without it, on 64 floats; what it wrote.
fn run_fault(emu: &mut Emulator, kernel: &str, threads: u32, correct: bool) -> (Vec<f32>, Vec<f32>) {
    let values = Random(1).values(64);
    let (input, out) = (emu.upload(&values), emu.alloc::<f32>(threads as usize));
    emu.launch(&launch(kernel, threads, input.ptr(), out.ptr(), 64, i32::from(correct)));
    (values, out.read())
}

#[test]
fn a_read_past_the_end_is_reported() {
    emulated_fault("heap-buffer-overflow", |emu| {
        run_fault(emu, "fault_read_past", 64, true);
        run_fault(emu, "fault_read_past", 64, false);
    });
}

#[test]
fn a_write_one_byte_past_the_end_is_reported() {
    emulated_fault("heap-buffer-overflow", |emu| {
        let out = emu.alloc::<u8>(63);
        for correct in [1, 0] {
            let launch = launch("fault_write_past", 63, DevicePtr::NULL, out.ptr(), 63, correct);
            emu.launch(&launch);
            assert_eq!(out.read(), [1; 63]);
        }
    });
}

#[test]
fn a_write_past_shared_memory_is_reported() {
    emulated_fault("heap-buffer-overflow", |emu| {
        for correct in [1, 0] {
            let launch = launch("fault_shared_past", 1, DevicePtr::NULL, DevicePtr::NULL, 1024, correct);
            emu.launch(&launch);
        }
    });
}

#[test]
fn a_write_past_a_static_shared_array_is_reported() {
    emulated_fault("use-after-poison", |emu| {
        for correct in [1, 0] {
            emu.launch(&launch("fault_static_past", 1, DevicePtr::NULL, DevicePtr::NULL, 0, correct));
        }
    });
}

#[test]
fn a_missing_barrier_changes_the_result() {
    emulated(|emu| {
        for (kernel, threads) in [("fault_barrier", 64), ("fault_syncwarp", 32)] {
            for seed in 0..4 {
                emu.seed = seed;
                let (values, out) = run_fault(emu, kernel, threads, true);
                let mut reversed = values[..threads as usize].to_vec();
                reversed.reverse();
                assert_eq!(out, reversed);
                let (_, out) = run_fault(emu, kernel, threads, false);
                assert!(out.iter().any(|value| value.is_nan()), "{kernel}, seed {seed}");
            }
        }
    });
}

#[test]
fn a_missing_wait_for_a_copy_changes_the_result() {
    emulated(|emu| {
        let values = Random(2).values(128);
        let (input, out) = (emu.upload(&values), emu.alloc::<f32>(128));
        emu.launch(&launch("fault_copy", 16, input.ptr(), out.ptr(), 128, 1));
        let mut want = values;
        want[64..68].fill(0.0);
        assert_eq!(out.read(), want);
        emu.launch(&launch("fault_copy", 16, input.ptr(), out.ptr(), 128, 0));
        assert_eq!(out.read()[..64], want[..64]);
        assert!(out.read()[64..].iter().all(|value| value.is_nan()));
    });
}

#[test]
fn a_barrier_that_half_of_the_threads_miss_is_a_deadlock() {
    emulated_fault(
        "fault_divergent_barrier, block (0, 0, 0): deadlock: of 64 threads 32 wait in __syncthreads",
        |emu| {
            run_fault(emu, "fault_divergent_barrier", 64, true);
            run_fault(emu, "fault_divergent_barrier", 64, false);
        },
    );
}

#[test]
fn a_shuffle_that_half_of_the_lanes_miss_is_a_deadlock() {
    emulated_fault("waits in __shfl_xor_sync with mask 0xffffffff", |emu| {
        run_fault(emu, "fault_divergent_shuffle", 32, true);
        run_fault(emu, "fault_divergent_shuffle", 32, false);
    });
}

#[test]
fn a_kernel_that_does_not_wait_for_the_previous_one_is_refused() {
    emulated_fault("ended without wait_for_previous", |emu| {
        run_fault(emu, "fault_no_wait", 32, true);
        run_fault(emu, "fault_no_wait", 32, false);
    });
}

fn check_mma<T: Half>(emu: &mut Emulator, k: usize, transposed: bool) {
    let mut random = Random(k as u64);
    let (a, b) = (random.halves::<T>(16 * k), random.halves::<T>(8 * k));
    let stored: Vec<T> = if transposed { (0..8 * k).map(|i| b[i % 8 * k + i / 8]).collect() } else { b.clone() };
    let (input, out) = (emu.upload(&[a.clone(), stored].concat()), emu.alloc::<f32>(128));
    let mode = if transposed { 2 } else { 1 };
    let kernel = format!("probe_mma_{}", T::TYPE.name());
    emu.launch(&launch(&kernel, 32, input.ptr(), out.ptr(), k, mode));
    let (a, b) = (floats(&a), floats(&b));
    let dot = |i: usize| (0..k).map(|c| a[i / 8 * k + c] * b[i % 8 * k + c]).sum::<f32>();
    assert_close(&out.read(), &(0..128).map(dot).collect::<Vec<_>>(), 1e-6, 1e-5).expect("close");
}

#[test]
fn mma_on_fragments_of_ldmatrix_is_a_product() {
    emulated(|emu| {
        for k in [16, 48] {
            for transposed in [false, true] {
                check_mma::<bf16>(emu, k, transposed);
                check_mma::<f16>(emu, k, transposed);
            }
        }
    });
}

#[test]
fn shuffles_and_votes_are_those_of_a_warp() {
    emulated(|emu| {
        for seed in 0..3 {
            emu.seed = seed;
            let out = emu.alloc::<u32>(256);
            emu.launch(&launch("probe_warp", 32, DevicePtr::NULL, out.ptr(), 0, 1));
            for (lane, got) in out.read().chunks(8).enumerate() {
                let (lane, upper) = (lane as u32, lane >= 16);
                let down = if lane % 8 + 3 < 8 { lane + 3 } else { lane };
                let thirds = (0..32).filter(|bit| bit % 3 == 0).fold(0u32, |all, bit| all | 1 << bit);
                let votes = thirds & if upper { 0xffff_0000 } else { 0xffff };
                let want = [lane ^ 5, if lane < 3 { lane } else { lane - 3 }, down, lane / 16 * 16 + 9, votes];
                assert_eq!(got[..5], want, "lane {lane}");
                assert_eq!(got[5..7], [u32::from(upper), u32::from(!upper)], "lane {lane}");
                assert_eq!(got[7], if upper { u32::MAX } else { lane ^ 1 }, "lane {lane}");
            }
        }
    });
}

#[test]
fn conversions_round_to_nearest_even() {
    emulated(|emu| {
        let mut random = Random(3);
        let mut values: Vec<f32> = (0..2000).map(|_| f32::from_bits(random.bits() as u32)).collect();
        // Ties, subnormals and limits of each type.
        values.extend((0..512u32).flat_map(|bits| [e4m3(bits as f32).1, (bits as f32 + 0.5) / 1024.0, bits as f32]));
        values.extend((0..4096).map(|i| i as f32 * 2f32.powi(-25)));
        values.extend((0..4096).map(|i| 1.0 + i as f32 / 4096.0));
        values.extend([0.0, -0.0, 65504.0, 65519.9, 65520.0, 448.0, 464.0, f32::MAX]);
        values.retain(|value| value.is_finite());
        let n = values.len();
        let (input, out) = (emu.upload(&values), emu.alloc::<u32>(6 * n));
        emu.launch(&launch("probe_types", 64, input.ptr(), out.ptr(), n, 1));
        let out = out.read();
        for (i, &value) in values.iter().enumerate() {
            let (b, h, (e, e_value)) = (bf16::from_f32(value), f16::from_f32(value), e4m3(value));
            assert_eq!(out[3 * i..][..3], [u32::from(b.to_bits()), u32::from(h.to_bits()), e], "of {value}");
            let back = [b.to_f32(), h.to_f32(), e_value].map(f32::to_bits);
            assert_eq!(out[3 * (n + i)..][..3], back, "of {value}");
        }
    });
}

#[test]
fn the_last_block_sees_what_all_wrote_in_any_order() {
    emulated(|emu| {
        let mut orders = Vec::new();
        for seed in 0..4 {
            emu.seed = seed;
            let mut out = emu.alloc::<u32>(3 + 20);
            out.write(&[0, 0]);
            let mut launch = launch("probe_last_block", 32, DevicePtr::NULL, out.ptr(), 0, 1);
            launch.grid = [20, 1, 1];
            emu.launch(&launch);
            let out = out.read();
            assert_eq!(out[..3], [20, 210, 210]);
            orders.push(out[3..].to_vec());
        }
        orders.dedup();
        assert_eq!(orders.len(), 4, "orders of blocks");
    });
}

#[test]
fn reductions_may_follow_one_another() {
    emulated(|emu| {
        for seed in 0..4 {
            emu.seed = seed;
            // Whole numbers: every order of summation gives the same bits.
            let values: Vec<f32> = Random(seed).values(3 * 128).into_iter().map(|x| (1000.0 * x).round()).collect();
            let (input, out) = (emu.upload(&values), emu.alloc::<f32>(6 * 128));
            emu.launch(&launch("probe_reductions", 128, input.ptr(), out.ptr(), 0, 1));
            let sums = values.chunks(128).map(|row| row.iter().sum::<f32>());
            let want: Vec<f32> =
                sums.chain(values.chunks(128).map(|row| row.iter().copied().fold(f32::MIN, f32::max))).collect();
            assert!(out.read().chunks(6).all(|got| got == want), "seed {seed}");
        }
    });
}
