//! Pieces of an answer as chat chunks, or gathered into one chat completion.

use std::sync::Arc;

use super::types::{
    AssistantMessage, ChatChoice, ChatChunk, ChatCompletion, ChatLogprobs, ChunkChoice, Delta, FunctionCall,
    FunctionDelta, TokenLogprob, ToolCall, ToolCallDelta, TopTokenLogprob,
};
use super::validate::ChatRequest;
use crate::http::generate::{Format, Head, Piece, Prompt, TokenEntry, Usage, finite};
use crate::http::sampling::Streaming;
use crate::http::text::{TextService, token_display};
use crate::http::usage::{UsageBody, chunk_usage, finish_word, prompt_logprobs, to_json};
use crate::text::answer::Part;
use crate::types::FinishReason;

/// What one choice has said so far; for streams only whether it has begun.
#[derive(Default)]
struct Gathered {
    begun: bool,
    content: String,
    reasoning: String,
    calls: Vec<ToolCall>,
    logprobs: Vec<TokenLogprob>,
    finish: Option<FinishReason>,
    calls_tools: bool,
}

impl Gathered {
    fn add(&mut self, part: Part) {
        match part {
            Part::Content(text) => self.content.push_str(&text),
            Part::Reasoning(text) => self.reasoning.push_str(&text),
            Part::ToolCall { name, id, .. } => {
                let function = FunctionCall { name, arguments: String::new() };
                self.calls.push(ToolCall { id: call_id(id), kind: "function", function });
            }
            Part::ToolArguments { index, text } => {
                if let Some(call) = self.calls.get_mut(index) {
                    call.function.arguments.push_str(&text);
                }
            }
        }
    }

    fn message(self) -> AssistantMessage {
        AssistantMessage {
            role: "assistant",
            content: (self.calls.is_empty() || !self.content.is_empty()).then_some(self.content),
            refusal: None,
            reasoning_content: self.reasoning,
            tool_calls: self.calls,
        }
    }
}

/// The model's own id of a call, or a new one.
fn call_id(id: Option<String>) -> String {
    id.unwrap_or_else(|| format!("call_{:024x}", rand::random::<u128>() >> 32))
}

fn delta(part: &Part) -> Delta<'_> {
    match part {
        Part::Content(text) => Delta { content: Some(text), ..Delta::default() },
        Part::Reasoning(text) => Delta { reasoning_content: Some(text), ..Delta::default() },
        Part::ToolCall { index, name, id } => {
            let function = FunctionDelta { name: Some(name), arguments: "" };
            let (id, kind) = (Some(call_id(id.clone())), Some("function"));
            Delta { tool_calls: Some([ToolCallDelta { index: *index, id, kind, function }]), ..Delta::default() }
        }
        Part::ToolArguments { index, text } => {
            let function = FunctionDelta { name: None, arguments: text };
            let call = ToolCallDelta { index: *index, id: None, kind: None, function };
            Delta { tool_calls: Some([call]), ..Delta::default() }
        }
    }
}

fn word(reason: FinishReason, calls_tools: bool) -> &'static str {
    if calls_tools { "tool_calls" } else { finish_word(reason) }
}

pub(in crate::http) struct ChatFormat {
    head: Head,
    text: Arc<dyn TextService>,
    streaming: Streaming,
    logprobs: bool,
    prompt_logprobs: bool,
    /// Answers are read: their pieces come in parts.
    reads: bool,
    choices: Vec<Gathered>,
}

impl ChatFormat {
    pub(super) fn new(request: &ChatRequest, text: Arc<dyn TextService>, head: Head, num_choices: usize) -> Self {
        Self {
            head,
            streaming: request.common.streaming.unwrap_or_default(),
            logprobs: request.logprobs.is_some(),
            prompt_logprobs: request.common.prompt_logprobs.is_some(),
            reads: request.reads(text.style()),
            choices: (0..num_choices).map(|_| Gathered::default()).collect(),
            text,
        }
    }

    fn chunk(&self, choices: Vec<ChunkChoice<'_>>, usage: Option<Option<UsageBody>>) -> String {
        to_json(&ChatChunk {
            id: &self.head.id,
            object: "chat.completion.chunk",
            created: self.head.created,
            model: &self.head.model,
            system_fingerprint: &self.head.fingerprint,
            choices,
            usage,
        })
    }

    /// What a piece says: its parts, or text that nobody read.
    fn parts(&self, text: String, parts: Vec<Part>) -> Vec<Part> {
        match self.reads {
            false if !text.is_empty() => vec![Part::Content(text)],
            _ => parts,
        }
    }

    fn logprobs(&self, entries: Vec<TokenEntry>) -> Vec<TokenLogprob> {
        // The token that ended the answer is no part of its text.
        entries.into_iter().filter(|e| !e.is_stop).map(|e| self.logprob(e)).collect()
    }

    fn logprob(&self, entry: TokenEntry) -> TokenLogprob {
        let top = entry.top.iter().map(|t| {
            let bytes = self.text.token_bytes(t.token);
            TopTokenLogprob { token: token_display(&bytes), logprob: finite(t.logprob), bytes }
        });
        TokenLogprob {
            top_logprobs: top.collect(),
            token: token_display(&entry.bytes),
            logprob: entry.logprob.unwrap_or(-9999.0),
            bytes: entry.bytes,
        }
    }
}

impl Format for ChatFormat {
    fn chunks(&mut self, piece: Piece, usage: Usage) -> Vec<String> {
        let Piece { index, text, parts, entries, finish, calls_tools } = piece;
        let parts = self.parts(text, parts);
        let usage = chunk_usage(self.streaming.include_usage, self.streaming.continuous_usage, usage);
        let choice = |delta, logprobs, finish_reason| vec![ChunkChoice { index, delta, logprobs, finish_reason }];
        let mut chunks = Vec::new();
        let first = self.choices.get_mut(index).is_some_and(|c| !std::mem::replace(&mut c.begun, true));
        if first {
            let opening = Delta { role: Some("assistant"), content: Some(""), ..Delta::default() };
            chunks.push(self.chunk(choice(opening, None, None), usage));
        }
        // The tokens' log-probabilities go with the first of their parts.
        let content = self.logprobs(entries);
        let mut logprobs = self.logprobs.then_some(ChatLogprobs { content, refusal: None });
        for part in &parts {
            let logprobs = if self.logprobs { Some(logprobs.take().unwrap_or_default()) } else { None };
            chunks.push(self.chunk(choice(delta(part), logprobs, None), usage));
        }
        if logprobs.as_ref().is_some_and(|l| !l.content.is_empty()) {
            let delta = Delta { content: Some(""), ..Delta::default() };
            chunks.push(self.chunk(choice(delta, logprobs, None), usage));
        }
        if let Some(reason) = finish {
            chunks.push(self.chunk(choice(Delta::default(), None, Some(word(reason, calls_tools))), usage));
        }
        chunks
    }

    fn usage_chunk(&self, usage: Usage) -> String {
        self.chunk(Vec::new(), Some(Some(usage.into())))
    }

    fn collect(&mut self, piece: Piece) {
        let logprobs = self.logprobs(piece.entries);
        let parts = self.parts(piece.text, piece.parts);
        if let Some(choice) = self.choices.get_mut(piece.index) {
            parts.into_iter().for_each(|part| choice.add(part));
            choice.logprobs.extend(logprobs);
            choice.finish = piece.finish.or(choice.finish);
            choice.calls_tools |= piece.calls_tools;
        }
    }

    fn response(self, usage: Usage, prompt: &dyn Fn(usize) -> Option<Prompt>) -> String {
        let prompt_logprobs = match self.prompt_logprobs {
            true => prompt(0).map(|p| prompt_logprobs(&p, &*self.text)),
            false => None,
        };
        let choice = |(index, mut c): (usize, Gathered)| ChatChoice {
            index,
            logprobs: self.logprobs.then(|| ChatLogprobs { content: std::mem::take(&mut c.logprobs), refusal: None }),
            finish_reason: word(c.finish.unwrap_or(FinishReason::Stop), c.calls_tools),
            message: c.message(),
        };
        to_json(&ChatCompletion {
            id: &self.head.id,
            object: "chat.completion",
            created: self.head.created,
            model: &self.head.model,
            system_fingerprint: &self.head.fingerprint,
            choices: self.choices.into_iter().enumerate().map(choice).collect(),
            usage: usage.into(),
            prompt_logprobs,
        })
    }
}
