//! A device that only counts: what a model takes on a card is found by loading it onto this one, which reads nothing
//! and needs no card.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::device::{DeviceInfo, Download, Fill, GpuDevice, GpuError, GraphId};
use super::gemm::Gemm;
use super::launch::{DevicePtr, Launch};
use super::tensor_map::{TensorMap, TensorRows};

/// Memory asked for, by purpose. Nothing is there behind the addresses that it gives.
#[derive(Clone, Debug)]
pub struct CountingDevice {
    info: DeviceInfo,
    taken: Vec<(&'static str, u64)>,
    num_allocs: Arc<AtomicU64>,
}

impl CountingDevice {
    /// A device that claims to be the card of `info`: sizes of workspaces follow from it.
    pub fn new(info: DeviceInfo) -> Self {
        Self { info, taken: Vec::new(), num_allocs: Arc::default() }
    }

    /// Bytes by purpose, in the order of their first use.
    pub fn taken(&self) -> &[(&'static str, u64)] {
        &self.taken
    }
}

impl GpuDevice for CountingDevice {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn free_bytes(&self) -> Result<u64, GpuError> {
        Ok(self.info.total_bytes)
    }

    fn alloc(&mut self, bytes: usize, what: &'static str) -> Result<DevicePtr, GpuError> {
        self.num_allocs.fetch_add(1, Ordering::Relaxed);
        match self.taken.iter_mut().find(|(name, _)| *name == what) {
            Some((_, taken)) => *taken += bytes as u64,
            None => self.taken.push((what, bytes as u64)),
        }
        // As a card's: never null, and aligned.
        Ok(DevicePtr(256))
    }

    fn alloc_counter(&self) -> Arc<AtomicU64> {
        self.num_allocs.clone()
    }

    fn write_with(&mut self, _to: DevicePtr, _bytes: usize, _unit: usize, _fill: Fill<'_>) -> Result<(), GpuError> {
        Ok(())
    }

    fn read(&mut self, _from: DevicePtr, _bytes: &mut [u8]) -> Result<(), GpuError> {
        Err(nothing())
    }

    fn fill(&mut self, _to: DevicePtr, _byte: u8, _bytes: usize) -> Result<(), GpuError> {
        Ok(())
    }

    fn upload(&mut self, _to: DevicePtr, _bytes: &[u8]) -> Result<(), GpuError> {
        Ok(())
    }

    fn reserve_staging(&mut self, _upload_bytes: usize, _download_bytes: usize) -> Result<(), GpuError> {
        Ok(())
    }

    fn begin_download(&mut self, _from: DevicePtr, _bytes: usize) -> Result<Download, GpuError> {
        Err(nothing())
    }

    fn end_download(&mut self, _download: Download) -> Result<&[u8], GpuError> {
        Err(nothing())
    }

    fn launch(&mut self, _launch: &Launch) -> Result<(), GpuError> {
        Ok(())
    }

    fn tensor_map(&mut self, _rows: &TensorRows) -> Result<TensorMap, GpuError> {
        Ok(TensorMap([0; 16]))
    }

    fn gemm(&mut self, _gemm: &Gemm) -> Result<(), GpuError> {
        Ok(())
    }

    fn begin_capture(&mut self) -> Result<(), GpuError> {
        Err(nothing())
    }

    fn end_capture(&mut self) -> Result<GraphId, GpuError> {
        Err(nothing())
    }

    fn replay(&mut self, _graph: GraphId) -> Result<(), GpuError> {
        Err(nothing())
    }

    fn synchronize(&mut self) -> Result<(), GpuError> {
        Ok(())
    }
}

fn nothing() -> GpuError {
    GpuError::Operand("a device that only counts has nothing to give back".to_owned())
}
