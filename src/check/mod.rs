//! `gpu-check`: is this card right, and how fast? Nothing but the binary and a driver is needed.
//!
//! # Layout
//! - `checkpoint`: small random checkpoints that the checks run on
//! - `parity`: the whole engine on the card against the engine on the CPU, against itself, and under aborts
//! - `measure`: decode and prefill of real models' shapes, beside floors measured in the same run
//!
//! Generic over the device, so that the tests run the checks on the emulated one.

pub mod checkpoint;
pub mod measure;
pub mod parity;

use std::time::Instant;

use serde::Serialize;
use serde_json::Value;

/// What came of one check or measurement. A failure is a line, never the end.
#[derive(Clone, Debug, Serialize)]
pub struct Line {
    /// What was checked.
    pub name: String,
    /// Whether it passed; a measurement passes when it could be made.
    pub ok: bool,
    /// Why not, or why it was left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Seconds that it took.
    pub seconds: f64,
    /// What was measured.
    #[serde(skip_serializing_if = "Value::is_null")]
    pub result: Value,
}

/// Runs a check and tells what came of it.
pub fn line(name: &str, check: impl FnOnce() -> Result<Value, String>) -> Line {
    let begin = Instant::now();
    // A panic of one check must not hide the others.
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(check));
    let outcome = outcome.unwrap_or_else(|_| Err("it panicked; the log says where".to_owned()));
    let seconds = begin.elapsed().as_secs_f64();
    match outcome {
        Ok(result) => Line { name: name.to_owned(), ok: true, reason: None, seconds, result },
        Err(reason) => Line { name: name.to_owned(), ok: false, reason: Some(reason), seconds, result: Value::Null },
    }
}
