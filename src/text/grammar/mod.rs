//! Structured output: a specification compiled to masks over the model's tokens.
//!
//! # Layout
//! - `spec`: what a client may ask for; `error`: why it can't be had
//! - `schema`: JSON schemas reduced to what is enforced; `lark`: regular expressions, choices and grammars
//! - `gbnf`: grammars of llama.cpp and xgrammar as Lark
//! - `vocab`: the model's tokens as a trie; `compiler`: limits, compiling, the cache
//! - `matcher`: one output under a grammar, token by token; `constraint`: the engine's view of it
//!
//! The engine below is the crate `llguidance`: an Earley parser over a lexer of regex derivatives.

mod compiler;
mod constraint;
mod error;
mod gbnf;
mod lark;
mod matcher;
mod schema;
mod spec;
mod vocab;

pub use compiler::{CompiledGrammar, GrammarCompiler, GrammarLimits};
pub use error::GrammarError;
pub use matcher::Matcher;
pub use spec::GrammarSpec;

#[cfg(test)]
mod tests;
