//! One tokenizer for all models: text to ids and back.
//!
//! Behind it stands the `tokenizers` crate for BPE (from `tokenizer.json` or GGUF metadata) or our
//! SentencePiece for GGUF files that hold scores. Detokenising is the same for all: a table of
//! bytes. Cheap to clone, usable from any thread.

use std::borrow::Cow;
use std::sync::Arc;

use aho_corasick::{AhoCorasick, AhoCorasickKind, MatchKind};

use super::decode::IncrementalDecoder;
use super::error::TextError;
use super::gguf_vocab::{GgufVocab, TokenType};
use super::spm::SpmModel;
use super::table::{Spelling, TokenTable, parse_byte_token};
use super::{bpe, pretokenizer, tokenizer_json};

/// Text to token ids and back.
#[derive(Clone)]
pub struct Tokenizer(Arc<Inner>);

struct Inner {
    engine: Engine,
    table: TokenTable,
    bos: Option<u32>,
    eos: Option<u32>,
    /// Ids that `encode(_, true)` puts before and after.
    prefix: Vec<u32>,
    suffix: Vec<u32>,
}

/// SentencePiece's sign for a space.
const SPACE: &str = "\u{2581}";

enum Engine {
    HuggingFace(Box<tokenizers::Tokenizer>),
    SentencePiece(SentencePiece),
}

/// SentencePiece merging between tokens that are matched literally.
struct SentencePiece {
    model: SpmModel,
    literals: AhoCorasick,
    literal_ids: Vec<u32>,
    add_space_prefix: bool,
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer").field("vocab_size", &self.vocab_size()).finish_non_exhaustive()
    }
}

impl Tokenizer {
    /// From the bytes of a `tokenizer.json`; `source` names the file in errors. The texts of the
    /// tokens that begin and end a sequence stand elsewhere (`tokenizer_config.json`).
    ///
    /// # Errors
    /// [`TextError::Load`] when the file is damaged or of a kind other than BPE.
    pub fn from_json(
        bytes: &[u8],
        source: &str,
        bos_token: Option<&str>,
        eos_token: Option<&str>,
    ) -> Result<Self, TextError> {
        let (tokenizer, table) = tokenizer_json::from_json(bytes, source)?;
        let (prefix, suffix) = wrapping(&tokenizer).map_err(|e| TextError::load(source, e))?;
        let id = |token: Option<&str>| token.and_then(|t| tokenizer.token_to_id(t));
        let (bos, eos) = (id(bos_token), id(eos_token));
        let engine = Engine::HuggingFace(Box::new(tokenizer));
        Ok(Self(Arc::new(Inner { engine, table, bos, eos, prefix, suffix })))
    }

    /// Rebuilt from GGUF metadata.
    ///
    /// # Errors
    /// [`TextError::Load`] when the fields contradict each other or name an unknown kind.
    pub fn from_gguf(vocab: &GgufVocab<'_>) -> Result<Self, TextError> {
        vocab.validate()?;
        let (engine, table, default_bos) = match vocab.model {
            "gpt2" => {
                let (tokenizer, table) = bpe::from_gguf(vocab)?;
                let add_bos = pretokenizer::pre_tokenizer(vocab.pre.unwrap_or("default"))?.add_bos;
                (Engine::HuggingFace(Box::new(tokenizer)), table, add_bos)
            }
            "llama" => {
                let (sentence_piece, table) = SentencePiece::from_gguf(vocab)?;
                (Engine::SentencePiece(sentence_piece), table, true)
            }
            other => {
                return Err(TextError::unusable(
                    "tokenizer.ggml.model",
                    format!("tokenizer {other:?} is not supported"),
                    "supported: gpt2, llama",
                ));
            }
        };
        let prefix = vocab.bos.filter(|_| vocab.add_bos.unwrap_or(default_bos)).into_iter().collect();
        let suffix = vocab.eos.filter(|_| vocab.add_eos.unwrap_or(false)).into_iter().collect();
        Ok(Self(Arc::new(Inner { engine, table, bos: vocab.bos, eos: vocab.eos, prefix, suffix })))
    }

    /// The ids of `text`. Texts of special tokens in it become those tokens. `add_special` puts
    /// around it what the tokenizer puts around a sequence (BOS, say).
    ///
    /// # Errors
    /// [`TextError::Encode`] when the vocabulary has no way to write some character.
    pub fn encode(&self, text: &str, add_special: bool) -> Result<Vec<u32>, TextError> {
        let mut ids = if add_special { self.0.prefix.clone() } else { Vec::new() };
        match &self.0.engine {
            Engine::HuggingFace(tokenizer) => {
                let encoding = tokenizer.encode_fast(text, false).map_err(|e| TextError::Encode(e.to_string()))?;
                ids.extend_from_slice(encoding.get_ids());
            }
            Engine::SentencePiece(sentence_piece) => sentence_piece.encode(text, &mut ids)?,
        }
        if add_special {
            ids.extend_from_slice(&self.0.suffix);
        }
        Ok(ids)
    }

    /// As [`Tokenizer::encode`] with `add_special`, but BOS stands first exactly once: a text that
    /// already begins with it (chat templates often write it) gets no second one.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_once(&self, text: &str) -> Result<Vec<u32>, TextError> {
        let ids = self.encode(text, false)?;
        let prefix = &self.0.prefix;
        if prefix.is_empty() || ids.starts_with(prefix) {
            return Ok(ids);
        }
        Ok(prefix.iter().copied().chain(ids).collect())
    }

    /// The text of `ids`; see [`IncrementalDecoder`], with which it agrees byte for byte.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> String {
        let mut decoder = self.decoder(skip_special);
        let mut text: String = ids.iter().map(|&id| decoder.push(id)).collect();
        text.push_str(&decoder.finish());
        text
    }

    /// A decoder for one text. A space that SentencePiece puts before the first word is dropped.
    pub fn decoder(&self, skip_special: bool) -> IncrementalDecoder {
        IncrementalDecoder::new(self.clone(), skip_special, self.0.table.strips_leading_space())
    }

    /// A decoder for text that goes on from a prompt (completions): a space before the first word
    /// separates it from the prompt and stays.
    pub fn continuation_decoder(&self, skip_special: bool) -> IncrementalDecoder {
        IncrementalDecoder::new(self.clone(), skip_special, false)
    }

    /// The bytes of one token, special tokens by their name; none for an id outside the vocabulary.
    pub fn token_bytes(&self, id: u32) -> Vec<u8> {
        self.0.table.bytes(id).to_vec()
    }

    /// Bytes of the longest token: a text of `b` bytes has at least `b / longest_token_bytes` tokens,
    /// but for runs that the vocabulary can't write or that a special token swallows.
    pub fn longest_token_bytes(&self) -> usize {
        self.0.table.longest()
    }

    /// The token as text for display; bytes that are no characters become U+FFFD.
    pub fn token_string(&self, id: u32) -> String {
        String::from_utf8_lossy(self.0.table.bytes(id)).into_owned()
    }

    /// The id of a token given by its text as it stands in the vocabulary.
    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        match &self.0.engine {
            Engine::HuggingFace(tokenizer) => tokenizer.token_to_id(token),
            Engine::SentencePiece(sentence_piece) => sentence_piece.token_to_id(token),
        }
    }

    /// True for control tokens, which `skip_special` leaves out of text.
    pub fn is_special(&self, id: u32) -> bool {
        self.0.table.is_special(id)
    }

    /// Ids are below this. The model's output head may be wider.
    pub fn vocab_size(&self) -> usize {
        self.0.table.len()
    }

    /// The beginning-of-sequence token.
    pub fn bos(&self) -> Option<u32> {
        self.0.bos
    }

    /// The end-of-sequence token.
    pub fn eos(&self) -> Option<u32> {
        self.0.eos
    }

    pub(crate) fn table(&self) -> &TokenTable {
        &self.0.table
    }
}

/// What the tokenizer's post-processor puts before and after a sequence.
fn wrapping(tokenizer: &tokenizers::Tokenizer) -> Result<(Vec<u32>, Vec<u32>), tokenizers::Error> {
    let bare = tokenizer.encode_fast("a", false)?;
    let full = tokenizer.encode_fast("a", true)?;
    let (bare, full) = (bare.get_ids(), full.get_ids());
    let at = (0..=full.len().saturating_sub(bare.len())).find(|&i| full.get(i..).is_some_and(|f| f.starts_with(bare)));
    let at = at.unwrap_or(0);
    let after = full.get(at + bare.len()..).unwrap_or_default();
    Ok((full.get(..at).unwrap_or_default().to_vec(), after.to_vec()))
}

impl SentencePiece {
    fn from_gguf(vocab: &GgufVocab<'_>) -> Result<(Self, TokenTable), TextError> {
        let count = vocab.tokens.len();
        if vocab.scores.len() != count {
            return Err(TextError::load("tokenizer.ggml.scores", "a SentencePiece vocabulary needs a score a token"));
        }
        let add_space_prefix = vocab.add_space_prefix.unwrap_or(true);
        let spelling = Spelling::Metaspace { byte_fallback: true, strip_leading_space: add_space_prefix };
        let mut table = TokenTable::new(spelling, count);
        let mut model = SpmModel::new(count, vocab.unk);
        let (mut literals, mut literal_ids) = (Vec::new(), Vec::new());
        for (id, (&token, &score)) in vocab.tokens.iter().zip(&vocab.scores).enumerate() {
            let kind = vocab.token_type(id);
            let id = id as u32;
            table.push(token, matches!(kind, TokenType::Control | TokenType::Unknown))?;
            match kind {
                _ if token.is_empty() => {}
                // Runs of spaces come first of all merges, in their own order, as in the original
                // tokenizers of Gemma; matching them literally would cut runs elsewhere.
                TokenType::UserDefined if token.bytes().all(|b| b == b' ') => {
                    model.add_piece(&token.replace(' ', SPACE), id, 1e6 - id as f32);
                }
                TokenType::UserDefined | TokenType::Control | TokenType::Unknown => {
                    literals.push(token);
                    literal_ids.push(id);
                }
                TokenType::Byte => {
                    let byte = parse_byte_token(token).ok_or_else(|| {
                        TextError::load("tokenizer.ggml.tokens", format!("byte token {id} is spelled {token:?}"))
                    })?;
                    model.add_byte(byte, id);
                }
                TokenType::Normal => {
                    model.add_piece(token, id, if score.is_nan() { f32::MIN } else { score });
                }
            }
        }
        let literals = AhoCorasick::builder()
            .kind(Some(AhoCorasickKind::ContiguousNFA))
            .match_kind(MatchKind::LeftmostLongest)
            .build(literals)
            .map_err(|e| TextError::load("tokenizer.ggml.tokens", e))?;
        Ok((Self { model, literals, literal_ids, add_space_prefix }, table))
    }

    fn encode(&self, text: &str, ids: &mut Vec<u32>) -> Result<(), TextError> {
        let mut end = 0;
        for found in self.literals.find_iter(text) {
            self.encode_fragment(&text[end..found.start()], ids)?;
            ids.extend(self.literal_ids.get(found.pattern().as_usize()));
            end = found.end();
        }
        self.encode_fragment(&text[end..], ids)
    }

    /// Encodes text between literal tokens.
    fn encode_fragment(&self, fragment: &str, ids: &mut Vec<u32>) -> Result<(), TextError> {
        if fragment.is_empty() {
            return Ok(());
        }
        let mut escaped = Cow::Borrowed(fragment);
        if fragment.contains(' ') {
            escaped = Cow::Owned(fragment.replace(' ', SPACE));
        }
        if self.add_space_prefix {
            escaped.to_mut().insert_str(0, SPACE);
        }
        self.model.encode(&escaped, ids)
    }

    fn token_to_id(&self, token: &str) -> Option<u32> {
        let mut whole = self.literals.find_iter(token).filter(|m| m.range() == (0..token.len()));
        let literal = whole.next().and_then(|m| self.literal_ids.get(m.pattern().as_usize()).copied());
        literal.or_else(|| self.model.piece(token))
    }
}
