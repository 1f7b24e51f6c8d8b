//! Parts of answers that both endpoints write alike: token counts, ends, log-probabilities of prompts.

use serde::{Serialize, Serializer};

use super::generate::{Prompt, Usage, finite};
use super::text::{TextService, token_display};
use crate::types::{FinishReason, TokenLogprobs};

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
            completion_tokens_details: CompletionDetails { reasoning_tokens: usage.reasoning },
        }
    }
}

/// `usage` of a chunk: absent, null or counts.
pub(super) fn chunk_usage(include: bool, continuous: bool, usage: Usage) -> Option<Option<UsageBody>> {
    include.then(|| continuous.then(|| usage.into()))
}

/// The word of the API for the end of a choice.
pub(super) fn finish_word(reason: FinishReason) -> &'static str {
    match reason {
        FinishReason::Length => "length",
        _ => "stop",
    }
}

/// JSON of a wire type. These types have string keys and finite numbers only, so this can't fail.
pub(super) fn to_json(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

/// A JSON object whose members keep their order, and whose numbers their width.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Members<V>(pub(super) Vec<(String, V)>);

impl<V: Serialize> Serialize for Members<V> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(key, value)| (key, value)))
    }
}

impl<V> Members<V> {
    /// Adds a member unless there is one of that name.
    pub(super) fn add(&mut self, name: String, value: V) {
        if self.0.iter().all(|(known, _)| *known != name) {
            self.0.push((name, value));
        }
    }
}

/// A prompt token in vLLM's shape.
#[derive(Clone, Debug, Serialize)]
pub(super) struct PromptToken {
    logprob: f32,
    rank: u32,
    decoded_token: String,
}

/// For each prompt token (null for the first) it and its alternatives by token id.
pub(super) type PromptLogprobs = Vec<Option<Members<PromptToken>>>;

/// Log-probabilities of a prompt in vLLM's shape.
pub(super) fn prompt_logprobs(prompt: &Prompt, text: &dyn TextService) -> PromptLogprobs {
    let token = |id: u32, logprob: f32, rank: u32| {
        let decoded_token = token_display(&text.token_bytes(id));
        (id.to_string(), PromptToken { logprob: finite(logprob), rank, decoded_token })
    };
    let members = |l: &TokenLogprobs| {
        let mut members = Members(vec![token(l.token, l.logprob, l.rank)]);
        for (top, rank) in l.top.iter().zip(1..) {
            let (name, value) = token(top.token, top.logprob, rank);
            members.add(name, value);
        }
        members
    };
    prompt.logprobs.iter().map(|l| l.as_ref().map(members)).collect()
}
