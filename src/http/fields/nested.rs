//! Fields of the objects within a request: only which of them somebody knows. `validate` checks those it reads.

use serde_json::{Map, Value};

use super::unknown::Unknown;
use crate::http::error::ApiError;

const STREAM_OPTIONS: &[&str] = &["include_usage", "include_obfuscation", "continuous_usage_stats"];
/// Clients send answers back as they got them, with fields that only answers have; `cache_control` is a hint of theirs
/// to other providers.
const MESSAGE: &[&str] = &[
    "role",
    "content",
    "name",
    "refusal",
    "tool_calls",
    "tool_call_id",
    "function_call",
    "audio",
    "annotations",
    "reasoning",
    "reasoning_content",
    "cache_control",
];
const RESPONSE_FORMAT: &[&str] = &["type", "json_schema", "schema", "value"];
const JSON_SCHEMA: &[&str] = &["name", "description", "schema", "strict"];
const STRUCTURED_OUTPUTS: &[&str] = &[
    "json",
    "regex",
    "choice",
    "grammar",
    "json_object",
    "disable_fallback",
    "disable_any_whitespace",
    "disable_additional_properties",
    "whitespace_pattern",
    "structural_tag",
];
const PART: &[&str] = &["type", "text", "refusal", "annotations", "cache_control"];
const CALL: &[&str] = &["id", "type", "index", "function"];
const FUNCTION: &[&str] = &["name", "arguments"];
const TOOL: &[&str] = &["type", "function", "cache_control"];
const DEFINITION: &[&str] = &["name", "description", "parameters", "strict"];

/// Meets the unknown fields of objects that say how to answer.
///
/// # Errors
/// As [`Unknown::meet`].
pub(super) fn screen_options(map: &Map<String, Value>, unknown: &mut Unknown<'_>) -> Result<(), ApiError> {
    let known = [
        ("stream_options", STREAM_OPTIONS),
        ("response_format", RESPONSE_FORMAT),
        ("structured_outputs", STRUCTURED_OUTPUTS),
    ];
    for (name, fields) in known {
        if let Some(Value::Object(options)) = map.get(name) {
            unknown.others(options, fields, || name.to_owned())?;
        }
    }
    for (i, tool) in objects(map, "tools") {
        unknown.others(tool, TOOL, || format!("tools[{i}]"))?;
        if let Some(Value::Object(function)) = tool.get("function") {
            unknown.others(function, DEFINITION, || format!("tools[{i}].function"))?;
        }
    }
    match map.get("response_format").and_then(|format| format.get("json_schema")) {
        Some(Value::Object(named)) => unknown.others(named, JSON_SCHEMA, || "response_format.json_schema".to_owned()),
        _ => Ok(()),
    }
}

/// Meets the unknown fields of `messages`, of their parts and of their calls.
///
/// # Errors
/// As [`Unknown::meet`].
pub(in crate::http) fn screen_messages(map: &Map<String, Value>, unknown: &mut Unknown<'_>) -> Result<(), ApiError> {
    for (i, message) in objects(map, "messages") {
        let at = || format!("messages[{i}]");
        unknown.others(message, MESSAGE, at)?;
        for (j, part) in objects(message, "content") {
            unknown.others(part, PART, || format!("{}.content[{j}]", at()))?;
        }
        for (j, call) in objects(message, "tool_calls") {
            let at = || format!("{}.tool_calls[{j}]", at());
            unknown.others(call, CALL, at)?;
            if let Some(Value::Object(function)) = call.get("function") {
                unknown.others(function, FUNCTION, || format!("{}.function", at()))?;
            }
        }
    }
    Ok(())
}

/// The objects in the array `name`, with their indices. What has another type is an error for `validate` to tell.
fn objects<'a>(map: &'a Map<String, Value>, name: &str) -> impl Iterator<Item = (usize, &'a Map<String, Value>)> {
    let items = map.get(name).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    items.iter().enumerate().filter_map(|(i, item)| Some((i, item.as_object()?)))
}
