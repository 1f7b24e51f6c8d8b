//! Text in, text out: tokenizer, incremental detokeniser, stop strings, chat templates.
//!
//! # Layout
//! - `tokenizer`: the facade; `tokenizer_json` and `gguf_vocab` read the two sources, `bpe`
//!   (with `pretokenizer`) and `spm` encode, `table` holds the bytes of every token
//! - `decode`: token ids to text, one at a time; `stop`: stop strings over that text
//! - `message` and `template`: conversations to text
//! - `answer`: from a model's tokens to thoughts, text and tool calls
//! - `grammar`: structured output: which tokens may come next
//! - `model`: all of it, loaded from a checkpoint, with `generation`'s end tokens and defaults

pub mod answer;
mod bpe;
mod decode;
mod error;
mod generation;
mod gguf_vocab;
mod grammar;
mod message;
mod model;
mod pretokenizer;
mod spm;
mod stop;
mod table;
mod template;
mod tokenizer;
mod tokenizer_json;

pub use decode::IncrementalDecoder;
pub use error::TextError;
pub use generation::SamplingDefaults;
pub use gguf_vocab::GgufVocab;
pub use grammar::{CompiledGrammar, GrammarCompiler, GrammarError, GrammarLimits, GrammarSpec, Matcher};
pub use message::{ChatMessage, MessageContent};
pub use model::{TextModel, TextOptions};
pub use stop::{StopMatcher, StopOutcome};
pub use template::{ChatTemplate, RenderOptions};
pub use tokenizer::Tokenizer;

#[cfg(test)]
mod tests;
