//! Memory of the card, pinned memory of the host, and the copies of a start between them.

use std::ptr;
use std::slice;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cudarc::driver::sys::{self, CUresult, CUstream};

use super::super::device::{Fill, GpuError};
use super::super::fill::fill_parallel;
use super::super::launch::DevicePtr;
use super::context::{Context, Event};
use super::error::check;

/// Bytes of one copy to the card: long enough to hide its start, and two are pinned.
const PIECE_BYTES: usize = 16 << 20;

/// Everything allocated on the card; freed when dropped.
#[derive(Default)]
pub(super) struct Memory {
    blocks: Vec<u64>,
    num_allocs: Arc<AtomicU64>,
}

impl Memory {
    /// Takes memory; none at all is still an address of its own.
    pub(super) fn alloc(&mut self, context: &Context, bytes: usize, what: &'static str) -> Result<DevicePtr, GpuError> {
        let mut address = 0;
        // SAFETY: an address is written. The driver aligns it to 256 bytes at least.
        match unsafe { sys::cuMemAlloc_v2(&mut address, bytes.max(1)) } {
            CUresult::CUDA_ERROR_OUT_OF_MEMORY => {
                Err(GpuError::OutOfMemory { what, bytes, free: context.free_bytes().unwrap_or(0) })
            }
            result => {
                check("cuMemAlloc", result)?;
                self.blocks.push(address);
                self.num_allocs.fetch_add(1, Ordering::Relaxed);
                Ok(DevicePtr(address))
            }
        }
    }

    /// The count of allocations.
    pub(super) fn alloc_counter(&self) -> Arc<AtomicU64> {
        self.num_allocs.clone()
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        for &address in self.blocks.iter().rev() {
            // SAFETY: allocated by `alloc`, freed once; the device's drop has waited for all that used it.
            let _ = unsafe { sys::cuMemFree_v2(address) };
        }
    }
}

/// Page-locked memory of the host, which the card reads and writes by itself.
pub(super) struct Pinned {
    address: *mut u8,
    bytes: usize,
}

impl Pinned {
    /// Takes memory, zeroed. Not write-combined: the host reads results from it.
    pub(super) fn new(bytes: usize) -> Result<Self, GpuError> {
        let mut address = ptr::null_mut();
        // SAFETY: an address is written.
        check("cuMemHostAlloc", unsafe { sys::cuMemHostAlloc(&mut address, bytes.max(1), 0) })?;
        let address = address.cast::<u8>();
        // SAFETY: the allocation is of `bytes` bytes at least.
        unsafe { ptr::write_bytes(address, 0, bytes) };
        Ok(Self { address, bytes })
    }

    /// Size.
    pub(super) fn len(&self) -> usize {
        self.bytes
    }

    /// The content. The caller has waited for the card's last write.
    pub(super) fn as_slice(&self) -> &[u8] {
        // SAFETY: initialised by `new`; no copy of the card is under way, as the caller promises.
        unsafe { slice::from_raw_parts(self.address, self.bytes) }
    }

    /// The content. The caller has waited for the card's last access.
    pub(super) fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as above, and `self` is borrowed mutably.
        unsafe { slice::from_raw_parts_mut(self.address, self.bytes) }
    }

    /// Issues a copy of the first `bytes` to the card.
    pub(super) fn copy_to(&self, to: DevicePtr, bytes: usize, stream: CUstream) -> Result<(), GpuError> {
        debug_assert!(bytes <= self.bytes);
        // SAFETY: the source lives until the device has waited for the stream; the target is the caller's.
        check("cuMemcpyHtoDAsync", unsafe { sys::cuMemcpyHtoDAsync_v2(to.0, self.address.cast(), bytes, stream) })
    }

    /// Issues a copy from the card to the first `bytes`.
    pub(super) fn copy_from(&mut self, from: DevicePtr, bytes: usize, stream: CUstream) -> Result<(), GpuError> {
        debug_assert!(bytes <= self.bytes);
        // SAFETY: as above.
        check("cuMemcpyDtoHAsync", unsafe { sys::cuMemcpyDtoHAsync_v2(self.address.cast(), from.0, bytes, stream) })
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // SAFETY: allocated by `new`, freed once.
        let _ = unsafe { sys::cuMemFreeHost(self.address.cast()) };
    }
}

/// Two pinned buffers: one is filled while the other is copied.
pub(super) struct Writer {
    buffers: [(Pinned, Event); 2],
}

impl Writer {
    /// Pins the buffers.
    pub(super) fn new() -> Result<Self, GpuError> {
        let buffer = || Ok((Pinned::new(PIECE_BYTES)?, Event::new()?));
        Ok(Self { buffers: [buffer()?, buffer()?] })
    }

    /// Copies to the card what `fill` makes: the next buffer is filled while the last one travels.
    pub(super) fn write_with(
        &mut self,
        context: &Context,
        (to, bytes): (DevicePtr, usize),
        unit: usize,
        fill: Fill<'_>,
    ) -> Result<(), GpuError> {
        let most = PIECE_BYTES / unit * unit;
        if most == 0 {
            return Err(GpuError::Operand(format!("a write in units of {unit} bytes, at most {PIECE_BYTES}")));
        }
        for first in (0..bytes).step_by(most) {
            let length = most.min(bytes - first);
            self.buffers.swap(0, 1);
            let (pinned, passed) = &mut self.buffers[0];
            passed.wait()?;
            fill_parallel(fill, first, unit, &mut pinned.as_mut_slice()[..length])?;
            pinned.copy_to(to.byte_add(first), length, context.stream())?;
            passed.record(context.stream())?;
        }
        Ok(())
    }
}

/// Copies from the card and waits.
pub(super) fn read(context: &Context, from: DevicePtr, bytes: &mut [u8]) -> Result<(), GpuError> {
    if bytes.is_empty() {
        return Ok(());
    }
    let (target, length, stream) = (bytes.as_mut_ptr().cast(), bytes.len(), context.stream());
    // SAFETY: the target is borrowed until the wait below is over.
    let issued = check("cuMemcpyDtoHAsync", unsafe { sys::cuMemcpyDtoHAsync_v2(target, from.0, length, stream) });
    // Also after an error: nothing may write to the target once this returns.
    context.synchronize().and(issued)
}

/// Fills memory of the card, in the stream's order.
pub(super) fn fill(context: &Context, to: DevicePtr, byte: u8, bytes: usize) -> Result<(), GpuError> {
    if bytes == 0 {
        return Ok(());
    }
    // SAFETY: the target is the caller's.
    check("cuMemsetD8Async", unsafe { sys::cuMemsetD8Async(to.0, byte, bytes, context.stream()) })
}
