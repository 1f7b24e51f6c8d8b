//! Model graphs, checkpoint formats and the registry of architectures.
//!
//! # Layout
//! - `spec`: the declarative description of a model that config parsers produce
//! - `config`, `registry`: from a checkpoint's own description to a spec; the table of architectures
//! - `checkpoint`: weights and description, whatever the format; `gguf`, `safetensors`: the formats
//! - `names`: what each architecture calls its tensors; `rope`: frequencies of rotary embeddings
//! - `model`: the graph; `load`: from a checkpoint to weights on a device
//! - `error`: what can be wrong with a checkpoint
pub mod checkpoint;
pub mod config;
pub mod error;
mod file;
pub mod gguf;
pub mod load;
pub mod model;
pub mod names;
mod registry;
pub mod rope;
pub mod safetensors;
pub mod spec;
pub mod tensor;
