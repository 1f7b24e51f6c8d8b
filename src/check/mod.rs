//! `gpu-check`: is this card right, and how fast? Nothing but the binary and a driver is needed.
//!
//! # Layout
//! - `report`: a line for everything that was tried, until the time is up; `summary`: those as a table
//! - `kernels`: single kernels against their CPU references; `attention`: its two families against each other
//! - `checkpoint`, `engine`: small random checkpoints, and engines that run them
//! - `parity`: the whole engine on the card against the engine on the CPU, against itself, and under aborts
//! - `measure`: what is measured, in order of worth; `timing`: medians and floors; `shapes`, `steps`, `host`: single
//!   steps of real models' shapes, and the host's part in them
//! - `rates`, `lists`, `cached`: single kernels' bytes and operations a second
//! - `serving`: the whole server under load
//!
//! Generic over the device, so that the tests run all of it on the emulated one.

pub mod attention;
mod cached;
pub mod checkpoint;
pub mod engine;
pub mod host;
pub mod kernels;
mod lists;
pub mod measure;
pub mod parity;
pub mod rates;
pub mod report;
pub mod serving;
pub mod shapes;
pub mod steps;
pub mod summary;
pub mod timing;

use sconce_kernels::gpu::device::GpuError;

/// Opens the device anew for each check.
pub type Open<'a, D> = &'a mut dyn FnMut() -> Result<D, GpuError>;
