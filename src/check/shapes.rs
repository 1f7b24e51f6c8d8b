//! Real models' shapes, what of them is measured, and what a step of one must read and compute.

use std::path::Path;

use sconce_models::checkpoint::Checkpoint;
use sconce_models::config::{SpecOptions, model_spec};
use sconce_models::spec::ModelSpec;
use serde_json::{Value, json};

use super::timing::Floors;

/// What is measured of a shape: sequences, tokens in their caches, tokens computed a sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Point {
    /// Sequences.
    pub batch: usize,
    /// Tokens that each has in its cache already.
    pub context: usize,
    /// Tokens of each that the step computes: 1 for decode.
    pub tokens: usize,
}

/// A model's shape and what of it to measure, most worth first.
#[derive(Clone, Debug)]
pub struct Shape {
    /// Name.
    pub name: &'static str,
    /// `config.json`.
    pub config: Value,
    /// What to measure, most worth first.
    pub points: Vec<Point>,
}

/// Tokens of the longest prompt.
pub(super) const PROMPT: usize = 8192;

/// Layers of a shape at most.
const MAX_LAYERS: usize = 128;

fn decode(batch: usize, context: usize) -> Point {
    Point { batch, context, tokens: 1 }
}

fn llama(name: &'static str, sizes: [usize; 6], tied: bool) -> Shape {
    let [hidden, inner, layers, heads, kv_heads, head_dim] = sizes;
    let config = json!({
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": hidden, "intermediate_size": inner,
        "num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": kv_heads, "head_dim": head_dim,
        "vocab_size": 128_256, "max_position_embeddings": 131_072, "rms_norm_eps": 1e-5, "rope_theta": 500_000.0,
        "hidden_act": "silu", "tie_word_embeddings": tied,
    });
    Shape { name, config, points: points() }
}

fn points() -> Vec<Point> {
    let prefill = Point { batch: 1, context: 0, tokens: PROMPT };
    vec![
        decode(1, 1024),
        decode(64, 1024),
        decode(256, 1024),
        prefill,
        decode(16, 8192),
        decode(32, 1024),
        decode(1, 128),
    ]
}

/// The shapes, most worth first.
pub fn shapes() -> Vec<Shape> {
    let common = |more: Value| {
        let mut config = json!({
            "hidden_size": 2560, "max_position_embeddings": 131_072, "rms_norm_eps": 1e-6, "rope_theta": 1_000_000.0,
            "tie_word_embeddings": true,
        });
        if let (Some(config), Value::Object(more)) = (config.as_object_mut(), more) {
            config.extend(more);
        }
        config
    };
    let qwen3 = common(json!({
        "model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], "intermediate_size": 9728, "num_hidden_layers": 36,
        "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151_936, "hidden_act": "silu",
    }));
    let gemma3 = common(json!({
        "model_type": "gemma3_text", "architectures": ["Gemma3ForCausalLM"], "intermediate_size": 10_240,
        "num_hidden_layers": 34, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256,
        "vocab_size": 262_208, "hidden_activation": "gelu_pytorch_tanh", "query_pre_attn_scalar": 256,
        "sliding_window": 1024, "sliding_window_pattern": 6, "rope_local_base_freq": 10_000.0,
    }));
    vec![
        llama("Llama-3.1-8B", [4096, 14_336, 32, 32, 8, 128], false),
        llama("Llama-3.2-1B", [2048, 8192, 16, 32, 8, 64], true),
        Shape { name: "Qwen3-4B", config: qwen3, points: points() },
        Shape { name: "Gemma-3-4B", config: gemma3, points: points() },
    ]
}

impl Point {
    pub(super) fn describe(&self) -> String {
        if self.tokens == 1 {
            format!("decode batch {} context {}", self.batch, self.context)
        } else {
            format!("prefill {} tokens", self.batch * self.tokens)
        }
    }

    /// Rows of the step.
    pub(super) fn rows(&self) -> usize {
        self.batch * self.tokens
    }

    /// Bytes of keys and values that the step reads.
    pub(super) fn kv_bytes(&self, spec: &ModelSpec) -> usize {
        let layer = |layer: &sconce_models::spec::LayerSpec| {
            let a = &layer.attention;
            let first = a.kind.first_visible(self.context + self.tokens - 1);
            let read = self.context.max(1) + self.tokens - 1 - first.min(self.context);
            self.batch * read * a.num_kv_heads * (a.head_dim_k + a.head_dim_v) * 2
        };
        spec.layers.iter().map(layer).sum()
    }

    /// Seconds of the step at best: to read weights and cache once, or for its products if that is longer than to read
    /// the weights.
    pub(super) fn floor(&self, spec: &ModelSpec, floors: &Floors) -> f64 {
        let head = spec.vocab_size * spec.hidden_size;
        let flops = 2.0 * ((weights_read(spec) - head) * self.rows() + head * self.batch) as f64;
        let read = weights_read(spec) as f64 * 2.0 / floors.bytes_per_second;
        read.max(flops / floors.flops) + self.kv_bytes(spec) as f64 / floors.bytes_per_second
    }
}

/// The shape as the loader would see it.
pub(super) fn spec(folder: &Path, shape: &Shape) -> Result<ModelSpec, String> {
    let folder = folder.join(shape.name);
    // A checkpoint has at least as many tensors as layers; nobody reads these.
    let tensor = |index: usize| json!({"dtype": "BF16", "shape": [1], "data_offsets": [2 * index, 2 * index + 2]});
    let tensors = (0..MAX_LAYERS).map(|index| (format!("none.{index}"), tensor(index)));
    let header = Value::Object(tensors.collect()).to_string();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    file.resize(file.len() + 2 * MAX_LAYERS, 0);
    let written = std::fs::create_dir_all(&folder)
        .and_then(|()| std::fs::write(folder.join("config.json"), shape.config.to_string()))
        .and_then(|()| std::fs::write(folder.join("model.safetensors"), file));
    written.map_err(|error| format!("{}: {error}", folder.display()))?;
    let checkpoint = Checkpoint::open(&folder).map_err(|error| error.to_string())?;
    model_spec(&checkpoint, &SpecOptions { max_model_len: None }).map_err(|error| error.to_string())
}

/// Matrices of the model, `[rows, cols]`: those of the layers, then the embedding and, untied, the head.
fn matrices(spec: &ModelSpec) -> Vec<[usize; 2]> {
    let hidden = spec.hidden_size;
    let layers = spec.layers.iter().flat_map(|layer| {
        let (a, inner) = (&layer.attention, layer.ffn.intermediate_size);
        let qkv = a.num_heads * a.head_dim_k + a.num_kv_heads * (a.head_dim_k + a.head_dim_v);
        [[qkv, hidden], [hidden, a.num_heads * a.head_dim_v], [2 * inner, hidden], [hidden, inner]]
    });
    let ends = [[spec.vocab_size, hidden]; 2].into_iter().take(if spec.tied_embeddings { 1 } else { 2 });
    layers.chain(ends).collect()
}

pub(super) fn weight_count(spec: &ModelSpec) -> usize {
    matrices(spec).iter().map(|[rows, cols]| rows * cols).sum()
}

pub(super) fn largest_matrix(spec: &ModelSpec) -> usize {
    matrices(spec).iter().map(|[rows, cols]| rows * cols).max().unwrap_or(0)
}

/// Weights that a step reads: an embedding that is no output head is read a row at a time.
pub(super) fn weights_read(spec: &ModelSpec) -> usize {
    weight_count(spec) - if spec.tied_embeddings { 0 } else { spec.vocab_size * spec.hidden_size }
}
