//! Text in, text out: tokenizer, incremental detokeniser, stop strings, chat templates.
//!
//! # Layout
//! - `tokenizer`: the facade; `tokenizer_json` and `gguf_vocab` read the two sources, `bpe`
//!   (with `pretokenizer`) and `spm` encode, `table` holds the bytes of every token
//! - `decode`: token ids to text, one at a time; `stop`: stop strings over that text

mod bpe;
mod decode;
mod error;
mod gguf_vocab;
mod pretokenizer;
mod spm;
mod stop;
mod table;
mod tokenizer;
mod tokenizer_json;

pub use decode::IncrementalDecoder;
pub use error::TextError;
pub use gguf_vocab::GgufVocab;
pub use stop::{StopMatcher, StopOutcome};
pub use tokenizer::Tokenizer;
