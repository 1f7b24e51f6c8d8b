//! `screen` runs the table of fields over a request before anything else looks at it. What passes has the type and
//! range of the table, so the code behind may read fields without checking them again.

mod nested;
mod schema;
mod table;
mod unknown;

use serde_json::{Map, Value};

use super::error::ApiError;
use super::json::{integer, shown, type_name};
pub(super) use nested::screen_messages;
pub(super) use schema::schemas;
pub(super) use table::Endpoint;
use table::{Field, Kind, Rule, lookup};
pub(super) use unknown::{Unknown, UnknownFields};

/// Drops nulls (they mean absence), ignored and unknown fields, and checks the rest. What nobody knows, here or in
/// an object within, goes to `unknown`.
///
/// # Errors
/// 400 naming the field for a wrong type or range, a value that can't be honoured, or a field that `unknown` refuses.
pub(super) fn screen(
    map: &mut Map<String, Value>,
    endpoint: Endpoint,
    unknown: &mut Unknown<'_>,
) -> Result<(), ApiError> {
    map.retain(|_, v| !v.is_null());
    for (name, value) in map.iter() {
        let Some(field) = lookup(name, endpoint) else {
            match lookup(name, endpoint.other()) {
                Some(field) => check_foreign(field, endpoint, value, map)?,
                None => unknown.meet("", name)?,
            }
            continue;
        };
        check_kind(field, value)?;
        if let Rule::Neutral(passes) = field.rule
            && !passes(value, map)
        {
            return Err(ApiError::unsupported(field.name, " beyond its neutral value"));
        }
    }
    if let Some(metadata) = map.get("metadata") {
        check_metadata(metadata)?;
    }
    map.retain(|name, _| lookup(name, endpoint).is_some_and(|f| matches!(f.rule, Rule::Honoured)));
    nested::screen_options(map, unknown)?;
    screen_messages(map, unknown)
}

/// A field of the other endpoint does nothing here: what would have changed the answer there is refused.
fn check_foreign(field: &Field, endpoint: Endpoint, value: &Value, map: &Map<String, Value>) -> Result<(), ApiError> {
    let passes = match field.rule {
        Rule::Ignored => true,
        Rule::Neutral(passes) => passes(value, map),
        Rule::Honoured => match value {
            Value::Bool(flag) => !flag,
            Value::Number(number) => number.as_f64() == Some(0.0),
            Value::String(text) => text.is_empty(),
            Value::Array(items) => items.is_empty(),
            Value::Object(fields) => fields.is_empty(),
            Value::Null => true,
        },
    };
    let hint = format!(" at this endpoint; it belongs to {}", endpoint.other().route());
    if passes { Ok(()) } else { Err(ApiError::unsupported(field.name, &hint)) }
}

fn check_kind(field: &Field, value: &Value) -> Result<(), ApiError> {
    let name = field.name;
    let wrong = |expected: &str| Err(ApiError::wrong_type(name, expected, type_name(value)));
    let range = |low: String, high: String| {
        Err(ApiError::value(name, format!("Invalid '{name}': it must be between {low} and {high}.")))
    };
    match field.kind {
        Kind::Bool if !value.is_boolean() => wrong("a boolean"),
        Kind::IntOrFalse(..) if value == &Value::Bool(false) => Ok(()),
        Kind::Int(low, high) | Kind::IntOrFalse(low, high) => match integer(value) {
            None if value.as_f64().is_some_and(|f| f.fract() == 0.0) => range(low.to_string(), high.to_string()),
            None => wrong("an integer"),
            Some(n) if n < low || n > high => range(low.to_string(), high.to_string()),
            Some(_) => Ok(()),
        },
        Kind::Num(low, high) => match value.as_f64() {
            None => wrong("a number"),
            Some(n) if !(low..=high).contains(&n) => range(low.to_string(), high.to_string()),
            Some(_) => Ok(()),
        },
        Kind::Str(most) => match value.as_str() {
            None => wrong("a string"),
            Some(s) if s.len() > most && s.chars().count() > most => {
                Err(ApiError::value(name, format!("Invalid '{name}': it may have at most {most} characters.")))
            }
            Some(_) => Ok(()),
        },
        Kind::List if !value.is_array() => wrong("an array"),
        Kind::Map if !value.is_object() => wrong("an object"),
        _ => Ok(()),
    }
}

fn check_metadata(metadata: &Value) -> Result<(), ApiError> {
    let Some(map) = metadata.as_object() else { return Ok(()) };
    if map.len() > 16 {
        return Err(ApiError::value("metadata", "Invalid 'metadata': it may have at most 16 pairs."));
    }
    for (key, value) in map {
        let path = format!("metadata.{}", shown(key));
        let Some(text) = value.as_str() else {
            return Err(ApiError::wrong_type(&path, "a string", type_name(value)));
        };
        if key.chars().count() > 64 || text.chars().count() > 512 {
            let message = "Invalid 'metadata': keys have at most 64 characters, values at most 512.";
            return Err(ApiError::value(&path, message));
        }
    }
    Ok(())
}
