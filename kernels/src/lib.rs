//! Every hot operation as one file: shape checks, the CPU version (which is the reference), the CUDA launch.
//!
//! # Layout
//! - `dtype`, `dequant`: storage types of weights and their values
//! - `linear`, `packed`: weights packed for the CPU and the matrix product
//! - `device`, `pool`, `simd`: the CPU, its instruction set and threads, vectors written once
//! - `kv`, `arena`: cache kinds, block geometry, the memory that holds keys and values
//! - `qkv_post`, `attention`: per-head norms, rope and cache writes; attention over paged blocks
//! - `sampling`: logits to tokens
//! - `gpu`: the same operations as launches of CUDA kernels
//! - `norm`, `rope`, `activation`, `elementwise`: the rest of a layer
pub mod activation;
pub mod arena;
pub mod attention;
pub mod backend;
pub mod cpu;
pub mod dequant;
pub mod device;
pub mod dtype;
pub mod elementwise;
pub mod error;
pub mod gpu;
pub mod kv;
pub mod linear;
pub mod norm;
mod packed;
pub mod pool;
pub mod qkv_post;
pub mod rope;
pub mod sampling;
mod simd;
#[cfg(test)]
mod testing;
