//! sconce: a high-performance server for open-weight language models.

pub mod bench;
pub mod check;
pub mod cli;
pub mod config;
pub mod engine;
pub mod http;
pub mod hub;
pub mod kv;
pub mod runner;
pub mod runtime;
pub mod sampler;
pub mod scheduler;
pub mod telemetry;
pub mod text;
pub mod types;
