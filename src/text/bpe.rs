//! Byte-pair encoding through the `tokenizers` crate, from checked parts.
//!
//! The crate trusts its input; a vocabulary from a file isn't trusted here. So both sources,
//! `tokenizer.json` and GGUF metadata, become the same [`BpeParts`], whose merges and ids are
//! checked before the crate sees them.

use tokenizers::models::bpe::{BPE, Merges, Vocab};
use tokenizers::{AddedToken, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper, Tokenizer};

use super::error::TextError;
use super::gguf_vocab::{GgufVocab, TokenType};
use super::pretokenizer::pre_tokenizer;
use super::table::{Spelling, TokenTable};

/// A BPE tokenizer, taken apart.
pub(crate) struct BpeParts {
    pub(crate) vocab: Vocab,
    pub(crate) merges: Merges,
    pub(crate) options: BpeOptions,
    pub(crate) normalizer: Option<NormalizerWrapper>,
    pub(crate) pre_tokenizer: Option<PreTokenizerWrapper>,
    pub(crate) post_processor: Option<PostProcessorWrapper>,
    pub(crate) added_tokens: Vec<AddedToken>,
}

/// Switches of the merging itself.
#[derive(Default)]
pub(crate) struct BpeOptions {
    pub(crate) unk_token: Option<String>,
    pub(crate) fuse_unk: bool,
    pub(crate) byte_fallback: bool,
    pub(crate) ignore_merges: bool,
}

impl BpeParts {
    /// Checks the parts and assembles them; `source` names the file in errors.
    pub(crate) fn build(self, source: &str) -> Result<Tokenizer, TextError> {
        check_merges(&self.vocab, &self.merges, source)?;
        if let Some(unk) = &self.options.unk_token
            && !self.vocab.contains_key(unk)
        {
            return Err(TextError::load(source, format!("the unknown token {unk:?} is not in the vocabulary")));
        }
        let mut builder = BPE::builder()
            .vocab_and_merges(self.vocab, self.merges)
            .fuse_unk(self.options.fuse_unk)
            .byte_fallback(self.options.byte_fallback)
            .ignore_merges(self.options.ignore_merges);
        if let Some(unk) = self.options.unk_token {
            builder = builder.unk_token(unk);
        }
        let failed = |e| TextError::load(source, e);
        let mut tokenizer = Tokenizer::new(builder.build().map_err(failed)?);
        tokenizer.with_normalizer(self.normalizer).map_err(failed)?;
        tokenizer.with_pre_tokenizer(self.pre_tokenizer);
        tokenizer.with_post_processor(self.post_processor);
        tokenizer.add_tokens(self.added_tokens).map_err(failed)?;
        Ok(tokenizer)
    }
}

/// Every merge joins two tokens into a third.
fn check_merges(vocab: &Vocab, merges: &Merges, source: &str) -> Result<(), TextError> {
    let mut joined = String::new();
    for (rank, (left, right)) in merges.iter().enumerate() {
        joined.clear();
        joined.push_str(left);
        joined.push_str(right);
        for token in [left, right, &joined] {
            if !vocab.contains_key(token.as_str()) {
                let message = format!("merge {rank} ({left:?} and {right:?}) needs {token:?}, which is no token");
                return Err(TextError::load(source, message));
            }
        }
    }
    Ok(())
}

/// Rebuilds a byte-level tokenizer from a GGUF vocabulary that passed `validate`.
pub(crate) fn from_gguf(vocab: &GgufVocab<'_>) -> Result<(Tokenizer, TokenTable), TextError> {
    let pre = pre_tokenizer(vocab.pre.unwrap_or("default"))?;
    let mut map = Vocab::default();
    map.reserve(vocab.tokens.len());
    let mut added_tokens = Vec::new();
    let mut table = TokenTable::new(Spelling::ByteLevel, vocab.tokens.len());
    for (id, token) in vocab.tokens.iter().enumerate() {
        let kind = vocab.token_type(id);
        let special = matches!(kind, TokenType::Control | TokenType::Unknown);
        let literal = special || kind == TokenType::UserDefined;
        if literal && !token.is_empty() {
            added_tokens.push(AddedToken::from(*token, special).normalized(false));
        }
        if literal {
            table.push_literal(token, special)?
        } else {
            table.push(token, false)?
        }
        map.insert((*token).to_owned(), id as u32);
    }
    if vocab.merges.is_empty() {
        return Err(TextError::load("tokenizer.ggml.merges", "there are none, and byte-level BPE is made of them"));
    }
    let mut merges = Merges::with_capacity(vocab.merges.len());
    for (rank, merge) in vocab.merges.iter().enumerate() {
        // A token may be a space itself, so the separator is not the first character.
        let split = merge.char_indices().skip(1).find(|&(_, c)| c == ' ').map(|(i, _)| i);
        let Some((left, right)) = split.and_then(|i| Some((merge.get(..i)?, merge.get(i + 1..)?))) else {
            return Err(TextError::load("tokenizer.ggml.merges", format!("merge {rank} ({merge:?}) is not a pair")));
        };
        merges.push((left.to_owned(), right.to_owned()));
    }
    let options = BpeOptions { ignore_merges: pre.ignore_merges, ..BpeOptions::default() };
    let parts = BpeParts {
        vocab: map,
        merges,
        options,
        normalizer: pre.normalizer,
        pre_tokenizer: Some(pre.split),
        post_processor: None,
        added_tokens,
    };
    Ok((parts.build("tokenizer.ggml.merges")?, table))
}
