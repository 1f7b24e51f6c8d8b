//! The tokenizer fields of a GGUF file, checked: lengths agree, ids are in range.
//!
//! Field names and meanings: the GGUF specification's `tokenizer.ggml.*` keys.

use std::collections::HashMap;

use sconce_models::gguf::Metadata;

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

impl<'a> GgufVocab<'a> {
    /// Reads the keys; absent ones stay empty.
    ///
    /// # Errors
    /// [`TextError::Load`] when the file has no tokenizer, or a key is of another type than it should be.
    pub fn from_metadata(metadata: &'a Metadata) -> Result<Self, TextError> {
        let key = |name: &str| format!("tokenizer.ggml.{name}");
        let id = |name: &str| metadata.get_u32(&key(name));
        let wrong = |name: &str, wanted: &str| TextError::load(key(name), format!("not {wanted}"));
        let strings = |name: &str| match metadata.get_strings(&key(name)) {
            Some(strings) => Ok(strings.collect()),
            None if metadata.contains(&key(name)) => Err(wrong(name, "a list of strings")),
            None => Ok(Vec::new()),
        };
        let absent = || TextError::load(key("model"), "the file has no tokenizer");
        // Absent is one thing, there and empty another.
        if let Some(name) = ["scores", "token_type"].into_iter().find(|name| metadata.array_len(&key(name)) == Some(0))
        {
            return Err(TextError::load(key(name), "no entries"));
        }
        let scores = metadata.get_f32s(&key("scores"));
        let token_types = metadata.get_i32s(&key("token_type"));
        if scores.is_none() && metadata.contains(&key("scores")) {
            return Err(wrong("scores", "a list of f32"));
        }
        if token_types.is_none() && metadata.contains(&key("token_type")) {
            return Err(wrong("token_type", "a list of integers"));
        }
        Ok(Self {
            model: metadata.get_str(&key("model")).ok_or_else(absent)?,
            pre: metadata.get_str(&key("pre")),
            tokens: strings("tokens")?,
            scores: scores.unwrap_or_default(),
            token_types: token_types.unwrap_or_default(),
            merges: strings("merges")?,
            bos: id("bos_token_id"),
            eos: id("eos_token_id"),
            eot: id("eot_token_id"),
            eom: id("eom_token_id"),
            unk: id("unknown_token_id"),
            pad: id("padding_token_id"),
            add_bos: metadata.get_bool(&key("add_bos_token")),
            add_eos: metadata.get_bool(&key("add_eos_token")),
            add_space_prefix: metadata.get_bool(&key("add_space_prefix")),
        })
    }

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
            return fail("tokens", "the file holds no tokens".into());
        }
        for (key, len) in [("scores", self.scores.len()), ("token_type", self.token_types.len())] {
            if len != 0 && len != count {
                return fail(key, format!("{len} entries for {count} tokens"));
            }
        }
        if let Some((id, kind)) = self.token_types.iter().enumerate().find(|(_, kind)| !(0..=6).contains(*kind)) {
            return fail("token_type", format!("token {id} is of type {kind}, which isn't in 0..=6"));
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
                return fail("tokens", format!("{token:?} stands at {first} and at {id}"));
            }
        }
        Ok(())
    }
}
