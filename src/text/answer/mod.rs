//! A model's answer: what it thinks, what it says, and which tools it calls.
//!
//! # Layout
//! - `style`: how a model writes all that, found from its template; `formats`: the table of formats,
//!   one file each, in the terms of `format`
//! - `machine`: the one state machine, from tokens to `parts`; `input`: the text it waits on
//! - `call`: reads calls by their format's program, with `object`, `tagged`, `keywords` and `value`
//!   for the ways in which arguments are written; `tools`: what a request's tools say of them

mod call;
mod format;
mod formats;
mod input;
mod keywords;
mod machine;
mod object;
mod parts;
mod style;
mod tagged;
mod tools;
mod value;

pub use machine::{AnswerMachine, AnswerRules, Ending};
pub use parts::Part;
pub use style::{AnswerStyle, Opening, UnknownParser};
pub use tools::Tool;

#[cfg(test)]
mod tests;
