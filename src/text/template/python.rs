//! Values written as Python writes them: `True`, `None`, `repr` of containers, `json.dumps`.

use std::fmt::Write;

use minijinja::value::ValueKind;
use minijinja::{Error, ErrorKind, Output, State, Value};
use serde_json::Value as Json;

/// Containers nest at most this deep.
const MAX_DEPTH: usize = 100;

/// Prints a value in `{{ }}`.
pub(super) fn format_value(out: &mut Output, _state: &mut State, value: &Value) -> Result<(), Error> {
    match value.as_str() {
        Some(text) => out.write_str(text),
        None => out.write_str(&to_text(value)),
    }
    .map_err(Error::from)
}

/// Python's `str(value)`.
pub(super) fn to_text(value: &Value) -> String {
    if let Some(text) = value.as_str() {
        return text.to_owned();
    }
    let mut out = String::new();
    write_repr(&mut out, value, 0);
    out
}

fn write_repr(out: &mut String, value: &Value, depth: usize) {
    if depth > MAX_DEPTH {
        out.push_str("...");
        return;
    }
    match value.kind() {
        ValueKind::Undefined => {}
        ValueKind::None => out.push_str("None"),
        ValueKind::Bool => out.push_str(if value.is_true() { "True" } else { "False" }),
        ValueKind::String => write_quoted(out, value.as_str().unwrap_or_default()),
        ValueKind::Seq => {
            out.push('[');
            for (i, item) in value.try_iter().into_iter().flatten().enumerate() {
                out.push_str(if i > 0 { ", " } else { "" });
                write_repr(out, &item, depth + 1);
            }
            out.push(']');
        }
        ValueKind::Map => {
            out.push('{');
            for (i, key) in value.try_iter().into_iter().flatten().enumerate() {
                out.push_str(if i > 0 { ", " } else { "" });
                write_repr(out, &key, depth + 1);
                out.push_str(": ");
                write_repr(out, &value.get_item(&key).unwrap_or_default(), depth + 1);
            }
            out.push('}');
        }
        _ => {
            let _ = write!(out, "{value}");
        }
    }
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

/// `json.dumps(value)`.
///
/// # Errors
/// A value that JSON can't hold, or one nested too deep.
pub(super) fn to_json(value: &Value, style: &JsonStyle) -> Result<String, Error> {
    let mut out = String::new();
    write_json(&mut out, value, style, 0)?;
    Ok(out)
}

fn write_json(out: &mut String, value: &Value, style: &JsonStyle, depth: usize) -> Result<(), Error> {
    if depth > MAX_DEPTH {
        return Err(Error::new(ErrorKind::InvalidOperation, "tojson: the value is nested too deep"));
    }
    match value.kind() {
        ValueKind::None => out.push_str("null"),
        ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
        ValueKind::String => write_json_string(out, value.as_str().unwrap_or_default(), style.ensure_ascii),
        ValueKind::Number => {
            let _ = write!(out, "{value}");
        }
        ValueKind::Seq | ValueKind::Iterable => {
            let mut empty = true;
            out.push('[');
            for item in value.try_iter()? {
                separate(out, !empty, style, depth + 1);
                write_json(out, &item, style, depth + 1)?;
                empty = false;
            }
            close(out, empty, style, depth);
            out.push(']');
        }
        ValueKind::Map => write_json_map(out, value, style, depth)?,
        kind => {
            let message = format!("tojson: a value of type {kind} can't be written as JSON");
            return Err(Error::new(ErrorKind::InvalidOperation, message));
        }
    }
    Ok(())
}

fn write_json_map(out: &mut String, map: &Value, style: &JsonStyle, depth: usize) -> Result<(), Error> {
    let mut keys: Vec<Value> = map.try_iter()?.collect();
    if style.sort_keys {
        keys.sort();
    }
    out.push('{');
    for (i, key) in keys.iter().enumerate() {
        separate(out, i > 0, style, depth + 1);
        write_json_string(out, &to_text(key), style.ensure_ascii);
        out.push_str(&style.key);
        write_json(out, &map.get_item(key)?, style, depth + 1)?;
    }
    close(out, keys.is_empty(), style, depth);
    out.push('}');
    Ok(())
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
