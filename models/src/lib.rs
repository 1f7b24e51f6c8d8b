//! Model graphs, checkpoint formats and the registry of architectures.
//!
//! # Layout
//! - `spec`: the declarative description of a model that config parsers produce
//! - `gguf`, `safetensors`: the formats of weights; `checkpoint`: either of them behind one face
//! - `error`: what can be wrong with a checkpoint
pub mod error;
mod file;
pub mod gguf;
pub mod spec;
