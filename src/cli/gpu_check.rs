//! `gpu-check`: every check and measurement as a line; the exit code tells whether all checks passed.

use std::time::Instant;

use super::CliError;
use super::args::GpuCheckArgs;
#[cfg(feature = "cuda")]
use super::ui;
#[cfg(feature = "cuda")]
use crate::check::report::{Line, Outcome, Report};

/// A build without CUDA has nothing to check.
#[cfg(not(feature = "cuda"))]
pub(super) fn gpu_check(_: &GpuCheckArgs, _: Instant) -> Result<(), CliError> {
    Err(CliError::Failed("this build has no CUDA; build with `--features cuda`".to_owned()))
}

/// Clients that go in the check of aborts.
#[cfg(feature = "cuda")]
const NUM_ABORTS: usize = 2000;

/// Runs the checks, then measurements until the time is up.
#[cfg(feature = "cuda")]
pub(super) fn gpu_check(args: &GpuCheckArgs, started: Instant) -> Result<(), CliError> {
    use std::io::Write;

    use sconce_kernels::gpu::cuda::CudaGpu;
    use sconce_kernels::gpu::device::GpuDevice;

    use crate::check::{attention, kernels, measure, parity, summary};

    let failed = |reason: String| CliError::Failed(reason);
    let mut open = || CudaGpu::open(args.device);
    let info = open().map_err(|error| failed(error.to_string()))?.info().clone();
    ui::out(&format!("{info:?}\n"))?;
    let mut output = None;
    if let Some(path) = &args.output {
        let card = serde_json::json!({
            "card": info.name, "compute": info.compute, "sms": info.num_sms, "bytes": info.total_bytes,
            "version": env!("CARGO_PKG_VERSION"),
        });
        let file = std::fs::File::create(path).and_then(|mut file| writeln!(file, "{card}").map(|()| file));
        output = Some(file.map_err(|error| failed(format!("{}: {error}", path.display())))?);
    }
    let folder = std::env::temp_dir().join(format!("sconce-gpu-check-{}", std::process::id()));
    std::fs::create_dir_all(&folder).map_err(|error| failed(format!("{}: {error}", folder.display())))?;
    // Each line goes out when it is known: whatever ends this process leaves what came before.
    let mut tell = |line: &Line| {
        let told = ui::out(&text(line));
        let written = output.as_mut().map_or(Ok(()), |file| writeln!(file, "{}", serde_json::json!(line)));
        if told.is_err() || written.is_err() {
            tracing::warn!(name = line.name, "a line was not written");
        }
    };
    let mut report = Report::new(Some(started + args.time.0), &mut tell);
    kernels::kernels(&mut report, &mut open);
    attention::wgmma(&mut report, &folder, attention::CARD, &mut open);
    parity::checks(&mut report, &folder, NUM_ABORTS, &mut open);
    let checks = report.lines().len();
    if !args.no_measure {
        measure::measurements(&mut report, &folder, &measure::Extent::card(), &mut open);
    }
    // What is left there is small, and the next start of the machine removes it.
    let _ = std::fs::remove_dir_all(&folder);
    let table = summary::summary(&info.name, report.lines());
    ui::out(&format!("\n{table}"))?;
    if let Some(path) = &args.summary {
        std::fs::write(path, &table).map_err(|error| failed(format!("{}: {error}", path.display())))?;
    }
    match report.lines()[..checks].iter().filter(|line| line.outcome != Outcome::Ok).count() {
        0 => Ok(()),
        count => Err(failed(format!("{count} of {checks} checks did not pass"))),
    }
}

#[cfg(feature = "cuda")]
fn text(line: &Line) -> String {
    let outcome = match line.outcome {
        Outcome::Ok => "ok",
        Outcome::Failed => "FAILED",
        Outcome::LeftOut => "left out",
    };
    let figure = line.figure.map_or(String::new(), |figure| {
        let ratio = figure.ratio.map_or(String::new(), |ratio| format!(", {:.1} % of the floor", ratio * 100.0));
        format!(": {:.3} {}{ratio}", figure.value, figure.unit)
    });
    let reason = line.reason.as_ref().map_or(String::new(), |reason| format!(": {reason}"));
    format!("{outcome:8} {:7.2} s  {}{figure}{reason}\n", line.seconds, line.name)
}
