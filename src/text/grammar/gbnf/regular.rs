//! Which rules are regular, and parts of them as regular expressions.

use super::{Expr, Rules};

/// Longest regular expression that a part is spelled out to, in bytes.
const MAX_BYTES: usize = 64 << 10;

/// Marks the rules that lead to no cycle and to no token.
pub(super) fn mark(rules: &mut Rules) {
    // The least fixed point: a rule is regular once all that it names are known to be.
    loop {
        let known: Vec<bool> = rules.rules.iter().map(|rule| rule.is_regular).collect();
        let mut changed = false;
        for rule in &mut rules.rules {
            if !rule.is_regular && is_regular(&rule.body, &known) {
                (rule.is_regular, changed) = (true, true);
            }
        }
        if !changed {
            return;
        }
    }
}

fn is_regular(expr: &Expr, known: &[bool]) -> bool {
    match expr {
        Expr::Literal(_) | Expr::Class { .. } => true,
        Expr::Token(_) => false,
        Expr::Rule(number) => known.get(*number).copied().unwrap_or(false),
        Expr::Sequence(items) | Expr::Choice(items) => items.iter().all(|item| is_regular(item, known)),
        Expr::Repeat(item, ..) => is_regular(item, known),
    }
}

/// The regular expression of a part; `None` if it is none, or too long.
pub(super) fn regex(rules: &Rules, expr: &Expr) -> Option<String> {
    let mut out = String::new();
    write(rules, expr, &mut out).then_some(out)
}

fn write(rules: &Rules, expr: &Expr, out: &mut String) -> bool {
    if out.len() > MAX_BYTES {
        return false;
    }
    match expr {
        // Whatever is written takes room, so that its size bounds the work.
        Expr::Literal(text) if text.is_empty() => out.push_str("(?:)"),
        Expr::Sequence(items) if items.is_empty() => out.push_str("(?:)"),
        Expr::Literal(text) => text.chars().for_each(|c| push_char(c, out)),
        Expr::Class { ranges, negated } if ranges.is_empty() && *negated => out.push_str("(?s:.)"),
        Expr::Class { ranges, negated } => {
            out.push_str(if *negated { "[^" } else { "[" });
            for (from, to) in ranges {
                push_char(*from, out);
                out.push('-');
                push_char(*to, out);
            }
            out.push(']');
        }
        Expr::Token(_) => return false,
        Expr::Rule(number) => {
            return rules.rules.get(*number).is_some_and(|rule| rule.is_regular && write(rules, &rule.body, out));
        }
        Expr::Sequence(items) => {
            return items.iter().all(|item| write(rules, item, out));
        }
        Expr::Choice(items) => {
            out.push_str("(?:");
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push('|');
                }
                if !write(rules, item, out) {
                    return false;
                }
            }
            out.push(')');
        }
        Expr::Repeat(item, least, most) => {
            out.push_str("(?:");
            if !write(rules, item, out) {
                return false;
            }
            out.push_str(&format!("){}", counts(*least, *most)));
        }
    }
    true
}

/// How often, as regular expressions and Lark both write it.
pub(super) fn counts(least: u32, most: Option<u32>) -> String {
    match (least, most) {
        (0, None) => "*".to_owned(),
        (1, None) => "+".to_owned(),
        (0, Some(1)) => "?".to_owned(),
        (least, None) => format!("{{{least},}}"),
        (least, Some(most)) => format!("{{{least},{most}}}"),
    }
}

fn push_char(c: char, out: &mut String) {
    if c.is_ascii_alphanumeric() {
        out.push(c);
    } else {
        out.push_str(&format!(r"\x{{{:x}}}", c as u32));
    }
}
