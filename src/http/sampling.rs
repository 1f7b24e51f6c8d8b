//! The parameters that chat and completions share: a screened JSON object in, validated values out.

use std::time::Duration;

use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::error::ApiError;
use super::json::{integer, shown, token_id, type_name};
use super::structured::{Wanted, read_structured};
use super::text::{TextService, text_error};
use crate::text::SamplingDefaults;
use crate::types::SamplingParams;

const MAX_STOPS: usize = 4;
const MAX_STOP_TOKENS: usize = 128;
const MAX_BAD_WORDS: usize = 128;
const MAX_BIASES: usize = 1024;

/// What bounds a request on this server.
#[derive(Clone, Debug)]
pub(super) struct Limits {
    pub(super) max_n: u32,
    pub(super) max_batch_prompts: usize,
    pub(super) vocab_size: usize,
    pub(super) max_model_len: usize,
    pub(super) max_queued_tokens: usize,
    pub(super) longest_token_bytes: usize,
    pub(super) defaults: SamplingDefaults,
    pub(super) eos_token_ids: Vec<u32>,
}

/// What templates and tokenizers may strip from a text without giving a token for it, in bytes.
const STRIPPED_BYTES: usize = 4096;

impl Limits {
    /// A lower bound of the tokens of a text of `bytes` bytes if even that is beyond the context:
    /// such a text need not be tokenised, which would take seconds.
    pub(super) fn overflow(&self, bytes: usize) -> Option<usize> {
        let tokens = bytes.saturating_sub(STRIPPED_BYTES).div_ceil(self.longest_token_bytes.max(1));
        (tokens > self.max_model_len).then_some(tokens)
    }

    /// Refuses a text that is too long for the context, whatever its tokens.
    ///
    /// # Errors
    /// 400 `context_length_exceeded`.
    pub(super) fn check_bytes(&self, param: &str, bytes: usize) -> Result<(), ApiError> {
        match self.overflow(bytes) {
            Some(tokens) => Err(ApiError::context_overflow(param, self.max_model_len, tokens)),
            None => Ok(()),
        }
    }
}

/// The shared part of a request.
#[derive(Clone, Debug)]
pub(super) struct Common {
    pub(super) model: Option<String>,
    /// Complete but for `max_tokens`, `bad_words`, `logprobs` and `prompt_logprobs`.
    pub(super) params: SamplingParams,
    pub(super) max_tokens: Option<u32>,
    pub(super) prompt_logprobs: Option<u32>,
    pub(super) n: u32,
    pub(super) stop: Vec<String>,
    pub(super) include_stop: bool,
    pub(super) bad_words: Vec<String>,
    pub(super) skip_special: bool,
    pub(super) add_special: bool,
    pub(super) cache_salt: u64,
    /// What the text of the answer must be.
    pub(super) wanted: Option<Wanted>,
    pub(super) streaming: Option<Streaming>,
}

/// Options of a streamed answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Streaming {
    pub(super) include_usage: bool,
    /// Usage so far in every chunk (an extension of vLLM's).
    pub(super) continuous_usage: bool,
}

/// Reads fields that `screen` has already checked for type and range.
pub(super) struct Fields<'a>(pub(super) &'a Map<String, Value>);

impl Fields<'_> {
    pub(super) fn flag(&self, name: &str) -> Option<bool> {
        self.0.get(name)?.as_bool()
    }

    pub(super) fn float(&self, name: &str) -> Option<f32> {
        Some(self.0.get(name)?.as_f64()? as f32)
    }

    pub(super) fn count(&self, name: &str) -> Option<u32> {
        u32::try_from(integer(self.0.get(name)?)?).ok()
    }

    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.as_str()
    }
}

/// Reads and checks the shared part.
///
/// # Errors
/// 400 naming the field.
pub(super) fn read(map: &Map<String, Value>, limits: &Limits) -> Result<Common, ApiError> {
    let fields = Fields(map);
    let n = fields.count("n").unwrap_or(1);
    if n > limits.max_n {
        return Err(ApiError::value("n", format!("Invalid 'n': this server allows at most {}.", limits.max_n)));
    }
    let max_tokens = match fields.count("max_completion_tokens") {
        Some(most) => Some(most),
        None => fields.count("max_tokens"),
    };
    let prompt_logprobs = fields.count("prompt_logprobs");
    let streaming = read_streaming(map)?;
    if prompt_logprobs.is_some() && streaming.is_some() {
        let message = "Invalid 'prompt_logprobs': not available in a streamed answer.";
        return Err(ApiError::value("prompt_logprobs", message));
    }
    let params = read_params(map, limits)?;
    Ok(Common {
        model: fields.text("model").map(str::to_owned),
        params,
        max_tokens,
        prompt_logprobs,
        n,
        stop: read_stop(map)?,
        include_stop: fields.flag("include_stop_str_in_output").unwrap_or(false),
        bad_words: read_strings(map, "bad_words", MAX_BAD_WORDS)?,
        skip_special: fields.flag("skip_special_tokens").unwrap_or(true),
        add_special: fields.flag("add_special_tokens").unwrap_or(true),
        cache_salt: fields.text("cache_salt").map_or(0, salt),
        wanted: read_structured(map)?,
        streaming,
    })
}

fn read_params(map: &Map<String, Value>, limits: &Limits) -> Result<SamplingParams, ApiError> {
    let fields = Fields(map);
    let d = &limits.defaults;
    let top_k = match map.get("top_k").and_then(integer) {
        Some(k) => u32::try_from(k).unwrap_or(0),
        None => d.top_k.unwrap_or(0),
    };
    let seed = match map.get("seed").and_then(integer) {
        // Negative seeds are as good as others: their bits are the key.
        Some(seed) => seed as u64,
        None => rand::random(),
    };
    Ok(SamplingParams {
        temperature: fields.float("temperature").or(d.temperature).unwrap_or(1.0),
        top_k,
        // 0 asks for the likeliest token alone; the filter wants a positive mass to reach.
        top_p: fields.float("top_p").or(d.top_p).unwrap_or(1.0).max(f32::MIN_POSITIVE),
        min_p: fields.float("min_p").or(d.min_p).unwrap_or(0.0),
        repetition_penalty: fields.float("repetition_penalty").or(d.repetition_penalty).unwrap_or(1.0),
        presence_penalty: fields.float("presence_penalty").unwrap_or(0.0),
        frequency_penalty: fields.float("frequency_penalty").unwrap_or(0.0),
        logit_bias: read_bias(map, limits.vocab_size)?,
        min_tokens: fields.count("min_tokens").unwrap_or(0),
        eos_token_ids: limits.eos_token_ids.clone(),
        stop_token_ids: read_stop_tokens(map, limits.vocab_size)?,
        ignore_eos: fields.flag("ignore_eos").unwrap_or(false),
        seed,
        ..SamplingParams::default()
    })
}

fn read_streaming(map: &Map<String, Value>) -> Result<Option<Streaming>, ApiError> {
    let stream = Fields(map).flag("stream").unwrap_or(false);
    let Some(options) = map.get("stream_options").and_then(Value::as_object) else {
        return Ok(stream.then(Streaming::default));
    };
    if !stream {
        let message = "Invalid 'stream_options': only allowed when 'stream' is true.";
        return Err(ApiError::value("stream_options", message));
    }
    let flag = |name: &str| match options.get(name) {
        None | Some(Value::Null) => Ok(false),
        Some(Value::Bool(b)) => Ok(*b),
        Some(other) => Err(ApiError::wrong_type(&format!("stream_options.{name}"), "a boolean", type_name(other))),
    };
    flag("include_obfuscation")?;
    let include_usage = flag("include_usage")?;
    Ok(Some(Streaming { include_usage, continuous_usage: include_usage && flag("continuous_usage_stats")? }))
}

fn read_stop(map: &Map<String, Value>) -> Result<Vec<String>, ApiError> {
    match map.get("stop") {
        None => Ok(Vec::new()),
        Some(Value::String(s)) if s.is_empty() => Err(empty_string("stop")),
        Some(Value::String(s)) => Ok(vec![s.clone()]),
        Some(Value::Array(_)) => read_strings(map, "stop", MAX_STOPS),
        Some(other) => Err(ApiError::wrong_type("stop", "a string or an array of strings", type_name(other))),
    }
}

fn empty_string(path: &str) -> ApiError {
    ApiError::value(path, format!("Invalid '{path}': the string must not be empty."))
}

fn list<'a>(map: &'a Map<String, Value>, name: &str, most: usize) -> Result<&'a [Value], ApiError> {
    let items = map.get(name).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    if items.len() > most {
        return Err(ApiError::value(name, format!("Invalid '{name}': it may have at most {most} entries.")));
    }
    Ok(items)
}

fn read_strings(map: &Map<String, Value>, name: &str, most: usize) -> Result<Vec<String>, ApiError> {
    let string = |(i, value): (usize, &Value)| {
        let path = format!("{name}[{i}]");
        match value.as_str() {
            None => Err(ApiError::wrong_type(&path, "a string", type_name(value))),
            Some("") => Err(empty_string(&path)),
            Some(s) => Ok(s.to_owned()),
        }
    };
    list(map, name, most)?.iter().enumerate().map(string).collect()
}

fn read_stop_tokens(map: &Map<String, Value>, vocab_size: usize) -> Result<Vec<u32>, ApiError> {
    let items = list(map, "stop_token_ids", MAX_STOP_TOKENS)?;
    items.iter().enumerate().map(|(i, v)| token_id(v, || format!("stop_token_ids[{i}]"), vocab_size)).collect()
}

fn read_bias(map: &Map<String, Value>, vocab_size: usize) -> Result<Vec<(u32, f32)>, ApiError> {
    let Some(biases) = map.get("logit_bias").and_then(Value::as_object) else { return Ok(Vec::new()) };
    if biases.len() > MAX_BIASES {
        let message = format!("Invalid 'logit_bias': it may have at most {MAX_BIASES} entries.");
        return Err(ApiError::value("logit_bias", message));
    }
    let bias = |(key, value): (&String, &Value)| {
        let path = format!("logit_bias.{}", shown(key));
        let token = key.parse::<u32>().ok().filter(|t| (*t as usize) < vocab_size);
        let Some(token) = token else {
            return Err(ApiError::value(&path, format!("Invalid '{path}': keys are token ids below {vocab_size}.")));
        };
        match value.as_f64() {
            None => Err(ApiError::wrong_type(&path, "a number", type_name(value))),
            Some(b) if !(-100.0..=100.0).contains(&b) => {
                Err(ApiError::value(&path, format!("Invalid '{path}': it must be between -100 and 100.")))
            }
            Some(b) => Ok((token, b as f32)),
        }
    };
    biases.iter().map(bias).collect()
}

fn salt(text: &str) -> u64 {
    let hash: [u8; 32] = Sha256::digest(text.as_bytes()).into();
    let mut low = [0_u8; 8];
    low.copy_from_slice(&hash[..8]);
    u64::from_le_bytes(low)
}

/// Tokens of a forbidden word at most: what a device remembers of a sequence's end, and the word's last token.
const MAX_BAD_WORD_TOKENS: usize = 65;

/// Token sequences of the forbidden words: each as it stands at the start of a text and, where that
/// changes its first token only, as it stands after a space. As vLLM does it.
///
/// # Errors
/// 400 when a word can't be written in this vocabulary, or is too long.
pub(super) fn bad_word_tokens(text: &dyn TextService, words: &[String]) -> Result<Vec<Vec<u32>>, ApiError> {
    let mut sequences: Vec<Vec<u32>> = Vec::new();
    let too_long = |i: usize, tokens: String| {
        let path = format!("bad_words[{i}]");
        let limit = MAX_BAD_WORD_TOKENS;
        let message = format!("Invalid '{path}': it has {tokens} tokens; a bad word may have at most {limit}.");
        ApiError::value(&path, message)
    };
    for (i, word) in words.iter().enumerate() {
        // Megabytes would take seconds to tokenise.
        let at_least = word.trim_start().len().div_ceil(text.longest_token_bytes().max(1));
        if at_least > MAX_BAD_WORD_TOKENS {
            return Err(too_long(i, format!("at least {at_least}")));
        }
        let encode = |w: &str| text.encode(w, false).map_err(|e| text_error(&format!("bad_words[{i}]"), e));
        let plain = encode(word.trim_start())?;
        let spaced = encode(&format!(" {}", word.trim_start()))?;
        let longest = plain.len().max(spaced.len());
        if longest > MAX_BAD_WORD_TOKENS {
            return Err(too_long(i, longest.to_string()));
        }
        let differs = spaced.len() == plain.len() && spaced.first() != plain.first();
        sequences.extend([Some(plain), differs.then_some(spaced)].into_iter().flatten().filter(|s| !s.is_empty()));
    }
    Ok(sequences)
}

/// Checks that prompt and output fit the context; gives the number of tokens to generate.
/// `default` is used, as far as it fits, where the client named none.
///
/// # Errors
/// 400 `context_length_exceeded` with both counts.
pub(super) fn fit_context(
    param: &str,
    prompt: usize,
    common: &Common,
    default: usize,
    limit: usize,
) -> Result<u32, ApiError> {
    let room = limit.saturating_sub(prompt);
    let wanted = match common.max_tokens {
        Some(n) => n as usize,
        None => default.min(room).max(1),
    };
    if prompt.saturating_add(wanted) > limit {
        return Err(ApiError::context_length(param, limit, prompt, wanted));
    }
    let wanted = u32::try_from(wanted).unwrap_or(u32::MAX);
    if common.params.min_tokens > wanted {
        let message = format!("Invalid 'min_tokens': it must not exceed max_tokens, which is {wanted} here.");
        return Err(ApiError::value("min_tokens", message));
    }
    Ok(wanted)
}

/// The deadline a client set with `x-request-timeout-ms`.
///
/// # Errors
/// 400 when the header is no number.
pub(super) fn header_timeout(headers: &http::HeaderMap) -> Result<Option<Duration>, ApiError> {
    let Some(value) = headers.get("x-request-timeout-ms") else { return Ok(None) };
    match value.to_str().ok().and_then(|v| v.trim().parse::<u64>().ok()) {
        Some(ms) => Ok(Some(Duration::from_millis(ms))),
        None => Err(ApiError::body("The header x-request-timeout-ms must be a number of milliseconds.")),
    }
}
