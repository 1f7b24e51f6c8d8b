//! Opens the driver and cublasLt, so that a machine without them gets an error and not cudarc's panic.
//!
//! cudarc opens its libraries at their first use, by names without a directory. A library that is loaded already answers
//! to its file name, so one that this file finds outside of the loader's path serves cudarc too.

use std::env;
use std::error::Error as _;
use std::path::{Path, PathBuf};

use cudarc::cublaslt;
use libloading::Library;

use super::super::device::GpuError;

/// The driver's library.
pub(super) const DRIVER: &str = "libcuda.so.1";

/// The library of matrix products.
pub(super) const CUBLAS_LT: &str = "libcublasLt.so.13";

/// Oldest cublasLt, as it writes its version: major * 10,000 + minor * 100 + patch.
const MIN_CUBLAS_LT: usize = 130_000;

/// Opens the driver.
pub(super) fn open_driver() -> Result<(), GpuError> {
    open(DRIVER, &[])
}

/// Opens cublasLt and gives its version.
pub(super) fn open_cublas_lt() -> Result<usize, GpuError> {
    open(CUBLAS_LT, &toolkit_folders())?;
    // SAFETY: takes nothing; cudarc finds the library, since one of that name is loaded.
    let version = unsafe { cublaslt::sys::cublasLtGetVersion() };
    if version < MIN_CUBLAS_LT {
        let reason = format!(
            "an older libcublasLt.so, of version {}.{}, lies in front of it in LD_LIBRARY_PATH",
            version / 10_000,
            version / 100 % 100
        );
        return Err(GpuError::Library { library: CUBLAS_LT.to_owned(), reason });
    }
    Ok(version)
}

/// Folders of the CUDA toolkit, which the loader's path often lacks.
fn toolkit_folders() -> Vec<PathBuf> {
    let named = ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(env::var_os).map(PathBuf::from);
    let usual = ["/usr/local/cuda", "/usr/local/cuda-13", "/usr/local/cuda-13.0"].map(PathBuf::from);
    named.chain(usual).flat_map(|home| [home.join("lib64"), home.join("lib")]).collect()
}

/// Loads a library for the rest of the process: by its name, else from one of the folders.
fn open(library: &'static str, folders: &[PathBuf]) -> Result<(), GpuError> {
    let reason = match load(Path::new(library)) {
        Ok(()) => return Ok(()),
        Err(reason) => reason,
    };
    let found = folders.iter().map(|folder| folder.join(library)).filter(|path| path.exists());
    for path in found {
        if load(&path).is_ok() {
            return Ok(());
        }
    }
    Err(GpuError::Library { library: library.to_owned(), reason })
}

fn load(path: &Path) -> Result<(), String> {
    // SAFETY: the initialisers of NVIDIA's libraries ask nothing of their caller.
    let library = unsafe { Library::new(path) }.map_err(|error| match error.source() {
        Some(words) => words.to_string(),
        None => error.to_string(),
    })?;
    // Never unloaded: cudarc keeps pointers into it.
    std::mem::forget(library);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_library_is_named_with_the_loaders_reason() {
        let error = open("libsconce-has-no-such.so.7", &toolkit_folders()).expect_err("no such library");
        let GpuError::Library { library, reason } = &error else { panic!("{error}") };
        assert_eq!(library, "libsconce-has-no-such.so.7");
        assert!(reason.contains("libsconce-has-no-such.so.7"), "{reason}");
        assert!(error.to_string().starts_with("libsconce-has-no-such.so.7 can't be opened"), "{error}");
    }

    #[test]
    fn a_folder_is_searched_after_the_loaders_path() {
        // Any library that is surely there, under its full path.
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
        let libc = maps.split_whitespace().find(|word| word.ends_with("/libc.so.6"));
        let Some(path) = libc.map(Path::new) else { return };
        assert_eq!(load(path), Ok(()));
        let folder = path.parent().expect("a folder").to_owned();
        assert_eq!(open("libc.so.6", &[folder]), Ok(()));
    }
}
