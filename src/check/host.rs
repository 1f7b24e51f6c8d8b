//! The host's part of a step: how long the runner takes to issue one. While that is shorter than the step, the card never
//! waits.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use sconce_kernels::gpu::device::GpuDevice;

use super::report::{Figure, Reason};
use super::shapes::Point;
use super::steps::{Bench, Room};
use crate::runner::{GpuRunner, Runner};
use crate::types::{Batch, BatchRow, BlockId, Masks, SamplingParams, SeqId, Sequence};

/// Steps that are not counted: the bucket is warmed and captured.
const WARM_UP: u64 = 4;

/// Steps whose median is taken.
const STEPS: u64 = 31;

/// A runner of random weights.
pub struct Host<D: GpuDevice> {
    runner: GpuRunner<D>,
    room: Room,
    step: u64,
    next_seq: u64,
    start_seconds: f64,
}

impl<D: GpuDevice> Host<D> {
    /// The runner of a model.
    ///
    /// # Errors
    /// When memory runs out.
    pub fn new(bench: Bench<D>) -> Result<Self, Reason> {
        let Bench { backend, model, limits, room, .. } = bench;
        let begin = Instant::now();
        let runner = GpuRunner::new(backend, model, limits)?;
        Ok(Self { runner, room, step: 0, next_seq: 0, start_seconds: begin.elapsed().as_secs_f64() })
    }

    /// How long the start took: workspaces, and the library's algorithms that no step had measured yet.
    pub fn start_time(&self) -> Figure {
        Figure::plain(self.start_seconds, "s")
    }

    /// Median time from entering the runner's `launch` to its return, for a decode step, one step ahead.
    ///
    /// # Errors
    /// When the point doesn't fit, or a step fails.
    pub fn launch_time(&mut self, point: Point) -> Result<Figure, Reason> {
        let (mut batch, sequences) = self.batch(point)?;
        let find = |seq: SeqId| sequences.get(&seq);
        let mut times = Vec::new();
        for count in 0..WARM_UP + STEPS {
            self.step += 1;
            batch.step = self.step;
            let begin = Instant::now();
            self.runner.launch(&batch, &find, &|| {}).map_err(|error| error.to_string())?;
            self.runner.sample(&Masks::default()).map_err(|error| error.to_string())?;
            if count >= WARM_UP {
                times.push(begin.elapsed().as_secs_f64());
            }
            if count > 0 {
                self.runner.collect().map_err(|error| error.to_string())?;
            }
        }
        self.runner.collect().map_err(|error| error.to_string())?;
        times.sort_by(f64::total_cmp);
        Ok(Figure::plain(times[times.len() / 2] * 1e6, "us"))
    }

    /// Sequences that all stand at the end of their context.
    fn batch(&mut self, point: Point) -> Result<(Batch, HashMap<SeqId, Sequence>), Reason> {
        let tables = self.room.tables(point)?;
        let params = Arc::new(SamplingParams { temperature: 0.0, ..SamplingParams::default() });
        let (mut batch, mut sequences) = (Batch::default(), HashMap::new());
        for index in 0..point.batch {
            let id = SeqId(self.next_seq);
            self.next_seq += 1;
            let (start, num_prompt) = (point.context, point.context + 1);
            let sequence = Sequence {
                id,
                tokens: vec![1; num_prompt],
                num_prompt,
                num_computed: start,
                params: params.clone(),
                choice: 0,
                constrained: false,
            };
            sequences.insert(id, sequence);
            batch.rows.push(BatchRow {
                seq: id,
                start,
                tokens: vec![1],
                token_from_previous: false,
                num_logits: 1,
                samples: true,
                tables: tables.iter().map(|group| group[index].iter().copied().map(BlockId).collect()).collect(),
            });
        }
        Ok((batch, sequences))
    }
}
