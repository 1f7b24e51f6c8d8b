//! Regular expressions, choices and clients' grammars as Lark text for the engine.
//!
//! A client's own Lark passes as it is, but for what the engine would take and not keep: options
//! that set sampling, lexemes that need tokens taken back, JSON schemas with keywords that go unchecked.

use serde_json::Value;

use super::compiler::GrammarLimits;
use super::error::GrammarError;
use super::gbnf;
use super::schema::{self, from_ecma};

/// Options of a rule that this server doesn't honour.
const REFUSED_OPTIONS: [&str; 4] = ["stop", "stop_capture", "temperature", "max_tokens"];

/// A text that the regular expression matches as a whole.
pub(super) fn of_regex(regex: &str) -> Result<String, GrammarError> {
    let translated = from_ecma(regex, false).map_err(|reason| GrammarError::Syntax {
        line: None,
        message: format!("the regular expression can't be used: {reason}"),
    })?;
    // Lark has no empty regular expression.
    Ok(format!("start: /(?:{translated})/"))
}

/// One of the texts, as one lexeme: a text that begins another doesn't end it too early.
pub(super) fn of_choices(choices: &[String]) -> Result<String, GrammarError> {
    if choices.is_empty() {
        return Err(GrammarError::Syntax { line: None, message: "the list of choices is empty".to_owned() });
    }
    let quoted = choices.iter().map(|choice| Value::from(choice.as_str()).to_string().replace('\u{7f}', "\\x7f"));
    Ok(format!("start: CHOICE\nCHOICE: {}", quoted.collect::<Vec<_>>().join(" | ")))
}

/// A client's grammar, in whichever of the two languages it is.
pub(super) fn of_grammar(text: &str, limits: &GrammarLimits) -> Result<String, GrammarError> {
    let is_gbnf = text.lines().any(|line| {
        let rest = line.trim_start().trim_start_matches(|c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_');
        rest.trim_start().starts_with("::=")
    });
    match is_gbnf {
        true => gbnf::to_lark(text, limits.max_depth),
        false => Scanner { text, at: 0, depth: 0, out: String::with_capacity(text.len()) }.check(limits),
    }
}

/// Reads Lark as far as needed to tell its texts, expressions and comments from the rest.
struct Scanner<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
    out: String,
}

impl Scanner<'_> {
    fn rest(&self) -> &str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn fault(&self, message: impl std::fmt::Display) -> GrammarError {
        let before = self.text.get(..self.at).unwrap_or_default();
        GrammarError::line(1 + before.matches('\n').count(), message)
    }

    /// Copies `length` bytes.
    fn copy(&mut self, length: usize) {
        let end = self.at + length;
        self.out.push_str(self.text.get(self.at..end).unwrap_or_default());
        self.at = end;
    }

    fn check(mut self, limits: &GrammarLimits) -> Result<String, GrammarError> {
        while let Some(c) = self.rest().chars().next() {
            match c {
                '#' => self.copy(self.rest().find('\n').unwrap_or(self.rest().len())),
                '/' if self.rest().starts_with("//") => self.copy(self.rest().find('\n').unwrap_or(self.rest().len())),
                '"' | '/' => self.quoted(c)?,
                '%' if self.rest().starts_with("%json") => self.json(limits)?,
                '%' if self.rest().starts_with("%llguidance") => self.options()?,
                '[' => {
                    self.rule_options()?;
                    self.copy(1);
                }
                '(' | ')' => {
                    self.depth = if c == '(' { self.depth + 1 } else { self.depth.saturating_sub(1) };
                    if self.depth > limits.max_depth {
                        return Err(self.fault(format!("groups are nested more than {} deep", limits.max_depth)));
                    }
                    self.copy(1);
                }
                _ => self.copy(c.len_utf8()),
            }
        }
        Ok(self.out)
    }

    /// A text or a regular expression, up to its closing `quote`.
    fn quoted(&mut self, quote: char) -> Result<(), GrammarError> {
        let mut escaped = true;
        let end = self.rest().char_indices().find(|&(_, c)| {
            let ends = c == quote && !escaped;
            // The first character is the opening quote, taken as if escaped.
            escaped = c == '\\' && !escaped;
            ends
        });
        let (end, _) = end.ok_or_else(|| self.fault(format!("{quote} isn't closed")))?;
        self.copy(end + 1);
        Ok(())
    }

    /// The JSON value behind the keyword here, and the bytes up to its end.
    fn value(&self, keyword: &str) -> Result<(Value, usize), GrammarError> {
        let text = self.rest().get(keyword.len()..).unwrap_or_default();
        let mut values = serde_json::Deserializer::from_str(text).into_iter::<Value>();
        match values.next() {
            Some(Ok(value)) => Ok((value, keyword.len() + values.byte_offset())),
            _ => Err(self.fault(format!("a JSON value stands behind {keyword}"))),
        }
    }

    fn json(&mut self, limits: &GrammarLimits) -> Result<(), GrammarError> {
        let (value, length) = self.value("%json")?;
        let prepared = schema::prepare(&value, limits)?;
        self.out.push_str(&format!("%json {prepared}"));
        self.at += length;
        Ok(())
    }

    fn options(&mut self) -> Result<(), GrammarError> {
        let (value, length) = self.value("%llguidance")?;
        if value.get("allow_invalid_utf8").is_some_and(|on| on != &Value::Bool(false)) {
            return Err(self.fault("allow_invalid_utf8 isn't supported: answers are text"));
        }
        self.copy(length);
        Ok(())
    }

    /// `[...]` behind a rule's name holds its options.
    fn rule_options(&self) -> Result<(), GrammarError> {
        let inside = self.rest().find(']').and_then(|end| self.rest().get(1..end)).unwrap_or_default();
        for option in inside.split(',') {
            let (name, _) = option.split_once('=').unwrap_or((option, ""));
            if REFUSED_OPTIONS.contains(&name.trim()) && option.contains('=') {
                return Err(self.fault(format!("the option {} of a rule isn't supported", name.trim())));
            }
        }
        Ok(())
    }
}
