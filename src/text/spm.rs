//! SentencePiece BPE from a vocabulary with scores, as GGUF files of Llama 2, Mistral and Gemma hold it.
//!
//! The text starts as characters; of all adjacent pairs whose concatenation is a token, the one
//! with the best score is joined (leftmost first among equals) until none is left. What is no
//! token then falls back to byte tokens. Source: Kudo and Richardson 2018 (SentencePiece), whose
//! `bpe_model` does the same. O(n log n) in the text, no recursion.

use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashMap};

use super::error::TextError;

/// A vocabulary ready to encode with. Tokens are spelled with `▁` for a space.
#[derive(Debug)]
pub(crate) struct SpmModel {
    pieces: HashMap<Box<str>, (u32, f32)>,
    /// `byte_tokens[b]`: the token `<0xXX>`.
    byte_tokens: Vec<Option<u32>>,
    unknown: Option<u32>,
    max_piece_len: usize,
}

/// A run of the text that is one symbol so far; `len == 0` once joined to its left neighbour.
#[derive(Clone, Copy)]
struct Symbol {
    start: usize,
    len: usize,
    prev: usize,
    next: usize,
}

const NONE: usize = usize::MAX;

/// A possible join of two neighbours; stale when their lengths no longer add up to `len`.
struct Join {
    score: f32,
    left: usize,
    right: usize,
    len: usize,
}

impl Ord for Join {
    fn cmp(&self, other: &Self) -> Ordering {
        self.score.total_cmp(&other.score).then(other.left.cmp(&self.left))
    }
}

impl PartialOrd for Join {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Join {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Join {}

impl SpmModel {
    pub(crate) fn new(num_tokens: usize, unknown: Option<u32>) -> Self {
        let pieces = HashMap::with_capacity(num_tokens);
        Self { pieces, byte_tokens: vec![None; 256], unknown, max_piece_len: 0 }
    }

    /// Adds a piece; false when it was there already.
    pub(crate) fn add_piece(&mut self, piece: &str, id: u32, score: f32) -> bool {
        self.max_piece_len = self.max_piece_len.max(piece.len());
        self.pieces.insert(piece.into(), (id, score)).is_none()
    }

    /// Adds the token of one byte.
    pub(crate) fn add_byte(&mut self, byte: u8, id: u32) {
        if let Some(slot) = self.byte_tokens.get_mut(byte as usize) {
            *slot = Some(id);
        }
    }

    /// The token that is exactly `piece`.
    pub(crate) fn piece(&self, piece: &str) -> Option<u32> {
        self.pieces.get(piece).map(|&(id, _)| id)
    }

    /// Encodes `text`, in which spaces are already `▁`.
    pub(crate) fn encode(&self, text: &str, ids: &mut Vec<u32>) -> Result<(), TextError> {
        let mut symbols = split_characters(text);
        let mut joins = BinaryHeap::with_capacity(symbols.len());
        for i in 1..symbols.len() {
            self.propose(text, &symbols, i - 1, i, &mut joins);
        }
        while let Some(join) = joins.pop() {
            let (left, right) = (symbols[join.left], symbols[join.right]);
            if left.len == 0 || right.len == 0 || left.len + right.len != join.len {
                continue;
            }
            symbols[join.left].len = join.len;
            symbols[join.left].next = right.next;
            symbols[join.right].len = 0;
            if right.next != NONE {
                symbols[right.next].prev = join.left;
                self.propose(text, &symbols, join.left, right.next, &mut joins);
            }
            if left.prev != NONE {
                self.propose(text, &symbols, left.prev, join.left, &mut joins);
            }
        }
        let mut previous_unknown = false;
        for symbol in symbols.iter().filter(|s| s.len > 0) {
            let piece = &text[symbol.start..symbol.start + symbol.len];
            previous_unknown = self.emit(piece, previous_unknown, ids)?;
        }
        Ok(())
    }

    fn propose(&self, text: &str, symbols: &[Symbol], left: usize, right: usize, joins: &mut BinaryHeap<Join>) {
        let len = symbols[left].len + symbols[right].len;
        if len > self.max_piece_len {
            return;
        }
        let start = symbols[left].start;
        if let Some(&(_, score)) = self.pieces.get(&text[start..start + len]) {
            joins.push(Join { score, left, right, len });
        }
    }

    /// Writes the token of `piece`, or its bytes, or one unknown token for a run of unknown
    /// pieces; returns whether it was unknown.
    fn emit(&self, piece: &str, previous_unknown: bool, ids: &mut Vec<u32>) -> Result<bool, TextError> {
        if let Some(id) = self.piece(piece) {
            ids.push(id);
            return Ok(false);
        }
        let bytes: Option<Vec<u32>> =
            piece.bytes().map(|b| self.byte_tokens.get(b as usize).copied().flatten()).collect();
        if let Some(bytes) = bytes {
            ids.extend(bytes);
            return Ok(false);
        }
        match self.unknown {
            Some(_) if previous_unknown => {}
            Some(unknown) => ids.push(unknown),
            None => {
                return Err(TextError::Encode(format!(
                    "{piece:?} is not in the vocabulary, which has neither byte tokens nor an unknown token"
                )));
            }
        }
        Ok(true)
    }
}

fn split_characters(text: &str) -> Vec<Symbol> {
    let mut symbols: Vec<Symbol> = Vec::with_capacity(text.len());
    for (start, c) in text.char_indices() {
        let index = symbols.len();
        let prev = index.checked_sub(1).unwrap_or(NONE);
        symbols.push(Symbol { start, len: c.len_utf8(), prev, next: index + 1 });
    }
    if let Some(last) = symbols.last_mut() {
        last.next = NONE;
    }
    symbols
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(pieces: &[(&str, f32)]) -> SpmModel {
        let mut model = SpmModel::new(pieces.len(), Some(99));
        for (id, (piece, score)) in pieces.iter().enumerate() {
            assert!(model.add_piece(piece, id as u32, *score));
        }
        model
    }

    fn encode(model: &SpmModel, text: &str) -> Vec<u32> {
        let mut ids = Vec::new();
        model.encode(text, &mut ids).unwrap();
        ids
    }

    #[test]
    fn the_best_score_joins_first_and_ties_go_left() {
        let m = model(&[("a", -9.0), ("b", -9.0), ("ab", -2.0), ("ba", -1.0), ("aa", -3.0)]);
        assert_eq!(encode(&m, "aba"), [0, 3]);
        assert_eq!(encode(&m, "aaa"), [4, 0]);
        assert_eq!(encode(&m, ""), [0u32; 0]);
    }

    #[test]
    fn unknown_runs_fuse_and_bytes_come_first() {
        let mut m = model(&[("a", 0.0)]);
        assert_eq!(encode(&m, "éüaé"), [99, 0, 99]);
        for byte in 0..=255u8 {
            m.add_byte(byte, 100 + u32::from(byte));
        }
        assert_eq!(encode(&m, "éa"), [100 + 0xc3, 100 + 0xa9, 0]);
        m.unknown = None;
        m.byte_tokens[0xc3] = None;
        assert!(m.encode("é", &mut Vec::new()).is_err());
    }

    #[test]
    fn a_megabyte_of_one_letter_is_no_trouble() {
        let m = model(&[("a", 0.0), ("aa", -1.0), ("aaaa", -2.0)]);
        assert_eq!(encode(&m, &"a".repeat(1 << 20)).len(), 1 << 18);
    }
}
