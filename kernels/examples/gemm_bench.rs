//! Speed of `linear` on one shape a line: `cargo run --release -p sconce-kernels --example gemm_bench -- [threads] [type]`.
//! Environment: `ISA=avx2` or `ISA=portable`, `F32=1` for the f32 precision.
//! Prints the best of many runs: GFLOP/s of the product and GB/s of packed weights.

use std::time::Instant;

use half::f16;
use sconce_kernels::device::{Cpu, Isa, Precision};
use sconce_kernels::dtype::WeightType;
use sconce_kernels::linear::{Linear, LinearScratch, MatrixView, linear};

/// (inputs, outputs) of SmolLM2-135M and Gemma-3-270M, and one larger layer.
const SHAPES: [(usize, usize); 5] = [(576, 3072), (1536, 576), (576, 49152), (640, 4096), (2048, 8192)];
const ROWS: [usize; 6] = [1, 4, 8, 32, 256, 1024];

fn main() {
    let mut args = std::env::args().skip(1);
    let threads = args.next().and_then(|a| a.parse().ok()).unwrap_or(1);
    let only = args.next();
    let mut cpu = Cpu::new(threads);
    match std::env::var("ISA").as_deref() {
        Ok("avx2") => cpu.isa = Isa::Avx2,
        Ok("portable") => cpu.isa = Isa::Portable,
        _ => {}
    }
    if std::env::var_os("F32").is_some() {
        cpu.precision = Precision::F32;
    }
    println!("{:?} {:?}, {} threads", cpu.isa, cpu.precision, cpu.pool.threads());
    for ty in WeightType::ALL {
        if only.as_deref().is_some_and(|name| name != ty.name()) {
            continue;
        }
        for (k, n) in SHAPES {
            measure(&cpu, ty, k, n);
        }
    }
}

/// Processor time of the only thread, so that other work on the machine counts less; wall time with several threads.
fn seconds(cpu: &Cpu) -> f64 {
    let clock = if cpu.pool.threads() == 1 { libc::CLOCK_THREAD_CPUTIME_ID } else { libc::CLOCK_MONOTONIC };
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is a valid place for the result.
    unsafe { libc::clock_gettime(clock, &mut now) };
    now.tv_sec as f64 + now.tv_nsec as f64 * 1e-9
}

fn measure(cpu: &Cpu, ty: WeightType, k: usize, n: usize) {
    let Some(row_bytes) = ty.row_bytes(k) else { return };
    let mut seed = 1u64;
    let mut data: Vec<u8> = std::iter::repeat_with(|| {
        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (seed >> 56) as u8 & 0x3b // also a sane f16 or f32 wherever a scale lies
    })
    .take(n * row_bytes)
    .collect();
    data.iter_mut().step_by(97).for_each(|b| *b ^= 1);
    let start = Instant::now();
    let w = Linear::pack(cpu, &[MatrixView { ty, data: &data, rows: n, cols: k }], None).expect("valid shape");
    let packing = start.elapsed().as_secs_f64();
    print!("{:5} k={k:5} n={n:6} pack {:4.1} GB/s |", ty.name(), data.len() as f64 / packing / 1e9);
    let mut scratch = LinearScratch::new();
    for m in ROWS {
        if n > 10_000 && m > 32 {
            continue;
        }
        let x: Vec<f32> = (0..m * k).map(|i| f16::from_f32((i * 7919 % 2001) as f32 / 1000.0 - 1.0).to_f32()).collect();
        let mut y = vec![0.0; m * n];
        let mut best = f64::MAX;
        let start = Instant::now();
        let mut runs = 0;
        while runs < 5 || start.elapsed().as_secs_f64() < 0.15 {
            let t = seconds(cpu);
            linear(cpu, &w, &x, &mut y, false, &mut scratch).expect("valid shapes");
            best = best.min(seconds(cpu) - t);
            runs += 1;
        }
        let gflops = 2e-9 * (m * n * k) as f64 / best;
        if m == 1 {
            print!(" m=1: {gflops:3.0} GF {:4.1} GB/s", w.bytes() as f64 / best / 1e9);
        } else {
            print!(" m={m}: {gflops:3.0}");
        }
    }
    println!();
}
