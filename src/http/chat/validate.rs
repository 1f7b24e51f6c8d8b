//! A screened chat request in, a checked one out. Errors name the path of the field.

use serde_json::{Map, Value};

use super::tools::{Tools, read_tools};
use crate::http::error::ApiError;
use crate::http::json::{shown, type_name};
use crate::http::sampling::{Common, Fields, Limits, read};
use crate::text::answer::AnswerStyle;
use crate::text::{ChatMessage, MessageContent, RenderOptions};

const ROLES: &[&str] = &["system", "developer", "user", "assistant", "tool", "function"];
/// Most messages, content parts and tool calls of a request together (OpenAI itself takes 2,048 messages). What a
/// template does with them may cost the square of their number: joining lists isn't paid for in fuel. And it
/// bounds that fuel: the worst template spends a second on so many.
const MAX_ITEMS: usize = 8_192;
/// Template variables that clients may set; a template is free to ignore them.
const TEMPLATE_VARIABLES: &[&str] = &["enable_thinking", "thinking", "reasoning_effort"];

pub(in crate::http) struct ChatRequest {
    pub(super) common: Common,
    pub(super) messages: Vec<ChatMessage>,
    pub(super) options: RenderOptions,
    pub(super) tools: Tools,
    /// How many alternatives to report with each token.
    pub(super) logprobs: Option<u32>,
}

impl ChatRequest {
    /// Whether thoughts and tool calls are looked for in the answers of a model that writes in this style. What goes on
    /// from a given text, or must have a form of its own, is content.
    pub(super) fn reads(&self, style: &AnswerStyle) -> bool {
        let known = !self.tools.known.is_empty() || style.reasoning_parser().is_some();
        known && !self.options.continue_final_message && self.common.wanted.is_none()
    }
}

pub(super) fn validate(map: &Map<String, Value>, limits: &Limits) -> Result<ChatRequest, ApiError> {
    let (messages, options) = read_messages(map)?;
    let common = read(map, limits)?;
    if common.max_tokens == Some(0) {
        let name = if map.contains_key("max_completion_tokens") { "max_completion_tokens" } else { "max_tokens" };
        return Err(ApiError::value(name, format!("Invalid '{name}': it must be at least 1.")));
    }
    let tools = read_tools(map)?;
    let options = RenderOptions { tools: (!tools.shown.is_empty()).then(|| tools.shown.clone()), ..options };
    Ok(ChatRequest { logprobs: read_logprobs(map)?, messages, options, tools, common })
}

fn read_logprobs(map: &Map<String, Value>) -> Result<Option<u32>, ApiError> {
    let fields = Fields(map);
    let wanted = fields.flag("logprobs").unwrap_or(false);
    match fields.count("top_logprobs") {
        Some(top) if !wanted && top > 0 => {
            let message = "Invalid 'top_logprobs': only allowed when 'logprobs' is true.";
            Err(ApiError::value("top_logprobs", message))
        }
        top => Ok(wanted.then(|| top.unwrap_or(0))),
    }
}

/// The conversation and how to render it.
pub(in crate::http) fn read_messages(map: &Map<String, Value>) -> Result<(Vec<ChatMessage>, RenderOptions), ApiError> {
    let messages = match map.get("messages") {
        None => return Err(ApiError::missing("messages")),
        Some(Value::Array(messages)) if messages.is_empty() => {
            return Err(ApiError::value("messages", "Invalid 'messages': at least one message is needed."));
        }
        Some(Value::Array(messages)) => messages,
        Some(other) => return Err(ApiError::wrong_type("messages", "an array", type_name(other))),
    };
    check_count(messages)?;
    let messages = messages.iter().enumerate().map(|(i, m)| message(m, &format!("messages[{i}]")));
    let messages = messages.collect::<Result<Vec<_>, _>>()?;
    let fields = Fields(map);
    let continue_final_message = fields.flag("continue_final_message").unwrap_or(false);
    let asked = fields.flag("add_generation_prompt");
    if continue_final_message && asked == Some(true) {
        let message = "Invalid 'continue_final_message': it excludes 'add_generation_prompt'.";
        return Err(ApiError::value("continue_final_message", message));
    }
    let options = RenderOptions {
        add_generation_prompt: asked.unwrap_or(!continue_final_message),
        continue_final_message,
        kwargs: template_variables(map)?,
        ..RenderOptions::default()
    };
    Ok((messages, options))
}

/// Refuses a conversation of too many items before anything is made of them.
fn check_count(messages: &[Value]) -> Result<(), ApiError> {
    let within = |m: &Value, name| m.get(name).and_then(Value::as_array).map_or(0, Vec::len);
    let items = |m: &Value| 1 + within(m, "content") + within(m, "tool_calls");
    let count: usize = messages.iter().map(items).sum();
    if count <= MAX_ITEMS {
        return Ok(());
    }
    let message = format!(
        "Invalid 'messages': {count} messages, content parts and tool calls together; the limit is {MAX_ITEMS}.",
    );
    Err(ApiError::value("messages", message))
}

fn template_variables(map: &Map<String, Value>) -> Result<Map<String, Value>, ApiError> {
    let mut variables = Map::new();
    if let Some(effort) = map.get("reasoning_effort") {
        variables.insert("reasoning_effort".to_owned(), effort.clone());
    }
    for (name, value) in map.get("chat_template_kwargs").and_then(Value::as_object).into_iter().flatten() {
        let path = format!("chat_template_kwargs.{}", shown(name));
        if !TEMPLATE_VARIABLES.contains(&name.as_str()) {
            return Err(ApiError::unsupported(&path, &format!("; allowed are {}", TEMPLATE_VARIABLES.join(", "))));
        }
        if !(value.is_boolean() || value.is_string() || value.is_number()) {
            return Err(ApiError::wrong_type(&path, "a boolean, a string or a number", type_name(value)));
        }
        variables.insert(name.clone(), value.clone());
    }
    Ok(variables)
}

fn message(value: &Value, path: &str) -> Result<ChatMessage, ApiError> {
    let Some(object) = value.as_object() else {
        return Err(ApiError::wrong_type(path, "an object", type_name(value)));
    };
    let role_path = format!("{path}.role");
    let role = optional_string(object, "role", path)?.ok_or_else(|| ApiError::missing(&role_path))?;
    if !ROLES.contains(&role.as_str()) {
        let message = format!("Invalid '{role_path}': supported roles are {}.", ROLES.join(", "));
        return Err(ApiError::value(&role_path, message));
    }
    let mut content = content(object.get("content"), &format!("{path}.content"))?;
    if content.is_none() && role == "assistant" {
        content = optional_string(object, "refusal", path)?.map(MessageContent::Text);
    }
    let tool_calls = tool_calls(object, path, &role)?;
    for name in ["function_call", "audio"] {
        if object.get(name).is_some_and(|v| !v.is_null()) {
            return Err(ApiError::unsupported(&format!("{path}.{name}"), ""));
        }
    }
    // An assistant may only have called tools; a function may have returned nothing.
    if content.is_none() && tool_calls.is_none() && role != "function" {
        return Err(ApiError::missing(&format!("{path}.content")));
    }
    let tool_call_id = optional_string(object, "tool_call_id", path)?;
    if role == "tool" && tool_call_id.is_none() {
        return Err(ApiError::missing(&format!("{path}.tool_call_id")));
    }
    let name = optional_string(object, "name", path)?;
    if role == "function" && name.is_none() {
        return Err(ApiError::missing(&format!("{path}.name")));
    }
    let reasoning_content = match optional_string(object, "reasoning_content", path)? {
        Some(text) => Some(text),
        None => optional_string(object, "reasoning", path)?,
    };
    Ok(ChatMessage { role, content, name, tool_calls, tool_call_id, reasoning_content })
}

fn optional_string(object: &Map<String, Value>, name: &str, path: &str) -> Result<Option<String>, ApiError> {
    match object.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(s)) => Ok(Some(s.clone())),
        Some(other) => Err(ApiError::wrong_type(&format!("{path}.{name}"), "a string", type_name(other))),
    }
}

fn content(value: Option<&Value>, path: &str) -> Result<Option<MessageContent>, ApiError> {
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(MessageContent::Text(text.clone()))),
        Some(Value::Array(parts)) => {
            let parts = parts.iter().enumerate().map(|(i, p)| part(p, &format!("{path}[{i}]")));
            Ok(Some(MessageContent::Parts(parts.collect::<Result<_, _>>()?)))
        }
        Some(other) => Err(ApiError::wrong_type(path, "a string or an array of content parts", type_name(other))),
    }
}

fn part(value: &Value, path: &str) -> Result<String, ApiError> {
    let Some(object) = value.as_object() else {
        return Err(ApiError::wrong_type(path, "an object", type_name(value)));
    };
    let kind = optional_string(object, "type", path)?.ok_or_else(|| ApiError::missing(&format!("{path}.type")))?;
    let key = match kind.as_str() {
        "text" | "input_text" | "output_text" => "text",
        "refusal" => "refusal",
        _ => {
            let hint = format!(" of type '{}': this model takes text only", shown(&kind));
            return Err(ApiError::unsupported(path, &hint));
        }
    };
    optional_string(object, key, path)?.ok_or_else(|| ApiError::missing(&format!("{path}.{key}")))
}

/// Calls of an earlier turn. Their arguments pass as they are: a model's own broken JSON in the
/// history must not make the conversation unusable.
fn tool_calls(object: &Map<String, Value>, path: &str, role: &str) -> Result<Option<Vec<Value>>, ApiError> {
    let path = format!("{path}.tool_calls");
    let calls = match object.get("tool_calls") {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::Array(calls)) => calls,
        Some(other) => return Err(ApiError::wrong_type(&path, "an array", type_name(other))),
    };
    if calls.is_empty() {
        return Ok(None);
    }
    if role != "assistant" {
        return Err(ApiError::value(&path, format!("Invalid '{path}': only assistant messages call tools.")));
    }
    for (i, call) in calls.iter().enumerate() {
        let at = format!("{path}[{i}]");
        let Some(call) = call.as_object() else {
            return Err(ApiError::wrong_type(&at, "an object", type_name(call)));
        };
        let at = format!("{at}.function");
        let Some(function) = call.get("function") else { return Err(ApiError::missing(&at)) };
        let Some(function) = function.as_object() else {
            return Err(ApiError::wrong_type(&at, "an object", type_name(function)));
        };
        optional_string(function, "name", &at)?.ok_or_else(|| ApiError::missing(&format!("{at}.name")))?;
        if !function.get("arguments").is_none_or(|a| a.is_string() || a.is_object() || a.is_null()) {
            return Err(ApiError::value(&format!("{at}.arguments"), "Tool call arguments must be a string."));
        }
    }
    Ok(Some(calls.clone()))
}
