//! The tools of a request, as far as reading and forcing calls needs them.

use serde_json::Value;

use super::input::Marks;
use super::value::{Dialect, Scan, ValueScanner, number};

/// A function that the model may call.
#[derive(Clone, Debug, PartialEq)]
pub struct Tool {
    /// Its name.
    pub name: String,
    /// JSON schema of its arguments; null where the client gave none.
    pub parameters: Value,
    /// Calls must fulfil the schema.
    pub strict: bool,
}

/// References between schemas are followed so often.
const MAX_REFERENCES: usize = 8;

impl Tool {
    /// The JSON types that the argument `key` may have; empty where the schema doesn't say.
    fn types(&self, key: &str) -> Vec<&str> {
        let mut types = Vec::new();
        if let Some(schema) = self.parameters.get("properties").and_then(|p| p.get(key)) {
            self.collect(schema, MAX_REFERENCES, &mut types);
        }
        types
    }

    fn collect<'a>(&'a self, schema: &'a Value, depth: usize, types: &mut Vec<&'a str>) {
        let Some(depth) = depth.checked_sub(1) else { return };
        match schema.get("type") {
            Some(Value::String(name)) => types.push(name),
            Some(Value::Array(names)) => types.extend(names.iter().filter_map(Value::as_str)),
            _ => {}
        }
        let alternatives = ["anyOf", "oneOf", "allOf"].into_iter().filter_map(|k| schema.get(k)?.as_array());
        alternatives.flatten().for_each(|s| self.collect(s, depth, types));
        let literals = schema.get("enum").and_then(Value::as_array).into_iter().flatten();
        types.extend(literals.chain(schema.get("const")).map(|v| type_of(v)));
        let reference = schema.get("$ref").and_then(Value::as_str).and_then(|r| r.strip_prefix('#'));
        if let Some(target) = reference.and_then(|pointer| self.parameters.pointer(pointer)) {
            self.collect(target, depth, types);
        }
    }
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// How to read an argument that is written without quotes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reading {
    /// As it stands.
    Text,
    /// As JSON or a literal of Python's; as text if it is neither.
    Value,
    /// As [`Reading::Value`], but of these types only.
    Either(Vec<String>),
}

/// How to read the argument `key` of `tool`.
pub(super) fn reading(tool: Option<&Tool>, key: &str) -> Reading {
    let types = tool.map(|t| t.types(key)).unwrap_or_default();
    let is_text = types.contains(&"string");
    match types.iter().any(|t| *t != "string") {
        false if is_text => Reading::Text,
        true if is_text => Reading::Either(types.into_iter().filter(|t| *t != "string").map(str::to_owned).collect()),
        _ => Reading::Value,
    }
}

/// `text` as JSON.
pub(super) fn convert(text: &str, reading: &Reading) -> Vec<u8> {
    let quoted = || Value::from(text).to_string().into_bytes();
    let types = match reading {
        Reading::Text => return quoted(),
        Reading::Value => None,
        Reading::Either(types) => Some(types),
    };
    let Some(json) = literal(text.trim()) else { return quoted() };
    let fits = |types: &Vec<String>| {
        let found = json.first().copied().map_or("", type_of_json);
        types.iter().any(|t| t == found || (t == "integer" && found == "number"))
    };
    if types.is_none_or(fits) { json } else { quoted() }
}

fn type_of_json(first: u8) -> &'static str {
    match first {
        b'{' => "object",
        b'[' => "array",
        b't' | b'f' => "boolean",
        b'n' => "null",
        b'"' => "string",
        _ => "number",
    }
}

/// A JSON value or a literal of Python's that fills `text`.
fn literal(text: &str) -> Option<Vec<u8>> {
    match text {
        "true" | "True" => return Some(b"true".to_vec()),
        "false" | "False" => return Some(b"false".to_vec()),
        "null" | "None" => return Some(b"null".to_vec()),
        _ => {}
    }
    if let Some(number) = number(text, false) {
        return Some(number.into_bytes());
    }
    // A quoted string, an object or a list; Python's dialect holds JSON's.
    let is_json = serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok();
    let dialect = if is_json { Dialect::Json } else { Dialect::Python };
    let mut json = Vec::new();
    let (used, scan) = ValueScanner::new(dialect, Vec::new()).scan(text.as_bytes(), &Marks::default(), &mut json);
    (scan == Scan::Done && used == text.len()).then_some(json)
}
