//! Kernels of a CUDA device as plain data: what is launched with which parameters, decided here and executed elsewhere.
//!
//! # Layout
//! - `launch`, `gemm`, `tensor_map`: a kernel launch, a matrix product, a matrix for Hopper's copy engine as values
//! - `device`: what executes them: memory, copies, graphs, errors; `counting`: one that only counts; `fill`: bytes on their
//!   way to it
//! - `modules`, `cuda`: the compiled kernels and the card as such a device, with the feature `cuda`
//! - `backend`: the model's graph as launches and products; `step`, `weights`, `product`, `pod`: its metadata, matrices,
//!   the choice of a kernel for a product, records
//! - `verify`: single kernels against their CPU references, on any device
//! - one file an operation, beside `kernels/cuda/<operation>.cu`: its parameter struct and the launch it makes
//!
//! Nothing else in here needs a card, a driver or the `cuda` feature, so the same launches run on the card, on the
//! emulator of `kernels/cuda/emu`, or into a recording that a test reads.

pub mod activation;
pub mod attention;
pub mod attention_sm90a;
pub mod backend;
pub mod blocks;
pub mod counting;
#[cfg(feature = "cuda")]
pub mod cuda;
pub mod device;
pub mod embed;
pub mod fill;
pub mod gemm;
pub mod gemm_tile;
pub mod gemv;
pub mod launch;
pub mod logits;
pub mod logprobs;
#[cfg(feature = "cuda")]
pub mod modules;
pub mod norm;
pub mod pod;
pub mod product;
pub mod qkv_post;
pub mod quant;
pub mod rope;
pub mod sample_rows;
pub mod sampling;
pub mod step;
pub mod tensor_map;
pub mod token_history;
pub mod verify;
pub mod weights;
pub mod work_list;
