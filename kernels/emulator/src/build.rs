//! Compiles `kernels/cuda/*.cu` for the host: one library a file, so that equal names in two files stay apart, and one
//! for the emulator that they share. Only what changed is compiled, two at a time, under a lock between processes.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::SystemTime;

/// Switches of every compilation. Stack variables are not watched: fibers would confuse the sanitizer.
const FLAGS: &[&str] = &[
    "-DSCONCE_EMU",
    "-std=c++17",
    "-O2",
    "-g",
    "-fPIC",
    "-shared",
    "-fvisibility=hidden",
    "-fno-strict-aliasing",
    "-ffp-contract=off",
    "-fsanitize=address",
    "--param",
    "asan-stack=0",
    "-Wall",
    "-Wno-unknown-pragmas",
];

/// What was built.
pub(crate) struct Libraries {
    /// The emulator: opened first, its symbols for all.
    pub(crate) emulator: PathBuf,
    /// One library a `.cu` file.
    pub(crate) kernels: Vec<PathBuf>,
}

/// One library: its sources and where it goes.
struct Job {
    sources: Vec<PathBuf>,
    library: PathBuf,
}

/// The C++ compiler: `$CXX`, else `g++`.
pub(crate) fn compiler() -> OsString {
    std::env::var_os("CXX").unwrap_or_else(|| "g++".into())
}

/// Builds what is out of date.
///
/// # Panics
/// With the compiler's text if it fails.
pub(crate) fn libraries() -> Libraries {
    let cuda = Path::new(env!("CARGO_MANIFEST_DIR")).join("../cuda");
    // Tests lie in `deps` of the profile's folder.
    let test = std::env::current_exe().expect("this test's file");
    let out = test.parent().and_then(Path::parent).expect("target folder").join("emu");
    fs::create_dir_all(&out).expect("folder of the emulator's libraries");
    let lock = File::create(out.join("lock")).expect("lock file");
    lock.lock().expect("lock");

    let emulator = Job {
        sources: ["fiber.cpp", "async.cpp", "block.cpp", "launch.cpp"].map(|name| cuda.join("emu").join(name)).to_vec(),
        library: out.join("libsconce_emu.so"),
    };
    let mut sources = with_extension(&cuda, "cu");
    sources.extend(with_extension(&cuda.join("emu"), "cu"));
    let kernels = sources.into_iter().map(|source| Job {
        library: out.join(source.file_stem().expect("name")).with_extension("so"),
        sources: vec![source],
    });
    let jobs: Vec<Job> = std::iter::once(emulator).chain(kernels).collect();
    let libraries = Libraries {
        emulator: jobs[0].library.clone(),
        kernels: jobs[1..].iter().map(|job| job.library.clone()).collect(),
    };
    let queue = Mutex::new(jobs.into_iter().filter(|job| !job.is_current()).collect::<VecDeque<_>>());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let next = queue.lock().expect("queue").pop_front();
                    let Some(job) = next else { break };
                    job.run();
                }
            });
        }
    });
    libraries
}

fn with_extension(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("kernels/cuda");
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("entry").path()).collect();
    files.retain(|path| path.extension().is_some_and(|found| found == extension));
    files.sort();
    files
}

fn modified(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).and_then(|data| data.modified()).ok()
}

impl Job {
    fn depfile(&self) -> PathBuf {
        self.library.with_extension("d")
    }

    /// Whether the library is younger than everything that the compiler read for it, and than these switches.
    fn is_current(&self) -> bool {
        let Some(built) = modified(&self.library) else { return false };
        let Ok(rule) = fs::read_to_string(self.depfile()) else { return false };
        let inputs = rule.split_whitespace().filter(|word| *word != "\\" && !word.ends_with(':'));
        // The rule names what the last source includes: of the emulator's, everything but the other sources.
        let this = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/build.rs");
        let inputs = inputs.map(PathBuf::from).chain(self.sources.iter().cloned()).chain([this]);
        inputs.into_iter().all(|input| modified(&input).is_some_and(|at| at < built))
    }

    fn run(&self) {
        // Renamed when whole: another process may have the old one open.
        let (part, deps) = (self.library.with_extension("part"), self.depfile());
        let mut command = Command::new(compiler());
        command.args(FLAGS).args(["-MMD", "-MF"]).arg(&deps).arg("-o").arg(&part);
        command.args(["-x", "c++"]).args(&self.sources);
        let output = command.output().unwrap_or_else(|error| panic!("{}: {error}", compiler().display()));
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{command:?}\n{text}");
        fs::rename(&part, &self.library).expect("library renamed");
    }
}
