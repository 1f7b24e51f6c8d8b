//! The GPU runner: one step ahead. A batch's forward pass and sampling are issued together; the sampled tokens stay on
//! the device and feed the next batch, and the host reads them one step later.
//!
//! It is generic over the device, so the tests run it on the emulated one.

mod graphs;
mod results;
mod sampling;
mod slots;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use sconce_kernels::backend::StepInput;
use sconce_kernels::error::KernelError;
use sconce_kernels::gpu::backend::GpuBackend;
use sconce_kernels::gpu::device::{Download, GpuDevice, GpuError};
use sconce_kernels::gpu::weights::ROW_PAD;
use sconce_models::model::Model;

use self::graphs::{Graphs, Way};
use self::results::Plan;
use self::sampling::{DeviceSampler, SamplerSizes, Tables};
use self::slots::Slots;
use super::flat::Flat;
use super::{Collected, Runner, RunnerError, Sequences};
use crate::types::{Batch, Masks, SeqId};

/// Bounds that no batch passes; the engine's configuration, as the runner sees it.
#[derive(Clone, Copy, Debug)]
pub struct GpuLimits {
    /// Sequences of a batch.
    pub max_num_seqs: usize,
    /// Rows of a batch.
    pub max_batch_tokens: usize,
    /// Rows of a batch whose logits are wanted.
    pub max_logit_rows: usize,
    /// Tokens of a sequence.
    pub max_model_len: usize,
    /// Decode steps are captured as graphs.
    pub graphs: bool,
}

impl GpuLimits {
    /// Slots: those of two batches, since the sequences of the one in flight keep theirs.
    pub fn num_slots(&self) -> usize {
        2 * self.max_num_seqs
    }

    /// Bytes that sampling adds to a step's metadata.
    pub fn extra_bytes(&self) -> usize {
        self.sampler().tables_bytes(self.max_model_len)
    }

    fn sampler(&self) -> SamplerSizes {
        SamplerSizes { slots: self.num_slots(), rows: self.max_num_seqs, scores: self.max_logit_rows }
    }
}

/// A batch whose tokens haven't come back.
struct InFlight {
    step: u64,
    seqs: Vec<SeqId>,
    plan: Plan,
    download: Download,
}

/// A batch whose forward pass alone has been issued.
struct Unsampled {
    step: u64,
    seqs: Vec<SeqId>,
    tables: Tables,
}

/// Executes batches on a GPU.
pub struct GpuRunner<D: GpuDevice> {
    backend: GpuBackend<D>,
    model: Model<GpuBackend<D>>,
    sampler: DeviceSampler,
    graphs: Graphs,
    slots: Slots,
    row_slots: Vec<u32>,
    flat: Flat,
    /// The batch whose sampling hasn't been issued, and where its tables lie.
    unsampled: Option<Unsampled>,
    in_flight: VecDeque<InFlight>,
    limits: GpuLimits,
    allocs: Arc<AtomicU64>,
    /// Allocations made before the first step.
    first_allocs: u64,
}

impl<D: GpuDevice> GpuRunner<D> {
    /// A runner over a loaded model: takes all memory that its steps will need.
    ///
    /// # Errors
    /// When the device or the host has too little memory.
    pub fn new(
        mut backend: GpuBackend<D>,
        mut model: Model<GpuBackend<D>>,
        limits: GpuLimits,
    ) -> Result<Self, KernelError> {
        let vocab = model.spec().vocab_size;
        model.reserve(&mut backend, limits.max_batch_tokens, limits.max_logit_rows)?;
        let stride = vocab.next_multiple_of(ROW_PAD);
        let sampler = DeviceSampler::new(backend.device(), vocab, stride, limits.sampler())?;
        let upload = backend.meta_capacity().max(sampler.mask_bytes());
        let download = limits.sampler().result_bytes();
        backend.device().reserve_staging(upload, download)?;
        tune(&mut backend, &mut model, &limits)?;
        let allocs = backend.device().alloc_counter();
        Ok(Self {
            first_allocs: allocs.load(Ordering::Relaxed),
            allocs,
            backend,
            model,
            sampler,
            graphs: Graphs::new(limits.graphs, limits.max_num_seqs),
            slots: Slots::new(limits.num_slots()),
            row_slots: Vec::new(),
            flat: Flat::default(),
            unsampled: None,
            in_flight: VecDeque::new(),
            limits,
        })
    }

    /// The device.
    pub fn device(&mut self) -> &mut D {
        self.backend.device()
    }

    /// What the sampler must know of the batch's rows.
    fn plan_sampling(&mut self, batch: &Batch, sequences: Sequences<'_>) -> Result<(), KernelError> {
        let in_flight = &self.in_flight;
        let protected = |seq: SeqId| in_flight.iter().any(|batch| batch.seqs.contains(&seq));
        let new = self.slots.assign(batch, sequences, protected, &mut self.row_slots);
        self.sampler.clear();
        for index in new {
            if let Some(sequence) = sequences(batch.rows[index].seq) {
                if self.sampler.histories_are_full(self.limits.max_model_len) {
                    let mut words = Vec::new();
                    let tables = self.sampler.write(&mut words);
                    let at = self.backend.send_words(&words)?;
                    self.sampler.launch_histories(self.backend.device(), (at, tables))?;
                }
                self.sampler.admit(sequence, self.row_slots[index]);
            }
        }
        let mut first_logit = 0;
        for (row, &slot) in batch.rows.iter().zip(&self.row_slots) {
            if let Some(sequence) = sequences(row.seq) {
                self.sampler.add(row, sequence, slot, first_logit);
            }
            first_logit += row.num_logits;
        }
        Ok(())
    }

    /// The forward pass, in the way that suits the batch.
    fn compute(&mut self, batch: &Batch, alive: &dyn Fn()) -> Result<(), KernelError> {
        let way = self.graphs.way(batch);
        self.flat.fill(batch, self.model.layout().groups.len());
        if let Way::WarmUp(rows) | Way::Capture(rows) | Way::Replay(rows, _) = way {
            self.flat.pad(rows);
        }
        let groups = self.flat.groups(batch);
        let step = self.flat.step(&groups, &self.row_slots);
        let (model, backend) = (&mut self.model, &mut self.backend);
        match way {
            Way::Eager => model.forward(backend, &step, alive),
            Way::WarmUp(rows) => {
                backend.begin_fixed_step(&step)?;
                model.compute(backend, &step, alive)?;
                self.graphs.warmed(rows);
                Ok(())
            }
            Way::Capture(rows) => {
                backend.begin_fixed_step(&step)?;
                backend.device().begin_capture()?;
                let captured = model.compute(backend, &step, alive);
                // The capture ends whatever came of it.
                let graph = backend.device().end_capture();
                captured?;
                let graph = graph?;
                self.graphs.captured(rows, graph);
                Ok(backend.device().replay(graph)?)
            }
            Way::Replay(_, graph) => {
                backend.begin_fixed_step(&step)?;
                Ok(backend.device().replay(graph)?)
            }
        }
    }

    fn issue(&mut self, batch: &Batch, sequences: Sequences<'_>, alive: &dyn Fn()) -> Result<Unsampled, KernelError> {
        self.plan_sampling(batch, sequences)?;
        let tables = self.sampler.write(self.backend.extra_mut());
        self.compute(batch, alive)?;
        let seqs = batch.rows.iter().map(|row| row.seq).collect();
        Ok(Unsampled { step: batch.step, seqs, tables })
    }

    fn issue_sampling(&mut self, batch: Unsampled, masks: &Masks) -> Result<InFlight, KernelError> {
        let (extra, next_token) = (self.backend.extra_at(), self.backend.next_token());
        let logits = self.model.logits_mut();
        self.sampler.send_masks(self.backend.device(), masks)?;
        let tables = (extra, batch.tables);
        let (plan, download) = self.sampler.launch(self.backend.device(), logits, next_token, tables)?;
        Ok(InFlight { step: batch.step, seqs: batch.seqs, plan, download })
    }
}

/// Rows for which the library's algorithms are measured at start: what decode steps and chunks of prompts mostly have. For
/// others its own choice stands.
const TUNED_ROWS: [usize; 8] = [16, 32, 64, 128, 256, 512, 1024, 2048];

/// Measures algorithms for the model's products, on steps of padding rows.
fn tune<D: GpuDevice>(
    backend: &mut GpuBackend<D>,
    model: &mut Model<GpuBackend<D>>,
    limits: &GpuLimits,
) -> Result<(), KernelError> {
    if !backend.device().tunes() {
        return Ok(());
    }
    backend.set_tuning(true);
    for rows in TUNED_ROWS.into_iter().filter(|&rows| rows <= limits.max_batch_tokens) {
        let (tokens, positions) = (vec![0; rows], vec![0; rows]);
        let logit_rows: Vec<u32> = (0..rows.min(limits.max_logit_rows) as u32).collect();
        let groups = vec![Vec::new(); model.layout().groups.len()];
        let step =
            StepInput { tokens: &tokens, positions: &positions, groups: &groups, logit_rows: &logit_rows, slots: &[] };
        model.forward(backend, &step, &|| {})?;
    }
    backend.set_tuning(false);
    backend.device().synchronize()?;
    backend.device().end_tuning();
    Ok(())
}

fn failed(error: &KernelError) -> RunnerError {
    let fatal = matches!(error, KernelError::Device(error) if error.is_fatal());
    RunnerError { message: error.to_string(), fatal }
}

impl<D: GpuDevice> Runner for GpuRunner<D> {
    fn depth(&self) -> usize {
        1
    }

    fn launch(&mut self, batch: &Batch, sequences: Sequences<'_>, alive: &dyn Fn()) -> Result<(), RunnerError> {
        self.unsampled = None;
        self.unsampled = Some(self.issue(batch, sequences, alive).map_err(|error| failed(&error))?);
        Ok(())
    }

    fn sample(&mut self, masks: &Masks) -> Result<(), RunnerError> {
        let Some(batch) = self.unsampled.take() else {
            return Err(RunnerError { message: "nothing was launched".into(), fatal: true });
        };
        let issued = self.issue_sampling(batch, masks).map_err(|error| failed(&error))?;
        self.in_flight.push_back(issued);
        Ok(())
    }

    fn collect(&mut self) -> Result<Collected<'_>, RunnerError> {
        let Some(InFlight { step, plan, download, .. }) = self.in_flight.pop_front() else {
            return Err(RunnerError { message: "nothing was launched".into(), fatal: true });
        };
        let bytes = self.backend.device().end_download(download).map_err(|e: GpuError| failed(&e.into()))?;
        let output = plan.output(step, bytes, self.limits.sampler());
        output.map(Collected::Sampled).map_err(|message| RunnerError { message, fatal: true })
    }

    fn late_allocations(&self) -> u64 {
        self.allocs.load(Ordering::Relaxed) - self.first_allocs
    }
}
