//! The engine: one thread that schedules, executes, samples, commits and emits.
//!
//! # Layout
//! - `handle`: what the rest of the server holds; submit, listen, abort by dropping
//! - `core`: the loop
//! - `requests`: open requests, their sequences, channels and times

mod core;
mod handle;
mod requests;
#[cfg(test)]
mod tests;

pub use core::Engine;
pub use handle::{
    Command, EngineEnd, EngineHandle, EngineInfo, EngineRequest, EngineStats, RequestStream, SubmitError,
    engine_channel,
};
