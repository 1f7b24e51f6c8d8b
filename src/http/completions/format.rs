//! Pieces of an answer as completion chunks, or gathered into one completion.

use std::sync::Arc;

use super::types::{Completion, CompletionChoice, Logprobs};
use super::validate::CompletionRequest;
use crate::http::generate::{Format, Head, Piece, Prompt, TokenEntry, Usage, finite};
use crate::http::sampling::Streaming;
use crate::http::text::{TextService, token_display};
use crate::http::usage::{Members, UsageBody, chunk_usage, finish_word, prompt_logprobs, to_json};
use crate::types::FinishReason;

#[derive(Default)]
struct Gathered {
    text: String,
    logprobs: Logprobs,
    finish: Option<FinishReason>,
}

pub(in crate::http) struct CompletionFormat {
    head: Head,
    text: Arc<dyn TextService>,
    streaming: Streaming,
    logprobs: bool,
    prompt_logprobs: bool,
    choices: Vec<Gathered>,
}

impl CompletionFormat {
    pub(super) fn new(request: &CompletionRequest, text: Arc<dyn TextService>, head: Head, num_choices: usize) -> Self {
        Self {
            head,
            text,
            streaming: request.common.streaming.unwrap_or_default(),
            logprobs: request.logprobs.is_some(),
            prompt_logprobs: request.common.prompt_logprobs.is_some(),
            choices: (0..num_choices).map(|_| Gathered::default()).collect(),
        }
    }

    fn body(&self, choices: Vec<CompletionChoice>, usage: Option<Option<UsageBody>>) -> String {
        to_json(&Completion {
            id: &self.head.id,
            object: "text_completion",
            created: self.head.created,
            model: &self.head.model,
            system_fingerprint: &self.head.fingerprint,
            choices,
            usage,
        })
    }

    fn logprobs(&self, entries: Vec<TokenEntry>) -> Logprobs {
        let mut lists = Logprobs::default();
        for entry in entries {
            let token = token_display(&self.text.token_bytes(entry.token));
            let top = entry.logprob.map(|chosen| self.alternatives(&token, chosen, &entry));
            lists.tokens.push(token);
            lists.token_logprobs.push(entry.logprob);
            lists.top_logprobs.push(top);
            lists.text_offset.push(entry.offset);
        }
        lists
    }

    /// The likeliest tokens and the chosen one. Of two tokens that look the same the likelier counts.
    fn alternatives(&self, token: &str, chosen: f32, entry: &TokenEntry) -> Members<f32> {
        let mut members = Members::default();
        for top in &entry.top {
            let shown = token_display(&self.text.token_bytes(top.token));
            members.add(shown, finite(top.logprob));
        }
        members.add(token.to_owned(), chosen);
        members
    }
}

impl Format for CompletionFormat {
    fn chunks(&mut self, piece: Piece, usage: Usage) -> Vec<String> {
        let logprobs = (self.logprobs && !piece.entries.is_empty()).then(|| self.logprobs(piece.entries));
        let choice = CompletionChoice {
            index: piece.index,
            text: piece.text,
            logprobs,
            finish_reason: piece.finish.map(finish_word),
            prompt_logprobs: None,
        };
        let usage = chunk_usage(self.streaming.include_usage, self.streaming.continuous_usage, usage);
        vec![self.body(vec![choice], usage)]
    }

    fn usage_chunk(&self, usage: Usage) -> String {
        self.body(Vec::new(), Some(Some(usage.into())))
    }

    fn collect(&mut self, piece: Piece) {
        let logprobs = self.logprobs(piece.entries);
        if let Some(choice) = self.choices.get_mut(piece.index) {
            choice.text.push_str(&piece.text);
            choice.logprobs.append(logprobs);
            choice.finish = piece.finish.or(choice.finish);
        }
    }

    fn response(mut self, usage: Usage, prompt: &dyn Fn(usize) -> Option<Prompt>) -> String {
        let gathered = std::mem::take(&mut self.choices);
        let scored = |index| prompt(index).map(|p| prompt_logprobs(&p, &*self.text));
        let choice = |(index, c): (usize, Gathered)| CompletionChoice {
            index,
            text: c.text,
            logprobs: self.logprobs.then_some(c.logprobs),
            finish_reason: Some(finish_word(c.finish.unwrap_or(FinishReason::Stop))),
            prompt_logprobs: if self.prompt_logprobs { scored(index) } else { None },
        };
        let choices = gathered.into_iter().enumerate().map(choice).collect();
        self.body(choices, Some(Some(usage.into())))
    }
}
