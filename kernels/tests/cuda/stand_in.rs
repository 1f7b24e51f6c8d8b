//! The stand-ins for the driver and cublasLt: compiled, loaded in front of the real names, one test at a time.

use std::ffi::{CStr, CString, c_char, c_int};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use libloading::Library;

/// Both libraries; absent on a machine that has the real ones.
static LIBRARIES: OnceLock<Option<(Library, Library)>> = OnceLock::new();

/// They have one state for the process.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// The stand-ins, at one test's disposal; when dropped, it checks that nothing is left alive on them.
pub(crate) struct StandIn {
    driver: &'static Library,
    cublas_lt: &'static Library,
    _guard: MutexGuard<'static, ()>,
}

impl StandIn {
    /// `None`, and a line that says so, where a real driver is.
    pub(crate) fn take() -> Option<Self> {
        let guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((driver, cublas_lt)) = LIBRARIES.get_or_init(load) else {
            println!("skipped: this machine has a driver");
            return None;
        };
        let stand_in = Self { driver, cublas_lt, _guard: guard };
        stand_in.set(13_000, 9);
        stand_in.take_log();
        Some(stand_in)
    }

    /// Versions that the next opening finds.
    pub(crate) fn set(&self, driver: c_int, compute_major: c_int) {
        // SAFETY: the function of that name in `driver.c`.
        unsafe {
            let set = self.driver.get::<unsafe extern "C" fn(c_int, c_int)>(b"stand_in_set").expect("stand_in_set");
            set(driver, compute_major);
        }
    }

    /// Makes the next call of a function fail.
    pub(crate) fn fail(&self, call: &str, result: c_int) {
        let call = CString::new(call).expect("no NUL");
        // SAFETY: as above; the name is copied.
        unsafe {
            let fail = self.driver.get::<unsafe extern "C" fn(*const c_char, c_int)>(b"stand_in_fail");
            fail.expect("stand_in_fail")(call.as_ptr(), result);
        }
    }

    /// What was done since the last call, a line each: kernels, context bindings, module loads.
    pub(crate) fn take_log(&self) -> Vec<String> {
        // SAFETY: as above; the text stays until it is cleared.
        unsafe {
            let log = self.driver.get::<unsafe extern "C" fn() -> *const c_char>(b"stand_in_log").expect("log");
            let lines = CStr::from_ptr(log()).to_string_lossy().lines().map(str::to_owned).collect();
            self.driver.get::<unsafe extern "C" fn()>(b"stand_in_clear_log").expect("stand_in_clear_log")();
            lines
        }
    }

    /// Objects that are made and not yet destroyed: of the driver, of cublasLt.
    pub(crate) fn live(&self) -> [c_int; 2] {
        [self.driver, self.cublas_lt].map(|library| {
            // SAFETY: as above.
            unsafe { library.get::<unsafe extern "C" fn() -> c_int>(b"stand_in_live").expect("stand_in_live")() }
        })
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert_eq!(self.live(), [0, 0], "left alive by the device");
        }
    }
}

fn load() -> Option<(Library, Library)> {
    // SAFETY: NVIDIA's library, if there is one, asks nothing of its loader.
    if unsafe { Library::new("libcuda.so.1") }.is_ok() {
        return None;
    }
    Some((compile("driver.c", "libcuda.so.1"), compile("cublaslt.c", "libcublasLt.so.13")))
}

/// A library that answers to `name` from now on, whoever opens it.
fn compile(source: &str, name: &str) -> Library {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cuda").join(source);
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("stand_in.{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let library = folder.join(name);
    let mut command = Command::new("cc");
    command.args(["-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]);
    command.arg(format!("-Wl,-soname,{name}")).arg("-o").arg(&library).arg(&source);
    let output = command.output().expect("a C compiler");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // SAFETY: our own library, without initialisers.
    let loaded = unsafe { Library::new(&library) }.expect("loaded");
    std::fs::remove_dir_all(&folder).or_else(|_| std::fs::remove_file(&library)).expect("removed");
    loaded
}
