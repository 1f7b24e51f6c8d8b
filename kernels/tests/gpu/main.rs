//! Every CUDA kernel against its CPU reference, on the emulator of `kernels/cuda/emu`: no card is needed.
//!
//! # Layout
//! - `emu`: the crate in `kernels/emulator`: device buffers and launches in a child process under the address sanitizer
//! - `emulator`, `emulator_sm90a`: tests of the emulator itself
//! - `suite`: what `gpu-check` runs on a card
//! - `testing`: what tests of several operations share
//! - one module an operation; problems, references and comparisons are those of `sconce_kernels::gpu::verify`, by which
//!   `gpu-check` checks a card

mod activation;
mod attention;
mod blocks;
mod embed;
mod emulator;
mod emulator_sm90a;
mod gemm_tile;
mod gemv;
mod gemv_heads;
mod logits;
mod logprobs;
mod norm;
mod products;
mod qkv_post;
mod quant;
mod sampling;
mod suite;
mod testing;
mod work_list;

use sconce_emulator as emu;
use sconce_kernels::gpu::{self, launch::Params};

/// Name and size of every parameter struct.
fn parameter_structs() -> Vec<(&'static str, usize)> {
    fn size<P: Params>() -> (&'static str, usize) {
        (P::NAME, size_of::<P>())
    }
    vec![
        size::<gpu::activation::GatedParams>(),
        size::<gpu::attention::AttentionParams>(),
        size::<gpu::attention_sm90a::TensorAttentionParams>(),
        size::<gpu::blocks::CopyBlocksParams>(),
        size::<gpu::blocks::UpdateTablesParams>(),
        size::<gpu::embed::EmbedParams>(),
        size::<gpu::gemv::GemvParams>(),
        size::<gpu::logits::ScaleSoftcapParams>(),
        size::<gpu::logprobs::LogprobsParams>(),
        size::<gpu::norm::RmsNormParams>(),
        size::<gpu::qkv_post::QkvPostParams>(),
        size::<gpu::rope::RopeParams>(),
        size::<gpu::quant::DequantParams>(),
        size::<gpu::sampling::LogitsPrepParams>(),
        size::<gpu::sampling::SampleParams>(),
        size::<gpu::token_history::TokenHistoryParams>(),
        size::<emulator::SelfTestParams>(),
        size::<emulator_sm90a::HopperTestParams>(),
    ]
}

#[test]
fn parameter_structs_have_the_size_of_their_twins() {
    emu::emulated(|emu| {
        let ours = parameter_structs();
        for kernel in emu.kernels() {
            let found = ours.iter().find(|(name, _)| *name == kernel.params_name);
            let Some((_, bytes)) = found else { panic!("{}: no Rust struct {}", kernel.name, kernel.params_name) };
            assert_eq!(*bytes, kernel.params_bytes, "{}: size of {}", kernel.name, kernel.params_name);
        }
    });
}
