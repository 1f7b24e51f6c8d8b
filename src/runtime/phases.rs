//! How long each part of the start took, for the table that `serve` prints and for metrics.

use std::time::{Duration, Instant};

/// One part of the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Phase {
    /// What was done.
    pub name: &'static str,
    /// How long it took.
    pub time: Duration,
}

/// The parts of a start, in order.
#[derive(Clone, Debug, Default)]
pub struct Phases(Vec<Phase>);

impl Phases {
    /// Runs `f` and notes its time.
    pub fn time<T>(&mut self, name: &'static str, f: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let result = f();
        self.push(name, start.elapsed());
        result
    }

    /// Notes a phase measured elsewhere.
    pub fn push(&mut self, name: &'static str, time: Duration) {
        self.0.push(Phase { name, time });
    }

    /// All phases so far.
    pub fn iter(&self) -> impl Iterator<Item = &Phase> {
        self.0.iter()
    }
}
