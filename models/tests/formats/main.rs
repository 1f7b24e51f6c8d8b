//! Checkpoint formats from outside the crate: fixtures, real models, and files that lie.
//!
//! # Layout
//! - `fixtures`: specs and tensor names of the committed checkpoints; `configs`: `config.json` in all its styles
//! - `gguf_broken`, `safetensors_broken`, `folders`: what must be refused, and how
//! - `fuzz`: seeded mutations; `real`: models named by the environment
//! - `gguf_writer`, `support`: how the tests make files

mod configs;
mod fixtures;
mod folders;
mod fuzz;
mod gguf_broken;
mod gguf_writer;
mod real;
mod safetensors_broken;
mod support;
