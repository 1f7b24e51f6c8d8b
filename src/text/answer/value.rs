//! One value as a model writes it, turned into JSON byte by byte.
//!
//! Three dialects share one scanner: JSON, Python's literals, and Gemma's (bare keys, strings between
//! marker tokens). What is a slip in all models is mended: a line break within a string is escaped, a
//! backslash before a character that needs none is kept as one, a comma before a closing bracket is
//! dropped. Everything else that is no value is an error, at a place that doesn't depend on how the
//! text was cut. What isn't decided yet is not used up.

use serde_json::Value;

use super::input::{Compared, Literal, MARK, Marks, compare, count_spaces, is_space};

/// Containers nest at most this deep: `serde_json` reads 128.
const MAX_DEPTH: usize = 100;
/// Longest number or bare word.
const MAX_WORD: usize = 512;

/// How values are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    Json,
    /// `'text'`, `True`, `None`, `(1, 2)`.
    Python,
    /// `{key:<|"|>text<|"|>}`.
    Gemma,
}

/// How far a scan came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scan {
    /// More text is needed.
    More,
    /// The value is complete.
    Done,
    /// This is no value.
    Error,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expect {
    Value,
    /// The first value of a list, or its end.
    First,
    Key,
    /// The first of an object, or its end.
    FirstKey,
    Colon,
    /// A comma or the end of the container.
    Next,
}

/// Scans one value.
#[derive(Clone, Debug)]
pub(super) struct ValueScanner {
    dialect: Dialect,
    /// What begins and ends a string of Gemma's.
    delimiter: Literal,
    /// Closing brackets that are owed, as the model writes them.
    stack: Vec<u8>,
    expect: Expect,
    /// Within a string: the byte that began it.
    text: Option<u8>,
    done: bool,
}

impl ValueScanner {
    pub(super) fn new(dialect: Dialect, delimiter: Literal) -> Self {
        let stack = Vec::new();
        Self { dialect, delimiter, stack, expect: Expect::Value, text: None, done: false }
    }

    /// Scans `bytes` and appends JSON to `out`; gives how many bytes were used. With [`Scan::More`]
    /// those that weren't must come again with what follows.
    pub(super) fn scan(&mut self, bytes: &[u8], marks: &Marks, out: &mut Vec<u8>) -> (usize, Scan) {
        let mut at = 0;
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
            let step = match self.text {
                Some(end) => self.in_text(end, rest, marks, out),
                None => self.between(rest, out),
            };
            match step {
                Some(Step::Take(count)) => at += count,
                Some(Step::Wait) => return (at, Scan::More),
                None => return (at, Scan::Error),
            }
            if self.done {
                return (at, Scan::Done);
            }
        }
        (at, Scan::More)
    }

    /// Outside of strings and words.
    fn between(&mut self, rest: &[u8], out: &mut Vec<u8>) -> Option<Step> {
        let byte = *rest.first()?;
        if is_space(byte) {
            if !self.stack.is_empty() {
                out.push(byte);
            }
            return Some(Step::Take(1));
        }
        match (self.expect, byte) {
            (Expect::Colon, b':') => {
                out.push(b':');
                self.expect = Expect::Value;
            }
            (Expect::Next, b',') => return self.comma(rest, out),
            (Expect::Next | Expect::First | Expect::FirstKey, _) if self.stack.last() == Some(&byte) => {
                self.close(out)?
            }
            (Expect::Value | Expect::First, b'{' | b'[' | b'(') => self.open(byte, out)?,
            (Expect::Colon | Expect::Next, _) => return None,
            _ => return self.begin_scalar(rest, out),
        }
        Some(Step::Take(1))
    }

    /// A string, a number, a word or a bare key begins.
    fn begin_scalar(&mut self, rest: &[u8], out: &mut Vec<u8>) -> Option<Step> {
        let byte = *rest.first()?;
        let is_key = matches!(self.expect, Expect::Key | Expect::FirstKey);
        if is_key {
            self.expect = Expect::Key;
        }
        let quoted = match (self.dialect, byte) {
            (Dialect::Json, b'"') | (Dialect::Python, b'"' | b'\'') => Some(1),
            (Dialect::Gemma, _) => match compare(rest, &self.delimiter) {
                Compared::Equal => Some(self.delimiter.len()),
                Compared::Undecided => return Some(Step::Wait),
                Compared::Different if byte == MARK => return None,
                Compared::Different => None,
            },
            _ => None,
        };
        if let Some(length) = quoted {
            out.push(b'"');
            self.text = Some(byte);
            return Some(Step::Take(length));
        }
        self.word(rest, is_key, out)
    }

    fn open(&mut self, byte: u8, out: &mut Vec<u8>) -> Option<()> {
        if self.stack.len() >= MAX_DEPTH || (byte == b'(' && self.dialect != Dialect::Python) {
            return None;
        }
        let (close, written, expect) = match byte {
            b'{' => (b'}', b'{', Expect::FirstKey),
            b'[' => (b']', b'[', Expect::First),
            _ => (b')', b'[', Expect::First),
        };
        self.stack.push(close);
        out.push(written);
        self.expect = expect;
        Some(())
    }

    fn close(&mut self, out: &mut Vec<u8>) -> Option<()> {
        out.push(if self.stack.pop()? == b'}' { b'}' } else { b']' });
        self.end_value();
        Some(())
    }

    /// A comma; before a closing bracket it is none.
    fn comma(&mut self, rest: &[u8], out: &mut Vec<u8>) -> Option<Step> {
        let spaces = count_spaces(rest.get(1..)?).min(MAX_WORD);
        let Some(&next) = rest.get(1 + spaces) else { return Some(Step::Wait) };
        let close = *self.stack.last()?;
        if next == close {
            return Some(Step::Take(1 + spaces));
        }
        out.extend(rest.get(..=spaces)?);
        self.expect = if close == b'}' { Expect::Key } else { Expect::Value };
        Some(Step::Take(1 + spaces))
    }

    fn end_value(&mut self) {
        match self.stack.is_empty() {
            true => self.done = true,
            false => self.expect = Expect::Next,
        }
    }

    fn close_text(&mut self, out: &mut Vec<u8>) {
        out.push(b'"');
        self.text = None;
        match self.expect {
            Expect::Key => self.expect = Expect::Colon,
            _ => self.end_value(),
        }
    }

    fn in_text(&mut self, end: u8, rest: &[u8], marks: &Marks, out: &mut Vec<u8>) -> Option<Step> {
        let byte = *rest.first()?;
        if self.dialect == Dialect::Gemma {
            match compare(rest, &self.delimiter) {
                Compared::Undecided => return Some(Step::Wait),
                Compared::Equal => {
                    self.close_text(out);
                    return Some(Step::Take(self.delimiter.len()));
                }
                Compared::Different => {}
            }
        } else if byte == b'\\' {
            return self.escape(rest, out);
        } else if byte == end {
            match self.ends_text(rest.get(1..).unwrap_or_default()) {
                None => return Some(Step::Wait),
                Some(true) => {
                    self.close_text(out);
                    return Some(Step::Take(1));
                }
                Some(false) => {}
            }
        }
        if byte == MARK {
            // A model that writes about markers writes their tokens.
            rest.get(1).iter().for_each(|i| push_text(marks.text(**i), out));
            return Some(Step::Take(2));
        }
        match byte {
            0x80.. => out.push(byte),
            _ => push_char(byte as char, out),
        }
        Some(Step::Take(1))
    }

    /// Whether a quote before `rest` ends the string. Some models don't escape quotes in Python's
    /// strings: there one ends a string only if what follows can follow a string.
    fn ends_text(&self, rest: &[u8]) -> Option<bool> {
        if self.dialect == Dialect::Json {
            return Some(true);
        }
        let spaces = count_spaces(rest);
        match rest.get(spaces) {
            _ if spaces > MAX_WORD => Some(false),
            None => None,
            Some(byte) => Some(matches!(byte, b',' | b')' | b']' | b'}' | b':')),
        }
    }

    /// `rest` begins with a backslash.
    fn escape(&self, rest: &[u8], out: &mut Vec<u8>) -> Option<Step> {
        let python = self.dialect == Dialect::Python;
        let Some(&byte) = rest.get(1) else { return Some(Step::Wait) };
        match byte {
            b'"' | b'\\' | b'b' | b'f' | b'n' | b'r' | b't' => out.extend([b'\\', byte]),
            b'/' | b'\'' => out.push(byte),
            b'\n' if python => {}
            b'u' => return unicode_escape(rest, out),
            b'x' | b'U' if python => {
                let digits = if byte == b'x' { 2 } else { 8 };
                let Some(code) = hex(rest.get(2..)?, digits)? else { return Some(Step::Wait) };
                push_char(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER), out);
                return Some(Step::Take(2 + digits));
            }
            // A backslash that escapes nothing (`\d`): the model forgot to double it.
            _ => {
                out.extend(b"\\\\");
                return Some(Step::Take(1));
            }
        }
        Some(Step::Take(2))
    }

    /// A number, a word or a bare key, once it is complete.
    fn word(&mut self, rest: &[u8], is_key: bool, out: &mut Vec<u8>) -> Option<Step> {
        let is_part = |byte: &u8| match self.dialect {
            Dialect::Gemma => !(matches!(*byte, b',' | b'}' | b']' | MARK) || is_key && *byte == b':'),
            _ => byte.is_ascii_alphanumeric() || matches!(*byte, b'+' | b'-' | b'.' | b'_'),
        };
        let length = rest.iter().take_while(|b| is_part(b)).count();
        if length == 0 || length > MAX_WORD || (is_key && self.dialect == Dialect::Json) {
            return None;
        }
        if length == rest.len() {
            return Some(Step::Wait);
        }
        let word = std::str::from_utf8(rest.get(..length)?).ok()?.trim_end();
        let literal = match (self.dialect, word) {
            _ if is_key => Some(Value::from(word).to_string()),
            (_, "true" | "false" | "null") => Some(word.to_owned()),
            (Dialect::Python | Dialect::Gemma, "True") => Some("true".to_owned()),
            (Dialect::Python | Dialect::Gemma, "False") => Some("false".to_owned()),
            (Dialect::Python | Dialect::Gemma, "None") => Some("null".to_owned()),
            // A string that the model forgot to quote.
            (Dialect::Gemma, _) => Some(number(word, true).unwrap_or_else(|| Value::from(word).to_string())),
            (dialect, _) => number(word, dialect == Dialect::Python),
        };
        out.extend(literal?.bytes());
        match is_key {
            true => self.expect = Expect::Colon,
            false => self.end_value(),
        }
        Some(Step::Take(length))
    }
}

/// The number that `digits` hexadecimal digits at the beginning of `bytes` make; nothing while they
/// are not all there.
fn hex(bytes: &[u8], digits: usize) -> Option<Option<u32>> {
    let found = bytes.get(..digits.min(bytes.len())).unwrap_or_default();
    let mut code = 0;
    for byte in found {
        code = (code << 4) | (*byte as char).to_digit(16)?;
    }
    Some((found.len() == digits).then_some(code))
}

/// `\uXXXX`, with a second one where they are a surrogate pair; half a pair is no character.
fn unicode_escape(rest: &[u8], out: &mut Vec<u8>) -> Option<Step> {
    let Some(code) = hex(rest.get(2..)?, 4)? else { return Some(Step::Wait) };
    let mut taken = 6;
    let mut c = char::from_u32(code);
    if (0xd800..0xdc00).contains(&code) {
        let second = rest.get(6..).unwrap_or_default();
        match compare(second, b"\\u") {
            Compared::Undecided => return Some(Step::Wait),
            Compared::Different => {}
            Compared::Equal => match hex(second.get(2..)?, 4) {
                Some(None) => return Some(Step::Wait),
                Some(Some(low @ 0xdc00..0xe000)) => {
                    c = char::from_u32(0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00));
                    taken = 12;
                }
                _ => {}
            },
        }
    }
    push_char(c.unwrap_or(char::REPLACEMENT_CHARACTER), out);
    Some(Step::Take(taken))
}

/// What to do with the bytes at hand.
enum Step {
    Take(usize),
    /// It takes more of them to tell.
    Wait,
}

/// A number as JSON spells it, digit by digit where it already is one; `lenient` takes what only
/// Python takes (`1.`, `.5`, `+1`, `1_000`).
pub(super) fn number(word: &str, lenient: bool) -> Option<String> {
    if is_json_number(word) {
        return Some(word.to_owned());
    }
    let plain = word.replace('_', "");
    if !lenient
        || !plain.bytes().any(|b| b.is_ascii_digit())
        || plain.bytes().any(|b| b.is_ascii_alphabetic() && b != b'e' && b != b'E')
    {
        return None;
    }
    if is_json_number(&plain) {
        return Some(plain);
    }
    let value = plain.parse::<f64>().ok().filter(|v| v.is_finite())?;
    serde_json::Number::from_f64(value).map(|n| n.to_string())
}

fn is_json_number(word: &str) -> bool {
    let word = word.strip_prefix('-').unwrap_or(word);
    let (mantissa, exponent) = match word.find(['e', 'E']) {
        Some(at) => (word.get(..at).unwrap_or_default(), word.get(at + 1..)),
        None => (word, None),
    };
    let (whole, fraction) = match mantissa.split_once('.') {
        Some((whole, fraction)) => (whole, Some(fraction)),
        None => (mantissa, None),
    };
    let digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
    let exponent = exponent.map(|e| e.strip_prefix(['+', '-']).unwrap_or(e));
    let is_finite = || mantissa.parse::<f64>().is_ok() && word.parse::<f64>().is_ok_and(f64::is_finite);
    let is_whole = digits(whole) && (whole == "0" || !whole.starts_with('0'));
    is_whole && fraction.is_none_or(digits) && exponent.is_none_or(digits) && is_finite()
}

/// Appends one character within a JSON string.
fn push_char(c: char, out: &mut Vec<u8>) {
    match c {
        '"' => out.extend(b"\\\""),
        '\\' => out.extend(b"\\\\"),
        '\n' => out.extend(b"\\n"),
        '\r' => out.extend(b"\\r"),
        '\t' => out.extend(b"\\t"),
        c if (c as u32) < 0x20 => out.extend(format!("\\u{:04x}", c as u32).bytes()),
        c => out.extend(c.encode_utf8(&mut [0; 4]).bytes()),
    }
}

/// Appends `text` as the inside of a JSON string.
pub(super) fn push_text(text: &str, out: &mut Vec<u8>) {
    text.chars().for_each(|c| push_char(c, out));
}
