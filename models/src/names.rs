//! Names of the tensors that a graph needs, in Hugging Face checkpoints and in GGUF files.

use crate::checkpoint::Checkpoint;
use crate::error::ModelError;
use crate::registry;

/// Names of everything outside the layers, and of any layer.
#[derive(Clone, Debug)]
pub struct TensorNames {
    /// Embedding table, `[vocab, hidden]`.
    pub embed: String,
    /// Norm before the output head, `[hidden]`.
    pub final_norm: String,
    /// Output head, `[vocab, hidden]`; not in the file if tied to the embeddings.
    pub lm_head: String,
    style: Style,
}

#[derive(Clone, Debug)]
enum Style {
    Gguf,
    Hf { prefix: &'static str, sandwich_norms: bool },
}

/// Names of one layer's tensors. Which of the optional ones exist, the `LayerSpec` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerNames {
    /// Norm before attention, `[hidden]`.
    pub attn_norm: String,
    /// Query projection, `[heads * head_dim_k, hidden]`.
    pub q: String,
    /// Key projection, `[kv_heads * head_dim_k, hidden]`.
    pub k: String,
    /// Value projection, `[kv_heads * head_dim_v, hidden]`.
    pub v: String,
    /// Output projection, `[hidden, heads * head_dim_v]`.
    pub o: String,
    /// Bias of `q`.
    pub q_bias: String,
    /// Bias of `k`.
    pub k_bias: String,
    /// Bias of `v`.
    pub v_bias: String,
    /// Bias of `o`.
    pub o_bias: String,
    /// Norm of each query head, `[head_dim_k]`.
    pub q_norm: String,
    /// Norm of each key head, `[head_dim_k]`.
    pub k_norm: String,
    /// Norm of the attention block's output, `[hidden]`.
    pub post_attn_norm: String,
    /// Norm before the feed-forward block, `[hidden]`.
    pub ffn_norm: String,
    /// Gate projection, `[intermediate, hidden]`.
    pub gate: String,
    /// Up projection, `[intermediate, hidden]`.
    pub up: String,
    /// Down projection, `[hidden, intermediate]`.
    pub down: String,
    /// Bias of `gate`.
    pub gate_bias: String,
    /// Bias of `up`.
    pub up_bias: String,
    /// Bias of `down`.
    pub down_bias: String,
    /// Norm of the feed-forward block's output, `[hidden]`.
    pub post_ffn_norm: String,
}

/// Where a text model may live in a checkpoint: prefix of its tensors, name of its head. Multi-modal wrappers of
/// transformers 5 and 4 come first, then a causal model, then a bare decoder.
const PREFIXES: &[(&str, &str)] = &[
    ("model.language_model.", "lm_head.weight"),
    ("language_model.model.", "language_model.lm_head.weight"),
    ("model.", "lm_head.weight"),
    ("", "lm_head.weight"),
];

impl TensorNames {
    /// The names that `checkpoint` uses.
    ///
    /// # Errors
    /// An unsupported architecture, or no embedding table under any known prefix.
    pub fn of(checkpoint: &Checkpoint) -> Result<Self, ModelError> {
        if checkpoint.gguf().is_some() {
            return Ok(Self {
                embed: "token_embd.weight".to_owned(),
                final_norm: "output_norm.weight".to_owned(),
                lm_head: "output.weight".to_owned(),
                style: Style::Gguf,
            });
        }
        let sandwich_norms = registry::find(checkpoint)?.sandwich_norms;
        let embed_of = |prefix: &str| format!("{prefix}embed_tokens.weight");
        let found = PREFIXES.iter().find(|(prefix, _)| checkpoint.has(&embed_of(prefix)));
        let Some(&(prefix, head)) = found else {
            // Names the usual place, and its dtype if that is what is wrong.
            return Err(match checkpoint.tensor("model.embed_tokens.weight") {
                Err(error) => error,
                Ok(_) => ModelError::missing_tensor(checkpoint.path(), "embed_tokens.weight"),
            });
        };
        Ok(Self {
            embed: embed_of(prefix),
            final_norm: format!("{prefix}norm.weight"),
            lm_head: head.to_owned(),
            style: Style::Hf { prefix, sandwich_norms },
        })
    }

    /// What the names of all layers' tensors begin with; the layer's number follows.
    pub fn layer_prefix(&self) -> String {
        match self.style {
            Style::Gguf => "blk.".to_owned(),
            Style::Hf { prefix, .. } => format!("{prefix}layers."),
        }
    }

    /// Names of layer `index`.
    pub fn layer(&self, index: usize) -> LayerNames {
        match self.style {
            Style::Gguf => gguf_layer(index),
            Style::Hf { prefix, sandwich_norms } => hf_layer(prefix, sandwich_norms, index),
        }
    }
}

fn gguf_layer(index: usize) -> LayerNames {
    let weight = |name: &str| format!("blk.{index}.{name}.weight");
    let bias = |name: &str| format!("blk.{index}.{name}.bias");
    LayerNames {
        attn_norm: weight("attn_norm"),
        q: weight("attn_q"),
        k: weight("attn_k"),
        v: weight("attn_v"),
        o: weight("attn_output"),
        q_bias: bias("attn_q"),
        k_bias: bias("attn_k"),
        v_bias: bias("attn_v"),
        o_bias: bias("attn_output"),
        q_norm: weight("attn_q_norm"),
        k_norm: weight("attn_k_norm"),
        post_attn_norm: weight("post_attention_norm"),
        ffn_norm: weight("ffn_norm"),
        gate: weight("ffn_gate"),
        up: weight("ffn_up"),
        down: weight("ffn_down"),
        gate_bias: bias("ffn_gate"),
        up_bias: bias("ffn_up"),
        down_bias: bias("ffn_down"),
        post_ffn_norm: weight("post_ffw_norm"),
    }
}

/// `post_attention_layernorm` is Llama's norm before the feed-forward block, but Gemma's norm after attention.
fn hf_layer(prefix: &str, sandwich_norms: bool, index: usize) -> LayerNames {
    let weight = |name: &str| format!("{prefix}layers.{index}.{name}.weight");
    let bias = |name: &str| format!("{prefix}layers.{index}.{name}.bias");
    LayerNames {
        attn_norm: weight("input_layernorm"),
        q: weight("self_attn.q_proj"),
        k: weight("self_attn.k_proj"),
        v: weight("self_attn.v_proj"),
        o: weight("self_attn.o_proj"),
        q_bias: bias("self_attn.q_proj"),
        k_bias: bias("self_attn.k_proj"),
        v_bias: bias("self_attn.v_proj"),
        o_bias: bias("self_attn.o_proj"),
        q_norm: weight("self_attn.q_norm"),
        k_norm: weight("self_attn.k_norm"),
        post_attn_norm: weight("post_attention_layernorm"),
        ffn_norm: weight(if sandwich_norms { "pre_feedforward_layernorm" } else { "post_attention_layernorm" }),
        gate: weight("mlp.gate_proj"),
        up: weight("mlp.up_proj"),
        down: weight("mlp.down_proj"),
        gate_bias: bias("mlp.gate_proj"),
        up_bias: bias("mlp.up_proj"),
        down_bias: bias("mlp.down_proj"),
        post_ffn_norm: weight("post_feedforward_layernorm"),
    }
}
