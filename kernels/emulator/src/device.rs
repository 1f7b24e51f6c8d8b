//! The emulator as a device: every operation is done when it is issued, and recorded.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use half::{bf16, f16};
use sconce_kernels::gpu::device::{DeviceInfo, Download, Fill, GpuDevice, GpuError, GraphId};
use sconce_kernels::gpu::gemm::Gemm;
use sconce_kernels::gpu::launch::{DevicePtr, HalfType, Launch};
use sconce_kernels::gpu::tensor_map::{BOX_COLUMNS, BOX_ROWS, TensorMap, TensorRows};

use super::{Buffer, Emulator};

/// An operation, as far as a test of the sequence of operations wants to know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Issued {
    /// Memory taken: bytes.
    Alloc(usize),
    /// A copy to the device that the host waits for: bytes.
    Write(usize),
    /// A copy to the device through the staging ring: bytes.
    Upload(usize),
    /// A copy to the host: bytes.
    Download(usize),
    /// A fill: bytes.
    Fill(usize),
    /// A kernel, by name.
    Launch(String),
    /// A matrix product: m, n, k.
    Gemm(usize, usize, usize),
    /// A graph.
    Replay(GraphId),
    /// The host waited for all that was issued.
    Synchronize,
}

/// First word of a tensor map that the emulator understands.
const TENSOR_MAP_MARK: u64 = 0x7465_6e73_6f72_6d70;

/// What a graph consists of.
#[derive(Clone, Debug)]
enum Node {
    Launch(Box<Launch>),
    Gemm(Gemm),
}

/// The emulated card. Memory is checked by the sanitizer; nothing is asynchronous.
pub struct EmulatedDevice {
    // Dropped before the emulator, whose functions free it.
    memory: Vec<Buffer<u8>>,
    emulator: Emulator,
    info: DeviceInfo,
    issued: Vec<Issued>,
    graphs: Vec<Vec<Node>>,
    capture: Option<Vec<Node>>,
    downloads: Vec<Vec<u8>>,
    staging: (usize, usize),
    num_allocs: Arc<AtomicU64>,
    allocated: Arc<AtomicU64>,
}

// SAFETY: the buffers' addresses belong to this device alone, and the emulator runs on whichever one thread calls it.
unsafe impl Send for EmulatedDevice {}

impl EmulatedDevice {
    /// A card of compute capability 8.0 with few multiprocessors, so that small steps still give each several units of
    /// work.
    pub fn new(emulator: Emulator) -> Self {
        let info = DeviceInfo {
            name: "emulated".to_owned(),
            compute: (8, 0),
            num_sms: 3,
            shared_bytes: 163 << 10,
            shared_bytes_per_sm: 164 << 10,
            total_bytes: 1 << 30,
        };
        Self {
            emulator,
            info,
            memory: Vec::new(),
            issued: Vec::new(),
            graphs: Vec::new(),
            capture: None,
            downloads: Vec::new(),
            staging: (0, 0),
            num_allocs: Arc::default(),
            allocated: Arc::default(),
        }
    }

    /// Makes it pass for a card of compute capability 9.0.
    pub fn set_hopper(&mut self) {
        (self.info.compute, self.info.num_sms) = ((9, 0), 2);
        (self.info.shared_bytes, self.info.shared_bytes_per_sm) = (227 << 10, 228 << 10);
    }

    /// Leaves out some of the orders in which threads and blocks run.
    pub fn skip_orders(&mut self, count: u64) {
        self.emulator.seed += count;
    }

    /// The bytes taken, likewise.
    pub fn allocated(&self) -> Arc<AtomicU64> {
        self.allocated.clone()
    }

    /// What was issued since the last call.
    pub fn take_issued(&mut self) -> Vec<Issued> {
        std::mem::take(&mut self.issued)
    }

    fn run(&mut self, node: &Node) {
        match node {
            Node::Launch(launch) => self.emulator.launch(launch),
            Node::Gemm(gemm) => product(gemm),
        }
    }

    fn issue(&mut self, node: Node) {
        match &mut self.capture {
            Some(nodes) => nodes.push(node),
            None => self.run(&node),
        }
    }

    /// # Panics
    /// If the range isn't inside one allocation.
    fn check(&self, at: DevicePtr, bytes: usize) {
        let inside = |buffer: &&Buffer<u8>| {
            let start = buffer.ptr().0;
            start <= at.0 && at.0 + bytes as u64 <= start + buffer.len() as u64
        };
        assert!(
            bytes == 0 || self.memory.iter().any(|buffer| inside(&buffer)),
            "{bytes} bytes at {at:?}: no such memory"
        );
        assert!(self.capture.is_none(), "a copy inside a capture");
    }
}

impl GpuDevice for EmulatedDevice {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn free_bytes(&self) -> Result<u64, GpuError> {
        let used: usize = self.memory.iter().map(Buffer::len).sum();
        Ok(self.info.total_bytes.saturating_sub(used as u64))
    }

    fn alloc(&mut self, bytes: usize, what: &'static str) -> Result<DevicePtr, GpuError> {
        let free = self.free_bytes()?;
        if bytes as u64 > free {
            return Err(GpuError::OutOfMemory { what, bytes, free });
        }
        self.num_allocs.fetch_add(1, Ordering::Relaxed);
        self.allocated.fetch_add(bytes as u64, Ordering::Relaxed);
        self.issued.push(Issued::Alloc(bytes));
        let buffer = self.emulator.alloc::<u8>(bytes);
        let at = buffer.ptr();
        self.memory.push(buffer);
        Ok(at)
    }

    fn alloc_counter(&self) -> Arc<AtomicU64> {
        self.num_allocs.clone()
    }

    fn write_with(&mut self, to: DevicePtr, bytes: usize, unit: usize, fill: Fill<'_>) -> Result<(), GpuError> {
        self.check(to, bytes);
        self.issued.push(Issued::Write(bytes));
        // Several pieces, however few the bytes are: offsets count.
        let piece = bytes.div_ceil(3).next_multiple_of(unit);
        for first in (0..bytes).step_by(piece.max(1)) {
            let length = piece.min(bytes - first);
            // SAFETY: the range lies in memory of this device, which nobody else touches now; any byte is a value.
            fill(first, unsafe { std::slice::from_raw_parts_mut(address(to.byte_add(first)), length) })?;
        }
        Ok(())
    }

    fn read(&mut self, from: DevicePtr, bytes: &mut [u8]) -> Result<(), GpuError> {
        self.check(from, bytes.len());
        // SAFETY: as for `write`.
        unsafe { std::ptr::copy_nonoverlapping(address(from), bytes.as_mut_ptr(), bytes.len()) };
        Ok(())
    }

    fn fill(&mut self, to: DevicePtr, byte: u8, bytes: usize) -> Result<(), GpuError> {
        self.check(to, bytes);
        self.issued.push(Issued::Fill(bytes));
        // SAFETY: as for `write`.
        unsafe { std::ptr::write_bytes(address(to), byte, bytes) };
        Ok(())
    }

    fn upload(&mut self, to: DevicePtr, bytes: &[u8]) -> Result<(), GpuError> {
        assert!(bytes.len() <= self.staging.0, "{} bytes through {} of staging", bytes.len(), self.staging.0);
        self.write(to, bytes)?;
        self.issued.pop();
        self.issued.push(Issued::Upload(bytes.len()));
        Ok(())
    }

    fn reserve_staging(&mut self, upload_bytes: usize, download_bytes: usize) -> Result<(), GpuError> {
        self.staging = (upload_bytes, download_bytes);
        Ok(())
    }

    fn begin_download(&mut self, from: DevicePtr, bytes: usize) -> Result<Download, GpuError> {
        assert!(bytes <= self.staging.1, "{bytes} bytes through {} of staging", self.staging.1);
        let mut copy = vec![0; bytes];
        self.read(from, &mut copy)?;
        self.issued.push(Issued::Download(bytes));
        self.downloads.push(copy);
        Ok(Download(self.downloads.len() - 1))
    }

    fn end_download(&mut self, download: Download) -> Result<&[u8], GpuError> {
        Ok(&self.downloads[download.0])
    }

    fn launch(&mut self, launch: &Launch) -> Result<(), GpuError> {
        if !launch.grid.contains(&0) {
            self.issued.push(Issued::Launch(launch.kernel.clone()));
            self.issue(Node::Launch(Box::new(launch.clone())));
        }
        Ok(())
    }

    /// What `emu/async.cpp` reads as its `TensorRows`.
    fn tensor_map(&mut self, rows: &TensorRows) -> Result<TensorMap, GpuError> {
        let mut words = [0; 16];
        let sizes = [rows.width, rows.rows, BOX_COLUMNS, BOX_ROWS].map(|size| size as u64);
        words[..2].copy_from_slice(&[TENSOR_MAP_MARK, rows.at.0]);
        words[2..6].copy_from_slice(&sizes);
        Ok(TensorMap(words))
    }

    fn gemm(&mut self, gemm: &Gemm) -> Result<(), GpuError> {
        self.issued.push(Issued::Gemm(gemm.m, gemm.n, gemm.k));
        self.issue(Node::Gemm(*gemm));
        Ok(())
    }

    fn begin_capture(&mut self) -> Result<(), GpuError> {
        assert!(self.capture.is_none(), "a capture inside a capture");
        self.capture = Some(Vec::new());
        Ok(())
    }

    fn end_capture(&mut self) -> Result<GraphId, GpuError> {
        self.graphs.push(self.capture.take().expect("a capture"));
        Ok(GraphId(self.graphs.len() - 1))
    }

    fn replay(&mut self, graph: GraphId) -> Result<(), GpuError> {
        self.issued.push(Issued::Replay(graph));
        let nodes = self.graphs[graph.0].clone();
        nodes.iter().for_each(|node| self.run(node));
        Ok(())
    }

    fn synchronize(&mut self) -> Result<(), GpuError> {
        self.issued.push(Issued::Synchronize);
        Ok(())
    }
}

fn address(at: DevicePtr) -> *mut u8 {
    std::ptr::with_exposed_provenance_mut(at.0 as usize)
}

/// The product by its definition, sums in f32, one output after another.
fn product(gemm: &Gemm) {
    let Gemm { m, n, k, a, w, bias, out, half, out_f32, accumulate } = *gemm;
    let (a, w) = (halves(a, m * k, half), halves(w, n * k, half));
    let bias = if bias == DevicePtr::NULL { vec![0.0; n] } else { halves(bias, n, half) };
    for row in 0..m {
        for column in 0..n {
            let (x, y) = (&a[row * k..(row + 1) * k], &w[column * k..(column + 1) * k]);
            let at = row * n + column;
            let old = if accumulate { read(out, at, half, out_f32) } else { 0.0 };
            let sum: f32 = x.iter().zip(y).map(|(x, y)| x * y).sum();
            write(out, at, half, out_f32, old + sum + bias[column]);
        }
    }
}

fn halves(at: DevicePtr, len: usize, half: HalfType) -> Vec<f32> {
    (0..len).map(|index| read(at, index, half, false)).collect()
}

fn read(at: DevicePtr, index: usize, half: HalfType, is_f32: bool) -> f32 {
    // SAFETY: operands of a product lie in device memory, as the backend that issues it says; 2- or 4-byte values.
    unsafe {
        match (is_f32, half) {
            (true, _) => address(at).cast::<f32>().add(index).read(),
            (false, HalfType::Bf16) => address(at).cast::<bf16>().add(index).read().to_f32(),
            (false, HalfType::F16) => address(at).cast::<f16>().add(index).read().to_f32(),
        }
    }
}

fn write(at: DevicePtr, index: usize, half: HalfType, is_f32: bool, value: f32) {
    // SAFETY: as for `read`.
    unsafe {
        match (is_f32, half) {
            (true, _) => address(at).cast::<f32>().add(index).write(value),
            (false, HalfType::Bf16) => address(at).cast::<bf16>().add(index).write(bf16::from_f32(value)),
            (false, HalfType::F16) => address(at).cast::<f16>().add(index).write(f16::from_f32(value)),
        }
    }
}
