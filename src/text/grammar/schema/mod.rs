//! JSON schemas, reduced to what the grammar engine enforces for certain.
//!
//! # Layout
//! - `reduce`: walks a schema of any draft and writes an equal one in a small dialect; what it
//!   can't write is refused by name and place, so nothing is dropped that a validator would check
//! - `keywords`: the keywords that need more than copying; `refs`: `$ref`
//! - `one_of`: which alternatives exclude each other; `finite`: which schemas have a finite value
//! - `pattern`: regular expressions; `formats`: what `format` means

mod finite;
mod formats;
mod keywords;
mod one_of;
mod pattern;
mod reduce;
mod refs;

use serde_json::{Map, Value, json};

use super::compiler::GrammarLimits;
use super::error::GrammarError;

pub(super) use pattern::from_ecma;

/// Blanks between the parts of a value: none, a space, or a line break with an indentation. It takes
/// what `json.dumps` and pretty printers write, but no run of blank lines, in which small models lose themselves.
const WHITESPACE: &str = r" |\r?\n[ \t]{0,64}";

/// The schema for the grammar engine.
///
/// # Errors
/// [`GrammarError::Keyword`] for what can't be enforced, [`GrammarError::Malformed`], [`GrammarError::Limit`],
/// [`GrammarError::Unsatisfiable`] where no value can be finite.
pub(super) fn prepare(schema: &Value, limits: &GrammarLimits) -> Result<Value, GrammarError> {
    let mut reduced = reduce::reduce(schema, limits)?;
    one_of::settle(&mut reduced)?;
    finite::check(&reduced)?;
    let options = json!({
        "whitespace_pattern": WHITESPACE,
        // Without `\u` each text has one spelling, so that a key can't be written twice.
        "json_allowed_escapes": "nrbtf\\\"",
    });
    reduced.insert("x-guidance".to_owned(), options);
    Ok(Value::Object(reduced))
}

/// What the engine says of a prepared schema, with the place where it can be told.
pub(super) fn explain(error: GrammarError) -> GrammarError {
    match &error {
        GrammarError::Compile(message) if message.contains("circular references") => {
            let place = reduce::definition_place(message).unwrap_or_default();
            let reason = "it refers to itself beside other keywords; move those into the definition";
            GrammarError::keyword("$ref", place, reason)
        }
        _ => error,
    }
}

/// A schema of the dialect: `true` is the empty object here, `false` stays.
type Reduced = Map<String, Value>;
