//! `plan`: what a model needs and how many sequences fit, from headers alone. Nothing is loaded.

use std::path::Path;

use sconce_kernels::gpu::device::DeviceInfo;
use sconce_kernels::linear::Linear;
use sconce_models::checkpoint::Checkpoint;
use sconce_models::config::{SpecOptions, model_spec};
use sconce_models::spec::ModelSpec;

use super::args::PlanArgs;
use super::capacity::Capacity;
use super::{CliError, startup, ui};
use crate::config::{ByteSize, Config, Machine};
use crate::hub::Progress;
use crate::runtime::{GpuPlan, RESERVE_BYTES, Sizes, StartError, card};

/// Prints the plan; an error (exit code 1) when the model doesn't fit.
pub(super) async fn plan(args: PlanArgs) -> Result<(), CliError> {
    let config = args.resolve()?;
    let model = startup::find(config.model.as_deref(), &Progress::stderr()).await?;
    let needs = Needs::of(&model.path, &config, args.gpu_memory)?;
    ui::out(&format!("{}\n{}", model.name, needs.describe(&config)))?;
    needs.check()
}

/// What computes, and what it has.
struct Place {
    /// In words.
    name: String,
    /// Bytes that may be taken, where that can be told.
    available: Option<u64>,
}

/// The memory of a model, in bytes.
struct Needs {
    spec: ModelSpec,
    place: Place,
    file_bytes: u64,
    weight_bytes: u64,
    /// By purpose.
    workspaces: Vec<(&'static str, u64)>,
    sizes: Sizes,
    chunk: usize,
}

impl Needs {
    fn of(path: &Path, config: &Config, gpu_memory: Option<ByteSize>) -> Result<Self, CliError> {
        let failed = |e: sconce_models::error::ModelError| CliError::Failed(e.to_string());
        let checkpoint = Checkpoint::open(path).map_err(failed)?;
        let options = SpecOptions { max_model_len: config.engine.max_model_len };
        let spec = model_spec(&checkpoint, &options).map_err(failed)?;
        let card = match gpu_memory {
            Some(memory) => Some((assumed_card(memory.0), memory.0)),
            None => card(config.engine.device).map_err(|e| CliError::Failed(e.to_string()))?,
        };
        let needs = match card {
            Some((info, free)) => Self::on_gpu(&checkpoint, spec, config, (&info, free)),
            None => Self::on_cpu(&checkpoint, spec, config),
        };
        needs.map_err(|e| CliError::Failed(e.to_string()))
    }

    fn on_cpu(checkpoint: &Checkpoint, spec: ModelSpec, config: &Config) -> Result<Self, StartError> {
        Ok(Self {
            place: Place { name: "CPU".to_owned(), available: Machine::default().available_memory() },
            file_bytes: checkpoint.weight_bytes() as u64,
            weight_bytes: weight_bytes(checkpoint),
            workspaces: vec![("activations and logits", workspace_bytes(&spec, config))],
            sizes: Sizes::resolve(&spec, &config.engine)?,
            chunk: config.engine.max_batch_tokens,
            spec,
        })
    }

    fn on_gpu(
        checkpoint: &Checkpoint,
        spec: ModelSpec,
        config: &Config,
        (info, free): (&DeviceInfo, u64),
    ) -> Result<Self, StartError> {
        let plan = GpuPlan::new(info, free, (checkpoint, &spec), &config.engine)?;
        let is_weight = |what: &str| ["weights", "norms", "biases"].contains(&what);
        let (weights, mut workspaces): (Vec<_>, Vec<_>) = plan.taken.into_iter().partition(|(what, _)| is_weight(what));
        // The cache has its own line.
        workspaces.retain(|&(_, bytes)| bytes > 0);
        workspaces.push(("context, libraries, graphs", RESERVE_BYTES));
        Ok(Self {
            place: Place { name: format!("{}, {}", info.name, plan.half.name()), available: Some(free) },
            file_bytes: checkpoint.weight_bytes() as u64,
            weight_bytes: weights.iter().map(|(_, bytes)| bytes).sum(),
            workspaces,
            sizes: plan.sizes,
            chunk: config.engine.max_batch_tokens,
            spec,
        })
    }

    fn capacity(&self, kv_bytes: u64) -> Capacity<'_> {
        let geometry = &self.sizes.geometry;
        let num_superpages = geometry.superpages_in(usize::try_from(kv_bytes).unwrap_or(usize::MAX));
        Capacity { geometry, num_superpages, chunk: self.chunk }
    }

    fn describe(&self, config: &Config) -> String {
        let (spec, capacity) = (&self.spec, self.capacity(self.sizes.kv_bytes()));
        let size = |bytes: u64| ByteSize(bytes).approx();
        let kv_dtype = self.sizes.layout.groups.first().map_or("none", |group| group.spec.dtype.name());
        let mut per_sequence = format!("{} a token ({kv_dtype})", size(capacity.bytes_per_token() as u64));
        if capacity.window_bytes() > 0 {
            per_sequence += &format!(", and at most {} a sequence for windows", size(capacity.window_bytes() as u64));
        }
        let longest = capacity.longest(spec.max_position);
        let mut rows = vec![
            ("device", self.place.name.clone()),
            (
                "architecture",
                format!("{}, {} layers, vocabulary {}", spec.architecture, spec.layers.len(), spec.vocab_size),
            ),
            ("context", format!("{} tokens", spec.max_position)),
            ("weights", format!("{} in the file, {} as kept", size(self.file_bytes), size(self.weight_bytes))),
            ("workspace", format!("{} at {} tokens a step", size(self.workspace()), config.engine.max_batch_tokens)),
        ];
        if self.workspaces.len() > 1 {
            let part = |&(what, bytes): &(&'static str, u64)| ("", format!("{:>12}  {what}", size(bytes)));
            rows.extend(self.workspaces.iter().map(part));
        }
        rows.extend([
            ("KV cache", format!("{} reserved, {per_sequence}", size(self.sizes.kv_bytes()))),
            ("total", size(self.total(self.sizes.kv_bytes()))),
            (
                "longest sequence",
                format!("{longest} tokens{}", if longest < spec.max_position { ", less than the context" } else { "" }),
            ),
        ]);
        format!("{}{}", ui::table(&rows), self.fits(longest, config.engine.max_num_seqs))
    }

    /// How many sequences of some lengths fit.
    fn fits(&self, longest: usize, most: usize) -> String {
        let capacity = self.capacity(self.sizes.kv_bytes());
        let mut lengths: Vec<usize> = [512, 2048, 8192, 32_768].into_iter().filter(|len| *len < longest).collect();
        lengths.push(longest);
        let fit = lengths.iter().map(|&len| {
            let fits = capacity.sequences(len);
            let limited = if fits > most { format!(" (max-num-seqs runs {most} at once)") } else { String::new() };
            (format!("of {len} tokens"), format!("{fits}{limited}"))
        });
        format!("sequences that fit at once\n{}", ui::table(&fit.collect::<Vec<_>>()))
    }

    fn workspace(&self) -> u64 {
        self.workspaces.iter().map(|(_, bytes)| bytes).sum()
    }

    fn total(&self, kv_bytes: u64) -> u64 {
        self.weight_bytes + self.workspace() + kv_bytes
    }

    /// Whether the memory is there, and what would fit if not.
    fn check(&self) -> Result<(), CliError> {
        let total = self.total(self.sizes.kv_bytes());
        let Some(available) = self.place.available.filter(|available| *available < total) else {
            return Ok(());
        };
        let size = |bytes: u64| ByteSize(bytes).approx();
        let left = available.saturating_sub(self.total(0)) >> 20 << 20;
        let tokens = self.capacity(left).longest(self.spec.max_position);
        let remedy = match tokens {
            0 if self.workspace() > self.weight_bytes => {
                format!("the workspace alone takes {}; lower --max-batch-tokens", size(self.workspace()))
            }
            0 => format!("weights and workspace alone take {}; choose a smaller quantisation", size(self.total(0))),
            _ => format!("--kv-cache-memory {} fits, for sequences of up to {tokens} tokens", ByteSize(left)),
        };
        Err(CliError::Failed(format!("needs {}, and {} is available; {remedy}", size(total), size(available))))
    }
}

/// A card that isn't here: sizes of workspaces hang on the number of multiprocessors, here those of an H100.
fn assumed_card(memory: u64) -> DeviceInfo {
    DeviceInfo {
        name: "a GPU like H100".to_owned(),
        compute: (9, 0),
        num_sms: 132,
        shared_bytes: 227 << 10,
        shared_bytes_per_sm: 228 << 10,
        total_bytes: memory,
    }
}

/// Weights as they are kept: matrices packed, vectors as single precision.
fn weight_bytes(checkpoint: &Checkpoint) -> u64 {
    let kept = |tensor: &sconce_models::tensor::TensorInfo| match tensor.shape[..] {
        [rows, cols] => Linear::packed_bytes(&[(tensor.ty, rows, cols)]),
        _ => tensor.shape.iter().product::<usize>().saturating_mul(4),
    };
    checkpoint.tensors().iter().map(|tensor| kept(tensor) as u64).sum()
}

/// Activations of the widest step: what the graph's buffers grow to.
fn workspace_bytes(spec: &ModelSpec, config: &Config) -> u64 {
    let hidden = spec.hidden_size;
    let widest = spec.layers.iter().map(|layer| {
        let (a, inner) = (&layer.attention, layer.ffn.intermediate_size);
        let qkv = a.num_heads * a.head_dim_k + a.num_kv_heads * (a.head_dim_k + a.head_dim_v);
        let attention = a.num_heads * a.head_dim_v;
        // Residual, normed and projected; q, k and v; attention's output; gate, up and their product.
        let activations = 3 * hidden + qkv + attention + 3 * inner;
        // The rounded copy of a product's input: a byte an element, and a scale and a sum a block of 32.
        let rounded = hidden.max(attention).max(inner) * 5 / 4;
        activations * 4 + rounded
    });
    let row = widest.max().unwrap_or(0);
    // Last rows twice (gathered, normed) and their logits.
    let sampled = (2 * hidden + spec.vocab_size) * 4;
    (row * config.engine.max_batch_tokens + sampled * config.engine.max_num_seqs) as u64
}
