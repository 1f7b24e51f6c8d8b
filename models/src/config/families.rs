//! What each architecture makes of `config.json`. A parser starts from `base` (a Llama) and changes what differs.

use half::{bf16, f16};
use sconce_kernels::dtype::WeightType;
use sconce_kernels::kv::CacheKind;
use serde_json::{Value, json};

use super::hf::HfConfig;
use super::hf_rope::{rope, ropes_by_layer_type};
use crate::checkpoint::Checkpoint;
use crate::error::ModelError;
use crate::names::TensorNames;
use crate::registry::{self, Family};
use crate::spec::{Activation, AttentionSpec, FfnSpec, LayerSpec, ModelSpec, NormSpec, RopeScaling};

/// Keys that change the computation and that no family here has. Their neutral values are null, false, 0 and 1.
const FOREIGN_KEYS: &[&str] = &[
    "num_experts",
    "num_local_experts",
    "n_routed_experts",
    "kv_lora_rank",
    "clip_qkv",
    "attention_multiplier",
    "embedding_multiplier",
    "residual_multiplier",
    "logits_scaling",
    "logit_scale",
    "use_bidirectional_attention",
];

/// Describes a folder of safetensors.
pub(super) fn model_spec(checkpoint: &Checkpoint, family: &Family) -> Result<ModelSpec, ModelError> {
    let root = checkpoint.config().unwrap_or(&Value::Null);
    let config = HfConfig::new(checkpoint.path(), root, (family.hf_defaults)())?;
    for &key in FOREIGN_KEYS {
        let neutral = match config.get(key) {
            None | Some(Value::Bool(false)) => true,
            Some(value) => value.as_f64().is_some_and(|v| v == 0.0 || v == 1.0),
        };
        if !neutral {
            return Err(config.unsupported(key, "not part of any supported architecture", registry::supported()));
        }
    }
    // Before anything is allocated for them.
    let (num_layers, num_tensors) = (config.usize("num_hidden_layers")?, checkpoint.tensors().len());
    if num_layers > num_tensors {
        return Err(config.bad("num_hidden_layers", format!("{num_layers} layers, but only {num_tensors} tensors")));
    }
    let mut spec = (family.from_config)(&config)?;
    spec.architecture = registry::architecture(checkpoint).unwrap_or_default().to_owned();
    // In a multi-modal file the tie is declared at the top, and absent there means tied for Gemma.
    if root.get("text_config").is_some()
        && let Some(tied) = root.get("tie_word_embeddings").and_then(Value::as_bool)
    {
        spec.tied_embeddings = tied;
    }
    if family.scaled_embeddings {
        let names = TensorNames::of(checkpoint)?;
        let dtype = checkpoint.info(&names.embed).map_or(WeightType::F32, |info| info.ty);
        spec.embedding_multiplier = embedding_multiplier(spec.hidden_size, dtype);
    }
    Ok(spec)
}

/// Gemma multiplies embeddings by `sqrt(hidden)`, which transformers rounds to the dtype of the weights, as in
/// training. (GGUF has no word on it, and llama.cpp doesn't round.)
fn embedding_multiplier(hidden_size: usize, dtype: WeightType) -> f32 {
    let exact = (hidden_size as f64).sqrt() as f32;
    match dtype {
        WeightType::BF16 => bf16::from_f32(exact).to_f32(),
        WeightType::F16 => f16::from_f32(exact).to_f32(),
        _ => exact,
    }
}

/// A Llama without biases and windows.
fn base(config: &HfConfig<'_>) -> Result<ModelSpec, ModelError> {
    let hidden_size = config.usize("hidden_size")?;
    let num_heads = config.usize("num_attention_heads")?;
    let head_dim = match config.opt_usize("head_dim")? {
        Some(head_dim) => head_dim,
        None if hidden_size.is_multiple_of(num_heads) => hidden_size / num_heads,
        None => return Err(config.bad("head_dim", "is missing, and the heads don't divide hidden_size")),
    };
    let attention = AttentionSpec {
        kind: CacheKind::Full,
        num_heads,
        num_kv_heads: config.opt_usize("num_key_value_heads")?.unwrap_or(num_heads),
        head_dim_k: head_dim,
        head_dim_v: head_dim,
        scale: (head_dim as f64).powf(-0.5) as f32,
        softcap: None,
        rope: Some(0),
        qk_norm: false,
        qkv_bias: false,
        o_bias: false,
    };
    let ffn =
        FfnSpec { intermediate_size: config.usize("intermediate_size")?, activation: activation(config)?, bias: false };
    let layer = LayerSpec { attention, ffn, post_attention_norm: false, post_ffn_norm: false };
    let num_layers = config.usize("num_hidden_layers")?;
    let max_position = config.usize("max_position_embeddings")?;
    Ok(ModelSpec {
        architecture: String::new(),
        vocab_size: config.usize("vocab_size")?,
        hidden_size,
        max_position,
        layers: vec![layer; num_layers],
        ropes: Vec::new(),
        embedding_multiplier: 1.0,
        norm: NormSpec { eps: config.f32("rms_norm_eps")?, one_plus: false },
        final_softcap: None,
        logit_multiplier: 1.0,
        tied_embeddings: config.flag("tie_word_embeddings")?,
    })
}

/// `base` and one rope for all layers; linear and YaRN scaling lengthen the context that the file declares.
fn with_rope(config: &HfConfig<'_>) -> Result<ModelSpec, ModelError> {
    let mut spec = base(config)?;
    let head_dim = spec.layers.first().map_or(0, |layer| layer.attention.head_dim_k);
    let rope = rope(config, head_dim)?;
    let extended = match rope.scaling {
        RopeScaling::Linear { factor } => spec.max_position as f32 * factor,
        RopeScaling::Yarn { factor, original_max_position, .. } => original_max_position as f32 * factor,
        _ => 0.0,
    };
    spec.max_position = spec.max_position.max(extended as usize);
    spec.ropes = vec![rope];
    Ok(spec)
}

fn activation(config: &HfConfig<'_>) -> Result<Activation, ModelError> {
    // Gemma 2 files hold both keys and mean `hidden_activation`.
    let key = if config.get("hidden_activation").is_some() { "hidden_activation" } else { "hidden_act" };
    match config.str(key)?.unwrap_or("silu") {
        "silu" | "swish" => Ok(Activation::Silu),
        "gelu_pytorch_tanh" | "gelu_new" => Ok(Activation::GeluTanh),
        "gelu" => Ok(Activation::Gelu),
        other => Err(config.unsupported(
            key,
            format!("activation {other}"),
            "supported: silu, swish, gelu, gelu_new, gelu_pytorch_tanh",
        )),
    }
}

/// `attention_bias` and `mlp_bias`, where the architecture reads them.
fn biases(config: &HfConfig<'_>, spec: &mut ModelSpec) -> Result<(), ModelError> {
    let (attention, mlp) = (config.flag("attention_bias")?, config.flag("mlp_bias")?);
    for layer in &mut spec.layers {
        layer.attention.qkv_bias = attention;
        layer.attention.o_bias = attention;
        layer.ffn.bias = mlp;
    }
    Ok(())
}

/// Refuses biases where the architecture has none.
fn no_biases(config: &HfConfig<'_>, keys: &[&str]) -> Result<(), ModelError> {
    match keys.iter().find(|key| config.get(key).is_some_and(|value| *value != Value::Bool(false))) {
        Some(key) => Err(config.unsupported(key, "this architecture has no such bias", "supported: false")),
        None => Ok(()),
    }
}

/// Sets each layer's window from `layer_types`, or from `sliding(layer)` if the file doesn't list them.
fn windows(
    config: &HfConfig<'_>,
    spec: &mut ModelSpec,
    window: Option<usize>,
    sliding: impl Fn(usize) -> bool,
) -> Result<(), ModelError> {
    const KEY: &str = "layer_types";
    let listed = config.list(KEY)?;
    if let Some(list) = listed
        && list.len() != spec.layers.len()
    {
        return Err(config.bad(KEY, format!("has {} entries for {} layers", list.len(), spec.layers.len())));
    }
    for (index, layer) in spec.layers.iter_mut().enumerate() {
        let sliding = match listed.and_then(|list| list.get(index)) {
            None => sliding(index),
            Some(kind) => match kind.as_str() {
                Some("full_attention") => false,
                Some("sliding_attention") => true,
                _ => {
                    let remedy = "supported: full_attention, sliding_attention";
                    return Err(config.unsupported(KEY, format!("layer type {kind}"), remedy));
                }
            },
        };
        layer.attention.kind = match (sliding, window) {
            (false, _) => CacheKind::Full,
            (true, Some(window)) => CacheKind::SlidingWindow { window },
            (true, None) => return Err(config.bad("sliding_window", "is missing, but layers of that type exist")),
        };
    }
    Ok(())
}

/// Llama 2/3.x, SmolLM2.
pub(crate) fn llama(config: &HfConfig<'_>) -> Result<ModelSpec, ModelError> {
    let mut spec = with_rope(config)?;
    biases(config, &mut spec)?;
    Ok(spec)
}

/// Mistral 7B, Nemo, Small: every layer slides if there is a window.
pub(crate) fn mistral(config: &HfConfig<'_>) -> Result<ModelSpec, ModelError> {
    no_biases(config, &["attention_bias", "mlp_bias"])?;
    let mut spec = with_rope(config)?;
    if let Some(window) = config.opt_usize("sliding_window")? {
        spec.layers.iter_mut().for_each(|layer| layer.attention.kind = CacheKind::SlidingWindow { window });
    }
    Ok(spec)
}

fn qwen(config: &HfConfig<'_>) -> Result<ModelSpec, ModelError> {
    no_biases(config, &["mlp_bias"])?;
    let mut spec = with_rope(config)?;
    let window = if config.flag("use_sliding_window")? { config.opt_usize("sliding_window")? } else { None };
    let first = config.get("max_window_layers").and_then(Value::as_u64).unwrap_or(28) as usize;
    windows(config, &mut spec, window, |layer| window.is_some() && layer >= first)?;
    Ok(spec)
}

/// Qwen2, Qwen2.5: q, k and v always carry a bias.
pub(crate) fn qwen2(config: &HfConfig<'_>) -> Result<ModelSpec, ModelError> {
    let mut spec = qwen(config)?;
    spec.layers.iter_mut().for_each(|layer| layer.attention.qkv_bias = true);
    Ok(spec)
}

/// Qwen3: norms on q and k heads.
pub(crate) fn qwen3(config: &HfConfig<'_>) -> Result<ModelSpec, ModelError> {
    let mut spec = qwen(config)?;
    biases(config, &mut spec)?;
    spec.layers.iter_mut().for_each(|layer| layer.attention.qk_norm = true);
    Ok(spec)
}

/// SmolLM3: some layers have no rope; in `no_rope_layers` a 1 means that the layer has one.
pub(crate) fn smollm3(config: &HfConfig<'_>) -> Result<ModelSpec, ModelError> {
    let mut spec = with_rope(config)?;
    biases(config, &mut spec)?;
    let listed = config.list("no_rope_layers")?;
    let interval = config.usize("no_rope_layer_interval")?;
    if listed.is_some_and(|list| list.len() < spec.layers.len()) {
        return Err(config.bad("no_rope_layers", "has fewer entries than there are layers"));
    }
    for (index, layer) in spec.layers.iter_mut().enumerate() {
        let has_rope = match listed.and_then(|list| list.get(index)) {
            Some(flag) => flag.as_u64().ok_or_else(|| config.bad("no_rope_layers", "isn't a list of 0 and 1"))? != 0,
            None => !(index + 1).is_multiple_of(interval),
        };
        layer.attention.rope = has_rope.then_some(0);
    }
    let window = if config.flag("use_sliding_window")? { config.opt_usize("sliding_window")? } else { None };
    let nope: Vec<bool> = spec.layers.iter().map(|layer| layer.attention.rope.is_none()).collect();
    windows(config, &mut spec, window, |layer| window.is_some() && nope.get(layer) == Some(&true))?;
    Ok(spec)
}

/// What Gemma 2 and 3 share: (1+w) norms around both blocks, their own attention scale, soft caps.
fn gemma(config: &HfConfig<'_>, spec: &mut ModelSpec) -> Result<(), ModelError> {
    no_biases(config, &["mlp_bias"])?;
    biases(config, spec)?;
    spec.norm.one_plus = true;
    spec.final_softcap = config.opt_f32("final_logit_softcapping")?;
    let softcap = config.opt_f32("attn_logit_softcapping")?;
    let scale = f64::from(config.f32("query_pre_attn_scalar")?).powf(-0.5) as f32;
    for layer in &mut spec.layers {
        layer.attention.softcap = softcap;
        layer.attention.scale = scale;
        layer.post_attention_norm = true;
        layer.post_ffn_norm = true;
    }
    Ok(())
}

/// Gemma 2: every other layer slides, beginning with the first.
pub(crate) fn gemma2(config: &HfConfig<'_>) -> Result<ModelSpec, ModelError> {
    let mut spec = with_rope(config)?;
    gemma(config, &mut spec)?;
    let window = config.opt_usize("sliding_window")?;
    windows(config, &mut spec, window, |layer| layer.is_multiple_of(2))?;
    Ok(spec)
}

/// Gemma 3 text: every sixth layer is full and has its own rope; norms on q and k heads.
pub(crate) fn gemma3(config: &HfConfig<'_>) -> Result<ModelSpec, ModelError> {
    let mut spec = base(config)?;
    gemma(config, &mut spec)?;
    let head_dim = spec.layers.first().map_or(0, |layer| layer.attention.head_dim_k);
    spec.ropes = ropes_by_layer_type(config, head_dim)?.into();
    let pattern = config.usize("sliding_window_pattern")?;
    let window = config.opt_usize("sliding_window")?;
    windows(config, &mut spec, window, |layer| !(layer + 1).is_multiple_of(pattern))?;
    for layer in &mut spec.layers {
        layer.attention.qk_norm = true;
        layer.attention.rope = Some(usize::from(layer.attention.kind != CacheKind::Full));
    }
    Ok(spec)
}

/// Values of keys that a file may leave out, as transformers 5 has them.
pub(crate) mod defaults {
    use super::{Value, json};

    pub(crate) fn llama() -> Value {
        json!({"max_position_embeddings": 2048, "rms_norm_eps": 1e-6, "rope_theta": 10000.0})
    }

    pub(crate) fn mistral() -> Value {
        json!({"max_position_embeddings": 131072, "rms_norm_eps": 1e-6, "num_key_value_heads": 8, "sliding_window": 4096})
    }

    pub(crate) fn qwen2() -> Value {
        json!({
            "max_position_embeddings": 32768, "rms_norm_eps": 1e-6, "num_key_value_heads": 32, "sliding_window": 4096
        })
    }

    pub(crate) fn qwen3() -> Value {
        json!({
            "max_position_embeddings": 32768, "rms_norm_eps": 1e-6, "num_key_value_heads": 32, "sliding_window": 4096,
            "head_dim": 128
        })
    }

    pub(crate) fn smollm3() -> Value {
        json!({
            "max_position_embeddings": 32768, "rms_norm_eps": 1e-6, "num_key_value_heads": 4, "rope_theta": 2000000.0,
            "tie_word_embeddings": true, "no_rope_layer_interval": 4
        })
    }

    pub(crate) fn gemma2() -> Value {
        json!({
            "vocab_size": 256000, "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26,
            "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "max_position_embeddings": 8192,
            "rms_norm_eps": 1e-6, "hidden_activation": "gelu_pytorch_tanh", "query_pre_attn_scalar": 256,
            "sliding_window": 4096, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0,
            "tie_word_embeddings": true
        })
    }

    pub(crate) fn gemma3() -> Value {
        json!({
            "vocab_size": 262208, "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26,
            "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "max_position_embeddings": 131072,
            "rms_norm_eps": 1e-6, "hidden_activation": "gelu_pytorch_tanh", "query_pre_attn_scalar": 256,
            "sliding_window": 4096, "sliding_window_pattern": 6, "tie_word_embeddings": true
        })
    }
}
