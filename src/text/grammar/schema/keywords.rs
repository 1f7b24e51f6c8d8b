//! Keywords of a schema that need more than copying: checked, made exact, or refused.

use serde_json::{Map, Number, Value, json};

use super::formats::{Format, lookup};
use super::pattern::from_ecma;
use super::reduce::{Node, Reducer};
use super::refs::{Place, resolve};
use crate::text::grammar::error::GrammarError;

/// Whole numbers up to here are doubles, and bounds are doubles.
const MAX_EXACT: f64 = 9_007_199_254_740_992.0;
/// The largest double below 2^63, where the engine's whole numbers end.
const MAX_BOUND: f64 = 9_223_372_036_854_774_784.0;
/// Counts from here on bound nothing that could be generated.
const NO_BOUND: u64 = 1 << 31;

const TYPES: [&str; 7] = ["null", "boolean", "number", "integer", "string", "array", "object"];

pub(super) fn types(node: &mut Node<'_>, value: &Value) -> Result<(), GrammarError> {
    let names: Vec<&Value> = match value {
        Value::Array(list) => list.iter().collect(),
        one => vec![one],
    };
    if let Some(other) = names.iter().find(|name| !name.as_str().is_some_and(|n| TYPES.contains(&n))) {
        return Err(GrammarError::keyword("type", &node.place, format!("{other} is no type of JSON")));
    }
    if names.is_empty() {
        return Err(GrammarError::malformed(&node.place.child("type"), "the list is empty"));
    }
    node.out.insert("type".to_owned(), value.clone());
    Ok(())
}

pub(super) fn values(
    reducer: &mut Reducer<'_>,
    node: &mut Node<'_>,
    keyword: &str,
    value: &Value,
) -> Result<(), GrammarError> {
    let one = [value.clone()];
    let list = match (keyword, value) {
        ("enum", Value::Array(list)) if !list.is_empty() => list.as_slice(),
        ("enum", _) => {
            return Err(GrammarError::malformed(&node.place.child("enum"), "a list of at least one value stands here"));
        }
        _ => &one,
    };
    reducer.count(list.len())?;
    for value in list {
        check_value(value, node, keyword, reducer.limits.max_depth)?;
    }
    node.out.insert(keyword.to_owned(), value.clone());
    Ok(())
}

/// Refuses numbers that the engine would round, and values nested too deeply.
fn check_value(value: &Value, node: &Node<'_>, keyword: &str, depth_left: usize) -> Result<(), GrammarError> {
    let refuse = |reason: &str| GrammarError::keyword(keyword, &node.place, reason);
    let Some(depth_left) = depth_left.checked_sub(1) else { return Err(refuse("a value is nested too deeply")) };
    match value {
        Value::Number(n) if n.as_f64().is_none_or(|n| n.abs() >= MAX_EXACT) => {
            Err(refuse("a number is beyond 2^53, where doubles are not exact"))
        }
        Value::Array(items) => items.iter().try_for_each(|v| check_value(v, node, keyword, depth_left)),
        Value::Object(members) => members.values().try_for_each(|v| check_value(v, node, keyword, depth_left)),
        _ => Ok(()),
    }
}

pub(super) fn required(node: &mut Node<'_>, value: &Value) -> Result<(), GrammarError> {
    let names = value.as_array().filter(|list| list.iter().all(Value::is_string));
    if names.is_none() {
        return Err(GrammarError::malformed(&node.place.child("required"), "a list of property names stands here"));
    }
    node.out.insert("required".to_owned(), value.clone());
    Ok(())
}

pub(super) fn unique_items(node: &Node<'_>, value: &Value) -> Result<(), GrammarError> {
    let at_most_one = node.schema.get("maxItems").and_then(Value::as_u64).is_some_and(|n| n <= 1);
    if value == &Value::Bool(false) || at_most_one {
        return Ok(());
    }
    Err(GrammarError::keyword("uniqueItems", &node.place, "leave it out, and check the answer"))
}

pub(super) fn count(node: &mut Node<'_>, keyword: &str, value: &Value) -> Result<(), GrammarError> {
    let whole = value.as_f64().filter(|n| n.fract() == 0.0 && *n >= 0.0);
    let Some(count) = value.as_u64().or(whole.map(|n| n as u64)) else {
        let message = "a whole number from 0 stands here";
        return Err(GrammarError::malformed(&node.place.child(keyword), message));
    };
    if count < NO_BOUND {
        node.out.insert(keyword.to_owned(), Value::from(count));
    } else if keyword.starts_with("min") {
        return Err(GrammarError::keyword(keyword, &node.place, "no output is so long"));
    }
    Ok(())
}

pub(super) fn bound(node: &mut Node<'_>, keyword: &str, value: &Value) -> Result<(), GrammarError> {
    let is_lower = keyword.ends_with("inimum");
    let value = match value {
        // Draft 4: a flag on the bound beside it.
        Value::Bool(false) if keyword.starts_with("exclusive") => return Ok(()),
        Value::Bool(true) if keyword.starts_with("exclusive") => {
            match node.schema.get(if is_lower { "minimum" } else { "maximum" }) {
                Some(beside) => beside,
                None => return Ok(()),
            }
        }
        value => value,
    };
    let Some(exact) = value.as_number() else {
        return Err(GrammarError::malformed(&node.place.child(keyword), "a number stands here"));
    };
    let refuse = |reason: &str| GrammarError::keyword(keyword, &node.place, reason);
    let rounded = exact.as_f64().filter(|n| n.is_finite()).ok_or_else(|| refuse("the number is too large"))?;
    if rounded.abs() >= MAX_EXACT && keyword.starts_with("exclusive") {
        return Err(refuse("the number is beyond 2^53; use minimum or maximum"));
    }
    // Rounded inwards: a tighter bound is still kept by what it lets through.
    let inside = if is_lower {
        let up = if as_i128(exact, rounded) > rounded as i128 { rounded.next_up() } else { rounded };
        up.max(-MAX_BOUND)
    } else {
        let down = if as_i128(exact, rounded) < rounded as i128 { rounded.next_down() } else { rounded };
        down.min(MAX_BOUND)
    };
    if inside.abs() > MAX_BOUND {
        return Err(refuse("it leaves only numbers beyond 2^63"));
    }
    let written = if inside == rounded && exact.is_i64() { value.clone() } else { json!(inside) };
    node.out.insert(keyword.to_owned(), written);
    Ok(())
}

fn as_i128(exact: &Number, rounded: f64) -> i128 {
    exact.as_i64().map(i128::from).or(exact.as_u64().map(i128::from)).unwrap_or(rounded as i128)
}

pub(super) fn multiple_of(node: &mut Node<'_>, keyword: &str, value: &Value) -> Result<(), GrammarError> {
    if !value.as_f64().is_some_and(|n| n > 0.0) {
        return Err(GrammarError::malformed(&node.place.child(keyword), "a number above 0 stands here"));
    }
    let text = value.to_string();
    let (whole, decimals) = text.split_once('.').unwrap_or((&text, ""));
    let decimals = decimals.trim_end_matches('0');
    let digits = format!("{whole}{decimals}");
    if decimals.len() > 9 || digits.parse::<u32>().is_err() {
        return Err(GrammarError::keyword(keyword, &node.place, "the number has too many digits"));
    }
    node.out.insert("multipleOf".to_owned(), value.clone());
    Ok(())
}

/// `pattern` or `format`.
pub(super) fn text(node: &mut Node<'_>, keyword: &str, value: &Value) -> Result<(), GrammarError> {
    if keyword == "pattern" { pattern(node, value) } else { format(node, value) }
}

fn pattern(node: &mut Node<'_>, value: &Value) -> Result<(), GrammarError> {
    let Some(pattern) = value.as_str() else {
        return Err(GrammarError::malformed(&node.place.child("pattern"), "a regular expression stands here"));
    };
    let pattern = translated(pattern, &node.place, "pattern")?;
    node.out.insert("pattern".to_owned(), Value::String(pattern));
    Ok(())
}

/// A pattern of the schema at `place` in the engine's syntax.
pub(super) fn translated(pattern: &str, place: &Place, keyword: &str) -> Result<String, GrammarError> {
    from_ecma(pattern, true).map_err(|reason| {
        let shown: String = pattern.chars().take(80).collect();
        GrammarError::keyword(keyword, place, format!("{shown:?}: {reason}"))
    })
}

fn format(node: &mut Node<'_>, value: &Value) -> Result<(), GrammarError> {
    let Some(name) = value.as_str() else {
        return Err(GrammarError::malformed(&node.place.child("format"), "the name of a format stands here"));
    };
    let may_be = |name: &str| match node.schema.get("type") {
        None => true,
        Some(Value::Array(types)) => types.iter().any(|t| t == name),
        Some(one) => one == name,
    };
    let constraint = match lookup(name) {
        Some(Format::Annotation) => return Ok(()),
        Some(Format::Integer(least, most)) => json!({"minimum": least, "maximum": most}),
        // A format of strings says nothing of other values.
        _ if !may_be("string") => return Ok(()),
        Some(Format::Text(pattern, None)) => json!({"pattern": pattern}),
        Some(Format::Text(pattern, Some(length))) => json!({"pattern": pattern, "maxLength": length}),
        None => {
            let known =
                "known: date, time, date-time, duration, email, hostname, ipv4, ipv6, uuid, uri, byte, intN, uintN";
            return Err(GrammarError::keyword("format", &node.place, format!("{name:?} isn't known ({known})")));
        }
    };
    node.also.push(constraint);
    Ok(())
}

/// `not`, where what is left can be said without it.
pub(super) fn not(node: &mut Node<'_>, value: &Value) -> Result<(), GrammarError> {
    let left = match value {
        Value::Bool(false) => return Ok(()),
        Value::Bool(true) => Some(Value::Bool(false)),
        Value::Object(schema) => without(schema),
        _ => return Err(GrammarError::malformed(&node.place.child("not"), "a schema stands here")),
    };
    let Some(left) = left else {
        let reason = "only type and required are understood in it; use enum, const or anyOf to say what is allowed";
        return Err(GrammarError::keyword("not", &node.place, reason));
    };
    node.also.push(left);
    Ok(())
}

/// The complement of a schema that has one keyword beside annotations.
fn without(schema: &Map<String, Value>) -> Option<Value> {
    let mut telling = schema.iter().filter(|(key, _)| !SILENT.contains(&key.as_str()));
    let Some((key, value)) = telling.next() else { return Some(Value::Bool(false)) };
    if telling.next().is_some() {
        return None;
    }
    match key.as_str() {
        "required" => {
            let names = value.as_array()?.iter().map(Value::as_str).collect::<Option<Vec<_>>>()?;
            let lacking = names.iter().map(|name| json!({"type": "object", "properties": {*name: false}}));
            let lacking: Vec<Value> = lacking.collect();
            Some(if lacking.is_empty() { Value::Bool(false) } else { json!({"anyOf": lacking}) })
        }
        "type" => {
            let excluded: Vec<&str> = match value {
                Value::Array(names) => names.iter().map(Value::as_str).collect::<Option<_>>()?,
                one => vec![one.as_str()?],
            };
            if excluded.contains(&"integer") && !excluded.contains(&"number") {
                return None;
            }
            // A whole number is a number, and is left where numbers are.
            let left: Vec<&str> = TYPES.into_iter().filter(|t| *t != "integer" && !excluded.contains(t)).collect();
            Some(if left.is_empty() { Value::Bool(false) } else { json!({"type": left}) })
        }
        _ => None,
    }
}

/// Keywords that say nothing of a value.
const SILENT: [&str; 6] = ["title", "description", "$comment", "examples", "default", "deprecated"];

/// Names that `propertyNames` allows, where it can be written with other keywords.
enum Names {
    Any,
    Listed(Vec<String>),
    Matching(String),
}

/// `propertyNames` and `additionalProperties` together become a list of properties or one pattern.
pub(super) fn property_names(
    reducer: &mut Reducer<'_>,
    node: &mut Node<'_>,
    value: &Value,
) -> Result<(), GrammarError> {
    let refuse = |reason: &str| GrammarError::keyword("propertyNames", &node.place, reason);
    let names = names(reducer.root, value, &node.place, 8)
        .ok_or_else(|| refuse("only enum, const and pattern are understood in it"))?;
    if matches!(names, Names::Any) {
        return Ok(());
    }
    if node.schema.contains_key("properties") || node.schema.contains_key("patternProperties") {
        return Err(refuse("beside properties or patternProperties; name the properties there"));
    }
    let additional = match node.schema.get("additionalProperties") {
        Some(additional) => {
            reducer.schema(additional, &node.place.child("additionalProperties"), node.depth.saturating_add(1))?
        }
        None => Value::Bool(true),
    };
    match names {
        Names::Any => {}
        Names::Listed(names) => {
            reducer.count(names.len())?;
            let members: Map<String, Value> = names.into_iter().map(|name| (name, additional.clone())).collect();
            node.out.insert("properties".to_owned(), Value::Object(members));
        }
        Names::Matching(pattern) => {
            let pattern = translated(&pattern, &node.place, "propertyNames")?;
            node.out.insert("patternProperties".to_owned(), json!({pattern: additional}));
        }
    }
    node.out.insert("additionalProperties".to_owned(), Value::Bool(false));
    Ok(())
}

/// True where [`property_names`] has written, or will write, `additionalProperties`.
pub(super) fn names_are_restricted(reducer: &Reducer<'_>, node: &Node<'_>) -> bool {
    let names = node.schema.get("propertyNames").map(|value| names(reducer.root, value, &node.place, 8));
    matches!(names, Some(Some(Names::Listed(_) | Names::Matching(_))))
}

fn names(root: &Value, value: &Value, place: &Place, refs_left: usize) -> Option<Names> {
    let schema = match value {
        Value::Bool(true) => return Some(Names::Any),
        Value::Object(schema) => schema,
        _ => return None,
    };
    let mut telling = schema.iter().filter(|(key, value)| match key.as_str() {
        "type" => *value != "string",
        key => !SILENT.contains(&key),
    });
    let Some((key, value)) = telling.next() else { return Some(Names::Any) };
    if telling.next().is_some() {
        return None;
    }
    match key.as_str() {
        "enum" => {
            let names = value.as_array()?.iter().filter_map(|name| name.as_str().map(str::to_owned));
            Some(Names::Listed(names.collect()))
        }
        "const" => Some(Names::Listed(vec![value.as_str()?.to_owned()])),
        "pattern" => Some(Names::Matching(value.as_str()?.to_owned())),
        "$ref" => {
            let refs_left = refs_left.checked_sub(1)?;
            let (_, target) = resolve(root, value.as_str()?, place).ok()?;
            names(root, target, place, refs_left)
        }
        _ => None,
    }
}

/// `minProperties` and `maxProperties` are kept only where the grammar can count: among the
/// properties that aren't named, which may repeat, and, of a closed object, one among those named.
pub(super) fn check_counts(node: &mut Node<'_>) -> Result<(), GrammarError> {
    let out = &mut node.out;
    let number = |out: &Map<String, Value>, key: &str| out.get(key).and_then(Value::as_u64);
    let required: std::collections::BTreeSet<&str> =
        out.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
    let num_required = required.len() as u64;
    let members = out.get("properties").and_then(Value::as_object);
    let optional = members.into_iter().flatten();
    let num_optional =
        optional.filter(|(name, schema)| !required.contains(name.as_str()) && **schema != Value::Bool(false)).count();
    let has_patterns = out.get("patternProperties").and_then(Value::as_object).is_some_and(|map| !map.is_empty());
    let is_closed = out.get("additionalProperties") == Some(&Value::Bool(false)) && !has_patterns;
    let (least, most) = (number(out, "minProperties"), number(out, "maxProperties"));
    if least.is_some_and(|n| n <= num_required) {
        out.remove("minProperties");
    }
    if is_closed && most.is_some_and(|n| n >= num_required + num_optional as u64) {
        out.remove("maxProperties");
    }
    let (least, most) = (number(out, "minProperties"), number(out, "maxProperties"));
    let least_free = least.map(|n| n.saturating_sub(num_required));
    if !is_closed && least_free.is_some_and(|n| n > 1) {
        let reason = "a key may be written twice, so no more than one beside those required can be counted";
        return Err(GrammarError::keyword("minProperties", &node.place, reason));
    }
    let most_free = most.map(|n| n.saturating_sub(num_required));
    let one_of_named = is_closed && least_free.unwrap_or(0) <= 1 && most_free.unwrap_or(1) == 1;
    if num_optional > 0 && (least.is_some() || most.is_some()) && !one_of_named {
        let keyword = if least.is_some() { "minProperties" } else { "maxProperties" };
        let reason = "beside optional properties; list more of them as required";
        return Err(GrammarError::keyword(keyword, &node.place, reason));
    }
    Ok(())
}
