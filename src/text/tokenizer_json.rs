//! Reads `tokenizer.json`: BPE models of the Hugging Face format.
//!
//! Parsed into our own structure first: faster than the crate's generic reader, which holds the
//! whole vocabulary as untyped values, and checked before it is used.

use serde::Deserialize;
use serde_json::Value;
use tokenizers::models::bpe::{Merges, Vocab};
use tokenizers::{AddedToken, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper, Tokenizer};

use super::bpe::{BpeOptions, BpeParts};
use super::error::TextError;
use super::table::{Spelling, TokenTable};

#[derive(Deserialize)]
struct TokenizerJson {
    #[serde(default)]
    added_tokens: Vec<AddedTokenJson>,
    normalizer: Option<NormalizerWrapper>,
    pre_tokenizer: Option<PreTokenizerWrapper>,
    post_processor: Option<PostProcessorWrapper>,
    decoder: Option<Value>,
    model: ModelJson,
}

#[derive(Deserialize)]
struct AddedTokenJson {
    id: u32,
    #[serde(flatten)]
    token: AddedToken,
}

#[derive(Deserialize)]
struct ModelJson {
    #[serde(default, rename = "type")]
    kind: Option<String>,
    #[serde(default)]
    unk_token: Option<String>,
    #[serde(default)]
    fuse_unk: bool,
    #[serde(default)]
    byte_fallback: bool,
    #[serde(default)]
    ignore_merges: bool,
    #[serde(default)]
    continuing_subword_prefix: Option<String>,
    #[serde(default)]
    end_of_word_suffix: Option<String>,
    vocab: VocabJson,
    #[serde(default)]
    merges: Vec<MergeJson>,
}

/// An object of ids for BPE; a list of scores for Unigram, which is refused by name.
#[derive(Deserialize)]
#[serde(transparent)]
struct VocabJson(Vocab);

#[derive(Deserialize)]
#[serde(untagged)]
enum MergeJson {
    Pair(String, String),
    Line(String),
}

/// Only the type, to say by name what can't be read.
#[derive(Deserialize)]
struct KindOnly {
    model: Kind,
}

#[derive(Deserialize)]
struct Kind {
    #[serde(rename = "type")]
    kind: String,
}

/// Reads the bytes of a `tokenizer.json`; `source` names it in errors.
pub(crate) fn from_json(bytes: &[u8], source: &str) -> Result<(Tokenizer, TokenTable), TextError> {
    let mut json: TokenizerJson = match serde_json::from_slice(bytes) {
        Ok(json) => json,
        Err(error) => {
            if let Ok(KindOnly { model: Kind { kind } }) = serde_json::from_slice(bytes)
                && kind != "BPE"
            {
                return Err(unsupported(source, &kind));
            }
            return Err(TextError::load(source, error));
        }
    };
    if let Some(kind) = json.model.kind.as_deref().filter(|kind| *kind != "BPE") {
        return Err(unsupported(source, kind));
    }
    let affix = |s: &Option<String>| s.as_deref().is_some_and(|s| !s.is_empty());
    if affix(&json.model.continuing_subword_prefix) || affix(&json.model.end_of_word_suffix) {
        let message = "subword prefixes and suffixes are not supported";
        return Err(TextError::unusable(source, message, "use a model whose tokenizer has none"));
    }
    let table = token_table(&mut json, bytes.len(), source)?;
    let model = json.model;
    let merges = model.merges.into_iter().enumerate().map(|(rank, merge)| split_merge(merge, rank, source));
    let parts = BpeParts {
        vocab: model.vocab.0,
        merges: merges.collect::<Result<Merges, _>>()?,
        options: BpeOptions {
            unk_token: model.unk_token,
            fuse_unk: model.fuse_unk,
            byte_fallback: model.byte_fallback,
            ignore_merges: model.ignore_merges,
        },
        normalizer: json.normalizer,
        pre_tokenizer: json.pre_tokenizer,
        post_processor: json.post_processor,
        added_tokens: json.added_tokens.into_iter().map(|a| a.token).collect(),
    };
    Ok((parts.build(source)?, table))
}

fn unsupported(source: &str, kind: &str) -> TextError {
    TextError::unusable(source, format!("model.type {kind:?} is not supported"), "supported: BPE")
}

fn split_merge(merge: MergeJson, rank: usize, source: &str) -> Result<(String, String), TextError> {
    let bad = |line: &str| TextError::load(source, format!("merge {rank} ({line:?}) is not a pair"));
    match merge {
        MergeJson::Pair(left, right) => Ok((left, right)),
        MergeJson::Line(line) => {
            line.split_once(' ').map(|(l, r)| (l.to_owned(), r.to_owned())).ok_or_else(|| bad(&line))
        }
    }
}

/// Builds id -> bytes, and enters added tokens into the vocabulary so that each keeps its id.
fn token_table(json: &mut TokenizerJson, file_len: usize, source: &str) -> Result<TokenTable, TextError> {
    let spelling = spelling(json.decoder.as_ref(), source)?;
    for added in &json.added_tokens {
        json.model.vocab.0.insert(added.token.content.clone(), added.id);
    }
    let vocab = &json.model.vocab.0;
    let Some(&max) = vocab.values().max() else {
        return Err(TextError::load(source, "the vocabulary is empty"));
    };
    // Each token takes bytes of the file, so a larger id can only be damage (or an attack on memory).
    if max as usize >= file_len {
        return Err(TextError::load(source, format!("token id {max} is out of range")));
    }
    let mut by_id: Vec<&str> = vec![""; max as usize + 1];
    for (token, &id) in vocab {
        if let Some(slot) = by_id.get_mut(id as usize) {
            *slot = token;
        }
    }
    // Of two spellings of one id the added token's counts, whatever the map's order.
    let mut special = vec![false; by_id.len()];
    for added in &json.added_tokens {
        if let (Some(slot), Some(flag)) = (by_id.get_mut(added.id as usize), special.get_mut(added.id as usize)) {
            *slot = &added.token.content;
            *flag = added.token.special;
        }
    }
    let mut table = TokenTable::new(spelling, by_id.len());
    for (token, special) in by_id.into_iter().zip(special) {
        table.push(token, special)?;
    }
    Ok(table)
}

/// How the tokenizer's decoder turns tokens into bytes.
fn spelling(decoder: Option<&Value>, source: &str) -> Result<Spelling, TextError> {
    let (mut byte_level, mut byte_fallback, mut metaspace, mut strip) = (false, false, false, false);
    let steps = match decoder.and_then(|d| d.get("decoders")).and_then(Value::as_array) {
        Some(steps) => steps.as_slice(),
        None => decoder.map(std::slice::from_ref).unwrap_or_default(),
    };
    for step in steps {
        match step.get("type").and_then(Value::as_str).unwrap_or_default() {
            "ByteLevel" => byte_level = true,
            "ByteFallback" => byte_fallback = true,
            "Fuse" => {}
            "Replace" => metaspace = true,
            "Metaspace" => {
                metaspace = true;
                strip = step.get("prepend_scheme").and_then(Value::as_str) != Some("never");
            }
            "Strip" => strip = step.get("start").and_then(Value::as_u64).is_some_and(|n| n > 0),
            other => {
                let remedy = "supported: ByteLevel, ByteFallback, Fuse, Replace, Metaspace, Strip";
                return Err(TextError::unusable(source, format!("decoder {other:?} is not supported"), remedy));
            }
        }
    }
    match (byte_level, metaspace || byte_fallback) {
        (true, false) => Ok(Spelling::ByteLevel),
        (false, true) => Ok(Spelling::Metaspace { byte_fallback, strip_leading_space: strip }),
        _ => Err(TextError::load(source, "the decoder is neither byte-level nor SentencePiece's")),
    }
}
