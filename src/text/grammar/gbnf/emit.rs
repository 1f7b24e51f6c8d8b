//! A grammar over lexemes as the text of a Lark grammar.

use std::fmt::Write;

use super::lexemes::{Lexed, Part, choose};
use super::parse::parse;
use super::regular::{counts, mark, regex};
use crate::text::grammar::error::GrammarError;

/// The Lark text of a GBNF grammar.
///
/// # Errors
/// [`GrammarError::Syntax`] naming the line.
pub(in super::super) fn to_lark(text: &str, max_depth: usize) -> Result<String, GrammarError> {
    let mut rules = parse(text, max_depth)?;
    mark(&mut rules);
    let root = rules.rules.get(rules.root).map(|rule| &rule.body);
    if let Some(regex) = root.and_then(|body| regex(&rules, body)) {
        // No recursion: all of it is one lexeme, and that is exact.
        return Ok(format!("start: /{regex}/"));
    }
    let lexed = choose(&rules).map_err(GrammarError::Compile)?;
    let mut out = format!("start: r{}\n", rules.root);
    let mut numbers: Vec<&usize> = lexed.bodies.keys().collect();
    numbers.sort();
    for number in numbers {
        if let Some(body) = lexed.bodies.get(number) {
            let _ = write!(out, "r{number}: ");
            write_part(body, &lexed, &mut out);
            out.push('\n');
        }
    }
    for (number, lexeme) in lexed.lexemes.iter().enumerate() {
        let not_empty = if lexeme.is_nullable { " & /(?s:.+)/" } else { "" };
        let _ = writeln!(out, "T{number}: /{}/{not_empty}", lexeme.regex);
    }
    Ok(out)
}

fn write_part(part: &Part, lexed: &Lexed, out: &mut String) {
    match part {
        Part::Lexeme(number) => {
            let is_nullable = lexed.lexemes.get(*number).is_some_and(|lexeme| lexeme.is_nullable);
            let _ = write!(out, "T{number}{}", if is_nullable { "?" } else { "" });
        }
        Part::Token(text) => out.push_str(text),
        Part::Rule(number) => {
            let _ = write!(out, "r{number}");
        }
        Part::Sequence(items) if items.is_empty() => out.push_str("\"\""),
        Part::Sequence(items) => {
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push(' ');
                }
                write_part(item, lexed, out);
            }
        }
        Part::Choice(items) => {
            out.push('(');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push_str(" | ");
                }
                write_part(item, lexed, out);
            }
            out.push(')');
        }
        Part::Repeat(item, least, most) => {
            out.push('(');
            write_part(item, lexed, out);
            let _ = write!(out, "){}", counts(*least, *most));
        }
    }
}
