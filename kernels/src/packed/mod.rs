//! Packed weights and the microkernels of the matrix product; `linear` is the door.
//!
//! - `blocks`: blocks of a file taken apart; `layout`: where their parts go; `pack`: moving them there
//! - `buffer`: aligned memory; `activation`: rows rounded to 8 bits
//! - `kernel`: what a microkernel gets and which there are; `portable`, `avx2`, `avx512`: the microkernels
//!
//! Every microkernel of an instruction set adds the blocks of a row in the same order, whatever the number of rows
//! and tiles it handles: a row's result is bit-identical in every batch and on any number of threads.
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
