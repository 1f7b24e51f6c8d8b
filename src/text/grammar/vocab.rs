//! The model's tokens as the grammar engine wants them: a trie of bytes, and a way to tokenise.
//!
//! Built once a model, on first use. Control tokens can't be spelled by a grammar's text; where two
//! tokens have the same bytes, the one that the tokenizer writes is kept.

use std::collections::HashMap;
use std::sync::Arc;

use llguidance::ParserFactory;
use llguidance::api::ParserLimits;
use llguidance::earley::SlicedBiasComputer;
use llguidance::toktrie::{INVALID_TOKEN, InferenceCapabilities, TokEnv, TokRxInfo, TokTrie, TokenId, TokenizerEnv};

use super::error::GrammarError;
use crate::text::Tokenizer;

/// Longest token that the trie can hold, in bytes.
const MAX_TOKEN_BYTES: usize = 1000;
/// Most nodes that the trie can hold; there are no more than bytes in the vocabulary.
const MAX_TRIE_NODES: usize = (1 << 22) - 1;

/// What all grammars of one model share.
pub(super) struct Vocab {
    pub(super) factory: ParserFactory,
    pub(super) end_tokens: Arc<[u32]>,
}

impl Vocab {
    /// `end_tokens` end an answer: each is allowed exactly where the grammar may end.
    pub(super) fn new(tokenizer: &Tokenizer, end_tokens: &[u32], limits: ParserLimits) -> Result<Self, GrammarError> {
        let fault = |e| GrammarError::Vocabulary(format!("{e:#}"));
        let end_tokens: Arc<[u32]> =
            end_tokens.iter().copied().filter(|&id| (id as usize) < tokenizer.vocab_size()).collect();
        let words = words(tokenizer, &end_tokens);
        if words.iter().map(Vec::len).sum::<usize>() > MAX_TRIE_NODES {
            return Err(GrammarError::Vocabulary(format!("its tokens have more than {MAX_TRIE_NODES} bytes")));
        }
        let info = TokRxInfo::new(words.len() as u32, end_tokens.first().copied().unwrap_or(INVALID_TOKEN));
        let mut trie = TokTrie::from(&info, &words);
        if end_tokens.len() > 1 {
            trie = trie.with_eos_tokens(&end_tokens);
        }
        let env: TokEnv = Arc::new(Env { tokenizer: tokenizer.clone(), trie });
        let slices = SlicedBiasComputer::json_slices();
        let mut factory = ParserFactory::new(&env, InferenceCapabilities::default(), &slices).map_err(fault)?;
        factory.quiet();
        *factory.limits_mut() = limits;
        Ok(Self { factory, end_tokens })
    }
}

/// The bytes of every token; empty for those that no text can be made of.
fn words(tokenizer: &Tokenizer, end_tokens: &[u32]) -> Vec<Vec<u8>> {
    let mut words: Vec<Vec<u8>> = Vec::with_capacity(tokenizer.vocab_size());
    let mut by_bytes: HashMap<Vec<u8>, u32> = HashMap::with_capacity(tokenizer.vocab_size());
    for id in 0..tokenizer.vocab_size() as u32 {
        let bytes = tokenizer.token_bytes(id);
        if tokenizer.is_special(id) || end_tokens.contains(&id) {
            words.push([&[TokTrie::SPECIAL_TOKEN_MARKER], bytes.as_slice()].concat());
            continue;
        }
        // The marker begins no UTF-8 text, so a token that begins with it spells none.
        if bytes.len() > MAX_TOKEN_BYTES || bytes.first() == Some(&TokTrie::SPECIAL_TOKEN_MARKER) {
            words.push(Vec::new());
            continue;
        }
        if let Some(&other) = by_bytes.get(&bytes).filter(|_| !bytes.is_empty()) {
            let written = std::str::from_utf8(&bytes).ok().and_then(|text| tokenizer.encode(text, false).ok());
            if written.is_some_and(|ids| ids == [other]) {
                words.push(Vec::new());
                continue;
            }
            if let Some(word) = words.get_mut(other as usize) {
                word.clear();
            }
        }
        by_bytes.insert(bytes.clone(), id);
        words.push(bytes);
    }
    words
}

struct Env {
    tokenizer: Tokenizer,
    trie: TokTrie,
}

impl Env {
    /// The tokens that the model's tokenizer writes for `text` in the middle of a text.
    fn canonical(&self, text: &str) -> Vec<TokenId> {
        if let Ok(ids) = self.tokenizer.encode(text, false)
            && self.spells(&ids, text.as_bytes())
        {
            return ids;
        }
        // SentencePiece puts a space before the first word. Behind a line break there is none, and
        // no token reaches across it.
        if let Ok(ids) = self.tokenizer.encode(&format!("\n{text}"), false) {
            let mut before = 0;
            for (i, &id) in ids.iter().enumerate() {
                before += self.trie.token_len(id);
                let rest = ids.get(i + 1..).unwrap_or_default();
                if before <= 2 && self.spells(rest, text.as_bytes()) {
                    return rest.to_vec();
                }
            }
        }
        self.trie.greedy_tokenize(text.as_bytes())
    }

    /// Are `ids` ordinary tokens that make up `bytes`?
    fn spells(&self, ids: &[TokenId], bytes: &[u8]) -> bool {
        let mut rest = bytes;
        for &id in ids {
            let word = self.trie.token(id);
            if word.is_empty() || self.trie.is_special_token(id) {
                return false;
            }
            match rest.strip_prefix(word) {
                Some(after) => rest = after,
                None => return false,
            }
        }
        rest.is_empty()
    }
}

impl TokenizerEnv for Env {
    fn tok_trie(&self) -> &TokTrie {
        &self.trie
    }

    fn tokenize_bytes(&self, bytes: &[u8]) -> Vec<TokenId> {
        self.trie.tokenize_with_greedy_fallback(bytes, |text| self.canonical(text))
    }
}
