//! From GGUF metadata to a `ModelSpec`, as llama.cpp reads it: keys are `ARCHITECTURE.name`.

use std::path::Path;

use sconce_kernels::dtype::WeightType;
use sconce_kernels::kv::CacheKind;

use crate::checkpoint::Checkpoint;
use crate::error::{ModelError, REDOWNLOAD};
use crate::gguf::{Gguf, Metadata};
use crate::registry::{Family, supported};
use crate::spec::{Activation, AttentionSpec, FfnSpec, LayerSpec, ModelSpec, NormSpec, RopeScaling, RopeSpec};

/// Keys that change the computation and that no family here has. Their neutral values are 0, 1 and true.
const FOREIGN_KEYS: &[&str] = &[
    "expert_count",
    "attention.q_lora_rank",
    "attention.kv_lora_rank",
    "attention.causal",
    "attention.clamp_kqv",
    "attention.output_scale",
    "attention.temperature_length",
    "attention.shared_kv_layers",
    "rope.dimension_sections",
    "logit_scale",
    "residual_scale",
    "embedding_scale",
];

/// Typed reads of one architecture's metadata.
pub(crate) struct GgufConfig<'a> {
    checkpoint: &'a Checkpoint,
    metadata: &'a Metadata,
    arch: &'a str,
    num_layers: usize,
}

/// Describes a GGUF model.
pub(super) fn model_spec(checkpoint: &Checkpoint, gguf: &Gguf, family: &Family) -> Result<ModelSpec, ModelError> {
    let arch = family.gguf.unwrap_or_default();
    let mut config = GgufConfig { checkpoint, metadata: &gguf.metadata, arch, num_layers: 0 };
    config.num_layers = config.usize("block_count")?;
    // Before anything is allocated for them.
    if config.num_layers > gguf.tensors().len() {
        let problem = format!("{} layers, but only {} tensors", config.num_layers, gguf.tensors().len());
        return Err(config.bad("block_count", problem));
    }
    config.refuse_foreign()?;
    let mut spec = base(&config, family)?;
    (family.from_metadata)(&config, &mut spec)?;
    Ok(spec)
}

/// A Llama; what differs is set by the family's function.
fn base(config: &GgufConfig<'_>, family: &Family) -> Result<ModelSpec, ModelError> {
    let hidden_size = config.usize("embedding_length")?;
    let heads = config.per_layer("attention.head_count")?;
    let kv_heads = if config.metadata.contains(&config.key("attention.head_count_kv")) {
        config.per_layer("attention.head_count_kv")?
    } else {
        heads.clone()
    };
    let widths = config.per_layer("feed_forward_length")?;
    let first_heads = heads.first().copied().unwrap_or(1).max(1);
    let head_dim_k = config.opt_usize("attention.key_length")?.unwrap_or(hidden_size / first_heads);
    let head_dim_v = config.opt_usize("attention.value_length")?.unwrap_or(hidden_size / first_heads);
    let has = |name: &str| config.checkpoint.has(&format!("blk.0.{name}.bias"));
    let layer = |((num_heads, num_kv_heads), intermediate_size)| LayerSpec {
        attention: AttentionSpec {
            kind: CacheKind::Full,
            num_heads,
            num_kv_heads,
            head_dim_k,
            head_dim_v,
            scale: (head_dim_k as f64).powf(-0.5) as f32,
            softcap: None,
            rope: Some(0),
            qk_norm: false,
            qkv_bias: has("attn_q"),
            o_bias: has("attn_output"),
        },
        ffn: FfnSpec { intermediate_size, activation: Activation::Silu, bias: has("ffn_gate") },
        post_attention_norm: false,
        post_ffn_norm: false,
    };
    let rope = config.rope(head_dim_k, family.gguf_interleaved)?;
    let mut max_position = config.usize("context_length")?;
    if let RopeScaling::Yarn { factor, original_max_position, .. } = rope.scaling {
        max_position = max_position.max((original_max_position as f32 * factor) as usize);
    }
    let embedding = config.checkpoint.tensor("token_embd.weight")?;
    Ok(ModelSpec {
        architecture: config.arch.to_owned(),
        vocab_size: embedding.shape.first().copied().unwrap_or(0),
        hidden_size,
        max_position,
        layers: heads.into_iter().zip(kv_heads).zip(widths).map(layer).collect(),
        ropes: vec![rope],
        embedding_multiplier: if family.scaled_embeddings { (hidden_size as f32).sqrt() } else { 1.0 },
        norm: NormSpec { eps: config.f32("attention.layer_norm_rms_epsilon")?, one_plus: false },
        final_softcap: None,
        logit_multiplier: 1.0,
        tied_embeddings: !config.checkpoint.has("output.weight"),
    })
}

/// Llama, Mistral, SmolLM2.
pub(crate) fn llama(config: &GgufConfig<'_>, spec: &mut ModelSpec) -> Result<(), ModelError> {
    if let Some(window) = config.opt_usize("attention.sliding_window")? {
        spec.layers.iter_mut().for_each(|layer| layer.attention.kind = CacheKind::SlidingWindow { window });
    }
    Ok(())
}

/// Qwen2, Qwen2.5: biases are seen in the tensors.
pub(crate) fn qwen2(_: &GgufConfig<'_>, _: &mut ModelSpec) -> Result<(), ModelError> {
    Ok(())
}

/// Qwen3: norms on q and k heads.
pub(crate) fn qwen3(_: &GgufConfig<'_>, spec: &mut ModelSpec) -> Result<(), ModelError> {
    spec.layers.iter_mut().for_each(|layer| layer.attention.qk_norm = true);
    Ok(())
}

/// SmolLM3: every fourth layer has no rope; the format has no key for it.
pub(crate) fn smollm3(_: &GgufConfig<'_>, spec: &mut ModelSpec) -> Result<(), ModelError> {
    for layer in spec.layers.iter_mut().skip(3).step_by(4) {
        layer.attention.rope = None;
    }
    Ok(())
}

/// What Gemma 2 and 3 share. The attention scale isn't in the file: it follows from the head width, but for
/// the 27B models, known by their number of layers, from `hidden / heads`.
fn gemma(config: &GgufConfig<'_>, spec: &mut ModelSpec, layers_of_27b: usize) -> Result<(), ModelError> {
    let is_27b = spec.layers.len() == layers_of_27b;
    let stated = config.opt_f32("attention.scale")?;
    spec.final_softcap = config.opt_f32("final_logit_softcapping")?;
    let softcap = config.opt_f32("attn_logit_softcapping")?;
    for layer in &mut spec.layers {
        let a = &mut layer.attention;
        let width = if is_27b { spec.hidden_size / a.num_heads.max(1) } else { a.head_dim_k };
        a.scale = stated.unwrap_or((width as f64).powf(-0.5) as f32);
        a.softcap = softcap;
        layer.post_attention_norm = true;
        layer.post_ffn_norm = true;
        layer.ffn.activation = Activation::GeluTanh;
    }
    Ok(())
}

/// Gemma 2: every other layer slides, beginning with the first.
pub(crate) fn gemma2(config: &GgufConfig<'_>, spec: &mut ModelSpec) -> Result<(), ModelError> {
    gemma(config, spec, 46)?;
    // Files of early converters leave out what all Gemma 2 models share.
    spec.final_softcap = spec.final_softcap.or(Some(30.0));
    for layer in &mut spec.layers {
        layer.attention.softcap = layer.attention.softcap.or(Some(50.0));
    }
    let window = config.opt_usize("attention.sliding_window")?.unwrap_or(4096);
    config.windows(spec, window, 2)
}

/// Gemma 3 text: every sixth layer is full; sliding layers have a rope of their own, never scaled.
pub(crate) fn gemma3(config: &GgufConfig<'_>, spec: &mut ModelSpec) -> Result<(), ModelError> {
    gemma(config, spec, 62)?;
    if let Some(window) = config.opt_usize("attention.sliding_window")? {
        config.windows(spec, window, 6)?;
    }
    let theta = config.opt_f32("rope.freq_base_swa")?.unwrap_or(10_000.0);
    let full = spec.ropes.first().cloned();
    spec.ropes.extend(full.map(|rope| RopeSpec { theta, scaling: RopeScaling::None, ..rope }));
    for layer in &mut spec.layers {
        layer.attention.qk_norm = true;
        layer.attention.rope = Some(usize::from(layer.attention.kind != CacheKind::Full));
    }
    Ok(())
}

impl GgufConfig<'_> {
    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.arch)
    }

    fn refuse_foreign(&self) -> Result<(), ModelError> {
        for name in FOREIGN_KEYS {
            let key = self.key(name);
            let neutral = matches!(self.metadata.get_u64(&key), Some(0 | 1))
                || self.metadata.get_f32(&key).is_some_and(|value| value == 0.0 || value == 1.0)
                || self.metadata.get_bool(&key) == Some(true);
            if self.metadata.contains(&key) && !neutral {
                return Err(self.unsupported(name, "not part of any supported architecture", supported()));
            }
        }
        Ok(())
    }

    fn path(&self) -> &Path {
        self.checkpoint.path()
    }

    fn bad(&self, name: &str, problem: impl AsRef<str>) -> ModelError {
        ModelError::malformed(self.path(), self.key(name), problem, REDOWNLOAD)
    }

    /// `remedy` says which values there are.
    fn unsupported(&self, name: &str, problem: impl AsRef<str>, remedy: impl AsRef<str>) -> ModelError {
        ModelError::unsupported(self.path(), self.key(name), problem, remedy)
    }

    fn opt_usize(&self, name: &str) -> Result<Option<usize>, ModelError> {
        let key = self.key(name);
        match self.metadata.get_u64(&key) {
            Some(value @ 1..=0xFFFF_FFFF) => Ok(Some(value as usize)),
            None if !self.metadata.contains(&key) => Ok(None),
            _ => Err(self.bad(name, "isn't a whole number from 1 to 4294967295")),
        }
    }

    fn usize(&self, name: &str) -> Result<usize, ModelError> {
        self.opt_usize(name)?.ok_or_else(|| self.bad(name, "is missing"))
    }

    fn opt_f32(&self, name: &str) -> Result<Option<f32>, ModelError> {
        let key = self.key(name);
        match self.metadata.get_f32(&key).filter(|v| v.is_finite()) {
            Some(value) => Ok(Some(value)),
            None if !self.metadata.contains(&key) => Ok(None),
            None => Err(self.bad(name, "isn't a finite float")),
        }
    }

    fn f32(&self, name: &str) -> Result<f32, ModelError> {
        self.opt_f32(name)?.ok_or_else(|| self.bad(name, "is missing"))
    }

    /// A number for all layers, or an array with one a layer.
    fn per_layer(&self, name: &str) -> Result<Vec<usize>, ModelError> {
        let Some(values) = self.metadata.get_i32s(&self.key(name)) else {
            return Ok(vec![self.usize(name)?; self.num_layers]);
        };
        if values.len() != self.num_layers {
            return Err(self.bad(name, format!("has {} entries for {} layers", values.len(), self.num_layers)));
        }
        let positive: Option<Vec<usize>> = values.iter().map(|&v| usize::try_from(v).ok().filter(|&v| v > 0)).collect();
        positive.ok_or_else(|| self.bad(name, "holds a number below 1"))
    }

    /// Sets windows by `sliding_window_pattern`: a flag a layer, or a period whose last layer is full.
    fn windows(&self, spec: &mut ModelSpec, window: usize, default_period: usize) -> Result<(), ModelError> {
        const NAME: &str = "attention.sliding_window_pattern";
        let key = self.key(NAME);
        let flags = self.metadata.get_bools(&key).or_else(|| {
            let numbers = self.metadata.get_i32s(&key)?;
            Some(numbers.into_iter().map(|v| v != 0).collect())
        });
        let period = if flags.is_some() { 1 } else { self.opt_usize(NAME)?.unwrap_or(default_period) };
        if flags.as_ref().is_some_and(|flags| flags.len() != spec.layers.len()) {
            return Err(self.bad(NAME, format!("doesn't have {} entries", spec.layers.len())));
        }
        for (index, layer) in spec.layers.iter_mut().enumerate() {
            let flag = flags.as_ref().and_then(|flags| flags.get(index)).copied();
            if flag.unwrap_or(!(index + 1).is_multiple_of(period)) {
                layer.attention.kind = CacheKind::SlidingWindow { window };
            }
        }
        Ok(())
    }

    fn rope(&self, head_dim: usize, interleaved: bool) -> Result<RopeSpec, ModelError> {
        let rot_dim = self.opt_usize("rope.dimension_count")?.unwrap_or(head_dim);
        let theta = self.opt_f32("rope.freq_base")?.unwrap_or(10_000.0);
        let mut scaling = self.rope_scaling()?;
        if self.checkpoint.has("rope_freqs.weight") {
            if scaling != RopeScaling::None {
                let problem = "scaling on top of rope_freqs.weight";
                return Err(self.unsupported("rope.scaling.type", problem, "supported: one of them"));
            }
            scaling = RopeScaling::Factors { factors: self.floats("rope_freqs.weight")? };
        }
        Ok(RopeSpec { theta, rot_dim, interleaved, scaling })
    }

    fn rope_scaling(&self) -> Result<RopeScaling, ModelError> {
        let key = self.key("rope.scaling.type");
        let kind = match self.metadata.get_str(&key) {
            Some(kind) => kind,
            None if self.metadata.contains(&key) => return Err(self.bad("rope.scaling.type", "isn't a string")),
            None => "linear",
        };
        // `scale_linear` is the name of files of 2023.
        let factor = match self.opt_f32("rope.scaling.factor")? {
            Some(factor) => Some(factor),
            None => self.opt_f32("rope.scale_linear")?,
        };
        // llama.cpp writes 0 for "not scaled".
        let factor = factor.filter(|&factor| factor != 0.0).unwrap_or(1.0);
        match kind {
            "none" => Ok(RopeScaling::None),
            "linear" if factor == 1.0 => Ok(RopeScaling::None),
            "linear" => Ok(RopeScaling::Linear { factor }),
            "yarn" => self.yarn(factor),
            "longrope" => self.longrope(),
            other => {
                let remedy = "supported: none, linear, yarn, longrope";
                Err(self.unsupported("rope.scaling.type", format!("rope scaling {other}"), remedy))
            }
        }
    }

    fn yarn(&self, factor: f32) -> Result<RopeScaling, ModelError> {
        for (name, neutral) in [("yarn_log_multiplier", 0.0), ("yarn_ext_factor", 1.0), ("yarn_attn_factor", 1.0)] {
            let name = format!("rope.scaling.{name}");
            if self.opt_f32(&name)?.is_some_and(|value| value != neutral) {
                return Err(self.unsupported(&name, "a scaling of its own", format!("supported: {neutral}")));
            }
        }
        let mscale = if factor > 1.0 { 0.1 * f64::from(factor).ln() + 1.0 } else { 1.0 } as f32;
        Ok(RopeScaling::Yarn {
            factor,
            beta_fast: self.opt_f32("rope.scaling.yarn_beta_fast")?.unwrap_or(32.0),
            beta_slow: self.opt_f32("rope.scaling.yarn_beta_slow")?.unwrap_or(1.0),
            attention_factor: mscale * self.opt_f32("rope.scaling.attn_factor")?.unwrap_or(1.0),
            original_max_position: self.original_max_position()?,
            truncate: true,
        })
    }

    fn longrope(&self) -> Result<RopeScaling, ModelError> {
        Ok(RopeScaling::LongRope {
            short_factor: self.floats("rope_factors_short.weight")?,
            long_factor: self.floats("rope_factors_long.weight")?,
            attention_factor: self.opt_f32("rope.scaling.attn_factor")?.unwrap_or(1.0),
            original_max_position: self.original_max_position()?,
        })
    }

    fn original_max_position(&self) -> Result<usize, ModelError> {
        match self.opt_usize("rope.scaling.original_context_length")? {
            Some(length) => Ok(length),
            None => self.usize("context_length"),
        }
    }

    /// A short F32 tensor.
    fn floats(&self, name: &str) -> Result<Vec<f32>, ModelError> {
        let tensor = self.checkpoint.tensor(name)?;
        if tensor.ty != WeightType::F32 || tensor.shape.len() != 1 {
            let problem = format!("type {} and shape {:?}, expected one row of F32", tensor.ty.name(), tensor.shape);
            return Err(ModelError::malformed(self.path(), format!("tensor {name}"), problem, REDOWNLOAD));
        }
        Ok(tensor.data.as_chunks::<4>().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect())
    }
}
