//! Matrix products and the plans that are kept between runs.

use half::bf16;
use sconce_kernels::gpu::cuda::CudaGpu;
use sconce_kernels::gpu::device::GpuDevice;
use sconce_kernels::gpu::gemm::Gemm;
use sconce_kernels::gpu::launch::{DevicePtr, HalfType};

use super::stand_in::StandIn;

const N: usize = 5;
const K: usize = 16;

/// Small whole numbers: every sum is exact in bf16.
fn value(seed: usize, index: usize) -> f32 {
    ((index * 7 + seed * 3) % 3) as f32 - 1.0
}

fn put(gpu: &mut CudaGpu, values: &[f32]) -> DevicePtr {
    let halves: Vec<u8> = values.iter().flat_map(|&value| bf16::from_f32(value).to_le_bytes()).collect();
    let at = gpu.alloc(halves.len(), "a test").expect("memory");
    gpu.write(at, &halves).expect("written");
    at
}

/// A product of `m` rows with operands made for it, and what it should give onto an output of twos.
fn product(gpu: &mut CudaGpu, m: usize, out_f32: bool, with_bias: bool, accumulate: bool) -> (Gemm, Vec<f32>) {
    let [a, w, bias] = [(0, m * K), (1, N * K), (2, N)].map(|(seed, len)| (0..len).map(|i| value(seed, i)).collect());
    let (a, w, bias): (Vec<f32>, Vec<f32>, Vec<f32>) = (a, w, bias);
    let mut expected = Vec::new();
    for row in 0..m {
        for column in 0..N {
            let sum: f32 = (0..K).map(|k| a[row * K + k] * w[column * K + k]).sum();
            expected.push(sum + if with_bias { bias[column] } else { 0.0 } + if accumulate { 2.0 } else { 0.0 });
        }
    }
    let gemm = Gemm {
        m,
        n: N,
        k: K,
        a: put(gpu, &a),
        w: put(gpu, &w),
        bias: if with_bias { put(gpu, &bias) } else { DevicePtr::NULL },
        out: gpu.alloc(m * N * 4, "a test").expect("memory"),
        half: HalfType::Bf16,
        out_f32,
        accumulate,
    };
    (gemm, expected)
}

fn set_out(gpu: &mut CudaGpu, gemm: &Gemm) {
    let two =
        |_| if gemm.out_f32 { 2.0_f32.to_le_bytes().to_vec() } else { bf16::from_f32(2.0).to_le_bytes().to_vec() };
    let bytes: Vec<u8> = (0..gemm.m * N).flat_map(two).collect();
    gpu.write(gemm.out, &bytes).expect("written");
}

fn out(gpu: &mut CudaGpu, gemm: &Gemm) -> Vec<f32> {
    let mut bytes = vec![0; gemm.m * N * if gemm.out_f32 { 4 } else { 2 }];
    gpu.read(gemm.out, &mut bytes).expect("read");
    if gemm.out_f32 {
        bytes.chunks(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
    } else {
        bytes.chunks(2).map(|b| bf16::from_le_bytes([b[0], b[1]]).to_f32()).collect()
    }
}

#[test]
fn products_are_row_major() {
    let Some(_stand_in) = StandIn::take() else { return };
    let mut gpu = CudaGpu::open(0).expect("a card");
    // 3 rows: the bucket's algorithm refuses them, and one of their own is asked for.
    for (m, out_f32, bias, accumulate) in [
        (1, false, false, false),
        (4, true, false, true),
        (3, false, true, false),
        (3, false, false, true),
        (70, true, true, true),
    ] {
        let (gemm, expected) = product(&mut gpu, m, out_f32, bias, accumulate);
        for _ in 0..2 {
            set_out(&mut gpu, &gemm);
            gpu.gemm(&gemm).expect("a product");
            assert_eq!(out(&mut gpu, &gemm), expected, "m {m}, f32 {out_f32}, bias {bias}, accumulate {accumulate}");
        }
    }
    let (gemm, _) = product(&mut gpu, 1, false, false, false);
    gpu.gemm(&Gemm { m: 0, ..gemm }).expect("nothing to do");
    let error = gpu.gemm(&Gemm { half: HalfType::F16, ..gemm }).expect_err("the stand-in has bf16 alone").to_string();
    assert_eq!(error, "cublasLtMatmulAlgoGetHeuristic: no algorithm for m 1, n 5, k 16, f16");
}

#[test]
fn products_are_captured() {
    let Some(_stand_in) = StandIn::take() else { return };
    let mut gpu = CudaGpu::open(0).expect("a card");
    let (gemm, expected) = product(&mut gpu, 2, false, true, true);
    set_out(&mut gpu, &gemm);
    gpu.begin_capture().and_then(|()| gpu.gemm(&gemm)).expect("captured");
    let graph = gpu.end_capture().expect("a graph");
    assert!(out(&mut gpu, &gemm).iter().all(|&value| value == 2.0), "not executed");
    gpu.replay(graph).expect("replayed");
    assert_eq!(out(&mut gpu, &gemm), expected);
}

#[test]
fn the_fastest_plan_is_kept_between_runs() {
    let Some(_stand_in) = StandIn::take() else { return };
    let folder = std::env::temp_dir().join(format!("sconce-stand-in-{}", std::process::id()));
    let path = folder.join("plans");
    let mut gpu = CudaGpu::open(0).expect("a card");
    assert_eq!(gpu.load_plans(&path), Ok(0));
    let (gemm, expected) = product(&mut gpu, 8, false, false, false);
    gpu.gemm(&gemm).and_then(|()| gpu.tune(&gemm)).and_then(|()| gpu.gemm(&gemm)).expect("measured");
    assert_eq!(out(&mut gpu, &gemm), expected);
    gpu.save_plans(&path).expect("saved");
    drop(gpu);

    let text = std::fs::read_to_string(&path).expect("a file");
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 2, "{text}");
    assert_eq!(lines[0], "sconce gemm plans\t1\tStand-in 0\t9.0\t130001");
    // The second candidate: a quarter of a millisecond where the first takes three.
    assert!(lines[1].starts_with("8 5 16 0 0 0 0 0 250000 0000000000000002 0000000000000001 "), "{text}");

    let mut gpu = CudaGpu::open(0).expect("a card");
    assert_eq!(gpu.load_plans(&path), Ok(1));
    std::fs::write(&path, text.replace("9.0", "8.9")).expect("written");
    assert!(gpu.load_plans(&path).expect_err("another card").contains("8.9"));
    std::fs::remove_dir_all(folder).expect("removed");
}

#[test]
fn the_deterministic_mode_has_one_algorithm_without_partial_sums() {
    let Some(_stand_in) = StandIn::take() else { return };
    let mut gpu = CudaGpu::open(0).expect("a card");
    gpu.set_deterministic(true);
    for m in [1, 3, 64] {
        let (gemm, expected) = product(&mut gpu, m, true, false, false);
        gpu.tune(&gemm).and_then(|()| gpu.gemm(&gemm)).expect("a product");
        assert_eq!(out(&mut gpu, &gemm), expected);
    }
}
