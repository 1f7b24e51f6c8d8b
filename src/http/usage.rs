//! Token counts as the API writes them.

use serde::Serialize;

use super::generate::Usage;

#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct UsageBody {
    prompt_tokens: usize,
    completion_tokens: usize,
    total_tokens: usize,
    prompt_tokens_details: PromptDetails,
    completion_tokens_details: CompletionDetails,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct PromptDetails {
    cached_tokens: usize,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct CompletionDetails {
    reasoning_tokens: usize,
}

impl From<Usage> for UsageBody {
    fn from(usage: Usage) -> Self {
        Self {
            prompt_tokens: usage.prompt,
            completion_tokens: usage.completion,
            total_tokens: usage.prompt + usage.completion,
            prompt_tokens_details: PromptDetails { cached_tokens: usage.cached },
            completion_tokens_details: CompletionDetails { reasoning_tokens: 0 },
        }
    }
}

/// `usage` of a chunk: absent, null or counts.
pub(super) fn chunk_usage(include: bool, continuous: bool, usage: Usage) -> Option<Option<UsageBody>> {
    include.then(|| continuous.then(|| usage.into()))
}

/// The word of the API for the end of a choice.
pub(super) fn finish_word(reason: crate::types::FinishReason) -> &'static str {
    match reason {
        crate::types::FinishReason::Length => "length",
        _ => "stop",
    }
}

/// JSON of a wire type. These types have string keys and finite numbers only, so this can't fail.
pub(super) fn to_json(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

/// Log-probabilities of prompt tokens in vLLM's shape: null for the first token, then maps from
/// token id to log-probability, rank and text.
pub(super) fn prompt_logprobs(
    prompt: &super::generate::Prompt,
    text: &dyn super::text::TextService,
) -> Vec<Option<serde_json::Map<String, serde_json::Value>>> {
    use super::generate::finite;
    let describe = |token: u32, logprob: f32, rank: u32| {
        let shown = super::text::token_display(&text.token_bytes(token));
        let value = serde_json::json!({"logprob": finite(logprob), "rank": rank, "decoded_token": shown});
        (token.to_string(), value)
    };
    let map = |l: &crate::types::TokenLogprobs| {
        let top = l.top.iter().zip(1..).map(|(t, rank)| describe(t.token, t.logprob, rank));
        std::iter::once(describe(l.token, l.logprob, l.rank)).chain(top).collect()
    };
    prompt.logprobs.iter().map(|l| l.as_ref().map(map)).collect()
}
