//! End-of-turn tokens and sampling defaults that a model ships with.
//!
//! From `generation_config.json` as vLLM's `--generation-config auto` reads it, or from GGUF
//! metadata (`general.sampling.*`).

use sconce_models::gguf::Metadata;
use serde_json::Value;

use super::error::TextError;
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
    /// From a parsed `generation_config.json`, named `source` in errors.
    ///
    /// # Errors
    /// [`TextError::Load`] for a value out of range: it would make every request that relies on it invalid.
    pub(crate) fn from_config(config: &Value, source: &str) -> Result<Self, TextError> {
        Self::read(|field| {
            let value = config.get(field.json).filter(|value| !value.is_null())?;
            Some(Found { key: format!("{source}: {}", field.json), number: value.as_f64(), text: value.to_string() })
        })
    }

    /// From GGUF metadata.
    ///
    /// # Errors
    /// As [`Self::from_config`], naming the key.
    pub(crate) fn from_metadata(metadata: &Metadata) -> Result<Self, TextError> {
        Self::read(|field| {
            let key = format!("general.sampling.{}", field.gguf?);
            if !metadata.contains(&key) {
                return None;
            }
            let number = metadata.get_f32(&key).map(f64::from).or(metadata.get_u64(&key).map(|n| n as f64));
            Some(Found { key, number, text: number.map_or("it".to_owned(), |n| n.to_string()) })
        })
    }

    fn read(find: impl Fn(&Field) -> Option<Found>) -> Result<Self, TextError> {
        let number = |field: &Field| find(field).map(|found| field.check(found)).transpose();
        Ok(Self {
            temperature: number(&TEMPERATURE)?.map(|v| v as f32),
            // -1 keeps all, as 0 does.
            top_k: number(&TOP_K)?.map(|v| v.max(0.0) as u32),
            // 0 asks for the likeliest token alone; the filter wants a positive mass to reach.
            top_p: number(&TOP_P)?.map(|v| (v as f32).max(f32::MIN_POSITIVE)),
            min_p: number(&MIN_P)?.map(|v| v as f32),
            repetition_penalty: number(&REPETITION_PENALTY)?.map(|v| v as f32),
            max_tokens: number(&MAX_TOKENS)?.map(|v| v as u32),
        })
    }
}

/// A sampling default: its names in `generation_config.json` and after `general.sampling.`, and the values
/// that a request could ask for, too.
struct Field {
    json: &'static str,
    gguf: Option<&'static str>,
    least: f64,
    most: f64,
    whole: bool,
}

/// What stands under a key.
struct Found {
    key: String,
    number: Option<f64>,
    text: String,
}

const fn field(json: &'static str, gguf: Option<&'static str>, least: f64, most: f64, whole: bool) -> Field {
    Field { json, gguf, least, most, whole }
}

const TEMPERATURE: Field = field("temperature", Some("temp"), 0.0, 2.0, false);
const TOP_K: Field = field("top_k", Some("top_k"), -1.0, i32::MAX as f64, true);
const TOP_P: Field = field("top_p", Some("top_p"), 0.0, 1.0, false);
const MIN_P: Field = field("min_p", Some("min_p"), 0.0, 1.0, false);
const REPETITION_PENALTY: Field = field("repetition_penalty", Some("penalty_repeat"), 0.01, 100.0, false);
const MAX_TOKENS: Field = field("max_new_tokens", None, 1.0, u32::MAX as f64, true);

impl Field {
    fn check(&self, found: Found) -> Result<f64, TextError> {
        let Self { least, most, whole, .. } = self;
        let sound = |n: &f64| (*least..=*most).contains(n) && (!whole || n.fract() == 0.0);
        found.number.filter(sound).ok_or_else(|| {
            let kind = if *whole { "a whole number" } else { "a number" };
            let message = format!("{} isn't {kind} from {least} to {most}", found.text);
            TextError::unusable(found.key, message, "correct it, or start with --generation-config none")
        })
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
