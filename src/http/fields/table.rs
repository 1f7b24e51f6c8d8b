//! The one table of request fields: where each may stand, its type and range, and what becomes of it.
//!
//! Beside OpenAI's it knows the fields of the peers (vLLM, SGLang, llama.cpp, TGI, mistral.rs, Ollama and the samplers
//! that others added): dropping one that changes the answer would give a wrong answer without a word. Names are those
//! of their request types; neutral values are those with which they do nothing there.

use std::collections::HashMap;
use std::sync::LazyLock;

use serde_json::{Map, Value};

use crate::http::json::integer;

/// Which endpoints know a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::http) enum Endpoint {
    Chat,
    Completions,
}

impl Endpoint {
    pub(super) fn other(self) -> Self {
        match self {
            Self::Chat => Self::Completions,
            Self::Completions => Self::Chat,
        }
    }

    pub(super) fn route(self) -> &'static str {
        match self {
            Self::Chat => "/v1/chat/completions",
            Self::Completions => "/v1/completions",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum On {
    Both,
    Chat,
    Completions,
}

/// JSON type and range of a field.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Kind {
    Bool,
    Int(i128, i128),
    /// As `Int`, or `false` as a way to say nothing.
    IntOrFalse(i128, i128),
    Num(f64, f64),
    /// A string of at most so many characters.
    Str(usize),
    List,
    Map,
    /// Several types are possible: looked at where it is read.
    Any,
}

/// What becomes of a field.
#[derive(Clone, Copy)]
pub(super) enum Rule {
    /// Read by `validate`.
    Honoured,
    /// Accepted, has no effect here.
    Ignored,
    /// Only values that change nothing pass; any other is a 400.
    Neutral(fn(&Value, &Map<String, Value>) -> bool),
}

/// One row.
pub(super) struct Field {
    pub(super) name: &'static str,
    pub(super) on: On,
    pub(super) kind: Kind,
    pub(super) rule: Rule,
}

const fn field(name: &'static str, on: On, kind: Kind, rule: Rule) -> Field {
    Field { name, on, kind, rule }
}

/// A peer's field of whatever type, of which only some values pass.
const fn peer(name: &'static str, rule: Rule) -> Field {
    field(name, Both, Any, rule)
}

const NEVER: Rule = Rule::Neutral(|_, _| false);
const EMPTY: Rule = Rule::Neutral(|v, _| match v {
    Value::Array(a) => a.is_empty(),
    Value::Object(o) => o.is_empty(),
    Value::String(s) => s.is_empty(),
    _ => false,
});
const FALSE: Rule = Rule::Neutral(|v, _| v == &Value::Bool(false));
const TRUE: Rule = Rule::Neutral(|v, _| v == &Value::Bool(true));
const ZERO: Rule = Rule::Neutral(|v, _| v.as_f64() == Some(0.0));
const ONE: Rule = Rule::Neutral(|v, _| v.as_f64() == Some(1.0));
const AT_MOST_ZERO: Rule = Rule::Neutral(|v, _| v.as_f64().is_some_and(|n| n <= 0.0));
const AT_MOST_ONE: Rule = Rule::Neutral(|v, _| v.as_f64().is_some_and(|n| n <= 1.0));
const NEGATIVE: Rule = Rule::Neutral(|v, _| v.as_f64().is_some_and(|n| n < 0.0));
const NO_TOOL: Rule = Rule::Neutral(|v, _| v == "none" || v == "auto");
const AS_N: Rule = Rule::Neutral(|v, map| integer(v) == map.get("n").map_or(Some(1), integer));
const TEXT_ONLY: Rule = Rule::Neutral(|v, _| v.as_array().is_some_and(|a| a.iter().all(|m| m == "text")));
/// How far back penalties look: here to the beginning (-1), and it matters only if there is one.
const WHOLE_TEXT: Rule = Rule::Neutral(|v, map| {
    let idle = |(name, neutral): (&str, f64)| map.get(name).is_none_or(|p| p.as_f64() == Some(neutral));
    integer(v) == Some(-1)
        || [("repetition_penalty", 1.0), ("presence_penalty", 0.0), ("frequency_penalty", 0.0)].into_iter().all(idle)
});

const TOKENS: Kind = Kind::Int(0, u32::MAX as i128);
const LONG: Kind = Kind::Str(usize::MAX);
use Kind::{Any, Bool, Int, IntOrFalse, List, Map as Object, Num, Str};
use On::{Both, Chat, Completions};
use Rule::{Honoured, Ignored};

/// Every field that this server knows.
#[rustfmt::skip]
static FIELDS: &[Field] = &[
    // What to answer.
    field("model", Both, Str(512), Honoured),
    field("messages", Chat, List, Honoured),
    field("prompt", Completions, Any, Honoured),
    // OpenAI's parameters.
    field("max_tokens", Both, TOKENS, Honoured),
    field("max_completion_tokens", Both, TOKENS, Honoured),
    field("n", Both, Int(1, 128), Honoured),
    field("temperature", Both, Num(0.0, 2.0), Honoured),
    field("top_p", Both, Num(0.0, 1.0), Honoured),
    field("presence_penalty", Both, Num(-2.0, 2.0), Honoured),
    field("frequency_penalty", Both, Num(-2.0, 2.0), Honoured),
    field("logit_bias", Both, Object, Honoured),
    field("seed", Both, Int(i64::MIN as i128, u64::MAX as i128), Honoured),
    field("stop", Both, Any, Honoured),
    field("stream", Both, Bool, Honoured),
    field("stream_options", Both, Object, Honoured),
    field("logprobs", Chat, Bool, Honoured),
    field("top_logprobs", Chat, Int(0, 20), Honoured),
    // Routers add the `false` that only a chat request knows.
    field("logprobs", Completions, IntOrFalse(0, 5), Honoured),
    field("echo", Completions, Bool, Honoured),
    // vLLM's extensions.
    field("top_k", Both, Int(-1, i32::MAX as i128), Honoured),
    field("min_p", Both, Num(0.0, 1.0), Honoured),
    field("repetition_penalty", Both, Num(0.01, 100.0), Honoured),
    field("min_tokens", Both, TOKENS, Honoured),
    field("stop_token_ids", Both, List, Honoured),
    field("ignore_eos", Both, Bool, Honoured),
    field("bad_words", Both, List, Honoured),
    field("include_stop_str_in_output", Both, Bool, Honoured),
    field("skip_special_tokens", Both, Bool, Honoured),
    field("add_special_tokens", Completions, Bool, Honoured),
    // The beginning-of-sequence token stands exactly once whatever a client says.
    field("add_special_tokens", Chat, Bool, Ignored),
    field("prompt_logprobs", Both, Int(0, 20), Honoured),
    field("add_generation_prompt", Chat, Bool, Honoured),
    field("continue_final_message", Chat, Bool, Honoured),
    field("chat_template_kwargs", Chat, Object, Honoured),
    field("reasoning_effort", Chat, Str(32), Honoured),
    field("cache_salt", Both, Str(1024), Honoured),
    // No effect here: about billing, storage, routing, or fields that routers add to every request.
    field("store", Both, Bool, Ignored),
    field("service_tier", Both, Str(64), Ignored),
    field("prompt_cache_key", Both, Str(1024), Ignored),
    field("prompt_cache_retention", Both, Str(64), Ignored),
    field("prompt_cache_options", Both, Object, Ignored),
    field("verbosity", Both, Str(32), Ignored),
    field("prediction", Both, Object, Ignored),
    field("web_search_options", Both, Object, Ignored),
    field("metadata", Both, Object, Ignored),
    field("user", Both, Str(4096), Ignored),
    field("safety_identifier", Both, Str(64), Ignored),
    field("request_id", Both, Str(1024), Ignored),
    field("separate_reasoning", Both, Bool, Ignored),
    field("stream_reasoning", Both, Bool, Ignored),
    field("include_reasoning", Both, Bool, Ignored),
    // Known, but only a value that changes nothing can be honoured.
    field("tools", Chat, List, Honoured),
    field("tool_choice", Chat, Any, Honoured),
    field("parallel_tool_calls", Chat, Bool, Honoured),
    field("functions", Chat, List, EMPTY),
    field("function_call", Chat, Any, NO_TOOL),
    field("modalities", Chat, List, TEXT_ONLY),
    field("audio", Chat, Object, NEVER),
    field("moderation", Both, Any, NEVER),
    field("suffix", Completions, LONG, EMPTY),
    field("best_of", Both, Int(0, 20), AS_N),
    field("use_beam_search", Both, Bool, FALSE),
    field("length_penalty", Both, Num(-1e3, 1e3), ONE),
    field("early_stopping", Both, Bool, FALSE),
    field("echo", Chat, Bool, FALSE),
    field("priority", Both, Int(i64::MIN as i128, i64::MAX as i128), ZERO),
    field("truncate_prompt_tokens", Both, Any, NEVER),
    field("prompt_embeds", Both, Any, NEVER),
    field("allowed_token_ids", Both, List, EMPTY),
    field("logits_processors", Both, Any, EMPTY),
    field("spaces_between_special_tokens", Both, Bool, TRUE),
    field("return_tokens_as_token_ids", Both, Bool, FALSE),
    field("return_token_ids", Both, Bool, FALSE),
    field("return_hidden_states", Both, Bool, FALSE),
    field("no_stop_trim", Both, Bool, FALSE),
    field("chat_template", Chat, LONG, NEVER),
    field("documents", Chat, List, EMPTY),
    field("mm_processor_kwargs", Both, Object, EMPTY),
    field("kv_transfer_params", Both, Object, EMPTY),
    field("vllm_xargs", Both, Object, EMPTY),
    field("lora_path", Both, Any, NEVER),
    // What the answer's text must be.
    field("response_format", Both, Object, Honoured),
    field("structured_outputs", Both, Object, Honoured),
    field("guided_json", Both, Any, Honoured),
    field("guided_regex", Both, LONG, Honoured),
    field("guided_choice", Both, List, Honoured),
    field("guided_grammar", Both, LONG, Honoured),
    field("guided_decoding_backend", Both, Str(64), Ignored),
    field("guided_whitespace_pattern", Both, LONG, EMPTY),
    field("json_schema", Both, Any, Honoured),
    field("regex", Both, LONG, Honoured),
    field("ebnf", Both, LONG, Honoured),
    field("grammar", Both, LONG, Honoured),
    // Of vLLM.
    peer("thinking_token_budget", NEGATIVE),
    peer("repetition_detection", EMPTY),
    peer("watermarking", FALSE),
    peer("truncation_side", Ignored),
    peer("logprob_token_ids", EMPTY),
    peer("media_io_kwargs", EMPTY),
    peer("ec_transfer_params", EMPTY),
    peer("return_prompt_text", FALSE),
    peer("return_token_offsets", Ignored),
    peer("return_mm_kwargs", Ignored),
    peer("routed_experts_prompt_start", Ignored),
    peer("stream_interval", Ignored),
    peer("session_id", Ignored),
    // Of SGLang; some of its own API, which clients send here too.
    peer("stop_regex", EMPTY),
    peer("structural_tag", EMPTY),
    peer("custom_logit_processor", EMPTY),
    peer("custom_params", EMPTY),
    peer("input_ids", EMPTY),
    peer("input_embeds", EMPTY),
    peer("session_params", EMPTY),
    peer("sampling_params", EMPTY),
    peer("sampling_seed", NEVER),
    peer("min_new_tokens", ZERO),
    peer("max_new_tokens", NEVER),
    peer("reasoning", EMPTY),
    peer("task", NEVER),
    peer("images_config", EMPTY),
    peer("max_dynamic_patch", Ignored),
    peer("min_dynamic_patch", Ignored),
    peer("use_audio_in_video", FALSE),
    peer("return_routed_experts", FALSE),
    peer("return_cached_tokens_details", FALSE),
    peer("return_prompt_token_ids", FALSE),
    peer("return_meta_info", FALSE),
    peer("routed_experts_start_len", Ignored),
    peer("ngram_corpus_id", Ignored),
    peer("custom_labels", Ignored),
    peer("rid", Ignored),
    peer("extra_key", Ignored),
    peer("bootstrap_host", Ignored),
    peer("bootstrap_port", Ignored),
    peer("bootstrap_room", Ignored),
    peer("routed_dp_rank", Ignored),
    peer("disagg_prefill_dp_rank", Ignored),
    peer("data_parallel_rank", Ignored),
    // Of llama.cpp. Settings of a sampler that is off, and of caches and slots, change nothing.
    peer("n_predict", NEGATIVE),
    peer("n_cmpl", AS_N),
    peer("n_probs", ZERO),
    peer("n_indent", ZERO),
    peer("n_keep", Ignored),
    peer("n_discard", Ignored),
    peer("n_cache_reuse", Ignored),
    peer("cache_prompt", Ignored),
    peer("id_slot", Ignored),
    peer("t_max_predict_ms", AT_MOST_ZERO),
    peer("repeat_penalty", ONE),
    peer("repeat_last_n", WHOLE_TEXT),
    peer("penalty_last_n", WHOLE_TEXT),
    peer("penalize_nl", FALSE),
    peer("top_n_sigma", AT_MOST_ZERO),
    peer("typical_p", ONE),
    peer("xtc_probability", ZERO),
    peer("xtc_threshold", Ignored),
    peer("dynatemp_range", ZERO),
    peer("dynatemp_exponent", Ignored),
    peer("dry_multiplier", ZERO),
    peer("dry_base", Ignored),
    peer("dry_allowed_length", Ignored),
    peer("dry_penalty_last_n", Ignored),
    peer("dry_sequence_breakers", Ignored),
    peer("mirostat", ZERO),
    peer("mirostat_tau", Ignored),
    peer("mirostat_eta", Ignored),
    peer("adaptive_target", NEGATIVE),
    peer("adaptive_decay", Ignored),
    peer("min_keep", AT_MOST_ONE),
    peer("samplers", EMPTY),
    peer("backend_sampling", Ignored),
    peer("post_sampling_probs", FALSE),
    peer("grammar_lazy", FALSE),
    peer("grammar_triggers", EMPTY),
    peer("preserved_tokens", Ignored),
    peer("reasoning_budget_tokens", NEGATIVE),
    peer("thinking_budget_tokens", NEGATIVE),
    peer("reasoning_format", Ignored),
    peer("thinking_forced_open", FALSE),
    peer("parse_tool_calls", Ignored),
    peer("response_fields", EMPTY),
    peer("return_tokens", FALSE),
    peer("return_progress", FALSE),
    peer("timings_per_token", Ignored),
    peer("speculative.n_max", Ignored),
    peer("speculative.n_min", Ignored),
    peer("speculative.p_min", Ignored),
    peer("speculative.type", Ignored),
    peer("lora", EMPTY),
    peer("image_data", EMPTY),
    peer("input_prefix", EMPTY),
    peer("input_suffix", EMPTY),
    peer("input_extra", EMPTY),
    // Of TGI.
    peer("inputs", NEVER),
    peer("parameters", EMPTY),
    peer("do_sample", TRUE),
    peer("truncate", NEVER),
    peer("watermark", FALSE),
    peer("return_full_text", FALSE),
    peer("details", FALSE),
    peer("decoder_input_details", FALSE),
    peer("top_n_tokens", ZERO),
    peer("adapter_id", NEVER),
    peer("tool_prompt", Ignored),
    peer("guideline", NEVER),
    // Of mistral.rs. Without tools there is nothing to permit.
    peer("adapter", NEVER),
    peer("enable_thinking", NEVER),
    peer("enable_shell", FALSE),
    peer("shell_skill_references", EMPTY),
    peer("files", EMPTY),
    peer("truncate_sequence", FALSE),
    peer("agent_permission", Ignored),
    peer("code_execution_permission", Ignored),
    peer("max_tool_rounds", Ignored),
    // Of Ollama.
    peer("options", EMPTY),
    peer("format", EMPTY),
    peer("system", EMPTY),
    peer("template", EMPTY),
    peer("context", EMPTY),
    peer("images", EMPTY),
    peer("raw", FALSE),
    peer("think", NEVER),
    peer("num_predict", NEGATIVE),
    peer("keep_alive", Ignored),
    // Samplers of others (Aphrodite, KoboldCpp, LMDeploy, text-generation-webui).
    peer("top_a", ZERO),
    peer("tfs", ONE),
    peer("tfs_z", ONE),
    peer("typical", ONE),
    peer("mirostat_mode", ZERO),
    peer("smoothing_factor", ZERO),
    peer("epsilon_cutoff", ZERO),
    peer("eta_cutoff", ZERO),
    peer("no_repeat_ngram_size", ZERO),
    peer("guidance_scale", ONE),
    peer("negative_prompt", EMPTY),
];

/// The rows of an endpoint.
pub(super) fn fields(endpoint: Endpoint) -> impl Iterator<Item = &'static Field> {
    FIELDS.iter().filter(move |field| match field.on {
        Both => true,
        Chat => endpoint == Endpoint::Chat,
        Completions => endpoint == Endpoint::Completions,
    })
}

/// Rows by endpoint and name: a body may have hundreds of thousands of names.
static INDEX: LazyLock<HashMap<(Endpoint, &str), &Field>> = LazyLock::new(|| {
    let on = |endpoint| fields(endpoint).map(move |f| ((endpoint, f.name), f));
    on(Endpoint::Chat).chain(on(Endpoint::Completions)).collect()
});

/// The row of the field `name` at an endpoint.
pub(super) fn lookup(name: &str, endpoint: Endpoint) -> Option<&'static Field> {
    INDEX.get(&(endpoint, name)).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_has_one_row_at_an_endpoint() {
        let rows = FIELDS.iter().map(|f| if f.on == Both { 2 } else { 1 }).sum::<usize>();
        assert_eq!(INDEX.len(), rows);
    }
}
