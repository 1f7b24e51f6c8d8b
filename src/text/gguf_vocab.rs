//! The tokenizer fields of a GGUF file, checked: lengths agree, ids are in range.
//!
//! Field names and meanings: the GGUF specification's `tokenizer.ggml.*` keys.

use std::collections::HashMap;

use super::error::TextError;

/// `tokenizer.ggml.*`, borrowed from the file.
#[derive(Clone, Debug, Default)]
pub struct GgufVocab<'a> {
    /// `model`: `gpt2` is byte-level BPE, `llama` SentencePiece.
    pub model: &'a str,
    /// `pre`: which pre-tokenizer a byte-level vocabulary was trained with.
    pub pre: Option<&'a str>,
    /// `tokens`, by id.
    pub tokens: Vec<&'a str>,
    /// `scores`, one a token, or empty.
    pub scores: Vec<f32>,
    /// `token_type`, one a token, or empty.
    pub token_types: Vec<i32>,
    /// `merges`: two tokens and a space between them, best first.
    pub merges: Vec<&'a str>,
    /// `bos_token_id`.
    pub bos: Option<u32>,
    /// `eos_token_id`.
    pub eos: Option<u32>,
    /// `eot_token_id`.
    pub eot: Option<u32>,
    /// `eom_token_id`.
    pub eom: Option<u32>,
    /// `unknown_token_id`.
    pub unk: Option<u32>,
    /// `padding_token_id`.
    pub pad: Option<u32>,
    /// `add_bos_token`.
    pub add_bos: Option<bool>,
    /// `add_eos_token`.
    pub add_eos: Option<bool>,
    /// `add_space_prefix`.
    pub add_space_prefix: Option<bool>,
}

/// The values of `token_type` that matter here; everything else is an ordinary token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TokenType {
    Normal,
    Unknown,
    Control,
    UserDefined,
    Byte,
}

impl GgufVocab<'_> {
    /// The type of token `id`.
    pub(crate) fn token_type(&self, id: usize) -> TokenType {
        match self.token_types.get(id) {
            Some(2) => TokenType::Unknown,
            Some(3) => TokenType::Control,
            Some(4) => TokenType::UserDefined,
            Some(6) => TokenType::Byte,
            _ => TokenType::Normal,
        }
    }

    /// Checks what the rest relies on.
    pub(crate) fn validate(&self) -> Result<(), TextError> {
        let fail = |key: &str, message: String| Err(TextError::load(format!("tokenizer.ggml.{key}"), message));
        let count = self.tokens.len();
        if count == 0 {
            return fail("tokens", "the file holds no tokens; use a complete GGUF file".into());
        }
        for (key, len) in [("scores", self.scores.len()), ("token_type", self.token_types.len())] {
            if len != 0 && len != count {
                return fail(key, format!("{len} entries for {count} tokens; the file is damaged"));
            }
        }
        let ids = [
            ("bos_token_id", self.bos),
            ("eos_token_id", self.eos),
            ("eot_token_id", self.eot),
            ("eom_token_id", self.eom),
            ("unknown_token_id", self.unk),
            ("padding_token_id", self.pad),
        ];
        for (key, id) in ids {
            if let Some(id) = id.filter(|&id| id as usize >= count) {
                return fail(key, format!("{id} is not below the number of tokens, {count}"));
            }
        }
        let mut seen = HashMap::with_capacity(count);
        for (id, token) in self.tokens.iter().enumerate().filter(|(_, t)| !t.is_empty()) {
            if let Some(first) = seen.insert(*token, id) {
                return fail("tokens", format!("{token:?} stands at {first} and at {id}; the file is damaged"));
            }
        }
        Ok(())
    }
}
