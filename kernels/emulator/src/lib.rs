//! The CUDA kernels on the CPU, for tests: buffers of exactly the bytes asked for, launches, a whole device, and the child
//! process that a test runs in under the address sanitizer.
//!
//! # Layout
//! - `build`: compiles `kernels/cuda/*.cu` and the emulator of `kernels/cuda/emu` with the host's C++ compiler
//! - `device`: the emulator as a [`GpuDevice`](sconce_kernels::gpu::device::GpuDevice) that keeps a record of what was issued

use std::ffi::{CStr, CString, c_char, c_void};
use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW, Symbol};
use sconce_kernels::gpu::device::GpuError;
use sconce_kernels::gpu::launch::{DevicePtr, Launch};

mod build;
mod device;

pub use device::{EmulatedDevice, Issued};
pub use sconce_kernels::gpu::pod::Pod as Plain;
use sconce_kernels::gpu::verify::Bed;

/// Set in the child process that has the sanitizer's runtime loaded.
const CHILD: &str = "SCONCE_EMU_CHILD";

/// A kernel as the libraries register it.
pub struct Kernel {
    /// The file of `kernels/cuda` that it lies in, without extension.
    pub module: String,
    /// Its name.
    pub name: String,
    /// Its parameter struct.
    pub params_name: String,
    /// Bytes of that struct.
    pub params_bytes: usize,
}

type AllocFn = unsafe extern "C" fn(usize) -> *mut c_void;
type FreeFn = unsafe extern "C" fn(*mut c_void);
type CopyFn = unsafe extern "C" fn(*mut c_void, *const c_void, usize);
type LaunchFn = unsafe extern "C" fn(*const c_char, *const u32, u32, usize, *const c_void, usize) -> *const c_char;

/// The emulated device. One at a time, on one thread.
pub struct Emulator {
    alloc: AllocFn,
    free: FreeFn,
    copy: CopyFn,
    set_seed: unsafe extern "C" fn(u64),
    launch: LaunchFn,
    kernels: Vec<Kernel>,
    /// Orders of threads and blocks: 0 as numbered, else shuffled. Changes with every launch.
    pub seed: u64,
    /// Never closed: kernels register themselves once, when a library is first opened.
    _libraries: ManuallyDrop<Vec<Library>>,
}

/// Memory of the device: `len` values, poisoned until written.
pub struct Buffer<T: Plain> {
    address: *mut c_void,
    len: usize,
    free: FreeFn,
    copy: CopyFn,
    values: PhantomData<T>,
}

/// Runs a test on the emulator, in a child process of this test's name that has the sanitizer loaded; a report of the
/// sanitizer, a deadlock, a crash or a failed assertion is this test's failure, with its text.
///
/// Call it directly in the test function: the closure's type carries the test's name.
#[track_caller]
pub fn emulated<F: FnOnce(&mut Emulator)>(test: F) {
    in_child(test, |test| test(&mut Emulator::open()));
}

/// As [`emulated`], with the emulator as a whole device.
#[track_caller]
pub fn emulated_device<F: FnOnce(EmulatedDevice)>(test: F) {
    in_child(test, |test| test(EmulatedDevice::new(Emulator::open())));
}

/// The emulated device as single kernels are checked on it.
pub type EmulatedBed = Bed<EmulatedDevice>;

/// As [`emulated_device`], for a test of single kernels.
#[track_caller]
pub fn emulated_bed<F: FnOnce(&mut EmulatedBed)>(test: F) {
    in_child(test, |test| test(&mut Bed::new(EmulatedDevice::new(Emulator::open()))));
}

/// As [`emulated_device`], for a test that opens devices, one after another.
#[track_caller]
pub fn emulated_devices<F: FnOnce(&mut dyn FnMut() -> Result<EmulatedDevice, GpuError>)>(test: F) {
    in_child(test, |test| test(&mut || Ok(EmulatedDevice::new(Emulator::open()))));
}

/// Runs a test that must pass by `run` in the child, which the parent starts.
#[track_caller]
fn in_child<F>(test: F, run: impl FnOnce(F)) {
    if is_off() {
        return;
    }
    let Some(name) = in_parent::<F>() else { return run(test) };
    let (ok, text) = run_child(&name);
    assert!(ok, "{text}");
}

/// As [`emulated`], for a test that must fail with `expected` in its text.
#[track_caller]
pub fn emulated_fault<F: FnOnce(&mut Emulator)>(expected: &str, test: F) {
    if is_off() {
        return;
    }
    let Some(name) = in_parent::<F>() else { return test(&mut Emulator::open()) };
    let (ok, text) = run_child(&name);
    assert!(!ok && text.contains(expected), "expected a failure with {expected:?}, got:\n{text}");
}

/// Whether this machine has no compiler for the kernels, as `scripts/test` finds out: the test then says so and passes.
fn is_off() -> bool {
    let off = std::env::var_os("SCONCE_TEST_EMULATOR").is_some_and(|value| value == "off");
    if off {
        println!("skipped: SCONCE_TEST_EMULATOR is off");
    }
    off
}

/// The test's name, if this is not the child; `F` is a closure of the test function.
fn in_parent<F>() -> Option<String> {
    if std::env::var_os(CHILD).is_some() {
        return None;
    }
    let path = std::any::type_name::<F>();
    let path = path.split("::{{closure}}").next().unwrap_or(path);
    Some(path.split_once("::").map_or(path, |(_, name)| name).to_owned())
}

/// Whether the test passed in a child process, and what that wrote.
fn run_child(name: &str) -> (bool, String) {
    libraries();
    let runtime = sanitizer();
    let output = Command::new(std::env::current_exe().expect("this test's file"))
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(CHILD, "1")
        .env("RUST_BACKTRACE", "0")
        .env("LD_PRELOAD", runtime)
        .env("ASAN_OPTIONS", "detect_leaks=0:detect_odr_violation=0")
        .output()
        .expect("a child process");
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("running 1 test"), "no test named {name}:\n{text}");
    (output.status.success(), text)
}

/// The kernels' libraries, built once a process.
fn libraries() -> &'static build::Libraries {
    static BUILT: OnceLock<build::Libraries> = OnceLock::new();
    BUILT.get_or_init(build::libraries)
}

/// The address sanitizer's runtime, from the compiler that compiled the kernels.
fn sanitizer() -> PathBuf {
    let output = Command::new(build::compiler()).arg("-print-file-name=libasan.so").output().expect("the compiler");
    let path = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
    // GCC's name is a link, which the preloader follows; a bare name means that there is none.
    assert!(path.is_absolute(), "the compiler has no libasan.so");
    path.canonicalize().expect("libasan.so")
}

/// Opens a library whose constructors register kernels.
fn open(path: &Path, flags: i32) -> Library {
    // SAFETY: built from this repository; its constructors only fill a table.
    unsafe { Library::open(Some(path), flags) }.unwrap_or_else(|error| panic!("{}: {error:?}", path.display()))
}

/// The function `name`.
///
/// # Safety
/// `F` is its type, and the library stays open while it is called.
unsafe fn symbol<F: Copy>(library: &Library, name: &str) -> F {
    // SAFETY: as the caller promises.
    let symbol: Symbol<F> = unsafe { library.get(name.as_bytes()) }.unwrap_or_else(|error| panic!("{name}: {error}"));
    *symbol
}

impl Emulator {
    /// Only in the child process of [`emulated`].
    fn open() -> Self {
        let built = libraries();
        let emulator = open(&built.emulator, RTLD_NOW | RTLD_GLOBAL);
        let kernels = built.kernels.iter().map(|path| open(path, RTLD_NOW)).collect::<Vec<_>>();
        // SAFETY: the signatures are those of launch.cpp; the library stays open as long as the symbols.
        unsafe {
            let list: unsafe extern "C" fn() -> *const c_char = symbol(&emulator, "emu_kernels");
            let list = CStr::from_ptr(list()).to_str().expect("names");
            Self {
                alloc: symbol(&emulator, "emu_alloc"),
                free: symbol(&emulator, "emu_free"),
                copy: symbol(&emulator, "emu_copy"),
                set_seed: symbol(&emulator, "emu_set_seed"),
                launch: symbol(&emulator, "emu_launch"),
                kernels: list.lines().map(parse_kernel).collect(),
                seed: 0,
                _libraries: ManuallyDrop::new(std::iter::once(emulator).chain(kernels).collect()),
            }
        }
    }

    /// Every kernel of the libraries.
    pub fn kernels(&self) -> &[Kernel] {
        &self.kernels
    }

    /// Memory for `len` values, every bit set: NaN, or -1.
    pub fn alloc<T: Plain>(&self, len: usize) -> Buffer<T> {
        // SAFETY: any size is allowed.
        let address = unsafe { (self.alloc)(len * size_of::<T>()) };
        assert!(!address.is_null(), "no memory for {len} values");
        Buffer { address, len, free: self.free, copy: self.copy, values: PhantomData }
    }

    /// Memory that holds a copy of `values`.
    pub fn upload<T: Plain>(&self, values: &[T]) -> Buffer<T> {
        let mut buffer = self.alloc(values.len());
        buffer.write(values);
        buffer
    }

    /// Runs a launch to its end.
    ///
    /// # Panics
    /// With the emulator's text on a deadlock or a launch that the device would refuse.
    #[track_caller]
    pub fn launch(&mut self, launch: &Launch) {
        let found = self.kernels.iter().find(|kernel| kernel.name == launch.kernel);
        let found = found.unwrap_or_else(|| panic!("no kernel {}", launch.kernel));
        assert_eq!(found.module, launch.module, "module of {}", launch.kernel);
        let name = CString::new(launch.kernel.as_str()).expect("a name");
        let params = launch.params();
        // SAFETY: the grid has three numbers; name and parameters outlive the call; the text is copied at once.
        let error = unsafe {
            (self.set_seed)(self.seed);
            let params_at = params.as_ptr().cast();
            let shared_bytes = launch.shared_bytes as usize;
            let grid = launch.grid.as_ptr();
            let error = (self.launch)(name.as_ptr(), grid, launch.threads, shared_bytes, params_at, params.len());
            if error.is_null() { None } else { Some(CStr::from_ptr(error).to_string_lossy().into_owned()) }
        };
        self.seed += 1;
        if let Some(error) = error {
            panic!("{error}");
        }
    }
}

/// A line of `emu_kernels`: file, name, parameter struct, its bytes, threads.
fn parse_kernel(line: &str) -> Kernel {
    let fields: Vec<&str> = line.rsplitn(5, ' ').collect();
    let [_threads, bytes, params_name, name, file] = fields[..] else { panic!("kernel line {line:?}") };
    Kernel {
        module: Path::new(file).file_stem().expect("a file").to_string_lossy().into_owned(),
        name: name.to_owned(),
        params_name: params_name.to_owned(),
        params_bytes: bytes.parse().expect("bytes"),
    }
}

impl<T: Plain> Buffer<T> {
    /// Its address, for parameters.
    pub fn ptr(&self) -> DevicePtr {
        DevicePtr(self.address as u64)
    }

    /// Values that it holds.
    #[expect(clippy::len_without_is_empty, reason = "a buffer of nothing is of no interest")]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Overwrites the first values.
    pub fn write(&mut self, values: &[T]) {
        assert!(values.len() <= self.len, "{} values into {}", values.len(), self.len);
        // SAFETY: the buffer holds at least as many values, and is nobody else's.
        unsafe { (self.copy)(self.address, values.as_ptr().cast(), size_of_val(values)) }
    }

    /// All values.
    pub fn read(&self) -> Vec<T> {
        let mut values: Vec<T> = Vec::with_capacity(self.len);
        // SAFETY: the buffer holds `len` values, initialised when allocated; every pattern is a `T`.
        unsafe {
            (self.copy)(values.as_mut_ptr().cast(), self.address, self.len * size_of::<T>());
            values.set_len(self.len);
        }
        values
    }
}

impl<T: Plain> Drop for Buffer<T> {
    fn drop(&mut self) {
        // SAFETY: allocated by the same library, freed once.
        unsafe { (self.free)(self.address) }
    }
}
