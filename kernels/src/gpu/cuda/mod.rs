//! A card as a [`GpuDevice`](super::device::GpuDevice), through the CUDA driver and cublasLt, both opened at run time.
//!
//! # Layout
//! - `library`, `context`: opening the libraries, the card, its stream; events
//! - `memory`, `staging`: memory of the card and pinned memory; the copies of a start, rings that never wait
//! - `kernels`, `tensor_maps`: modules and launches; what tensor copies are told
//! - `descriptors`, `problem`: cublasLt's objects, a product made of them
//! - `products`, `plans`: which algorithm computes which product, the file of those measured
//! - `graphs`: capture and replay
//! - `operations`: all of it as a `GpuDevice`
//! - `error`: what results mean
//!
//! Nothing in here decides what a step does; it does what it is told, in order, on one stream.

mod context;
mod descriptors;
mod error;
mod graphs;
mod kernels;
mod library;
mod memory;
mod operations;
mod plans;
mod problem;
mod products;
mod staging;
mod tensor_maps;

use std::io;
use std::path::{Path, PathBuf};

use self::context::Context;
use self::graphs::Graphs;
use self::kernels::Kernels;
use self::memory::{Memory, Writer};
use self::plans::PlanKey;
use self::products::Products;
use self::staging::Staging;
use super::device::{DeviceInfo, GpuError};

/// Programmatic dependent launch begins here.
const OVERLAP_COMPUTE: (u32, u32) = (9, 0);

/// A card. It may move to another thread, which then is the one that uses it.
///
/// Fields are dropped in this order, the context last.
pub struct CudaGpu {
    graphs: Graphs,
    products: Products,
    kernels: Kernels,
    staging: Option<Staging>,
    writer: Option<Writer>,
    memory: Memory,
    info: DeviceInfo,
    /// The stream's newest operation is a kernel: only then may the next one overlap.
    after_kernel: bool,
    /// Where measured plans are kept.
    plan_file: Option<PathBuf>,
    context: Context,
}

// SAFETY: the driver's and cublasLt's handles may be used from any thread, one at a time, which `&mut self` and the lack
// of `Sync` see to; every method makes the context current on its thread first. The rest is plain data.
unsafe impl Send for CudaGpu {}

impl CudaGpu {
    /// What the card of that number is, without taking it.
    ///
    /// # Errors
    /// As for [`Self::open`].
    pub fn probe(ordinal: usize) -> Result<DeviceInfo, GpuError> {
        library::open_driver()?;
        library::open_cublas_lt()?;
        Ok(context::find(ordinal)?.1)
    }

    /// Takes the card of that number.
    ///
    /// # Errors
    /// [`GpuError::Library`] without a driver or cublasLt; [`GpuError::Unusable`] for an old driver or card, or a number
    /// that no card has; [`GpuError::OutOfMemory`].
    pub fn open(ordinal: usize) -> Result<Self, GpuError> {
        library::open_driver()?;
        let library = library::open_cublas_lt()?;
        let (context, info) = Context::open(ordinal)?;
        let mut memory = Memory::default();
        let workspace = memory.alloc(&context, products::workspace_bytes(info.compute), "cublasLt's workspace")?;
        let key = PlanKey { name: info.name.clone(), compute: info.compute, library };
        Ok(Self {
            graphs: Graphs::new(),
            products: Products::new(workspace, key)?,
            kernels: Kernels::new(info.shared_bytes),
            staging: None,
            writer: None,
            memory,
            info,
            after_kernel: false,
            plan_file: None,
            context,
        })
    }

    /// CUDA version of the driver (13020 for 13.2) and version of cublasLt (130100 for 13.1.0).
    ///
    /// # Errors
    /// When the driver doesn't tell.
    pub fn versions(&self) -> Result<(i32, usize), GpuError> {
        Ok((context::driver_version()?, self.products.key.library))
    }

    /// In the deterministic mode, a row of a product is to come out the same whatever the other rows: no partial sums, no
    /// workspace, one algorithm for all numbers of rows.
    pub fn set_deterministic(&mut self, deterministic: bool) {
        self.products.set_deterministic(deterministic);
    }

    /// Takes measured plans from a file of [`Self::save_plans`] and gives their number: 0 when there is no file. Plans that
    /// are measured later go to that file.
    ///
    /// # Errors
    /// The reason why the file is ignored: another card, another cublasLt, damage.
    pub fn load_plans(&mut self, path: &Path) -> Result<usize, String> {
        self.plan_file = Some(path.to_owned());
        let plans = plans::load(path, &self.products.key)?;
        let count = plans.len();
        self.products.add_measured(plans);
        Ok(count)
    }

    /// Writes the measured plans to a file.
    ///
    /// # Errors
    /// When the file can't be written.
    pub fn save_plans(&self, path: &Path) -> io::Result<()> {
        plans::save(path, &self.products.key, &self.products.measured)
    }

    /// Begins an operation that can't be captured.
    fn outside(&mut self, operation: &str) -> Result<(), GpuError> {
        self.graphs.outside(operation)?;
        self.context.bind()
    }
}

impl Drop for CudaGpu {
    fn drop(&mut self) {
        // Errors are those of a card that is lost; the process is about to end then.
        let _ = self.context.bind();
        self.graphs.abandon(&self.context);
        let _ = self.context.synchronize();
    }
}

#[cfg(test)]
mod tests {
    use super::super::device::GpuDevice as _;
    use super::*;

    #[test]
    fn a_machine_without_a_driver_gets_an_error_and_no_panic() {
        match (library::open_driver(), CudaGpu::open(0)) {
            (Err(missing), opened) => {
                let error = opened.err().expect("no driver, no card");
                assert_eq!(error, missing);
                let GpuError::Library { library, .. } = error else { panic!("{error}") };
                assert_eq!(library, "libcuda.so.1");
            }
            // With a driver, but perhaps no card of number 0 that will do.
            (Ok(()), Ok(gpu)) => assert!(gpu.num_allocs() == 1, "the workspace alone"),
            (Ok(()), Err(error)) => assert!(!error.to_string().is_empty()),
        }
    }

    #[test]
    fn the_engine_thread_may_take_it() {
        fn is_send<T: Send>() {}
        is_send::<CudaGpu>();
    }
}
