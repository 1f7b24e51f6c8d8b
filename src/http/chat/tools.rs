//! The tools of a request and how they may be called.

use serde_json::{Map, Value};

use crate::http::error::ApiError;
use crate::http::json::{shown, type_name};
use crate::http::sampling::Fields;
use crate::text::answer::Tool;

/// Most tools of a request, as OpenAI takes them.
const MAX_TOOLS: usize = 128;

/// What a request says of tools.
#[derive(Clone, Debug, Default)]
pub(super) struct Tools {
    /// As the client sent them, for the template. None when they must not be called.
    pub(super) shown: Vec<Value>,
    /// The same, for reading calls.
    pub(super) known: Vec<Tool>,
    /// More than one call at once.
    pub(super) parallel: bool,
}

/// Reads `tools`, `tool_choice` and `parallel_tool_calls`.
///
/// # Errors
/// 400 naming the field.
pub(super) fn read_tools(map: &Map<String, Value>) -> Result<Tools, ApiError> {
    let list = map.get("tools").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    if list.len() > MAX_TOOLS {
        let message = format!("Invalid 'tools': {} tools; the limit is {MAX_TOOLS}.", list.len());
        return Err(ApiError::value("tools", message));
    }
    let mut known: Vec<Tool> = Vec::with_capacity(list.len());
    for (i, value) in list.iter().enumerate() {
        let tool = tool(value, &format!("tools[{i}]"))?;
        if known.iter().any(|other| other.name == tool.name) {
            let path = format!("tools[{i}].function.name");
            let message = format!("Invalid '{path}': '{}' is the name of another tool too.", shown(&tool.name));
            return Err(ApiError::value(&path, message));
        }
        known.push(tool);
    }
    let parallel = Fields(map).flag("parallel_tool_calls").unwrap_or(true);
    match choice(map.get("tool_choice"), &known)? {
        Choice::Auto => Ok(Tools { shown: list.to_vec(), known, parallel }),
        Choice::None => Ok(Tools::default()),
    }
}

enum Choice {
    Auto,
    None,
}

fn choice(value: Option<&Value>, known: &[Tool]) -> Result<Choice, ApiError> {
    let name = match value {
        None => return Ok(Choice::Auto),
        Some(Value::String(name)) => name.as_str(),
        Some(Value::Object(_)) => "a named tool",
        Some(other) => return Err(ApiError::wrong_type("tool_choice", "a string or an object", type_name(other))),
    };
    match name {
        "none" => Ok(Choice::None),
        "auto" => Ok(Choice::Auto),
        _ if known.is_empty() => {
            Err(ApiError::value("tool_choice", "Invalid 'tool_choice': only allowed when 'tools' are given."))
        }
        "required" | "a named tool" => Err(ApiError::unsupported("tool_choice", " beyond 'none' and 'auto'")),
        other => {
            let message =
                format!("Invalid 'tool_choice': '{}' is none of none, auto, required and a tool.", shown(other));
            Err(ApiError::value("tool_choice", message))
        }
    }
}

fn tool(value: &Value, path: &str) -> Result<Tool, ApiError> {
    let object = object(Some(value), path)?;
    match object.get("type").map(|kind| kind.as_str()) {
        None => return Err(ApiError::missing(&format!("{path}.type"))),
        Some(Some("function")) => {}
        Some(other) => {
            let hint = format!(" with '{}': only functions can be called", shown(other.unwrap_or_default()));
            return Err(ApiError::unsupported(&format!("{path}.type"), &hint));
        }
    }
    let path = format!("{path}.function");
    let function = self::object(object.get("function"), &path)?;
    let at = |name: &str| format!("{path}.{name}");
    let name = match function.get("name") {
        None => return Err(ApiError::missing(&at("name"))),
        Some(Value::String(name)) => name.clone(),
        Some(other) => return Err(ApiError::wrong_type(&at("name"), "a string", type_name(other))),
    };
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-' || c == '.';
    if !(1..=64).contains(&name.len()) || !name.chars().all(fits) {
        let message = format!("Invalid '{}': it must be 1 to 64 letters, digits, '_', '-' or '.'.", at("name"));
        return Err(ApiError::value(&at("name"), message));
    }
    let parameters = match function.get("parameters") {
        None | Some(Value::Null) => Value::Null,
        Some(schema @ Value::Object(_)) => schema.clone(),
        Some(other) => return Err(ApiError::wrong_type(&at("parameters"), "a JSON schema", type_name(other))),
    };
    let strict = match function.get("strict") {
        None | Some(Value::Null | Value::Bool(false)) => false,
        Some(Value::Bool(true)) => return Err(ApiError::unsupported(&at("strict"), " beyond false")),
        Some(other) => return Err(ApiError::wrong_type(&at("strict"), "a boolean", type_name(other))),
    };
    Ok(Tool { name, parameters, strict })
}

fn object<'a>(value: Option<&'a Value>, path: &str) -> Result<&'a Map<String, Value>, ApiError> {
    match value {
        None => Err(ApiError::missing(path)),
        Some(Value::Object(object)) => Ok(object),
        Some(other) => Err(ApiError::wrong_type(path, "an object", type_name(other))),
    }
}
