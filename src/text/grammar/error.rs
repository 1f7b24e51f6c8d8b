//! Why a grammar can't be compiled or followed, one line a message.
//!
//! Messages name the keyword, where it stands, the limit and what helps; they don't name a field of
//! the API, since several fields lead here.

const MAX_MESSAGE_CHARS: usize = 400;

/// Why a specification is no grammar that can be enforced, or why a step under one failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GrammarError {
    /// A keyword of a JSON schema that means something here, but can't be enforced.
    #[error("the keyword {keyword:?} at {pointer} can't be enforced: {reason}")]
    Keyword {
        /// The keyword as it stands in the schema.
        keyword: String,
        /// JSON pointer of the schema object that holds it, as a URI fragment (`#/properties/a`).
        pointer: String,
        /// What about it can't be, and what can.
        reason: String,
    },
    /// Something in a JSON schema that no draft allows.
    #[error("not a valid JSON schema at {pointer}: {message}")]
    Malformed {
        /// JSON pointer of the fault, as a URI fragment.
        pointer: String,
        /// What is wrong.
        message: String,
    },
    /// A regular expression, a choice or a grammar that can't be read.
    #[error("{message}")]
    Syntax {
        /// Line of the grammar, from 1, where one is known.
        line: Option<usize>,
        /// What is wrong; names the line.
        message: String,
    },
    /// A specification beyond a limit.
    #[error("{what} is over the limit of {limit}: {remedy}")]
    Limit {
        /// What was counted.
        what: &'static str,
        /// The most that is taken.
        limit: u64,
        /// What would help.
        remedy: &'static str,
    },
    /// A specification that no text fulfils.
    #[error("no output can fulfil it: {0}")]
    Unsatisfiable(String),
    /// Anything else that keeps the grammar from being compiled.
    #[error("the grammar can't be compiled: {0}")]
    Compile(String),
    /// The model's vocabulary can't be used with grammars.
    #[error("this model's vocabulary can't be used for structured output: {0}")]
    Vocabulary(String),
    /// One step under the grammar cost more than a step may: this request fails, others go on.
    #[error("the grammar is too ambiguous: one step went over the limit of work; simplify it")]
    StepTooCostly,
    /// A token that the grammar doesn't allow here; the matcher is as it was.
    #[error("token {0} isn't allowed here by the grammar")]
    NotAllowed(u32),
    /// The matcher failed; this request can't go on.
    #[error("following the grammar failed: {0}")]
    Failed(String),
}

impl GrammarError {
    pub(super) fn keyword(keyword: &str, pointer: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Keyword { keyword: keyword.to_owned(), pointer: pointer.into(), reason: reason.into() }
    }

    pub(super) fn malformed(pointer: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Malformed { pointer: pointer.into(), message: message.into() }
    }

    /// A fault in a grammar's text.
    pub(super) fn line(line: usize, message: impl std::fmt::Display) -> Self {
        Self::Syntax { line: Some(line), message: format!("line {line} of the grammar: {message}") }
    }

    /// What the library said of a specification: its kind is in its words only.
    pub(super) fn from_compile(error: &impl std::fmt::Display) -> Self {
        let message = brief(&format!("{error:#}"));
        if message.contains("fuel") || message.contains("too big") || message.contains("too large") {
            return Self::Limit {
                what: "the work of compiling this grammar",
                limit: super::compiler::COMPILE_FUEL,
                remedy: "simplify its regular expressions, bounds and alternatives",
            };
        }
        if message.contains("Unsatisfiable") || message.contains("unsatisfiable") || message.contains("no match") {
            return Self::Unsatisfiable(message);
        }
        Self::Compile(message)
    }

    /// What the library said of a step.
    pub(super) fn from_step(error: &impl std::fmt::Display) -> Self {
        let message = brief(&error.to_string());
        let costly = ["fuel", "too complex", "TooComplex", "too many", "Too many"];
        if costly.iter().any(|words| message.contains(words)) {
            return Self::StepTooCostly;
        }
        Self::Failed(message)
    }
}

/// The first line of a library's message: what follows is state and backtraces.
fn brief(message: &str) -> String {
    let message = message.split("<backtrace>").next().unwrap_or_default();
    let message = message.split("<state>").next().unwrap_or_default();
    let message = message.split("<non-verbose/>").next().unwrap_or_default();
    message.trim().replace('\n', " ").chars().take(MAX_MESSAGE_CHARS).collect()
}
