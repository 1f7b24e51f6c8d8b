//! The bytes of every token, in one arena: what detokenising needs, without a hash map.
//!
//! Byte-level vocabularies spell bytes as printable characters, SentencePiece ones write `▁` for a
//! space and `<0xXX>` for a byte; both are undone here once, at load time.

use super::error::TextError;

/// How a vocabulary spells bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spelling {
    /// GPT-2's printable alphabet: `Ġ` is a space.
    ByteLevel,
    /// `▁` is a space; `<0xXX>` a byte when `byte_fallback`.
    Metaspace {
        /// Are there byte tokens?
        byte_fallback: bool,
        /// Does decoding drop one leading space of the text?
        strip_leading_space: bool,
    },
}

const SPECIAL: u8 = 1;

/// Token id -> bytes and kind.
#[derive(Debug)]
pub(crate) struct TokenTable {
    arena: Vec<u8>,
    /// `spans[id]..spans[id + 1]` in the arena.
    spans: Vec<u32>,
    flags: Vec<u8>,
    /// Bytes of the longest token.
    longest: usize,
    spelling: Spelling,
}

impl TokenTable {
    pub(crate) fn new(spelling: Spelling, num_tokens: usize) -> Self {
        let mut spans = Vec::with_capacity(num_tokens + 1);
        spans.push(0);
        let (arena, flags) = (Vec::with_capacity(num_tokens * 8), Vec::with_capacity(num_tokens));
        Self { arena, spans, flags, longest: 0, spelling }
    }

    /// Appends the token of the next id, spelled as in the vocabulary.
    pub(crate) fn push(&mut self, token: &str, special: bool) -> Result<(), TextError> {
        match self.spelling {
            Spelling::ByteLevel => push_byte_level(&mut self.arena, token),
            Spelling::Metaspace { byte_fallback: true, .. } if parse_byte_token(token).is_some() => {
                self.arena.extend(parse_byte_token(token));
            }
            Spelling::Metaspace { .. } => push_metaspace(&mut self.arena, token),
        }
        self.close(special)
    }

    /// Appends a token whose text is meant literally.
    pub(crate) fn push_literal(&mut self, text: &str, special: bool) -> Result<(), TextError> {
        self.arena.extend_from_slice(text.as_bytes());
        self.close(special)
    }

    fn close(&mut self, special: bool) -> Result<(), TextError> {
        let end = u32::try_from(self.arena.len())
            .map_err(|_| TextError::load("tokenizer", "the vocabulary's text is larger than 4 GiB"))?;
        let start = self.spans.last().copied().unwrap_or(0);
        self.longest = self.longest.max(end.saturating_sub(start) as usize);
        self.spans.push(end);
        self.flags.push(if special { SPECIAL } else { 0 });
        Ok(())
    }

    pub(crate) fn len(&self) -> usize {
        self.flags.len()
    }

    /// Bytes of the longest token.
    pub(crate) fn longest(&self) -> usize {
        self.longest
    }

    /// The bytes of a token; empty for an id outside the vocabulary.
    pub(crate) fn bytes(&self, id: u32) -> &[u8] {
        let id = id as usize;
        match (self.spans.get(id), self.spans.get(id + 1)) {
            (Some(&start), Some(&end)) => self.arena.get(start as usize..end as usize).unwrap_or_default(),
            _ => &[],
        }
    }

    /// True for control tokens, which `skip_special` leaves out of text.
    pub(crate) fn is_special(&self, id: u32) -> bool {
        self.flags.get(id as usize).is_some_and(|f| f & SPECIAL != 0)
    }

    pub(crate) fn strips_leading_space(&self) -> bool {
        matches!(self.spelling, Spelling::Metaspace { strip_leading_space: true, .. })
    }
}

/// The byte that a character of GPT-2's alphabet stands for.
fn byte_of(c: char) -> Option<u8> {
    // The 188 printable Latin-1 characters stand for themselves; the other 68 bytes, in order, are
    // written as the characters from U+0100 on.
    match c as u32 {
        code @ (0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff) => Some(code as u8),
        code @ 0x100..=0x120 => Some((code - 0x100) as u8),
        code @ 0x121..=0x142 => Some((code - 0x121 + 0x7f) as u8),
        0x143 => Some(0xad),
        _ => None,
    }
}

/// A token with a character outside the alphabet is literal text as a whole, as in the reference.
fn push_byte_level(arena: &mut Vec<u8>, token: &str) {
    let start = arena.len();
    for c in token.chars() {
        match byte_of(c) {
            Some(byte) => arena.push(byte),
            None => {
                arena.truncate(start);
                arena.extend_from_slice(token.as_bytes());
                return;
            }
        }
    }
}

fn push_metaspace(arena: &mut Vec<u8>, token: &str) {
    for (i, part) in token.split('\u{2581}').enumerate() {
        if i > 0 {
            arena.push(b' ');
        }
        arena.extend_from_slice(part.as_bytes());
    }
}

/// `<0x0A>` -> 10.
pub(crate) fn parse_byte_token(token: &str) -> Option<u8> {
    let hex = token.strip_prefix("<0x")?.strip_suffix('>')?;
    if hex.len() != 2 || !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    u8::from_str_radix(hex, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_byte_alphabet_is_a_bijection() {
        let mut seen = [false; 256];
        for c in (0..0x200).filter_map(char::from_u32) {
            if let Some(byte) = byte_of(c) {
                assert!(!seen[byte as usize], "{byte} twice");
                seen[byte as usize] = true;
            }
        }
        assert!(seen.iter().all(|&s| s));
        assert_eq!(byte_of('Ġ'), Some(b' '));
        assert_eq!(byte_of('Ċ'), Some(b'\n'));
    }

    #[test]
    fn spellings_are_undone() {
        let metaspace = Spelling::Metaspace { byte_fallback: true, strip_leading_space: false };
        let mut table = TokenTable::new(metaspace, 3);
        for token in ["▁the▁", "<0xE2>", "<0xZZ>"] {
            table.push(token, false).unwrap();
        }
        assert_eq!(table.bytes(0), b" the ");
        assert_eq!(table.bytes(1), [0xe2]);
        assert_eq!(table.bytes(2), b"<0xZZ>");
        assert_eq!(table.bytes(3), b"");
        assert_eq!(table.bytes(u32::MAX), b"");
        assert_eq!(table.longest(), b"<0xZZ>".len());
        let mut table = TokenTable::new(Spelling::ByteLevel, 2);
        table.push("Ġthe", false).unwrap();
        table.push("<a b>", true).unwrap();
        assert_eq!(table.bytes(0), b" the");
        assert_eq!(table.bytes(1), b"<a b>");
        assert!(table.is_special(1) && !table.is_special(0));
    }
}
