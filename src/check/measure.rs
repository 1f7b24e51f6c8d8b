//! All measurements, most worth first, each beside a floor measured in the same run.
//!
//! The floor of a step is the time to read weights and cache once at the bandwidth of a product with one row, or the time
//! of its products at the rate of a large one, whichever is longer.

use std::path::Path;
use std::time::Duration;

use sconce_kernels::gpu::device::GpuDevice;

use super::Open;
use super::host::Host;
use super::rates::{Operands, rates};
use super::report::{Figure, Found, Report};
use super::serving::{Traffic, serving};
use super::shapes::{Point, Shape};
use super::steps::{Bench, Bounds, Way};
use super::timing::{Effort, Floors, floors};

/// How much is measured.
#[derive(Clone, Debug)]
pub struct Extent {
    /// Bytes that are read for the floor of bandwidth.
    pub floor_bytes: usize,
    /// Rows and columns of the product for the floor of its rate.
    pub floor_size: usize,
    /// Bounds of a step.
    pub bounds: Bounds,
    /// What single kernels compute.
    pub operands: Operands,
    /// What the server is asked.
    pub traffic: Traffic,
    /// The shapes, most worth first.
    pub shapes: Vec<Shape>,
}

impl Extent {
    /// What a card of data centres holds.
    pub fn card() -> Self {
        let effort = Effort { runs: 5, long: Duration::from_millis(50) };
        Self {
            floor_bytes: 1 << 31,
            floor_size: 8192,
            bounds: Bounds { max_tokens: 8192, max_seqs: 256, max_model_len: 16_384, effort },
            operands: Operands::llama_8b(effort),
            traffic: Traffic { streams: [1, 32, 256], requests: 2, prompt: 256, answer: 64, max_batch_tokens: 2048 },
            shapes: super::shapes::shapes(),
        }
    }
}

/// Measures floors, then every shape, the first one thoroughly.
pub fn measurements<D: GpuDevice + 'static>(
    report: &mut Report<'_>,
    folder: &Path,
    extent: &Extent,
    open: Open<'_, D>,
) {
    let mut found = None;
    report.line("floor: bytes read by a product of one row", || {
        let found = found.insert(floors(&mut open()?, extent.bounds.effort, extent.floor_bytes, extent.floor_size)?);
        Ok(Figure::rate(found.bytes_per_second, None, ("GB/s", 1e9)).into())
    });
    if let Some(found) = found {
        report.line("floor: a large product of the library", || {
            Ok(Figure::rate(found.flops, None, ("TFLOP/s", 1e12)).into())
        });
    }
    for (index, shape) in extent.shapes.iter().enumerate() {
        let mut measured = Measured { folder, shape, bounds: extent.bounds, floors: found, steps: Vec::new() };
        let Some(bench) = measured.steps(report, open) else { continue };
        if index == 0 {
            measured.without_graphs_and_host(report, bench);
            rates(report, &extent.operands, found.as_ref(), open);
            serving(report, folder, (shape, &extent.traffic), found.as_ref(), open);
            measured.deterministic(report, open);
        }
    }
}

/// A shape, and the seconds of its steps by point.
struct Measured<'a> {
    folder: &'a Path,
    shape: &'a Shape,
    bounds: Bounds,
    floors: Option<Floors>,
    steps: Vec<(Point, f64)>,
}

impl Measured<'_> {
    fn name(&self, what: &str) -> String {
        format!("{}: {what}", self.shape.name)
    }

    /// Every point.
    fn steps<D: GpuDevice>(&mut self, report: &mut Report<'_>, open: Open<'_, D>) -> Option<Bench<D>> {
        let mut bench = None;
        report.line(&self.name("weights to the card"), || {
            Ok(bench.insert(Bench::new(self.folder, self.shape, self.bounds, false, open)?).upload().into())
        });
        let mut bench = bench?;
        for &point in &self.shape.points {
            let name = self.name(&point.describe());
            report.line(&name, || {
                let timing = bench.time(point, Way::Graph)?;
                self.steps.push((point, timing.seconds));
                Ok(bench.describe(point, timing, self.floors.as_ref()))
            });
        }
        Some(bench)
    }

    /// Decode steps launch by launch, and what the host has to do for a step.
    fn without_graphs_and_host<D: GpuDevice>(&self, report: &mut Report<'_>, mut bench: Bench<D>) {
        let decodes: Vec<_> = self.steps.iter().filter(|(point, _)| point.tokens == 1).collect();
        for (point, graph) in &decodes {
            let name = self.name(&format!("{}, without a graph", point.describe()));
            report.line(&name, || Ok(times(bench.time(*point, Way::Eager)?.seconds, *graph, "x with one")));
        }
        let mut host = None;
        if report.line(&self.name("workspaces of a runner"), || Ok(host.insert(Host::new(bench)?).start_time().into()))
        {
            for (point, _) in &decodes {
                let name = self.name(&format!("{}, the host's part", point.describe()));
                report.line(&name, || Ok(host.as_mut().ok_or("no runner")?.launch_time(*point)?.into()));
            }
        }
    }

    /// What it costs that a row's bits depend on that row alone.
    fn deterministic<D: GpuDevice>(&self, report: &mut Report<'_>, open: Open<'_, D>) {
        let mut bench = None;
        for (point, default) in &self.steps {
            report.line(&self.name(&format!("{}, deterministic", point.describe())), || {
                let bench = match &mut bench {
                    Some(bench) => bench,
                    none => none.insert(Bench::new(self.folder, self.shape, self.bounds, true, open)?),
                };
                Ok(times(bench.time(*point, Way::Graph)?.seconds, *default, "x the default"))
            });
        }
    }
}

/// How many times as long as another step this one takes.
fn times(seconds: f64, other: f64, unit: &'static str) -> Found {
    Figure::plain(seconds / other, unit).with(serde_json::json!({"ms": seconds * 1e3, "other_ms": other * 1e3}))
}
