//! The engine: one thread that schedules, executes, samples, commits and emits.
//!
//! # Layout
//! - `handle`: what the rest of the server holds; submit, listen, abort by dropping
//! - `core`: the loop
//! - `constraints`: masks of constrained sequences, made beside the forward pass
//! - `sampling`: logits of a batch to tokens, where the device doesn't sample
//! - `requests`: open requests, their sequences, channels and times

mod constraints;
mod core;
mod handle;
mod requests;
mod sampling;
#[cfg(test)]
mod tests;

pub use core::Engine;
pub use handle::{
    Command, EngineEnd, EngineHandle, EngineInfo, EngineRequest, EngineStats, RequestStream, SubmitError,
    engine_channel,
};
