//! What came of every check and measurement, told as soon as it is known, until the time is up.

use std::time::Instant;

use sconce_kernels::error::KernelError;
use sconce_kernels::gpu::device::GpuError;
use serde::Serialize;
use serde_json::Value;

/// How a check or measurement ended. A failure is a line, never the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It passed, or was measured.
    Ok,
    /// It found a fault, or ran into one.
    Failed,
    /// It did not run: no time, or no room on this card.
    LeftOut,
}

/// The number that a measurement is about.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Figure {
    /// The number.
    pub value: f64,
    /// Its unit.
    pub unit: &'static str,
    /// The best that this card can do, in the same unit, as measured in the same run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub floor: Option<f64>,
    /// How close that is: 1 at the floor.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ratio: Option<f64>,
}

/// What a check or measurement found.
#[derive(Clone, Debug, Default)]
pub struct Found {
    figure: Option<Figure>,
    detail: Value,
}

/// Why there is nothing found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Something is wrong.
    Failed(String),
    /// It could not be tried here.
    LeftOut(String),
}

/// One line of the report.
#[derive(Clone, Debug, Serialize)]
pub struct Line {
    /// What was checked or measured.
    pub name: String,
    /// How it ended.
    pub outcome: Outcome,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Seconds that it took.
    pub seconds: f64,
    /// What was measured.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub figure: Option<Figure>,
    /// What else is known.
    #[serde(skip_serializing_if = "Value::is_null")]
    pub detail: Value,
}

/// Lines as they come.
pub struct Report<'a> {
    until: Option<Instant>,
    tell: &'a mut dyn FnMut(&Line),
    lines: Vec<Line>,
}

impl Figure {
    /// A duration beside the shortest possible one, both in seconds.
    pub fn time(seconds: f64, floor: Option<f64>) -> Self {
        Self {
            value: seconds * 1e3,
            unit: "ms",
            floor: floor.map(|floor| floor * 1e3),
            ratio: floor.map(|floor| floor / seconds),
        }
    }

    /// A rate beside the highest possible one, in `unit`s of `size` a second.
    pub fn rate(value: f64, best: Option<f64>, (unit, size): (&'static str, f64)) -> Self {
        let floor = best.map(|best| best / size);
        Self { value: value / size, unit, floor, ratio: best.map(|best| value / best) }
    }

    /// A number that nothing bounds.
    pub fn plain(value: f64, unit: &'static str) -> Self {
        Self { value, unit, floor: None, ratio: None }
    }

    /// With what else is known.
    pub fn with(self, detail: Value) -> Found {
        Found { figure: Some(self), detail }
    }
}

impl From<Figure> for Found {
    fn from(figure: Figure) -> Self {
        figure.with(Value::Null)
    }
}

impl From<Value> for Found {
    fn from(detail: Value) -> Self {
        Self { figure: None, detail }
    }
}

impl From<String> for Reason {
    fn from(reason: String) -> Self {
        Self::Failed(reason)
    }
}

impl From<&str> for Reason {
    fn from(reason: &str) -> Self {
        Self::Failed(reason.to_owned())
    }
}

impl From<GpuError> for Reason {
    fn from(error: GpuError) -> Self {
        match error {
            GpuError::OutOfMemory { .. } => Self::LeftOut(error.to_string()),
            other => Self::Failed(other.to_string()),
        }
    }
}

impl From<KernelError> for Reason {
    fn from(error: KernelError) -> Self {
        match error {
            KernelError::Device(error) => error.into(),
            other => Self::Failed(other.to_string()),
        }
    }
}

impl<'a> Report<'a> {
    /// A report whose lines are told to `tell`; from `until` on nothing more is begun.
    pub fn new(until: Option<Instant>, tell: &'a mut dyn FnMut(&Line)) -> Self {
        Self { until, tell, lines: Vec::new() }
    }

    /// Runs a check or measurement, if there is time, and tells what came of it; whether it was well.
    pub fn line(&mut self, name: &str, check: impl FnOnce() -> Result<Found, Reason>) -> bool {
        let begin = Instant::now();
        let found = if self.is_over() {
            Err(Reason::LeftOut("the time was up".to_owned()))
        } else {
            // A panic of one check must not hide the others.
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(check))
                .unwrap_or_else(|panic| Err(Reason::Failed(format!("it panicked: {}", text_of(&*panic)))))
        };
        let (outcome, reason, Found { figure, detail }) = match found {
            Ok(found) => (Outcome::Ok, None, found),
            Err(Reason::Failed(reason)) => (Outcome::Failed, Some(reason), Found::default()),
            Err(Reason::LeftOut(reason)) => (Outcome::LeftOut, Some(reason), Found::default()),
        };
        let seconds = begin.elapsed().as_secs_f64();
        let line = Line { name: name.to_owned(), outcome, reason, seconds, figure, detail };
        (self.tell)(&line);
        self.lines.push(line);
        outcome == Outcome::Ok
    }

    /// Whether the time is up.
    pub fn is_over(&self) -> bool {
        self.until.is_some_and(|until| Instant::now() >= until)
    }

    /// All lines so far.
    pub fn lines(&self) -> &[Line] {
        &self.lines
    }
}

fn text_of(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_a_line_and_what_has_no_time_is_left_out() {
        let mut told = Vec::new();
        let mut tell = |line: &Line| told.push((line.outcome, line.reason.clone()));
        let mut report = Report::new(None, &mut tell);
        assert!(!report.line("a", || panic!("of {}", 3)));
        assert!(report.line("b", || Ok(Figure::time(0.5, Some(0.25)).into())));
        assert_eq!(report.lines()[1].figure.and_then(|figure| figure.ratio), Some(0.5));
        report.until = Some(Instant::now());
        assert!(!report.line("c", || unreachable!("no time")));
        let text = |text: &str| Some(text.to_owned());
        let (failed, left_out) = (text("it panicked: of 3"), text("the time was up"));
        assert_eq!(told, [(Outcome::Failed, failed), (Outcome::Ok, None), (Outcome::LeftOut, left_out)]);
    }
}
