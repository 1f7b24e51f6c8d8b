//! `gpu-check`: every check and measurement as a line; the exit code tells whether all checks passed.

use std::time::Instant;

use super::CliError;
use super::args::GpuCheckArgs;
#[cfg(feature = "cuda")]
use super::ui;

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
    use sconce_kernels::gpu::cuda::CudaGpu;
    use sconce_kernels::gpu::device::GpuDevice;

    use crate::check::{measure, parity};

    let failed = |reason: String| CliError::Failed(reason);
    let mut open = || CudaGpu::open(args.device);
    let info = open().map_err(|error| failed(error.to_string()))?.info().clone();
    ui::out(&format!("{info:?}\n"))?;
    let folder = std::env::temp_dir().join(format!("sconce-gpu-check-{}", std::process::id()));
    std::fs::create_dir_all(&folder).map_err(|error| failed(format!("{}: {error}", folder.display())))?;
    let mut lines = parity::checks(&folder, NUM_ABORTS, &mut open);
    show(&lines)?;
    let checks = lines.len();
    if !args.no_measure {
        let until = started + args.time.0;
        let measured = measure::measurements(&folder, &measure::shapes(), until, &mut open);
        show(&measured)?;
        lines.extend(measured);
    }
    // What is left there is small, and the next start of the machine removes it.
    let _ = std::fs::remove_dir_all(&folder);
    if let Some(path) = &args.output {
        let card = serde_json::json!({
            "card": info.name, "compute": info.compute, "sms": info.num_sms, "bytes": info.total_bytes,
            "version": env!("CARGO_PKG_VERSION"),
        });
        let text = lines.iter().map(|line| serde_json::json!(line).to_string() + "\n").collect::<String>();
        std::fs::write(path, format!("{card}\n{text}"))
            .map_err(|error| failed(format!("{}: {error}", path.display())))?;
    }
    match lines[..checks].iter().filter(|line| !line.ok).count() {
        0 => Ok(()),
        count => Err(failed(format!("{count} of {checks} checks failed"))),
    }
}

#[cfg(feature = "cuda")]
fn show(lines: &[crate::check::Line]) -> Result<(), CliError> {
    for line in lines {
        let outcome = if line.ok { "ok" } else { "FAILED" };
        let detail = line.reason.clone().unwrap_or_else(|| line.result.to_string());
        ui::out(&format!("{outcome:6} {:7.2} s  {}: {detail}\n", line.seconds, line.name))?;
    }
    Ok(())
}
