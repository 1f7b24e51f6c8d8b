//! Packed weights and the microkernels of the matrix product; `linear` is the door.
//!
//! - `blocks`: blocks of a file taken apart; `layout`: where their parts go; `pack`: moving them there
//! - `buffer`: aligned memory; `activation`: rows rounded to 8 bits
//! - `kernel`: what a microkernel gets and which there are; `portable`, `avx2`, `avx512`: the microkernels
//!
//! Every microkernel of an instruction set adds the blocks of a row in the same order, whatever the number of rows
//! and tiles it handles: a row's result is bit-identical in every batch and on any number of threads.
//!
//! # Errors
//! Against the product in f64 of the same dequantised weights, relative RMS over outputs, normal activations, random
//! weights of every bit pattern (`linear`'s tests print and bound them):
//!
//! | type | `Precision::F32` | `Precision::Int8` |
//! |---|---|---|
//! | F32, F16, BF16 | 3.4e-7 | the same: computed in f32 |
//! | Q4_0 | 3.9e-7 | 5.0e-3 |
//! | Q4_1 | 4.0e-7 | 5.3e-3 |
//! | Q5_0 | 4.2e-7 | 5.2e-3 |
//! | Q5_1 | 4.1e-7 | 5.8e-3 |
//! | Q8_0 | 4.4e-7 | 5.4e-3 |
//! | Q2_K | 5.1e-7 | 5.7e-3 |
//! | Q3_K | 4.7e-7 | 5.3e-3 |
//! | Q4_K | 4.7e-7 | 5.3e-3 |
//! | Q5_K | 5.0e-7 | 5.2e-3 |
//! | Q6_K | 5.0e-7 | 5.4e-3 |
//! | bound | 1e-6 | 8e-3 |
//!
//! The int8 error comes from rounding activations to 1/127 of the largest of their 32 neighbours; outliers raise it.
pub(crate) mod activation;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
pub(crate) mod blocks;
pub(crate) mod buffer;
pub(crate) mod kernel;
pub(crate) mod layout;
pub(crate) mod pack;
mod portable;
#[cfg(test)]
pub(crate) mod testing;
