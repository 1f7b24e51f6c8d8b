//! The table of architectures. A new one is a row here and a function in each of `config::families` and
//! `config::gguf`.

use serde_json::Value;

use crate::checkpoint::Checkpoint;
use crate::config::families::{self, defaults};
use crate::config::gguf::{self, GgufConfig};
use crate::config::hf::HfConfig;
use crate::error::ModelError;
use crate::spec::ModelSpec;

/// One architecture: its names and how its descriptions are read.
pub(crate) struct Family {
    /// `architectures` of `config.json`.
    pub(crate) hf: &'static [&'static str],
    /// `general.architecture` of GGUF.
    pub(crate) gguf: Option<&'static str>,
    /// Keys that `config.json` may leave out.
    pub(crate) hf_defaults: fn() -> Value,
    /// Reads `config.json`.
    pub(crate) from_config: fn(&HfConfig<'_>) -> Result<ModelSpec, ModelError>,
    /// Changes a Llama read from GGUF metadata into this architecture.
    pub(crate) from_metadata: fn(&GgufConfig<'_>, &mut ModelSpec) -> Result<(), ModelError>,
    /// GGUF converters permute q and k so that rotated pairs are neighbours.
    pub(crate) gguf_interleaved: bool,
    /// `post_attention_layernorm` is a norm of the attention's output, not of the feed-forward's input.
    pub(crate) sandwich_norms: bool,
    /// Embeddings are multiplied by `sqrt(hidden)`.
    pub(crate) scaled_embeddings: bool,
}

const LLAMA: Family = Family {
    hf: &["LlamaForCausalLM"],
    gguf: Some("llama"),
    hf_defaults: defaults::llama,
    from_config: families::llama,
    from_metadata: gguf::llama,
    gguf_interleaved: true,
    sandwich_norms: false,
    scaled_embeddings: false,
};

/// Every supported architecture.
pub(crate) const FAMILIES: &[Family] = &[
    LLAMA,
    Family {
        hf: &["MistralForCausalLM", "Mistral3ForConditionalGeneration"],
        gguf: None,
        hf_defaults: defaults::mistral,
        from_config: families::mistral,
        ..LLAMA
    },
    Family {
        hf: &["Qwen2ForCausalLM"],
        gguf: Some("qwen2"),
        hf_defaults: defaults::qwen2,
        from_config: families::qwen2,
        from_metadata: gguf::qwen2,
        gguf_interleaved: false,
        ..LLAMA
    },
    Family {
        hf: &["Qwen3ForCausalLM"],
        gguf: Some("qwen3"),
        hf_defaults: defaults::qwen3,
        from_config: families::qwen3,
        from_metadata: gguf::qwen3,
        gguf_interleaved: false,
        ..LLAMA
    },
    Family {
        hf: &["SmolLM3ForCausalLM"],
        gguf: Some("smollm3"),
        hf_defaults: defaults::smollm3,
        from_config: families::smollm3,
        from_metadata: gguf::smollm3,
        ..LLAMA
    },
    Family {
        hf: &["Gemma2ForCausalLM"],
        gguf: Some("gemma2"),
        hf_defaults: defaults::gemma2,
        from_config: families::gemma2,
        from_metadata: gguf::gemma2,
        gguf_interleaved: false,
        sandwich_norms: true,
        scaled_embeddings: true,
    },
    Family {
        hf: &["Gemma3ForCausalLM", "Gemma3ForConditionalGeneration"],
        gguf: Some("gemma3"),
        hf_defaults: defaults::gemma3,
        from_config: families::gemma3,
        from_metadata: gguf::gemma3,
        gguf_interleaved: false,
        sandwich_norms: true,
        scaled_embeddings: true,
    },
];

/// The remedy of "not supported" messages.
pub(crate) fn supported() -> String {
    let names: Vec<_> = FAMILIES.iter().flat_map(|family| family.hf).copied().collect();
    let gguf: Vec<_> = FAMILIES.iter().filter_map(|family| family.gguf).collect();
    format!("supported architectures: {}; GGUF: {}", names.join(" "), gguf.join(" "))
}

/// The checkpoint's name for its architecture.
pub(crate) fn architecture(checkpoint: &Checkpoint) -> Option<&str> {
    match checkpoint.gguf() {
        Some(gguf) => gguf.metadata.get_str("general.architecture"),
        None => checkpoint.config()?.get("architectures")?.get(0)?.as_str(),
    }
}

/// The family of a checkpoint.
///
/// # Errors
/// The architecture isn't named, or isn't in the table.
pub(crate) fn find(checkpoint: &Checkpoint) -> Result<&'static Family, ModelError> {
    let is_gguf = checkpoint.gguf().is_some();
    let field = if is_gguf { "general.architecture" } else { "architectures" };
    let Some(name) = architecture(checkpoint) else {
        return Err(ModelError::unsupported(&checkpoint.description(), field, "is missing", supported()));
    };
    let matches = |family: &&Family| if is_gguf { family.gguf == Some(name) } else { family.hf.contains(&name) };
    FAMILIES.iter().find(matches).ok_or_else(|| {
        ModelError::unsupported(&checkpoint.description(), field, format!("architecture {name}"), supported())
    })
}
