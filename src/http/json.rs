//! From bytes to a JSON object: size, depth and syntax are checked here, types by name.

use serde_json::{Map, Value};

use super::error::ApiError;

/// Parses the body of a request.
///
/// # Errors
/// 400 when it is no JSON object or nested deeper than `max_depth`.
pub(super) fn parse_object(body: &[u8], max_depth: usize) -> Result<Map<String, Value>, ApiError> {
    if depth(body) > max_depth {
        return Err(ApiError::body(format!("The JSON body is nested deeper than the limit of {max_depth} levels.")));
    }
    match serde_json::from_slice(body) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(other) => Err(ApiError::body(format!("The body must be a JSON object, but is {}.", type_name(&other)))),
        // The parser's own message could quote the body; its position can't.
        Err(e) => Err(ApiError::body(format!(
            "The body is not valid JSON: error at line {}, column {}.",
            e.line(),
            e.column()
        ))),
    }
}

/// Deepest nesting of brackets outside strings, without recursion.
fn depth(body: &[u8]) -> usize {
    let (mut depth, mut deepest, mut in_string, mut escaped) = (0_usize, 0, false, false);
    for byte in body {
        if in_string {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_string = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => in_string = true,
            b'[' | b'{' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

/// The JSON type of a value, for messages.
pub(super) fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(n) if n.is_f64() => "a decimal number",
        Value::Number(_) => "an integer",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

/// The integer of a value; `5.0` counts as one, as in JSON Schema.
pub(super) fn integer(value: &Value) -> Option<i128> {
    let number = value.as_number()?;
    if let Some(n) = number.as_u64() {
        return Some(n.into());
    }
    if let Some(n) = number.as_i64() {
        return Some(n.into());
    }
    let float = number.as_f64()?;
    (float.fract() == 0.0 && float.abs() < 9_007_199_254_740_992.0).then_some(float as i128)
}

/// Checks that `value` is an integer of `0..limit`: a token id. There may be millions of them: `path` is only asked for
/// an error.
pub(super) fn token_id(value: &Value, path: impl Fn() -> String, limit: usize) -> Result<u32, ApiError> {
    let Some(id) = integer(value) else {
        return Err(ApiError::wrong_type(&path(), "a token id", type_name(value)));
    };
    match u32::try_from(id) {
        Ok(id) if (id as usize) < limit => Ok(id),
        _ => {
            let path = path();
            Err(ApiError::value(&path, format!("Invalid '{path}': token ids are below {limit}.")))
        }
    }
}

/// Text that may stand in a message or a log: no control characters, no unbounded length.
pub(super) fn shown(name: &str) -> String {
    name.chars().filter(|c| !c.is_control()).take(64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depth_counts_brackets_outside_strings() {
        assert_eq!(depth(br#"{"a":[1,{"b":"[[[\"[["}]}"#), 3);
        let bomb = "[".repeat(100_000);
        assert!(parse_object(bomb.as_bytes(), 64).is_err());
        let ok = format!("{{\"a\":{}{}}}", "[".repeat(63), "]".repeat(63));
        assert!(parse_object(ok.as_bytes(), 64).is_ok());
    }

    #[test]
    fn integers_of_every_width() {
        let of = |s: &str| integer(&serde_json::from_str(s).unwrap());
        assert_eq!(of("18446744073709551615"), Some(u64::MAX.into()));
        assert_eq!(of("-9223372036854775808"), Some(i64::MIN.into()));
        assert_eq!(of("5.0"), Some(5));
        assert_eq!(of("5.5"), None);
        assert_eq!(of("1e300"), None);
        assert_eq!(of("\"5\""), None);
    }
}
