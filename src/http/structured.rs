//! What the text of an answer must be: the fields in which clients of OpenAI and of the peers say so, and the constraint
//! that is made of them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::StatusCode;
use serde_json::{Map, Value};

use super::error::ApiError;
use super::json::{shown, type_name};
use super::text::TextService;
use crate::text::{GrammarError, GrammarSpec};
use crate::types::Constraint;

/// Most alternatives of a choice.
const MAX_CHOICES: usize = 4096;

/// What a client wants, and where it says so.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Wanted {
    field: String,
    spec: GrammarSpec,
}

/// A way to say it that is a field of its own.
struct Way {
    field: &'static str,
    read: fn(&str, &Value) -> Result<GrammarSpec, ApiError>,
}

/// Of vLLM's older API, SGLang and llama.cpp.
const WAYS: &[Way] = &[
    Way { field: "guided_json", read: schema },
    Way { field: "guided_regex", read: regex },
    Way { field: "guided_choice", read: choice },
    Way { field: "guided_grammar", read: grammar },
    Way { field: "json_schema", read: schema },
    Way { field: "regex", read: regex },
    Way { field: "ebnf", read: grammar },
    Way { field: "grammar", read: grammar },
];

/// The same within `structured_outputs` of vLLM.
const STRUCTURED: &[Way] = &[
    Way { field: "json", read: schema },
    Way { field: "regex", read: regex },
    Way { field: "choice", read: choice },
    Way { field: "grammar", read: grammar },
    Way { field: "json_object", read: object },
];

/// Options of vLLM's back ends that only these values leave the answer as it is.
const OFF: &[&str] = &[
    "disable_fallback",
    "disable_any_whitespace",
    "disable_additional_properties",
    "whitespace_pattern",
    "structural_tag",
];

impl Wanted {
    /// Compiles it, which takes milliseconds, on a text thread. Gives the time it took.
    ///
    /// # Errors
    /// 400 naming the field, and the keyword or line that can't be enforced.
    pub(super) fn compile(&self, text: &dyn TextService) -> Result<(Arc<dyn Constraint>, Duration), ApiError> {
        let begin = Instant::now();
        let constraint = text.constrain(&self.spec).map_err(|error| self.refuse(&error))?;
        Ok((constraint, begin.elapsed()))
    }

    fn refuse(&self, error: &GrammarError) -> ApiError {
        let field = &self.field;
        if let GrammarError::Failed(detail) = error {
            tracing::error!(detail, "a grammar could not be compiled");
            return ApiError::Internal;
        }
        let code = match self.spec {
            GrammarSpec::JsonSchema(_) | GrammarSpec::JsonObject => "invalid_json_schema",
            _ => "invalid_grammar",
        };
        ApiError::Invalid {
            status: StatusCode::BAD_REQUEST,
            code: Some(code),
            param: Some(field.clone()),
            message: format!("Invalid '{field}': {error}."),
        }
    }
}

/// What the screened body asks for, if anything.
///
/// # Errors
/// 400 naming the field; two fields that each ask for something.
pub(super) fn read_structured(map: &Map<String, Value>) -> Result<Option<Wanted>, ApiError> {
    let mut found = response_format(map.get("response_format"))?;
    let mut add = |wanted: Wanted| match &found {
        Some(Wanted { field, .. }) => Err(ApiError::value(
            &wanted.field,
            format!("Invalid '{}': '{field}' says already what the answer must be; send one of them.", wanted.field),
        )),
        None => {
            found = Some(wanted);
            Ok(())
        }
    };
    for (way, value) in WAYS.iter().filter_map(|way| Some((way, map.get(way.field)?))) {
        if !is_empty(value) {
            add(Wanted { field: way.field.to_owned(), spec: (way.read)(way.field, value)? })?;
        }
    }
    let Some(options) = map.get("structured_outputs").and_then(Value::as_object) else { return Ok(found) };
    for (name, value) in options {
        let field = format!("structured_outputs.{}", shown(name));
        match STRUCTURED.iter().find(|way| way.field == name) {
            _ if is_empty(value) || value == &Value::Bool(false) => {}
            Some(way) => add(Wanted { spec: (way.read)(&field, value)?, field })?,
            None if OFF.contains(&name.as_str()) => return Err(ApiError::unsupported(&field, "")),
            // What nobody knows has been counted.
            None => {}
        }
    }
    Ok(found)
}

/// OpenAI's way, with the short forms of llama.cpp (`schema` beside the type) and TGI (`value`).
fn response_format(value: Option<&Value>) -> Result<Option<Wanted>, ApiError> {
    let Some(format) = value.and_then(Value::as_object).filter(|format| !format.is_empty()) else { return Ok(None) };
    let at = |name: &str| format!("response_format.{name}");
    let kind = match format.get("type") {
        None => return Err(ApiError::missing(&at("type"))),
        Some(Value::String(kind)) => kind.as_str(),
        Some(other) => return Err(ApiError::wrong_type(&at("type"), "a string", type_name(other))),
    };
    let beside = ["schema", "value"].into_iter().find_map(|name| Some((at(name), format.get(name)?)));
    let (field, spec) = match (kind, beside) {
        ("text", _) => return Ok(None),
        ("json_object" | "json" | "json_schema", Some((field, value))) => (field.clone(), schema(&field, value)?),
        ("json_object" | "json", None) => ("response_format".to_owned(), GrammarSpec::JsonObject),
        ("json_schema", None) => {
            let field = at("json_schema.schema");
            let named = format.get("json_schema").ok_or_else(|| ApiError::missing(&at("json_schema")))?;
            let Some(named) = named.as_object() else {
                return Err(ApiError::wrong_type(&at("json_schema"), "an object", type_name(named)));
            };
            check_name(named.get("name"), &at("json_schema.name"))?;
            let value = named.get("schema").ok_or_else(|| ApiError::missing(&field))?;
            (field.clone(), schema(&field, value)?)
        }
        ("regex", Some((field, value))) => (field.clone(), regex(&field, value)?),
        (other, _) => {
            let hint = format!(" with '{}'; it takes 'text', 'json_object' and 'json_schema'", shown(other));
            return Err(ApiError::unsupported(&at("type"), &hint));
        }
    };
    Ok(Some(Wanted { field, spec }))
}

/// The name that OpenAI wants of a schema; others do without one.
fn check_name(value: Option<&Value>, path: &str) -> Result<(), ApiError> {
    match value {
        None | Some(Value::Null) => Ok(()),
        Some(Value::String(name)) => {
            let fits = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
            if (1..=64).contains(&name.len()) && name.chars().all(fits) {
                return Ok(());
            }
            let message = format!("Invalid '{path}': it must be 1 to 64 letters, digits, '_' or '-'.");
            Err(ApiError::value(path, message))
        }
        Some(other) => Err(ApiError::wrong_type(path, "a string", type_name(other))),
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => false,
    }
}

/// A schema as an object (or `true`), or as the text of one.
fn schema(path: &str, value: &Value) -> Result<GrammarSpec, ApiError> {
    match value {
        Value::Object(_) | Value::Bool(_) => Ok(GrammarSpec::JsonSchema(value.clone())),
        Value::String(text) => match serde_json::from_str(text) {
            Ok(schema @ (Value::Object(_) | Value::Bool(_))) => Ok(GrammarSpec::JsonSchema(schema)),
            _ => Err(ApiError::value(path, format!("Invalid '{path}': this text is no JSON schema."))),
        },
        other => Err(ApiError::wrong_type(path, "a JSON schema", type_name(other))),
    }
}

fn text(path: &str, value: &Value) -> Result<String, ApiError> {
    match value {
        Value::String(text) => Ok(text.clone()),
        other => Err(ApiError::wrong_type(path, "a string", type_name(other))),
    }
}

fn regex(path: &str, value: &Value) -> Result<GrammarSpec, ApiError> {
    Ok(GrammarSpec::Regex(text(path, value)?))
}

fn grammar(path: &str, value: &Value) -> Result<GrammarSpec, ApiError> {
    Ok(GrammarSpec::Grammar(text(path, value)?))
}

fn object(path: &str, value: &Value) -> Result<GrammarSpec, ApiError> {
    match value {
        Value::Bool(true) => Ok(GrammarSpec::JsonObject),
        other => Err(ApiError::wrong_type(path, "a boolean", type_name(other))),
    }
}

fn choice(path: &str, value: &Value) -> Result<GrammarSpec, ApiError> {
    let Some(items) = value.as_array() else {
        return Err(ApiError::wrong_type(path, "an array of strings", type_name(value)));
    };
    if items.len() > MAX_CHOICES {
        let message = format!("Invalid '{path}': {} alternatives; the limit is {MAX_CHOICES}.", items.len());
        return Err(ApiError::value(path, message));
    }
    let items = items.iter().enumerate().map(|(i, item)| text(&format!("{path}[{i}]"), item));
    Ok(GrammarSpec::Choice(items.collect::<Result<_, _>>()?))
}
