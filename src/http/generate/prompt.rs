//! A tokenised prompt, its echo and the log-probabilities of its tokens.

use std::sync::Arc;

use super::choice::TokenEntry;
use crate::http::text::TextService;
use crate::types::TokenLogprobs;

/// The prompt's text as it stands before an echoed answer.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::http) struct Echo {
    pub(in crate::http) text: String,
    /// Where each token begins, in characters, and its bytes; only with log-probabilities.
    tokens: Vec<(usize, Vec<u8>)>,
}

#[derive(Clone, Debug)]
pub(in crate::http) struct Prompt {
    pub(in crate::http) ids: Arc<[u32]>,
    pub(in crate::http) echo: Option<Echo>,
    /// One a token if wanted (the first stays `None`), else empty.
    pub(in crate::http) logprobs: Vec<Option<TokenLogprobs>>,
    missing: usize,
}

impl Prompt {
    pub(in crate::http) fn new(ids: Vec<u32>, scored: bool) -> Self {
        let (logprobs, missing) = match scored {
            true => (vec![None; ids.len()], ids.len().saturating_sub(1)),
            false => (Vec::new(), 0),
        };
        Self { ids: ids.into(), echo: None, logprobs, missing }
    }

    /// Lets the answer begin with the prompt: `original` if the client sent text, else its tokens' text.
    pub(in crate::http) fn echoed(mut self, original: Option<String>, text: &dyn TextService) -> Self {
        let mut decoder = text.decoder(true, false);
        let (mut decoded, mut length, mut tokens) = (String::new(), 0, Vec::new());
        for id in self.ids.iter() {
            if !self.logprobs.is_empty() {
                tokens.push((length, text.token_bytes(*id)));
            }
            let piece = decoder.push(*id);
            length += piece.chars().count();
            decoded.push_str(&piece);
        }
        decoded.push_str(&decoder.finish());
        self.echo = Some(Echo { text: original.unwrap_or(decoded), tokens });
        self
    }

    /// Takes log-probabilities of the tokens from position `first` on.
    pub(in crate::http) fn add_logprobs(&mut self, first: usize, entries: Vec<TokenLogprobs>) {
        for (slot, entry) in self.logprobs.iter_mut().skip(first.max(1)).zip(entries) {
            if slot.replace(entry).is_none() {
                self.missing = self.missing.saturating_sub(1);
            }
        }
    }

    /// True when no log-probability is still to come.
    pub(in crate::http) fn is_scored(&self) -> bool {
        self.missing == 0
    }

    /// The prompt's tokens as entries of the answer.
    pub(super) fn echo_entries(&self, echo: &Echo) -> Vec<TokenEntry> {
        let tokens = self.ids.iter().zip(&echo.tokens).zip(&self.logprobs);
        tokens
            .map(|((id, (offset, bytes)), logprobs)| TokenEntry::new(*id, bytes.clone(), *offset, logprobs.clone()))
            .collect()
    }
}
