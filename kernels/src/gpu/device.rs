//! What the engine asks of a GPU, as one trait: memory, copies, launches, matrix products, graphs.
//!
//! `cuda` implements it on a card; the emulator of the tests on the CPU; a recording of either one shows a test what a
//! step does. Everything is issued in order on one stream. What copies and launches touch is raw device memory, which
//! lives as long as the device: all of it is taken at start and nothing is given back before the end.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::gemm::Gemm;
use super::launch::{DevicePtr, Launch};
use super::tensor_map::{TensorMap, TensorRows};

/// What went wrong on a device. Every message is one line with a remedy, where there is one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GpuError {
    /// The card has no memory left.
    #[error(
        "can't take {bytes} bytes of device memory for {what}, {free} are free; lower kv-cache-memory, max-num-seqs or max-batch-tokens, or use a smaller model"
    )]
    OutOfMemory {
        /// Purpose.
        what: &'static str,
        /// Bytes asked for.
        bytes: usize,
        /// Bytes free on the card.
        free: u64,
    },
    /// A library that the card needs can't be opened.
    #[error(
        "{library} can't be opened ({reason}); install the NVIDIA driver and the CUDA 13 libraries, or use --device cpu"
    )]
    Library {
        /// File name.
        library: String,
        /// The loader's words.
        reason: String,
    },
    /// There is no such card, or it can't run our kernels.
    #[error("{0}")]
    Unusable(String),
    /// A call failed; later ones may succeed.
    #[error("{call}: {reason}")]
    Call {
        /// Function of the driver or library.
        call: &'static str,
        /// Its error.
        reason: String,
    },
    /// The card or its context is gone: nothing can succeed any more.
    #[error("the GPU is lost: {call}: {reason}; restart the server, and look at the kernel log for Xid lines")]
    Lost {
        /// Function that noticed.
        call: &'static str,
        /// Its error.
        reason: String,
    },
    /// A bug of the caller: the operand is not there.
    #[error("{0}")]
    Operand(String),
}

impl GpuError {
    /// True when no later call can succeed either.
    pub fn is_fatal(&self) -> bool {
        matches!(self, Self::Lost { .. })
    }
}

/// What a card is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceInfo {
    /// Marketing name.
    pub name: String,
    /// Compute capability, such as (9, 0).
    pub compute: (u32, u32),
    /// Streaming multiprocessors.
    pub num_sms: usize,
    /// Dynamic shared memory that a block may ask for, in bytes.
    pub shared_bytes: usize,
    /// Shared memory of an SM, in bytes.
    pub shared_bytes_per_sm: usize,
    /// Memory of the card, in bytes.
    pub total_bytes: u64,
}

/// A captured sequence of operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GraphId(pub usize);

/// A copy to the host that has been issued.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub struct Download(pub usize);

/// Makes the bytes that begin at an offset.
pub type Fill<'a> = &'a (dyn Fn(usize, &mut [u8]) -> Result<(), GpuError> + Sync);

/// A device with one stream. Operations are issued in order; errors may show at a later call.
pub trait GpuDevice: Send {
    /// The card.
    fn info(&self) -> &DeviceInfo;

    /// Bytes free now.
    ///
    /// # Errors
    /// When the device fails.
    fn free_bytes(&self) -> Result<u64, GpuError>;

    /// Takes memory, aligned to 256 bytes, for the device's whole life. Contents are unspecified.
    ///
    /// # Errors
    /// [`GpuError::OutOfMemory`].
    fn alloc(&mut self, bytes: usize, what: &'static str) -> Result<DevicePtr, GpuError>;

    /// The count of allocations, which outlives the device's being given away: a running engine makes none.
    fn alloc_counter(&self) -> Arc<AtomicU64>;

    /// Allocations made so far.
    fn num_allocs(&self) -> u64 {
        self.alloc_counter().load(Ordering::Relaxed)
    }

    /// Copies to the device what `fill` makes, for start-up. It is called, from several threads, with the offset of a piece
    /// and room for it; pieces begin at multiples of `unit` bytes. Returns when all is made; copies may be under way still,
    /// in the order of the stream.
    ///
    /// # Errors
    /// When the device or `fill` fails.
    fn write_with(&mut self, to: DevicePtr, bytes: usize, unit: usize, fill: Fill<'_>) -> Result<(), GpuError>;

    /// Copies to the device, for start-up; `bytes` has been read when this returns.
    ///
    /// # Errors
    /// When the device fails.
    fn write(&mut self, to: DevicePtr, bytes: &[u8]) -> Result<(), GpuError> {
        self.write_with(to, bytes.len(), 1, &|at, piece| {
            piece.copy_from_slice(&bytes[at..at + piece.len()]);
            Ok(())
        })
    }

    /// Copies from the device and waits: for tests and checks.
    ///
    /// # Errors
    /// When the device fails.
    fn read(&mut self, from: DevicePtr, bytes: &mut [u8]) -> Result<(), GpuError>;

    /// Fills memory with a byte.
    ///
    /// # Errors
    /// When the device fails.
    fn fill(&mut self, to: DevicePtr, byte: u8, bytes: usize) -> Result<(), GpuError>;

    /// Copies a step's metadata through a ring of pinned buffers, without waiting for anything but a buffer of three
    /// steps ago. Never part of a captured graph.
    ///
    /// # Errors
    /// When the device fails, or `bytes` passes what [`Self::reserve_staging`] set.
    fn upload(&mut self, to: DevicePtr, bytes: &[u8]) -> Result<(), GpuError>;

    /// Makes the pinned buffers of [`Self::upload`] and [`Self::begin_download`].
    ///
    /// # Errors
    /// When the host has no memory to pin.
    fn reserve_staging(&mut self, upload_bytes: usize, download_bytes: usize) -> Result<(), GpuError>;

    /// Issues a copy to a pinned buffer.
    ///
    /// # Errors
    /// When the device fails, or `bytes` passes what [`Self::reserve_staging`] set.
    fn begin_download(&mut self, from: DevicePtr, bytes: usize) -> Result<Download, GpuError>;

    /// Waits for a copy, oldest first; the bytes stay until three further downloads have begun.
    ///
    /// # Errors
    /// When it or anything issued before it failed.
    fn end_download(&mut self, download: Download) -> Result<&[u8], GpuError>;

    /// Issues a kernel. A launch with a 0 in its grid is skipped.
    ///
    /// # Errors
    /// When the device refuses it.
    fn launch(&mut self, launch: &Launch) -> Result<(), GpuError>;

    /// The map by which a kernel's tensor copies find these rows. No work for the device; the memory outlives the map.
    ///
    /// # Errors
    /// [`GpuError::Unusable`] where the device has no such copies; when it refuses the rows.
    fn tensor_map(&mut self, rows: &TensorRows) -> Result<TensorMap, GpuError> {
        Err(GpuError::Unusable(format!("{} has no tensor copies for {rows:?}", self.info().name)))
    }

    /// Issues a matrix product.
    ///
    /// # Errors
    /// When the device refuses it.
    fn gemm(&mut self, gemm: &Gemm) -> Result<(), GpuError>;

    /// Measures the ways to compute a product of this shape, unless that is done already, and computes those to come in
    /// the fastest. Reads the operands and leaves anything in the output. For start-up; does nothing where there is but one way.
    ///
    /// # Errors
    /// When the device fails, or refuses the product.
    fn tune(&mut self, _gemm: &Gemm) -> Result<(), GpuError> {
        Ok(())
    }

    /// Whether [`Self::tune`] does anything.
    fn tunes(&self) -> bool {
        false
    }

    /// Tuning is over: what was found may be kept for the next start.
    fn end_tuning(&mut self) {}

    /// From here to [`Self::end_capture`], launches and products are recorded and not executed.
    ///
    /// # Errors
    /// When the device refuses.
    fn begin_capture(&mut self) -> Result<(), GpuError>;

    /// The graph of what was issued since [`Self::begin_capture`].
    ///
    /// # Errors
    /// When something in between can't be captured.
    fn end_capture(&mut self) -> Result<GraphId, GpuError>;

    /// Issues everything in a graph.
    ///
    /// # Errors
    /// When the device refuses it.
    fn replay(&mut self, graph: GraphId) -> Result<(), GpuError>;

    /// Waits until everything issued is done.
    ///
    /// # Errors
    /// When something issued failed.
    fn synchronize(&mut self) -> Result<(), GpuError>;
}
