//! Refuses schemas that only an endless value could fulfil: `{"$ref": "#"}`, or an object that
//! requires itself. The grammar of such a schema has no end, and the answer would be cut at its limit.

use std::collections::HashSet;

use serde_json::{Map, Value};

use crate::text::grammar::error::GrammarError;

/// Checks a reduced schema that holds its own definitions.
pub(super) fn check(schema: &Map<String, Value>) -> Result<(), GrammarError> {
    let empty = Map::new();
    let definitions = schema.get("$defs").and_then(Value::as_object).unwrap_or(&empty);
    // The least fixed point: a definition is finite once all that it needs is known to be.
    let mut finite: HashSet<String> = HashSet::new();
    loop {
        let before = finite.len();
        for (name, definition) in definitions {
            let reference = format!("#/$defs/{name}");
            if !finite.contains(&reference) && is_finite(definition, &finite) {
                finite.insert(reference);
            }
        }
        if finite.len() == before {
            break;
        }
    }
    match is_finite_object(schema, &finite) {
        true => Ok(()),
        false => Err(GrammarError::Unsatisfiable("a $ref leads back to itself without an end".to_owned())),
    }
}

fn is_finite(schema: &Value, finite: &HashSet<String>) -> bool {
    schema.as_object().is_none_or(|schema| is_finite_object(schema, finite))
}

fn is_finite_object(schema: &Map<String, Value>, finite: &HashSet<String>) -> bool {
    let list = |key: &str| schema.get(key).and_then(Value::as_array);
    if schema.get("$ref").and_then(Value::as_str).is_some_and(|target| !finite.contains(target)) {
        return false;
    }
    if list("allOf").is_some_and(|all| !all.iter().all(|one| is_finite(one, finite))) {
        return false;
    }
    if list("anyOf").is_some_and(|any| !any.iter().any(|one| is_finite(one, finite))) {
        return false;
    }
    // Only of a schema that takes nothing but objects, or nothing but arrays, do its parts decide.
    match schema.get("type").and_then(Value::as_str) {
        Some("object") => {
            let required = list("required").into_iter().flatten().filter_map(Value::as_str);
            let members = schema.get("properties").and_then(Value::as_object);
            required.into_iter().all(|name| {
                let member = members.and_then(|members| members.get(name));
                member.is_none_or(|member| is_finite(member, finite))
            })
        }
        Some("array") => {
            let least = schema.get("minItems").and_then(Value::as_u64).unwrap_or(0) as usize;
            let tuple = list("prefixItems").map_or(&[][..], Vec::as_slice);
            let items = schema.get("items").filter(|_| least > tuple.len());
            tuple.iter().take(least).chain(items).all(|item| is_finite(item, finite))
        }
        _ => true,
    }
}
