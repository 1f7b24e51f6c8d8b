//! Values written as Python writes them: `True`, `None`, `repr` of containers, `json.dumps`.

use std::fmt::Write;

use minijinja::value::ValueKind;
use minijinja::{Error, ErrorKind, Output, State, Value};
use serde_json::Value as Json;

/// Containers nest at most this deep.
const MAX_DEPTH: usize = 100;

/// Prints a value in `{{ }}`.
pub(super) fn format_value(out: &mut Output, state: &mut State, value: &Value) -> Result<(), Error> {
    match value.as_str() {
        Some(text) => out.write_str(text),
        None => out.write_str(&to_text(value, state)?),
    }
    .map_err(Error::from)
}

/// Python's `str(value)`.
///
/// # Errors
/// Out of fuel: a value may be a lazy sequence far longer than any memory.
pub(super) fn to_text(value: &Value, state: &State) -> Result<String, Error> {
    if let Some(text) = value.as_str() {
        return Ok(text.to_owned());
    }
    let mut out = String::new();
    write_repr(&mut out, value, state, 0)?;
    Ok(out)
}

fn write_repr(out: &mut String, value: &Value, state: &State, depth: usize) -> Result<(), Error> {
    state.consume_fuel(1)?;
    if depth > MAX_DEPTH {
        out.push_str("...");
        return Ok(());
    }
    match value.kind() {
        ValueKind::Undefined => {}
        ValueKind::None => out.push_str("None"),
        ValueKind::Bool => out.push_str(if value.is_true() { "True" } else { "False" }),
        ValueKind::String => {
            let text = value.as_str().unwrap_or_default();
            state.consume_fuel(text.len() as u64 / 64)?;
            write_quoted(out, text);
        }
        ValueKind::Seq => {
            out.push('[');
            for (i, item) in value.try_iter()?.enumerate() {
                out.push_str(if i > 0 { ", " } else { "" });
                write_repr(out, &item, state, depth + 1)?;
            }
            out.push(']');
        }
        ValueKind::Map => {
            out.push('{');
            for (i, key) in value.try_iter()?.enumerate() {
                out.push_str(if i > 0 { ", " } else { "" });
                write_repr(out, &key, state, depth + 1)?;
                out.push_str(": ");
                write_repr(out, &value.get_item(&key)?, state, depth + 1)?;
            }
            out.push('}');
        }
        _ => {
            let _ = write!(out, "{value}");
        }
    }
    Ok(())
}

/// Single quotes unless the text has some and no double ones.
fn write_quoted(out: &mut String, text: &str) {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push(quote);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == quote => out.extend(['\\', c]),
            c => out.push(c),
        }
    }
    out.push(quote);
}

/// The settings of `json.dumps`.
pub(super) struct JsonStyle {
    indent: Option<usize>,
    item: String,
    key: String,
    ensure_ascii: bool,
    sort_keys: bool,
}

impl JsonStyle {
    pub(super) fn new(
        indent: Option<usize>,
        separators: Option<Vec<String>>,
        ensure_ascii: bool,
        sort_keys: bool,
    ) -> Self {
        let mut separators = separators.unwrap_or_default().into_iter();
        let item = separators.next().unwrap_or_else(|| if indent.is_some() { "," } else { ", " }.to_owned());
        let key = separators.next().unwrap_or_else(|| ": ".to_owned());
        // A huge indent would be a cheap way to a huge output.
        Self { indent: indent.map(|n| n.min(16)), item, key, ensure_ascii, sort_keys }
    }
}

/// Writes one value as `json.dumps` does, paying fuel for every item.
pub(super) struct JsonWriter<'a, 'env, 'source> {
    pub(super) style: JsonStyle,
    pub(super) state: &'a State<'env, 'source>,
    pub(super) out: String,
}

impl JsonWriter<'_, '_, '_> {
    /// Appends a value that stands `depth` containers deep.
    ///
    /// # Errors
    /// A value that JSON can't hold, one nested too deep, or out of fuel.
    pub(super) fn write(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        self.state.consume_fuel(1)?;
        if depth > MAX_DEPTH {
            return Err(Error::new(ErrorKind::InvalidOperation, "tojson: the value is nested too deep"));
        }
        match value.kind() {
            ValueKind::None => self.out.push_str("null"),
            ValueKind::Bool => self.out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::String => self.write_string(value.as_str().unwrap_or_default())?,
            ValueKind::Number => {
                let _ = write!(self.out, "{value}");
            }
            ValueKind::Seq | ValueKind::Iterable => {
                let mut empty = true;
                self.out.push('[');
                for item in value.try_iter()? {
                    separate(&mut self.out, !empty, &self.style, depth + 1);
                    self.write(&item, depth + 1)?;
                    empty = false;
                }
                close(&mut self.out, empty, &self.style, depth);
                self.out.push(']');
            }
            ValueKind::Map => self.write_map(value, depth)?,
            kind => {
                let message = format!("tojson: a value of type {kind} can't be written as JSON");
                return Err(Error::new(ErrorKind::InvalidOperation, message));
            }
        }
        Ok(())
    }

    fn write_map(&mut self, map: &Value, depth: usize) -> Result<(), Error> {
        let mut keys: Vec<Value> = map.try_iter()?.collect();
        if self.style.sort_keys {
            keys.sort();
        }
        self.out.push('{');
        for (i, key) in keys.iter().enumerate() {
            separate(&mut self.out, i > 0, &self.style, depth + 1);
            let name = to_text(key, self.state)?;
            self.write_string(&name)?;
            self.out.push_str(&self.style.key);
            self.write(&map.get_item(key)?, depth + 1)?;
        }
        close(&mut self.out, keys.is_empty(), &self.style, depth);
        self.out.push('}');
        Ok(())
    }

    fn write_string(&mut self, text: &str) -> Result<(), Error> {
        self.state.consume_fuel(text.len() as u64 / 16)?;
        write_json_string(&mut self.out, text, self.style.ensure_ascii);
        Ok(())
    }
}

fn separate(out: &mut String, comma: bool, style: &JsonStyle, depth: usize) {
    if comma {
        out.push_str(&style.item);
    }
    close(out, false, style, depth);
}

fn close(out: &mut String, empty: bool, style: &JsonStyle, depth: usize) {
    if let Some(indent) = style.indent.filter(|_| !empty) {
        out.push('\n');
        out.extend(std::iter::repeat_n(' ', indent * depth));
    }
}

fn write_json_string(out: &mut String, text: &str, ensure_ascii: bool) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            c if (c as u32) < 0x20 || (ensure_ascii && !c.is_ascii()) => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    let _ = write!(out, "\\u{unit:04x}");
                }
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

/// Bytes of text in a value, roughly: what limits on a render grow with.
pub(super) fn size_hint(json: &Json) -> usize {
    match json {
        Json::String(text) => text.len() + 16,
        Json::Array(items) => items.iter().map(size_hint).sum::<usize>() + 16,
        Json::Object(map) => map.iter().map(|(k, v)| k.len() + size_hint(v)).sum::<usize>() + 16,
        _ => 16,
    }
}
