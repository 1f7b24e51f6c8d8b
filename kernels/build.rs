//! Compiles `cuda/*.cu` with nvcc into fat binaries that the crate embeds; only with the feature `cuda`.
//!
//! Machine code for every card the engine names, and PTX of compute_80 for those it does not; files named `*_sm90a.cu` use
//! instructions of Hopper alone. `SCONCE_CUDA_ARCHS` narrows the list, e.g. `80,90a`. Nothing is fetched.
//! nvcc is `$NVCC`, else that of `$CUDA_HOME` or `$CUDA_PATH`, else of the PATH.

use std::collections::VecDeque;
use std::env;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::SystemTime;

/// Machine code that a full build has.
const ARCHS: &[&str] = &["80", "89", "90a", "100", "120"];

/// Oldest compiler: the first that knows every architecture above and the fat binaries' compression.
const MIN_VERSION: (u32, u32) = (13, 0);

/// `-lineinfo` lets a profiler name source lines; compressed, that costs little.
const FLAGS: &[&str] = &["-fatbin", "-O3", "-std=c++17", "-lineinfo", "-compress-mode=size"];

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return;
    }
    println!("cargo::rerun-if-changed=cuda");
    for name in ["NVCC", "CUDA_HOME", "CUDA_PATH", "SCONCE_CUDA_ARCHS"] {
        println!("cargo::rerun-if-env-changed={name}");
    }
    if let Err(message) = build() {
        // Cargo fails the build for this line; an exit status of our own would add a page of output around it.
        println!("cargo::error={message}");
    }
}

/// One file to compile.
struct Job {
    source: PathBuf,
    module: String,
    archs: Vec<String>,
}

fn build() -> Result<(), String> {
    let nvcc = nvcc()?;
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?);
    let jobs = jobs(&archs()?)?;
    let headers = with_extension("cuh")?.into_iter().chain([PathBuf::from("build.rs"), compiler_stamp(&nvcc, &out)?]);
    let newest_header = headers.filter_map(|path| modified(&path)).max();
    write_table(&out, &jobs)?;

    let threads = env::var("NUM_JOBS").ok().and_then(|jobs| jobs.parse().ok()).unwrap_or(1);
    let stale = jobs.into_iter().filter(|job| !job.is_current(&out, newest_header));
    let (queue, errors) = (Mutex::new(stale.collect::<VecDeque<_>>()), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let next = queue.lock().ok().and_then(|mut queue| queue.pop_front());
                    let Some(job) = next else { break };
                    if let (Err(error), Ok(mut errors)) = (job.compile(&nvcc, &out), errors.lock()) {
                        errors.push(error);
                    }
                }
            });
        }
    });
    let errors = errors.into_inner().map_err(|_| "a compilation panicked")?;
    if errors.is_empty() { Ok(()) } else { Err(errors.join("; ")) }
}

/// The compiler, checked to be new enough.
fn nvcc() -> Result<PathBuf, String> {
    let home = || env::var_os("CUDA_HOME").or_else(|| env::var_os("CUDA_PATH"));
    let path = match (env::var_os("NVCC"), home()) {
        (Some(nvcc), _) => PathBuf::from(nvcc),
        (None, Some(home)) => Path::new(&home).join("bin/nvcc"),
        (None, None) => PathBuf::from("nvcc"),
    };
    let help = "set NVCC or CUDA_HOME, or run scripts/cuda-toolchain";
    let output = Command::new(&path).arg("--version").output();
    let output = output.map_err(|error| format!("no CUDA compiler: {}: {error}; {help}", path.display()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let version = text.split("release ").nth(1).and_then(|rest| {
        let (major, minor) = rest.split(',').next()?.split_once('.')?;
        Some((major.parse::<u32>().ok()?, minor.trim().parse::<u32>().ok()?))
    });
    match version {
        None => Err(format!("{} does not tell its version; {help}", path.display())),
        Some(version) if version < MIN_VERSION => {
            let (major, minor) = version;
            Err(format!("{} is of CUDA {major}.{minor}, 13.0 is needed; {help}", path.display()))
        }
        Some(_) => Ok(path),
    }
}

/// A file that names the compiler and changes only when another is used.
fn compiler_stamp(nvcc: &Path, out: &Path) -> Result<PathBuf, String> {
    let (stamp, name) = (out.join("compiler"), nvcc.display().to_string());
    if fs::read_to_string(&stamp).ok().as_ref() != Some(&name) {
        fs::write(&stamp, name).map_err(|error| format!("{}: {error}", stamp.display()))?;
    }
    Ok(stamp)
}

/// The architectures asked for.
fn archs() -> Result<Vec<String>, String> {
    let Ok(list) = env::var("SCONCE_CUDA_ARCHS") else {
        return Ok(ARCHS.iter().map(|&arch| arch.to_owned()).collect());
    };
    let archs: Vec<String> = list.split(',').map(|arch| arch.trim().to_owned()).collect();
    match archs.iter().find(|arch| !ARCHS.contains(&arch.as_str())) {
        Some(arch) => Err(format!("SCONCE_CUDA_ARCHS: {arch:?} is none of {}", ARCHS.join(","))),
        None => Ok(archs),
    }
}

fn jobs(archs: &[String]) -> Result<Vec<Job>, String> {
    let mut jobs = Vec::new();
    for source in with_extension("cu")? {
        let module = source.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let mut archs = archs.to_vec();
        if module.ends_with("_sm90a") {
            archs.retain(|arch| arch == "90a");
        }
        if !archs.is_empty() {
            jobs.push(Job { source, module, archs });
        }
    }
    Ok(jobs)
}

fn with_extension(extension: &str) -> Result<Vec<PathBuf>, String> {
    let entries = fs::read_dir("cuda").map_err(|error| format!("kernels/cuda: {error}"))?;
    let mut paths: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.retain(|path| path.extension().is_some_and(|found| found == extension));
    paths.sort();
    Ok(paths)
}

fn modified(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).and_then(|data| data.modified()).ok()
}

impl Job {
    /// The name tells the architectures, so a narrower list never finds the fat binary of a wider one.
    fn binary(&self, out: &Path) -> PathBuf {
        out.join(format!("{}.{}.fatbin", self.module, self.archs.join("-")))
    }

    /// Whether the fat binary is younger than all that it was made of.
    fn is_current(&self, out: &Path, newest_header: Option<SystemTime>) -> bool {
        let inputs = [modified(&self.source), newest_header];
        modified(&self.binary(out)).is_some_and(|built| inputs.into_iter().flatten().all(|input| input < built))
    }

    fn compile(&self, nvcc: &Path, out: &Path) -> Result<(), String> {
        let (binary, part) = (self.binary(out), out.join(format!("{}.part", self.module)));
        let mut command = Command::new(nvcc);
        command.args(FLAGS);
        for arch in &self.archs {
            command.arg(format!("-gencode=arch=compute_{arch},code=sm_{arch}"));
            if arch == "80" {
                command.arg("-gencode=arch=compute_80,code=compute_80");
            }
        }
        let output = command.arg("-o").arg(&part).arg(&self.source).output();
        let output = output.map_err(|error| format!("{}: {error}", nvcc.display()))?;
        if !output.status.success() {
            for line in String::from_utf8_lossy(&output.stderr).lines() {
                println!("cargo::error={line}");
            }
            return Err(format!("nvcc could not compile {}", self.source.display()));
        }
        fs::rename(&part, &binary).map_err(|error| format!("{}: {error}", binary.display()))
    }
}

/// `modules.rs`: the table of module names and fat binaries, aligned as the driver reads them.
fn write_table(out: &Path, jobs: &[Job]) -> Result<(), String> {
    let mut table = String::from("&[\n");
    for job in jobs {
        let (module, binary) = (&job.module, job.binary(out));
        let _ = writeln!(table, "    ({module:?}, &Aligned(*include_bytes!({binary:?})).0),");
    }
    table.push_str("]\n");
    fs::write(out.join("modules.rs"), table).map_err(|error| format!("modules.rs: {error}"))
}
