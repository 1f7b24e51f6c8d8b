//! The scheduler: which tokens of which sequences the next batch computes. A pure state machine:
//! no tensor, clock, channel or tokenizer, and the same calls give the same batches.
//!
//! # Layout
//! - `config`: limits; what `add` takes and refuses; what comes out
//! - `entry`: one sequence with its scheduling state; every count in one place
//! - `turn`: whose turn it is: priorities, and fairness among tenants
//! - `plan`: `schedule`: the running sequences' share of a batch, in visible lines
//! - `admit`: waiting sequences: prefix hits, bypass and ageing, siblings
//! - `preempt`: who gives way when blocks run out
//! - `commit`: what came of a batch: tokens, stops, faults, frees
//! - `integrity`: every invariant, checked by tests after each step

mod admit;
mod commit;
mod config;
mod core;
mod entry;
mod integrity;
mod plan;
mod preempt;
#[cfg(test)]
mod tests;
mod turn;

pub use self::config::{AddError, NewSequence, SchedulerConfig, SchedulerStats, SeqEvent};
pub use self::core::Scheduler;
