//! The declarative description of a dense decoder: what a config parser produces and the graph executes.
//!
//! An architecture is its config parser and its weight names; everything that differs between
//! families is a field here, so the graph has no branch on a family's name.

use sconce_kernels::kv::CacheKind;

/// A whole model, resolved from `config.json` or GGUF metadata.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelSpec {
    /// Architecture as the checkpoint names it (`llama`, `Gemma3ForCausalLM`, ...), for messages.
    pub architecture: String,
    /// Rows of the embedding table and of the output head.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Longest context to serve, in tokens: what the checkpoint declares (after rope scaling), or less if so configured.
    pub max_position: usize,
    /// One entry a layer.
    pub layers: Vec<LayerSpec>,
    /// Rope tables, referenced by `AttentionSpec::rope`.
    pub ropes: Vec<RopeSpec>,
    /// Multiplies embeddings (Gemma: sqrt(hidden), rounded to the dtype of a safetensors checkpoint).
    pub embedding_multiplier: f32,
    /// Epsilon and kind of every norm.
    pub norm: NormSpec,
    /// `cap * tanh(logits / cap)` on the logits (Gemma 2: 30).
    pub final_softcap: Option<f32>,
    /// Multiplies the logits before the soft cap; 1 is neutral.
    pub logit_multiplier: f32,
    /// The output head is the embedding table.
    pub tied_embeddings: bool,
}

/// RMS norm parameters.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NormSpec {
    /// Added to the mean square.
    pub eps: f32,
    /// The stored weight is zero-centred: multiply by `1 + w`. (GGUF files hold `1 + w` already: false.)
    pub one_plus: bool,
}

/// One decoder layer.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerSpec {
    /// The token mixer.
    pub attention: AttentionSpec,
    /// The channel mixer.
    pub ffn: FfnSpec,
    /// Norm on the attention block's output before it is added (Gemma 2/3 "post" norms, sandwich).
    pub post_attention_norm: bool,
    /// Norm on the feed-forward block's output before it is added.
    pub post_ffn_norm: bool,
}

/// Multi-head attention with grouped keys and values.
#[derive(Clone, Debug, PartialEq)]
pub struct AttentionSpec {
    /// Full or sliding window.
    pub kind: CacheKind,
    /// Query heads.
    pub num_heads: usize,
    /// Key/value heads; divides `num_heads`.
    pub num_kv_heads: usize,
    /// Width of a query and key head.
    pub head_dim_k: usize,
    /// Width of a value head.
    pub head_dim_v: usize,
    /// Multiplies q.k (usually `head_dim^-0.5`, Gemma: `query_pre_attn_scalar^-0.5`).
    pub scale: f32,
    /// `cap * tanh(score / cap)` on the scores (Gemma 2: 50).
    pub softcap: Option<f32>,
    /// Index into `ModelSpec::ropes`; `None` for a NoPE layer (SmolLM3 every fourth).
    pub rope: Option<usize>,
    /// RMS norm of each query and key head before rope (Qwen3, Gemma 3).
    pub qk_norm: bool,
    /// q, k and v projections carry a bias (Qwen2).
    pub qkv_bias: bool,
    /// The output projection carries a bias.
    pub o_bias: bool,
}

/// Gated feed-forward: `down(act(gate(x)) * up(x))`.
#[derive(Clone, Debug, PartialEq)]
pub struct FfnSpec {
    /// Inner width.
    pub intermediate_size: usize,
    /// Activation of the gate.
    pub activation: Activation,
    /// All three projections carry a bias.
    pub bias: bool,
}

/// Gate activations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// x * sigmoid(x)
    Silu,
    /// The tanh approximation of GELU (`gelu_pytorch_tanh`).
    GeluTanh,
    /// GELU through the error function.
    Gelu,
}

/// One table of rotary position embeddings.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeSpec {
    /// Base of the frequencies.
    pub theta: f32,
    /// Rotated width; the rest of a head passes through. Even.
    pub rot_dim: usize,
    /// Pairs are (2i, 2i+1) (GGUF's llama order) instead of (i, i + rot_dim/2).
    pub interleaved: bool,
    /// Context extension.
    pub scaling: RopeScaling,
}

/// Rope context extensions. Fields carry the names of `rope_scaling` / `rope_parameters`.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// Frequencies as they are.
    None,
    /// Positions divided by `factor`.
    Linear {
        /// Divisor.
        factor: f32,
    },
    /// Llama 3: low frequencies divided, high ones kept, a ramp between.
    Llama3 {
        /// Divisor of low frequencies.
        factor: f32,
        /// Wavelengths above `original / low_freq_factor` are divided.
        low_freq_factor: f32,
        /// Wavelengths below `original / high_freq_factor` are kept.
        high_freq_factor: f32,
        /// Context before extension.
        original_max_position: usize,
    },
    /// YaRN (arXiv:2309.00071).
    Yarn {
        /// Extension factor.
        factor: f32,
        /// Ramp start, rotations (32 by default).
        beta_fast: f32,
        /// Ramp end, rotations (1 by default).
        beta_slow: f32,
        /// Multiplies cos and sin; resolved by the parser (`0.1 ln(factor) + 1` unless the file says otherwise).
        attention_factor: f32,
        /// Context before extension.
        original_max_position: usize,
        /// Round the ramp's ends to whole dimensions (the default of the reference).
        truncate: bool,
    },
    /// LongRoPE (Phi-3): a factor a frequency, one list for short and one for long contexts. Which list
    /// applies is chosen once, from the configured context length, never from a request's.
    LongRope {
        /// Divisors up to the original context; `rot_dim / 2` entries.
        short_factor: Vec<f32>,
        /// Divisors beyond it; `rot_dim / 2` entries.
        long_factor: Vec<f32>,
        /// Multiplies cos and sin; resolved by the parser.
        attention_factor: f32,
        /// Context before extension.
        original_max_position: usize,
    },
    /// A divisor a frequency given by the file (GGUF's `rope_freqs.weight`).
    Factors {
        /// `rot_dim / 2` divisors.
        factors: Vec<f32>,
    },
}
