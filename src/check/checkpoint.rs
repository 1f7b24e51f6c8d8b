//! Random checkpoints written to a folder, bf16 safetensors and config.json: small ones with heads that the GPU kernels
//! take, and those of real models' shapes.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use sconce_models::spec::ModelSpec;
use serde_json::{Map, Value, json};

/// A family's configuration beyond the sizes that all share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Plain, untied.
    Llama,
    /// Biases on q, k, v; tied.
    Qwen2,
    /// Norms of query and key heads.
    Qwen3,
    /// Post-norms, 1 + w, scaled embeddings, windows, two rope bases.
    Gemma3,
}

/// Tokens of every checkpoint's vocabulary: those of the byte-level tokenizer of the fixtures and some more; no multiple of
/// 16.
pub const VOCAB: usize = 923;
const HIDDEN: usize = 128;
const INNER: usize = 96;

/// Sizes of a model whose layers are alike.
#[derive(Clone, Copy, Debug)]
struct Sizes {
    vocab: usize,
    hidden: usize,
    inner: usize,
    layers: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    tied: bool,
}

impl Family {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Llama, Self::Qwen2, Self::Qwen3, Self::Gemma3];

    /// Those of its small checkpoint.
    fn sizes(self) -> Sizes {
        let (heads, kv_heads, head_dim, layers) = match self {
            Self::Llama => (4, 2, 64, 2),
            Self::Qwen2 => (7, 1, 64, 2),
            Self::Qwen3 => (4, 4, 128, 2),
            Self::Gemma3 => (2, 1, 256, 3),
        };
        let tied = !matches!(self, Self::Llama);
        Sizes { vocab: VOCAB, hidden: HIDDEN, inner: INNER, layers, heads, kv_heads, head_dim, tied }
    }

    fn config(self) -> Value {
        let Sizes { heads, kv_heads, head_dim, layers, .. } = self.sizes();
        let mut config = json!({
            "hidden_size": HIDDEN, "intermediate_size": INNER, "num_hidden_layers": layers, "vocab_size": VOCAB,
            "num_attention_heads": heads, "num_key_value_heads": kv_heads, "head_dim": head_dim, "hidden_act": "silu",
            "max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "torch_dtype": "bfloat16",
        });
        let more = match self {
            Self::Llama => {
                json!({"model_type": "llama", "architectures": ["LlamaForCausalLM"], "tie_word_embeddings": false})
            }
            Self::Qwen2 => {
                json!({"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "tie_word_embeddings": true})
            }
            Self::Qwen3 => {
                json!({"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], "tie_word_embeddings": true})
            }
            Self::Gemma3 => json!({
                "model_type": "gemma3_text", "architectures": ["Gemma3ForCausalLM"], "tie_word_embeddings": true,
                "hidden_activation": "gelu_pytorch_tanh", "query_pre_attn_scalar": 256, "sliding_window": 48,
                "rope_local_base_freq": 1000.0, "sliding_window_pattern": 3, "final_logit_softcapping": null,
                "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
            }),
        };
        if let (Some(config), Value::Object(more)) = (config.as_object_mut(), more) {
            config.extend(more);
        }
        config
    }

    /// Names and shapes of the tensors.
    fn tensors(self, sizes: &Sizes) -> Vec<(String, Vec<usize>)> {
        let Sizes { vocab, hidden, inner, layers, heads, kv_heads, head_dim, tied } = *sizes;
        let (q, kv) = (heads * head_dim, kv_heads * head_dim);
        let gemma = matches!(self, Self::Gemma3);
        let mut list =
            vec![("model.embed_tokens".to_owned(), vec![vocab, hidden]), ("model.norm".to_owned(), vec![hidden])];
        if !tied {
            list.push(("lm_head".to_owned(), vec![vocab, hidden]));
        }
        for layer in 0..layers {
            let mut add =
                |name: &str, shape: &[usize]| list.push((format!("model.layers.{layer}.{name}"), shape.to_vec()));
            add("input_layernorm", &[hidden]);
            add("post_attention_layernorm", &[hidden]);
            add("self_attn.q_proj", &[q, hidden]);
            add("self_attn.k_proj", &[kv, hidden]);
            add("self_attn.v_proj", &[kv, hidden]);
            add("self_attn.o_proj", &[hidden, q]);
            add("mlp.gate_proj", &[inner, hidden]);
            add("mlp.up_proj", &[inner, hidden]);
            add("mlp.down_proj", &[hidden, inner]);
            if gemma {
                add("pre_feedforward_layernorm", &[hidden]);
                add("post_feedforward_layernorm", &[hidden]);
            }
            if gemma || matches!(self, Self::Qwen3) {
                add("self_attn.q_norm", &[head_dim]);
                add("self_attn.k_norm", &[head_dim]);
            }
        }
        let mut named: Vec<_> = list.into_iter().map(|(name, shape)| (format!("{name}.weight"), shape)).collect();
        if matches!(self, Self::Qwen2) {
            for layer in 0..layers {
                for (part, width) in [("q", q), ("k", kv), ("v", kv)] {
                    named.push((format!("model.layers.{layer}.self_attn.{part}_proj.bias"), vec![width]));
                }
            }
        }
        named
    }
}

/// Writes the small checkpoint into a folder of its own below `folder`.
///
/// # Errors
/// When a file can't be written.
pub fn write(folder: &Path, family: Family, seed: u64) -> io::Result<PathBuf> {
    let folder = folder.join(format!("{family:?}-{seed}"));
    let mut random = Random(seed);
    write_to(&folder, &family.config(), &family.tensors(&family.sizes()), |name, shape, file| {
        (0..shape.iter().product()).try_for_each(|_| file.write_all(&bf16(value(name, shape, family, &mut random))))
    })?;
    Ok(folder)
}

/// Writes a Llama of any size into `folder`: norms of 1, matrices that repeat `block`, whole bf16 values.
///
/// # Errors
/// When a file can't be written.
pub fn write_llama(folder: &Path, config: &Value, spec: &ModelSpec, block: &[u8]) -> io::Result<()> {
    let layer = spec.layers.first().ok_or_else(|| io::Error::other("a model without layers"))?;
    let sizes = Sizes {
        vocab: spec.vocab_size,
        hidden: spec.hidden_size,
        inner: layer.ffn.intermediate_size,
        layers: spec.layers.len(),
        heads: layer.attention.num_heads,
        kv_heads: layer.attention.num_kv_heads,
        head_dim: layer.attention.head_dim_k,
        tied: spec.tied_embeddings,
    };
    write_to(folder, config, &Family::Llama.tensors(&sizes), |_, shape, file| {
        let mut left = 2 * shape.iter().product::<usize>();
        if shape.len() == 1 {
            return file.write_all(&bf16(1.0).repeat(left / 2));
        }
        while left > 0 {
            let piece = left.min(block.len());
            file.write_all(&block[..piece])?;
            left -= piece;
        }
        Ok(())
    })
}

type Tensors = [(String, Vec<usize>)];

fn write_to(
    folder: &Path,
    config: &Value,
    tensors: &Tensors,
    mut data: impl FnMut(&str, &[usize], &mut BufWriter<File>) -> io::Result<()>,
) -> io::Result<()> {
    std::fs::create_dir_all(folder)?;
    std::fs::write(folder.join("config.json"), config.to_string())?;
    let (mut header, mut end) = (Map::new(), 0);
    for (name, shape) in tensors {
        let start = end;
        end += 2 * shape.iter().product::<usize>();
        header.insert(name.clone(), json!({"dtype": "BF16", "shape": shape, "data_offsets": [start, end]}));
    }
    let header = Value::Object(header).to_string();
    let mut file = BufWriter::new(File::create(folder.join("model.safetensors"))?);
    file.write_all(&(header.len() as u64).to_le_bytes())?;
    file.write_all(header.as_bytes())?;
    tensors.iter().try_for_each(|(name, shape)| data(name, shape, &mut file))?;
    file.flush()
}

/// Of a size that keeps activations around 1, whatever the layer.
fn value(name: &str, shape: &[usize], family: Family, random: &mut Random) -> f32 {
    let x = random.next();
    match shape {
        [_, columns] if name.contains("embed") || name.contains("lm_head") => 1.5 * x / (*columns as f32).sqrt(),
        [_, columns] => 2.0 * x / (*columns as f32).sqrt(),
        _ if name.ends_with("bias") => 0.2 * x,
        _ if matches!(family, Family::Gemma3) => 0.3 * x,
        _ => 1.0 + 0.3 * x,
    }
}

/// Truncated: the values need not be rounded well.
fn bf16(x: f32) -> [u8; 2] {
    let [_, _, low, high] = x.to_le_bytes();
    [low, high]
}

/// SplitMix64.
struct Random(u64);

impl Random {
    /// In -1..1.
    fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
}
