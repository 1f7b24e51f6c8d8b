//! Single kernels at the shapes of Llama-3.1-8B: bytes or operations a second, beside what the card does at best.
//!
//! Every kernel runs many times in one captured graph, each time on other operands where these fit the L2 cache, so that
//! neither launches nor caches are measured. A kernel more is one line in one of the lists of `lists`.

use sconce_kernels::error::KernelError;
use sconce_kernels::gpu::device::GpuDevice;
use sconce_kernels::gpu::gemm::Gemm;
use sconce_kernels::gpu::launch::{DevicePtr, Launch};
use sconce_kernels::gpu::verify::Bed;
use serde_json::json;

use super::Open;
use super::lists;
use super::report::{Figure, Found, Reason, Report};
use super::timing::{Effort, Floors, in_graph, random_bf16};

/// Sizes of the operands: those of a real model, or of a test.
#[derive(Clone, Debug)]
pub struct Operands {
    /// Width of the residual.
    pub hidden: usize,
    /// Width of the gated activation.
    pub inner: usize,
    /// Tokens of the vocabulary.
    pub vocab: usize,
    /// Query heads, KV heads, width of a head.
    pub heads: (usize, usize, usize),
    /// Rows of decode steps.
    pub batches: Vec<usize>,
    /// Tokens in the cache of each sequence.
    pub contexts: Vec<usize>,
    /// Tokens of a prompt.
    pub prompt: usize,
    /// Bytes that kernels read in turn: more than any L2 cache has.
    pub region: usize,
    /// Times that a kernel runs in a graph.
    pub launches: usize,
    /// How thoroughly each is timed.
    pub effort: Effort,
}

/// What the card issues.
pub(super) enum Issue {
    /// Kernels of ours, one after another.
    Kernels(Vec<Launch>),
    /// The library's.
    Gemm(Gemm),
}

/// What a run of a kernel must move and compute.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Work {
    /// Bytes read and written, each operand once.
    pub(super) bytes: usize,
    /// Operations.
    pub(super) flops: f64,
}

/// A device with a region of random bytes.
pub(super) struct Bench<D> {
    pub(super) bed: Bed<D>,
    pub(super) sizes: Operands,
    region: DevicePtr,
}

impl Operands {
    /// Llama-3.1-8B.
    pub fn llama_8b(effort: Effort) -> Self {
        Self {
            hidden: 4096,
            inner: 14_336,
            vocab: 128_256,
            heads: (32, 8, 128),
            batches: vec![1, 8, 64, 256],
            contexts: vec![1024, 8192],
            prompt: 2048,
            region: 2 << 30,
            launches: 24,
            effort,
        }
    }
}

/// A line for every kernel and shape, those that steps spend most time in first.
pub fn rates<D: GpuDevice>(report: &mut Report<'_>, sizes: &Operands, floors: Option<&Floors>, open: Open<'_, D>) {
    for (name, list) in lists::all() {
        // A device for each list: its memory is free for the next.
        let mut bench = match open().map_err(Reason::from).and_then(|device| Ok(Bench::new(device, sizes.clone())?)) {
            Ok(bench) => bench,
            Err(reason) => {
                report.line(name, || Err(reason));
                continue;
            }
        };
        list(&mut Rates { report, bench: &mut bench, floors });
    }
}

/// What a list of kernels adds its lines with.
pub(super) struct Rates<'r, 'a, D: GpuDevice> {
    report: &'r mut Report<'a>,
    pub(super) bench: &'r mut Bench<D>,
    floors: Option<&'r Floors>,
}

impl<D: GpuDevice> Rates<'_, '_, D> {
    /// A line: `make` tells what is issued for each number, on operands of its own where it can.
    pub(super) fn line(
        &mut self,
        name: &str,
        work: Work,
        make: impl FnOnce(&mut Bench<D>) -> Result<Box<dyn FnMut(usize) -> Issue>, Reason>,
    ) {
        let (bench, floors) = (&mut *self.bench, self.floors);
        self.report.line(name, || {
            let mut make = make(bench)?;
            let (launches, effort) = (bench.sizes.launches, bench.sizes.effort);
            let issues: Vec<Issue> = (0..launches).map(&mut make).collect();
            if let Issue::Gemm(gemm) = &issues[0] {
                bench.bed.device().tune(gemm)?;
            }
            let timing = in_graph(bench.bed.device(), effort, launches, |device, index| issue(device, &issues[index]))?;
            Ok(work.rate(timing.seconds, floors))
        });
    }
}

impl From<Launch> for Issue {
    fn from(launch: Launch) -> Self {
        Self::Kernels(vec![launch])
    }
}

fn issue<D: GpuDevice>(device: &mut D, issue: &Issue) -> Result<(), KernelError> {
    match issue {
        Issue::Kernels(launches) => Ok(launches.iter().try_for_each(|launch| device.launch(launch))?),
        Issue::Gemm(gemm) => Ok(device.gemm(gemm)?),
    }
}

impl Work {
    /// Bytes alone.
    pub(super) fn bytes(bytes: usize) -> Self {
        Self { bytes, flops: 0.0 }
    }

    /// As a rate of whatever takes longer at best.
    fn rate(self, seconds: f64, floors: Option<&Floors>) -> Found {
        let detail = json!({"us": seconds * 1e6, "bytes": self.bytes, "flops": self.flops});
        let computes = floors.is_some_and(|f| self.flops / f.flops > self.bytes as f64 / f.bytes_per_second);
        let figure = if computes {
            Figure::rate(self.flops / seconds, floors.map(|floors| floors.flops), ("TFLOP/s", 1e12))
        } else {
            let best = floors.map(|floors| floors.bytes_per_second);
            Figure::rate(self.bytes as f64 / seconds, best, ("GB/s", 1e9))
        };
        figure.with(detail)
    }
}

impl<D: GpuDevice> Bench<D> {
    fn new(device: D, sizes: Operands) -> Result<Self, KernelError> {
        let mut bed = Bed::new(device);
        let region = random_bf16(bed.device(), sizes.region / 2, "operands")?;
        Ok(Self { bed, sizes, region })
    }

    /// A part of the region for each number, one behind the other as long as there is room.
    ///
    /// # Errors
    /// When the region holds less than one.
    pub(super) fn parts(&self, bytes: usize) -> Result<impl Fn(usize) -> DevicePtr + Clone + 'static, Reason> {
        let stride = bytes.next_multiple_of(256).max(256);
        let count = self.sizes.region / stride;
        if count == 0 {
            return Err(Reason::LeftOut(format!("{bytes} bytes of operands")));
        }
        let region = self.region;
        Ok(move |index: usize| region.byte_add(index % count * stride))
    }

    /// Memory for results.
    ///
    /// # Errors
    /// When memory runs out.
    pub(super) fn out(&mut self, bytes: usize) -> Result<DevicePtr, Reason> {
        Ok(self.bed.device().alloc(bytes, "results")?)
    }

    /// Memory that holds random values of bf16.
    ///
    /// # Errors
    /// When memory runs out.
    pub(super) fn random(&mut self, bytes: usize) -> Result<DevicePtr, Reason> {
        Ok(random_bf16(self.bed.device(), bytes / 2, "operands")?)
    }

    /// Memory that holds these values.
    ///
    /// # Errors
    /// When memory runs out.
    pub(super) fn put<T: sconce_kernels::gpu::pod::Pod>(&mut self, values: &[T]) -> Result<DevicePtr, Reason> {
        Ok(self.bed.upload(values)?.ptr())
    }
}
