//! Arguments that come one by one between tags, turned into one JSON object.
//!
//! ```text
//! <parameter=city>       <arg_key>city</arg_key>
//! Paris                  <arg_value>Paris</arg_value>
//! </parameter>
//! ```
//! Values aren't quoted: the tool's schema says what they are. Text passes as it comes, other values
//! when they are complete. A closing tag closes only if another argument or the end follows, so that
//! values may hold the tags themselves.

use super::format::TagLiterals;
use super::input::{Compared, Input, MARK, Marks, compare, count_spaces};
use super::tools::{Reading, Tool, convert, reading};
use super::value::{Scan, push_text};

const MAX_KEY: usize = 256;
/// Blanks after a closing tag.
const MAX_GAP: usize = 64;
/// Longest value that isn't text.
const MAX_VALUE: usize = 1 << 20;

#[derive(Debug)]
enum At {
    /// Before a tag.
    Between,
    Key,
    /// Between a key and its value.
    Open(String),
    /// Before the first byte of a value.
    First(Reading),
    Value(Reading),
}

#[derive(Debug)]
pub(super) struct TaggedScanner {
    tags: TagLiterals,
    at: At,
    count: usize,
    /// The value so far, if it isn't text.
    value: Vec<u8>,
}

impl TaggedScanner {
    pub(super) fn new(tags: TagLiterals) -> Self {
        Self { tags, at: At::Between, count: 0, value: Vec::new() }
    }

    /// What was read and not given away.
    pub(super) fn held(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.value)
    }

    /// Reads on; appends JSON to `out`. Done before what follows the arguments.
    pub(super) fn scan(&mut self, input: &mut Input, marks: &Marks, tool: Option<&Tool>, out: &mut Vec<u8>) -> Scan {
        loop {
            let scan = match std::mem::replace(&mut self.at, At::Between) {
                At::Between => self.between(input, out),
                At::Key => self.key(input, marks),
                At::Open(key) => self.open(input, key, tool, out),
                At::First(reading) => self.first(input, reading, out),
                At::Value(reading) => self.value(input, reading, marks, out),
            };
            match scan {
                Some(Scan::Done) => return Scan::Done,
                Some(other) => return other,
                None => {}
            }
        }
    }

    fn between(&mut self, input: &mut Input, out: &mut Vec<u8>) -> Option<Scan> {
        let spaces = count_spaces(input.pending());
        let rest = input.pending().get(spaces..).unwrap_or_default();
        match (compare(rest, &self.tags.open), compare(rest, &self.tags.after)) {
            (Compared::Equal, _) => {
                input.advance(spaces + self.tags.open.len());
                self.at = At::Key;
                None
            }
            (_, Compared::Equal) => {
                if self.count > 0 {
                    out.push(b'}');
                }
                Some(Scan::Done)
            }
            (Compared::Different, Compared::Different) => Some(Scan::Error),
            _ => Some(Scan::More),
        }
    }

    fn key(&mut self, input: &mut Input, marks: &Marks) -> Option<Scan> {
        let pending = input.pending();
        for at in 0..pending.len() {
            let rest = pending.get(at..).unwrap_or_default();
            match compare(rest, &self.tags.key_end) {
                Compared::Equal => {
                    let key = marks.spell(pending.get(..at).unwrap_or_default()).trim().to_owned();
                    input.advance(at + self.tags.key_end.len());
                    self.at = At::Open(key);
                    return None;
                }
                Compared::Undecided => break,
                Compared::Different if at > MAX_KEY || rest.first() == Some(&MARK) => return Some(Scan::Error),
                Compared::Different => {}
            }
        }
        self.at = At::Key;
        Some(Scan::More)
    }

    fn open(&mut self, input: &mut Input, key: String, tool: Option<&Tool>, out: &mut Vec<u8>) -> Option<Scan> {
        if !self.tags.value_open.is_empty() {
            let spaces = count_spaces(input.pending());
            match compare(input.pending().get(spaces..).unwrap_or_default(), &self.tags.value_open) {
                Compared::Equal => input.advance(spaces + self.tags.value_open.len()),
                Compared::Different => return Some(Scan::Error),
                Compared::Undecided => {
                    self.at = At::Open(key);
                    return Some(Scan::More);
                }
            }
        }
        let reading = reading(tool, &key);
        out.push(if self.count == 0 { b'{' } else { b',' });
        out.push(b'"');
        push_text(&key, out);
        out.extend(b"\":");
        if reading == Reading::Text {
            out.push(b'"');
        }
        self.count += 1;
        self.at = At::First(reading);
        None
    }

    fn first(&mut self, input: &mut Input, reading: Reading, _out: &mut Vec<u8>) -> Option<Scan> {
        let Some(&byte) = input.pending().first() else {
            self.at = At::First(reading);
            return Some(Scan::More);
        };
        if self.tags.lines && byte == b'\n' {
            input.advance(1);
        }
        self.at = At::Value(reading);
        None
    }

    fn value(&mut self, input: &mut Input, reading: Reading, marks: &Marks, out: &mut Vec<u8>) -> Option<Scan> {
        let pending = input.pending();
        let mut closing = (Compared::Undecided, 0);
        let mut end = pending.len();
        for at in 0..pending.len() {
            closing = self.closing(pending.get(at..).unwrap_or_default());
            if closing.0 != Compared::Different {
                end = at;
                break;
            }
        }
        let text = pending.get(..end).unwrap_or_default();
        match reading {
            Reading::Text => push_text(&marks.spell(text), out),
            _ => self.value.extend_from_slice(text),
        }
        input.advance(end);
        if self.value.len() > MAX_VALUE {
            return Some(Scan::Error);
        }
        if closing.0 != Compared::Equal {
            self.at = At::Value(reading);
            return Some(Scan::More);
        }
        input.advance(closing.1);
        match reading {
            Reading::Text => out.push(b'"'),
            other => out.extend(convert(&marks.spell(&std::mem::take(&mut self.value)), &other)),
        }
        None
    }

    /// Whether a value ends here, and how long its end is.
    fn closing(&self, bytes: &[u8]) -> (Compared, usize) {
        let line = usize::from(self.tags.lines && bytes.first() == Some(&b'\n'));
        let tag = bytes.get(line..).unwrap_or_default();
        match compare(tag, &self.tags.close) {
            Compared::Equal => {}
            other => return (other, 0),
        }
        let rest = tag.get(self.tags.close.len()..).unwrap_or_default();
        let spaces = count_spaces(rest);
        let rest = rest.get(spaces..).unwrap_or_default();
        let follows = [compare(rest, &self.tags.open), compare(rest, &self.tags.after)];
        if spaces > MAX_GAP || follows == [Compared::Different; 2] {
            return (Compared::Different, 0);
        }
        let is_equal = follows.contains(&Compared::Equal);
        (if is_equal { Compared::Equal } else { Compared::Undecided }, line + self.tags.close.len())
    }
}
