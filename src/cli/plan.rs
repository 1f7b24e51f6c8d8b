//! `plan`: what a model needs and how many sequences fit, from headers alone. Nothing is loaded.

use std::path::Path;

use sconce_kernels::linear::Linear;
use sconce_models::checkpoint::Checkpoint;
use sconce_models::config::{SpecOptions, model_spec};
use sconce_models::spec::ModelSpec;

use super::args::PlanArgs;
use super::capacity::Capacity;
use super::{CliError, startup, ui};
use crate::config::{ByteSize, Config, Machine};
use crate::hub::Progress;
use crate::runtime::Sizes;

/// Prints the plan; an error (exit code 1) when the model doesn't fit this machine.
pub(super) async fn plan(args: PlanArgs) -> Result<(), CliError> {
    let config = args.resolve()?;
    let model = startup::find(config.model.as_deref(), &Progress::stderr()).await?;
    let needs = Needs::of(&model.path, &config)?;
    ui::out(&format!("{}\n{}", model.name, needs.describe(&config)))?;
    needs.check(Machine::default().available_memory())
}

/// The memory of a model, in bytes.
struct Needs {
    spec: ModelSpec,
    file_bytes: u64,
    weight_bytes: u64,
    workspace_bytes: u64,
    kv_bytes: u64,
    sizes: Sizes,
    kv_dtype: &'static str,
    chunk: usize,
}

impl Needs {
    fn of(path: &Path, config: &Config) -> Result<Self, CliError> {
        let failed = |e: sconce_models::error::ModelError| CliError::Failed(e.to_string());
        let checkpoint = Checkpoint::open(path).map_err(failed)?;
        let options = SpecOptions { max_model_len: config.engine.max_model_len };
        let spec = model_spec(&checkpoint, &options).map_err(failed)?;
        let sizes = Sizes::resolve(&spec, &config.engine).map_err(|e| CliError::Failed(e.to_string()))?;
        let kv_dtype = sizes.layout.groups.first().map_or("none", |group| group.spec.dtype.name());
        Ok(Self {
            file_bytes: checkpoint.weight_bytes() as u64,
            weight_bytes: weight_bytes(&checkpoint),
            workspace_bytes: workspace_bytes(&spec, config),
            kv_bytes: (sizes.num_superpages * sizes.geometry.superpage_bytes) as u64,
            sizes,
            kv_dtype,
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
        let (spec, capacity) = (&self.spec, self.capacity(self.kv_bytes));
        let size = |bytes: u64| ByteSize(bytes).approx();
        let mut per_sequence = format!("{} a token ({})", size(capacity.bytes_per_token() as u64), self.kv_dtype);
        if capacity.window_bytes() > 0 {
            per_sequence += &format!(", and at most {} a sequence for windows", size(capacity.window_bytes() as u64));
        }
        let longest = capacity.longest(spec.max_position);
        let rows = [
            (
                "architecture",
                format!("{}, {} layers, vocabulary {}", spec.architecture, spec.layers.len(), spec.vocab_size),
            ),
            ("context", format!("{} tokens", spec.max_position)),
            ("weights", format!("{} in the file, {} as kept", size(self.file_bytes), size(self.weight_bytes))),
            (
                "workspace",
                format!("{} at {} tokens a step", size(self.workspace_bytes), config.engine.max_batch_tokens),
            ),
            ("KV cache", format!("{} reserved, {per_sequence}", size(self.kv_bytes))),
            ("total", size(self.total(self.kv_bytes))),
            (
                "longest sequence",
                format!("{longest} tokens{}", if longest < spec.max_position { ", less than the context" } else { "" }),
            ),
        ];
        let mut lengths: Vec<usize> = [512, 2048, 8192, 32_768].into_iter().filter(|len| *len < longest).collect();
        lengths.push(longest);
        let most = config.engine.max_num_seqs;
        let fit = lengths.iter().map(|&len| {
            let fits = capacity.sequences(len);
            let limited = if fits > most { format!(" (max-num-seqs runs {most} at once)") } else { String::new() };
            (format!("of {len} tokens"), format!("{fits}{limited}"))
        });
        format!("{}sequences that fit at once\n{}", ui::table(&rows), ui::table(&fit.collect::<Vec<_>>()))
    }

    fn total(&self, kv_bytes: u64) -> u64 {
        self.weight_bytes + self.workspace_bytes + kv_bytes
    }

    /// Whether this machine has the memory, and what would fit if not.
    fn check(&self, available: Option<u64>) -> Result<(), CliError> {
        let Some(available) = available.filter(|available| *available < self.total(self.kv_bytes)) else {
            return Ok(());
        };
        let size = |bytes: u64| ByteSize(bytes).approx();
        let needed = size(self.total(self.kv_bytes));
        let left = available.saturating_sub(self.total(0)) >> 20 << 20;
        let tokens = self.capacity(left).longest(self.spec.max_position);
        let remedy = match tokens {
            0 => format!("weights and workspace alone take {}; choose a smaller quantisation", size(self.total(0))),
            _ => format!("--kv-cache-memory {} fits, for sequences of up to {tokens} tokens", ByteSize(left)),
        };
        Err(CliError::Failed(format!("needs {needed}, and {} is available; {remedy}", size(available))))
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
