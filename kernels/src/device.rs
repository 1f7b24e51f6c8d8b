//! The CPU as a device: its threads and the instruction set chosen at run time.

use crate::pool::ThreadPool;

/// Instruction sets with kernels of their own, best last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Isa {
    /// Plain Rust: the reference, and what other architectures run.
    Portable,
    /// x86-64 with AVX2, FMA and F16C.
    Avx2,
    /// x86-64 with AVX-512 F, BW, VL, DQ and VNNI.
    Avx512,
}

impl Isa {
    /// The best one this machine executes.
    pub fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 =
                is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c");
            let avx512 = avx2
                && is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vnni");
            if avx512 {
                return Self::Avx512;
            }
            if avx2 {
                return Self::Avx2;
            }
        }
        Self::Portable
    }
}

/// How activations enter a product with block-quantised weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// Weights are dequantised on the fly, activations stay f32: the reference.
    F32,
    /// Activations are rounded to 8 bits a block of 32: the fast path.
    Int8,
}

/// Everything a CPU kernel needs besides its operands.
#[derive(Debug)]
pub struct Cpu {
    /// The threads of the step.
    pub pool: ThreadPool,
    /// Chosen once at start; never better than what the machine has.
    pub isa: Isa,
    /// Arithmetic of block-quantised products.
    pub precision: Precision,
}

impl Cpu {
    /// A device of `threads` workers with the best instruction set at hand.
    pub fn new(threads: usize) -> Self {
        Self { pool: ThreadPool::new(threads), isa: Isa::detect(), precision: Precision::Int8 }
    }
}
