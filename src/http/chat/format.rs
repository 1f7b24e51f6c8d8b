//! Pieces of an answer as chat chunks, or gathered into one chat completion.

use std::sync::Arc;

use super::types::{
    AssistantMessage, ChatChoice, ChatChunk, ChatCompletion, ChatLogprobs, ChunkChoice, Delta, TokenLogprob,
    TopTokenLogprob,
};
use super::validate::ChatRequest;
use crate::http::generate::{Format, Head, Piece, Prompt, TokenEntry, Usage, finite};
use crate::http::sampling::Streaming;
use crate::http::text::{TextService, token_display};
use crate::http::usage::{UsageBody, chunk_usage, finish_word, prompt_logprobs, to_json};
use crate::types::FinishReason;

/// What one choice has said so far; for streams only whether it has begun.
#[derive(Default)]
struct Gathered {
    begun: bool,
    text: String,
    logprobs: Vec<TokenLogprob>,
    finish: Option<FinishReason>,
}

pub(in crate::http) struct ChatFormat {
    head: Head,
    text: Arc<dyn TextService>,
    streaming: Streaming,
    logprobs: bool,
    prompt_logprobs: bool,
    choices: Vec<Gathered>,
}

impl ChatFormat {
    pub(super) fn new(request: &ChatRequest, text: Arc<dyn TextService>, head: Head, num_choices: usize) -> Self {
        Self {
            head,
            text,
            streaming: request.common.streaming.unwrap_or_default(),
            logprobs: request.logprobs.is_some(),
            prompt_logprobs: request.common.prompt_logprobs.is_some(),
            choices: (0..num_choices).map(|_| Gathered::default()).collect(),
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
        let Piece { index, text, entries, finish } = piece;
        let usage = chunk_usage(self.streaming.include_usage, self.streaming.continuous_usage, usage);
        let choice = |delta, logprobs, finish_reason| vec![ChunkChoice { index, delta, logprobs, finish_reason }];
        let mut chunks = Vec::new();
        let first = self.choices.get_mut(index).is_some_and(|c| !std::mem::replace(&mut c.begun, true));
        if first {
            let opening = Delta { role: Some("assistant"), content: Some("") };
            chunks.push(self.chunk(choice(opening, None, None), usage));
        }
        let content = self.logprobs(entries);
        if !text.is_empty() || !content.is_empty() {
            let logprobs = self.logprobs.then_some(ChatLogprobs { content, refusal: None });
            let delta = Delta { role: None, content: Some(&text) };
            chunks.push(self.chunk(choice(delta, logprobs, None), usage));
        }
        if let Some(reason) = finish {
            chunks.push(self.chunk(choice(Delta::default(), None, Some(finish_word(reason))), usage));
        }
        chunks
    }

    fn usage_chunk(&self, usage: Usage) -> String {
        self.chunk(Vec::new(), Some(Some(usage.into())))
    }

    fn collect(&mut self, piece: Piece) {
        let logprobs = self.logprobs(piece.entries);
        if let Some(choice) = self.choices.get_mut(piece.index) {
            choice.text.push_str(&piece.text);
            choice.logprobs.extend(logprobs);
            choice.finish = piece.finish.or(choice.finish);
        }
    }

    fn response(self, usage: Usage, prompt: &dyn Fn(usize) -> Option<Prompt>) -> String {
        let prompt_logprobs = match self.prompt_logprobs {
            true => prompt(0).map(|p| prompt_logprobs(&p, &*self.text)),
            false => None,
        };
        let choice = |(index, c): (usize, Gathered)| ChatChoice {
            index,
            message: AssistantMessage { role: "assistant", content: c.text, refusal: None },
            logprobs: self.logprobs.then_some(ChatLogprobs { content: c.logprobs, refusal: None }),
            finish_reason: finish_word(c.finish.unwrap_or(FinishReason::Stop)),
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
