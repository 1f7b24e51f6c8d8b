//! The operations of a device, each a call of the part that does it.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use super::super::device::{DeviceInfo, Download, Fill, GpuDevice, GpuError, GraphId};
use super::super::gemm::Gemm;
use super::super::launch::{DevicePtr, Launch};
use super::super::tensor_map::{TensorMap, TensorRows};
use super::memory::{self, Writer};
use super::staging::Staging;
use super::{CudaGpu, OVERLAP_COMPUTE, tensor_maps};

impl GpuDevice for CudaGpu {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn free_bytes(&self) -> Result<u64, GpuError> {
        self.context.bind()?;
        self.context.free_bytes()
    }

    fn alloc(&mut self, bytes: usize, what: &'static str) -> Result<DevicePtr, GpuError> {
        self.outside("an allocation")?;
        self.memory.alloc(&self.context, bytes, what)
    }

    fn alloc_counter(&self) -> Arc<AtomicU64> {
        self.memory.alloc_counter()
    }

    fn write_with(&mut self, to: DevicePtr, bytes: usize, unit: usize, fill: Fill<'_>) -> Result<(), GpuError> {
        self.outside("a write")?;
        self.after_kernel = false;
        let writer = match &mut self.writer {
            Some(writer) => writer,
            none => none.insert(Writer::new()?),
        };
        writer.write_with(&self.context, (to, bytes), unit, fill)
    }

    fn read(&mut self, from: DevicePtr, bytes: &mut [u8]) -> Result<(), GpuError> {
        self.outside("a read")?;
        self.after_kernel = false;
        memory::read(&self.context, from, bytes)
    }

    fn fill(&mut self, to: DevicePtr, byte: u8, bytes: usize) -> Result<(), GpuError> {
        self.outside("a fill")?;
        self.after_kernel = false;
        memory::fill(&self.context, to, byte, bytes)
    }

    fn upload(&mut self, to: DevicePtr, bytes: &[u8]) -> Result<(), GpuError> {
        self.outside("an upload")?;
        self.after_kernel = false;
        let staging = self.staging.as_mut().ok_or_else(no_staging)?;
        staging.upload(&self.context, to, bytes)
    }

    fn reserve_staging(&mut self, upload_bytes: usize, download_bytes: usize) -> Result<(), GpuError> {
        self.outside("pinning memory")?;
        // Those of before may be in use.
        self.context.synchronize()?;
        self.staging = Some(Staging::new(upload_bytes, download_bytes)?);
        Ok(())
    }

    fn begin_download(&mut self, from: DevicePtr, bytes: usize) -> Result<Download, GpuError> {
        self.outside("a download")?;
        self.after_kernel = false;
        let staging = self.staging.as_mut().ok_or_else(no_staging)?;
        staging.begin_download(&self.context, from, bytes)
    }

    fn end_download(&mut self, download: Download) -> Result<&[u8], GpuError> {
        self.outside("a download")?;
        self.staging.as_ref().ok_or_else(no_staging)?.end_download(&download)
    }

    fn launch(&mut self, launch: &Launch) -> Result<(), GpuError> {
        self.context.bind()?;
        let overlap = launch.overlap && self.after_kernel && self.info.compute >= OVERLAP_COMPUTE;
        let is_capturing = self.graphs.is_capturing();
        let result = self.kernels.launch(launch, self.context.stream(), overlap, is_capturing);
        // A launch without blocks leaves the operation in front of it the newest.
        self.after_kernel |= !launch.grid.contains(&0);
        self.graphs.note(result)
    }

    fn tensor_map(&mut self, rows: &TensorRows) -> Result<TensorMap, GpuError> {
        self.context.bind()?;
        tensor_maps::encode(rows)
    }

    fn gemm(&mut self, gemm: &Gemm) -> Result<(), GpuError> {
        self.context.bind()?;
        let mut result = self.products.run(gemm, &self.context);
        if result.is_err() && !self.graphs.is_capturing() {
            result = result.map_err(|error| self.context.lost().unwrap_or(error));
        }
        self.after_kernel |= gemm.m > 0;
        self.graphs.note(result)
    }

    fn tune(&mut self, gemm: &Gemm) -> Result<(), GpuError> {
        self.outside("a measurement")?;
        self.after_kernel = false;
        self.products.tune(gemm, &self.context)
    }

    fn tunes(&self) -> bool {
        true
    }

    fn end_tuning(&mut self) {
        if let Some(path) = &self.plan_file {
            // A cache: without it the next start measures again.
            let _ = self.save_plans(path);
        }
    }

    fn begin_capture(&mut self) -> Result<(), GpuError> {
        self.context.bind()?;
        self.after_kernel = false;
        self.graphs.begin(&self.context)
    }

    fn end_capture(&mut self) -> Result<GraphId, GpuError> {
        self.context.bind()?;
        self.after_kernel = false;
        self.graphs.end(&self.context)
    }

    fn replay(&mut self, graph: GraphId) -> Result<(), GpuError> {
        self.context.bind()?;
        self.after_kernel = false;
        self.graphs.replay(&self.context, graph)
    }

    fn synchronize(&mut self) -> Result<(), GpuError> {
        self.outside("a wait")?;
        self.context.synchronize()
    }
}

fn no_staging() -> GpuError {
    GpuError::Operand("no staging is reserved".to_owned())
}
