//! End-of-turn tokens and sampling defaults that a model ships with.
//!
//! From `generation_config.json` as vLLM's `--generation-config auto` reads it, or from GGUF
//! metadata (`general.sampling.*`).

use sconce_models::gguf::Metadata;
use serde_json::Value;

use super::tokenizer::Tokenizer;

/// What the model's authors recommend; `None` where they say nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SamplingDefaults {
    /// Softmax temperature.
    pub temperature: Option<f32>,
    /// Most likely tokens kept.
    pub top_k: Option<u32>,
    /// Probability mass kept.
    pub top_p: Option<f32>,
    /// Least probability kept, relative to the most likely token's.
    pub min_p: Option<f32>,
    /// Penalty on repeated tokens; 1 is neutral.
    pub repetition_penalty: Option<f32>,
    /// Tokens to generate when the request doesn't say.
    pub max_tokens: Option<u32>,
}

impl SamplingDefaults {
    /// From a parsed `generation_config.json`. Values out of range are left out: they would make
    /// every request that relies on them invalid.
    pub(crate) fn from_config(config: &Value) -> Self {
        let float = |key: &str| config.get(key).and_then(Value::as_f64).map(|v| v as f32);
        let int = |key: &str| config.get(key).and_then(Value::as_u64).and_then(|v| u32::try_from(v).ok());
        Self {
            temperature: float("temperature"),
            top_k: int("top_k"),
            top_p: float("top_p"),
            min_p: float("min_p"),
            repetition_penalty: float("repetition_penalty"),
            max_tokens: int("max_new_tokens"),
        }
        .in_range()
    }

    /// From GGUF metadata.
    pub(crate) fn from_metadata(metadata: &Metadata) -> Self {
        let float = |key: &str| metadata.get_f32(&format!("general.sampling.{key}"));
        Self {
            temperature: float("temp"),
            top_k: metadata.get_u32("general.sampling.top_k"),
            top_p: float("top_p"),
            min_p: float("min_p"),
            repetition_penalty: float("penalty_repeat"),
            max_tokens: None,
        }
        .in_range()
    }

    fn in_range(self) -> Self {
        let keep = |value: Option<f32>, ok: fn(f32) -> bool| value.filter(|&v| v.is_finite() && ok(v));
        Self {
            temperature: keep(self.temperature, |v| (0.0..=2.0).contains(&v)),
            top_k: self.top_k,
            top_p: keep(self.top_p, |v| v > 0.0 && v <= 1.0),
            min_p: keep(self.min_p, |v| (0.0..=1.0).contains(&v)),
            repetition_penalty: keep(self.repetition_penalty, |v| v > 0.0),
            max_tokens: self.max_tokens.filter(|&n| n > 0),
        }
    }
}

/// `eos_token_id` of a configuration: one id or a list.
pub(crate) fn eos_ids(config: &Value) -> Vec<u32> {
    let id = |v: &Value| v.as_u64().and_then(|n| u32::try_from(n).ok());
    match config.get("eos_token_id") {
        Some(Value::Array(list)) => list.iter().filter_map(id).collect(),
        Some(value) => id(value).into_iter().collect(),
        None => Vec::new(),
    }
}

/// Names under which published vocabularies end a turn or a text. GGUF files often mark only one.
const END_TOKENS: [&str; 10] = [
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<end_of_turn>",
    "<|end|>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|end_of_turn|>",
    "<|END_OF_TURN_TOKEN|>",
    "<｜end▁of▁sentence｜>",
];

/// End tokens that the vocabulary has as control tokens, by name.
pub(crate) fn well_known_end_tokens(tokenizer: &Tokenizer) -> Vec<u32> {
    END_TOKENS.iter().filter_map(|t| tokenizer.token_to_id(t)).filter(|&id| tokenizer.is_special(id)).collect()
}
