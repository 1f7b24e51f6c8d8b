//! Model graphs, checkpoint formats and the registry of architectures.
//!
//! # Layout
//! - `spec`: the declarative description of a model that config parsers produce
pub mod spec;
