//! Python's keyword arguments, `city="Paris", days=2`, turned into one JSON object as they come.

use super::input::{Marks, is_space};
use super::value::{Dialect, Scan, ValueScanner};

const MAX_KEY: usize = 256;

#[derive(Debug)]
enum At {
    Key(String),
    /// Behind a key.
    Equals(String),
    Value(ValueScanner),
    /// Behind a value.
    Next,
}

#[derive(Debug)]
pub(super) struct KeywordScanner {
    at: At,
    count: usize,
}

impl KeywordScanner {
    pub(super) fn new() -> Self {
        Self { at: At::Key(String::new()), count: 0 }
    }

    /// As [`ValueScanner::scan`]; done before the closing parenthesis.
    pub(super) fn scan(&mut self, bytes: &[u8], marks: &Marks, out: &mut Vec<u8>) -> (usize, Scan) {
        let mut used = 0;
        while let Some(rest) = bytes.get(used..).filter(|rest| !rest.is_empty()) {
            if let At::Value(scanner) = &mut self.at {
                let (count, scan) = scanner.scan(rest, marks, out);
                used += count;
                match scan {
                    Scan::Done => self.at = At::Next,
                    other => return (used, other),
                }
                continue;
            }
            let Some(&byte) = rest.first() else { break };
            match self.step(byte, out) {
                Scan::More => used += 1,
                other => return (used, other),
            }
        }
        (used, Scan::More)
    }

    fn step(&mut self, byte: u8, out: &mut Vec<u8>) -> Scan {
        match &mut self.at {
            At::Key(key) if byte.is_ascii_alphanumeric() || byte == b'_' => {
                key.push(byte as char);
                if key.len() > MAX_KEY {
                    return Scan::Error;
                }
            }
            At::Key(key) if key.is_empty() && is_space(byte) => {}
            // No arguments, or a comma behind the last.
            At::Key(key) if key.is_empty() && byte == b')' => return self.end(out),
            At::Key(key) | At::Equals(key) if !key.is_empty() && byte == b'=' => {
                out.push(if self.count == 0 { b'{' } else { b',' });
                out.extend(serde_json::Value::from(key.as_str()).to_string().bytes());
                out.push(b':');
                self.count += 1;
                self.at = At::Value(ValueScanner::new(Dialect::Python, Vec::new()));
            }
            At::Key(key) | At::Equals(key) if !key.is_empty() && is_space(byte) => {
                self.at = At::Equals(std::mem::take(key));
            }
            At::Next if byte == b',' => self.at = At::Key(String::new()),
            At::Next if byte == b')' => return self.end(out),
            At::Next if is_space(byte) => {}
            _ => return Scan::Error,
        }
        Scan::More
    }

    fn end(&self, out: &mut Vec<u8>) -> Scan {
        if self.count > 0 {
            out.push(b'}');
        }
        Scan::Done
    }
}
