//! A conversation as chat templates see it.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What a message says: one text, or several text parts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum MessageContent {
    /// One text.
    Text(String),
    /// Texts of the parts, in order.
    Parts(Vec<String>),
}

impl From<&str> for MessageContent {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for MessageContent {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

/// One message. Absent fields are not defined in the template, as in transformers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ChatMessage {
    /// `system`, `developer`, `user`, `assistant`, `tool`: whatever the template knows.
    pub role: String,
    /// What it says; an assistant message with tool calls may say nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<MessageContent>,
    /// Name of the participant or tool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// OpenAI's shape; `function.arguments` may be JSON text or the object itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_calls: Option<Vec<Value>>,
    /// Which call a `tool` message answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_call_id: Option<String>,
    /// Thoughts of an earlier turn, for templates that show them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning_content: Option<String>,
}

impl ChatMessage {
    /// A message that only says something.
    pub fn new(role: &str, content: &str) -> Self {
        Self { role: role.to_owned(), content: Some(content.into()), ..Self::default() }
    }

    /// The object that the template gets. `typed` templates want content as a list of typed parts,
    /// others one text, into which parts are concatenated.
    pub(crate) fn to_value(&self, typed: bool) -> Value {
        let mut value = serde_json::to_value(self).unwrap_or_default();
        let content = self.content.as_ref().map(|content| match (content, typed) {
            (MessageContent::Text(text), false) => Value::from(text.as_str()),
            (MessageContent::Parts(parts), false) => Value::from(parts.concat()),
            (MessageContent::Text(text), true) => Value::from(vec![text_part(text)]),
            (MessageContent::Parts(parts), true) => Value::from_iter(parts.iter().map(|p| text_part(p))),
        });
        if let Some(object) = value.as_object_mut() {
            if let Some(content) = content {
                object.insert("content".into(), content);
            }
            // Some templates read thoughts under this name.
            if let Some(thoughts) = &self.reasoning_content {
                object.insert("thinking".into(), thoughts.as_str().into());
            }
            if let Some(calls) = object.get_mut("tool_calls").and_then(Value::as_array_mut) {
                calls.iter_mut().for_each(parse_arguments);
            }
        }
        value
    }
}

fn text_part(text: &str) -> Value {
    serde_json::json!({ "type": "text", "text": text })
}

/// Templates expect the arguments of a call as an object, OpenAI's clients send its JSON text.
fn parse_arguments(call: &mut Value) {
    let Some(arguments) = call.pointer_mut("/function/arguments") else { return };
    if let Some(object) = arguments.as_str().and_then(|s| serde_json::from_str::<Value>(s).ok())
        && object.is_object()
    {
        *arguments = object;
    }
}
