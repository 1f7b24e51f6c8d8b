//! A call as one JSON object that holds the tool's name and the arguments.
//!
//! ```text
//! {"name": "f", "arguments": {"a": 1}}
//! ```
//! The keys come in any order and under several names. Arguments that come before the name wait for
//! it; otherwise they pass at once. An object with other keys is no call.

use super::input::{Marks, is_space};
use super::value::{Dialect, Scan, ValueScanner};

const NAME_KEYS: &[&str] = &["name", "tool_name"];
const ARGUMENT_KEYS: &[&str] = &["arguments", "parameters"];
/// Keys that are passed over.
const OTHER_KEYS: &[&str] = &["id", "type", "tool_call_id"];
const MAX_KEY: usize = 16;

/// What came of a piece.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// The tool's name, in the piece in which it and the beginning of the arguments are known.
    pub(super) name: Option<String>,
    /// More of the arguments.
    pub(super) arguments: Vec<u8>,
}

#[derive(Debug)]
enum At {
    Start,
    /// Before a key, or before the end.
    Key,
    InKey(String),
    Colon(String),
    Name(ValueScanner, Vec<u8>),
    Arguments(ValueScanner),
    Other(ValueScanner),
    /// After a value.
    Next,
    Done,
}

#[derive(Debug)]
pub(super) struct ObjectScanner {
    at: At,
    name: Option<String>,
    /// Arguments that wait for the name.
    held: Vec<u8>,
    has_arguments: bool,
    /// The name was given away.
    told: bool,
}

impl ObjectScanner {
    pub(super) fn new() -> Self {
        Self { at: At::Start, name: None, held: Vec::new(), has_arguments: false, told: false }
    }

    /// The name, once the object is complete or before; nobody else needs it then.
    pub(super) fn take_name(&mut self) -> Option<String> {
        self.name.take()
    }

    pub(super) fn has_arguments(&self) -> bool {
        self.has_arguments
    }

    /// The call is complete, if not the object.
    pub(super) fn is_complete(&self) -> bool {
        self.told && !matches!(self.at, At::Arguments(_))
    }

    /// As [`ValueScanner::scan`].
    pub(super) fn scan(&mut self, bytes: &[u8], marks: &Marks, found: &mut Found) -> (usize, Scan) {
        let mut used = 0;
        while let Some(rest) = bytes.get(used..).filter(|rest| !rest.is_empty()) {
            let (count, is_valid) = match self.step(rest, marks, found) {
                Some(Ok(count)) => (count, true),
                Some(Err(count)) => (count, false),
                None => (0, false),
            };
            used += count;
            if !is_valid {
                return (used, Scan::Error);
            }
            if matches!(self.at, At::Done) {
                return (used, Scan::Done);
            }
            // A scanner that waits for more takes nothing and stays.
            if count == 0 && !matches!(self.at, At::Next) {
                break;
            }
        }
        (used, Scan::More)
    }

    /// How many bytes were used; an error if the next is wrong.
    fn step(&mut self, rest: &[u8], marks: &Marks, found: &mut Found) -> Option<Result<usize, usize>> {
        let byte = *rest.first()?;
        if is_space(byte) && matches!(self.at, At::Key | At::Colon(_) | At::Next) {
            return Some(Ok(1));
        }
        match &mut self.at {
            At::Start => {
                self.at = At::Key;
                return (byte == b'{').then_some(Ok(1));
            }
            At::Key => {
                self.at = match byte {
                    b'"' => At::InKey(String::new()),
                    b'}' if self.name.is_some() || self.told => At::Done,
                    _ => return None,
                }
            }
            At::InKey(key) if byte == b'"' => self.at = At::Colon(std::mem::take(key)),
            At::InKey(key) => {
                key.push(byte as char);
                let is_letter = byte.is_ascii_lowercase() || byte == b'_';
                return (is_letter && key.len() <= MAX_KEY).then_some(Ok(1));
            }
            At::Colon(key) => {
                let key = std::mem::take(key);
                self.at = self.value_of(&key)?;
                return (byte == b':').then_some(Ok(1));
            }
            At::Next => {
                self.at = match byte {
                    b',' => At::Key,
                    b'}' if self.name.is_some() || self.told => At::Done,
                    _ => return None,
                }
            }
            At::Done => return None,
            At::Name(..) | At::Arguments(_) | At::Other(_) => return self.value(rest, marks, found),
        }
        Some(Ok(1))
    }

    /// How to read the value of `key`.
    fn value_of(&self, key: &str) -> Option<At> {
        let scanner = ValueScanner::new(Dialect::Json, Vec::new());
        match key {
            key if NAME_KEYS.contains(&key) && self.name.is_none() && !self.told => Some(At::Name(scanner, Vec::new())),
            key if ARGUMENT_KEYS.contains(&key) && !self.has_arguments => Some(At::Arguments(scanner)),
            key if OTHER_KEYS.contains(&key) => Some(At::Other(scanner)),
            // The call is certain; what else the model says of it means nothing.
            _ if self.told => Some(At::Other(scanner)),
            _ => None,
        }
    }

    fn value(&mut self, rest: &[u8], marks: &Marks, found: &mut Found) -> Option<Result<usize, usize>> {
        // A space before the value is the scanner's.
        let first = *rest.first()?;
        let (used, scan) = match &mut self.at {
            At::Name(scanner, text) => {
                if text.is_empty() && first != b'"' && !is_space(first) {
                    return None;
                }
                scanner.scan(rest, marks, text)
            }
            At::Arguments(scanner) => {
                if !self.has_arguments {
                    if is_space(first) {
                        return Some(Ok(1));
                    }
                    self.has_arguments = true;
                    if first != b'{' {
                        return None;
                    }
                }
                match (&self.name, self.told) {
                    (None, false) => scanner.scan(rest, marks, &mut self.held),
                    _ => scanner.scan(rest, marks, &mut found.arguments),
                }
            }
            At::Other(scanner) => scanner.scan(rest, marks, &mut Vec::new()),
            _ => return None,
        };
        if let At::Name(_, text) = &self.at
            && scan == Scan::Done
        {
            self.name = Some(serde_json::from_slice(text).ok()?);
        }
        if self.has_arguments
            && let Some(name) = self.name.take()
        {
            self.told = true;
            found.name = Some(name);
            found.arguments.splice(0..0, std::mem::take(&mut self.held));
        }
        match scan {
            Scan::Done => self.at = At::Next,
            Scan::Error => return Some(Err(used)),
            Scan::More => {}
        }
        Some(Ok(used))
    }
}
