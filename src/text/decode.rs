//! Token ids to text, one token at a time.
//!
//! A character may be split over tokens: bytes wait until they are whole, so U+FFFD is never sent
//! for a character that a later token completes. Only bytes that can't belong to any character
//! become U+FFFD. A character that is still incomplete when an answer ends is no part of it: `finish` is for who
//! shows a given text whole. Whatever the split, the pieces concatenate to what decoding all tokens at once gives.

use super::tokenizer::Tokenizer;

/// Decodes one answer.
#[derive(Clone, Debug)]
pub struct IncrementalDecoder {
    tokenizer: Tokenizer,
    skip_special: bool,
    /// The next byte is the text's first, and a space there would be SentencePiece's own.
    strip_space: bool,
    pending: Vec<u8>,
}

impl IncrementalDecoder {
    pub(crate) fn new(tokenizer: Tokenizer, skip_special: bool, strip_space: bool) -> Self {
        Self { tokenizer, skip_special, strip_space, pending: Vec::new() }
    }

    /// The bytes that `token` adds to the text if it comes next: nothing for a skipped special
    /// token or an id outside the vocabulary. Call before [`Self::push`]; over an answer they
    /// concatenate to its exact bytes (for `bytes` in log-probabilities).
    pub fn bytes_at(&self, token: u32) -> Vec<u8> {
        let table = self.tokenizer.table();
        if self.skip_special && table.is_special(token) {
            return Vec::new();
        }
        let bytes = table.bytes(token);
        match bytes {
            [b' ', rest @ ..] if self.strip_space => rest.to_vec(),
            _ => bytes.to_vec(),
        }
    }

    /// Takes the next token and returns the text that is now complete, possibly none.
    pub fn push(&mut self, token: u32) -> String {
        let table = self.tokenizer.table();
        if (self.skip_special && table.is_special(token)) || table.bytes(token).is_empty() {
            return String::new();
        }
        let bytes = self.bytes_at(token);
        self.strip_space = false;
        self.pending.extend_from_slice(&bytes);
        self.drain()
    }

    /// The text has no more tokens: what is incomplete becomes U+FFFD. Of an answer that was cut it is left out instead.
    pub fn finish(&mut self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut self.pending)).into_owned()
    }

    /// Moves everything but an incomplete last character out of `pending`.
    fn drain(&mut self) -> String {
        let mut text = String::new();
        loop {
            let error = match std::str::from_utf8(&self.pending) {
                Ok(valid) => {
                    text.push_str(valid);
                    self.pending.clear();
                    return text;
                }
                Err(error) => error,
            };
            let valid = error.valid_up_to();
            text.push_str(&String::from_utf8_lossy(self.pending.get(..valid).unwrap_or_default()));
            let Some(bad) = error.error_len() else {
                self.pending.drain(..valid);
                return text;
            };
            text.push(char::REPLACEMENT_CHARACTER);
            self.pending.drain(..valid + bad);
        }
    }
}
