//! What a client may ask the output to be.

use serde_json::Value;
use sha2::{Digest, Sha256};

/// A constraint on the text of an answer, as the client wrote it.
#[derive(Clone, Debug, PartialEq)]
pub enum GrammarSpec {
    /// Any JSON object.
    JsonObject,
    /// A JSON value that the schema accepts.
    JsonSchema(Value),
    /// A text that the regular expression matches as a whole (ECMA-262 syntax, as in JSON schemas).
    Regex(String),
    /// One of these texts.
    Choice(Vec<String>),
    /// A context-free grammar: Lark as `llguidance` takes it, or the GBNF of llama.cpp, which xgrammar calls EBNF.
    Grammar(String),
}

/// Names a specification in the cache.
pub(super) type SpecKey = [u8; 32];

impl GrammarSpec {
    /// What the specification's text hashes to, and its length in bytes. The order of a schema's
    /// properties counts: the output follows it.
    pub(super) fn key(&self) -> (SpecKey, usize) {
        let (tag, texts): (u8, Vec<String>) = match self {
            Self::JsonObject => (0, Vec::new()),
            Self::JsonSchema(schema) => (1, vec![schema.to_string()]),
            Self::Regex(regex) => (2, vec![regex.clone()]),
            Self::Choice(choices) => (3, choices.clone()),
            Self::Grammar(grammar) => (4, vec![grammar.clone()]),
        };
        let mut hash = Sha256::new_with_prefix([tag]);
        for text in &texts {
            hash.update((text.len() as u64).to_le_bytes());
            hash.update(text);
        }
        (hash.finalize().into(), texts.iter().map(String::len).sum())
    }
}
