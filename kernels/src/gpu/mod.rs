//! Kernels of a CUDA device as plain data: what is launched with which parameters, decided here and executed elsewhere.
//!
//! # Layout
//! - `launch`, `gemm`: a kernel launch and a matrix product as values
//! - `device`: what executes them: memory, copies, graphs, errors
//! - `modules`, `cuda`: the compiled kernels and the card as such a device, with the feature `cuda`
//! - one file an operation, beside `kernels/cuda/<operation>.cu`: its parameter struct and the launch it makes
//!
//! Nothing else in here needs a card, a driver or the `cuda` feature, so the same launches run on the card, on the
//! emulator of `kernels/cuda/emu`, or into a recording that a test reads.

pub mod activation;
pub mod attention;
pub mod blocks;
#[cfg(feature = "cuda")]
pub mod cuda;
pub mod device;
pub mod embed;
pub mod gemm;
pub mod gemv;
pub mod launch;
pub mod logits;
pub mod logprobs;
#[cfg(feature = "cuda")]
pub mod modules;
pub mod norm;
pub mod pod;
pub mod qkv_post;
pub mod quant;
pub mod rope;
pub mod sample_rows;
pub mod sampling;
pub mod token_history;
pub mod work_list;
