//! `oneOf` becomes `anyOf` where no value fits two alternatives; elsewhere it is refused.
//!
//! Two alternatives exclude each other when their types do, when they list different values, when
//! their bounds leave nothing, or when a property that one requires is of schemas that exclude each other.
//! Alternatives that require different properties are made to: each may not have one that the other
//! requires. That is stricter than `oneOf`, and what it lets through `oneOf` does, too.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use crate::text::grammar::error::GrammarError;

/// Marks where a `oneOf` stood in the client's schema.
pub(super) const PLACE: &str = "x-place";

/// How many references and nested alternatives are followed to find a difference.
const MAX_DEPTH: usize = 12;
/// Comparisons for one schema; alternatives of alternatives multiply.
const MAX_COMPARISONS: usize = 200_000;

/// Rewrites every `oneOf` below `schema`, which holds its own definitions.
pub(super) fn settle(schema: &mut Map<String, Value>) -> Result<(), GrammarError> {
    let before = Value::Object(schema.clone());
    let mut judge = Judge { root: &before, comparisons_left: MAX_COMPARISONS };
    schema.values_mut().try_for_each(|value| judge.settle(value))?;
    judge.rewrite(schema)
}

struct Judge<'a> {
    root: &'a Value,
    comparisons_left: usize,
}

impl Judge<'_> {
    fn settle(&mut self, value: &mut Value) -> Result<(), GrammarError> {
        match value {
            Value::Object(map) => {
                let inner = map
                    .iter_mut()
                    .filter(|(key, value)| key.as_str() != "const" && !(key.as_str() == "enum" && value.is_array()));
                for (_, value) in inner {
                    self.settle(value)?;
                }
                self.rewrite(map)
            }
            Value::Array(list) => list.iter_mut().try_for_each(|value| self.settle(value)),
            _ => Ok(()),
        }
    }

    /// A `oneOf` of this object itself. Only a schema has the mark: a property of that name holds an object.
    fn rewrite(&mut self, map: &mut Map<String, Value>) -> Result<(), GrammarError> {
        if !map.get(PLACE).is_some_and(Value::is_string) {
            return Ok(());
        }
        let Some(Value::String(place)) = map.remove(PLACE) else { return Ok(()) };
        let Some(Value::Array(mut alternatives)) = map.remove("oneOf") else { return Ok(()) };
        let around = types(&self.parts(&Value::Object(map.clone()), MAX_DEPTH));
        let mut barred = vec![BTreeSet::new(); alternatives.len()];
        for (i, one) in alternatives.iter().enumerate() {
            for (j, other) in alternatives.iter().enumerate().skip(i + 1) {
                if self.exclude(one, other, around, MAX_DEPTH) {
                    continue;
                }
                let Some((of_one, of_other)) = self.only_required(one, other) else {
                    let reason = format!(
                        "alternatives {i} and {j} may both fit; use anyOf, or let each require a property of its own"
                    );
                    return Err(GrammarError::keyword("oneOf", place, reason));
                };
                barred[i].insert(of_other);
                barred[j].insert(of_one);
            }
        }
        for (alternative, names) in alternatives.iter_mut().zip(barred).filter(|(_, names)| !names.is_empty()) {
            let names: Map<String, Value> = names.into_iter().map(|name| (name, Value::Bool(false))).collect();
            // What is no object has no property to tell them apart by.
            *alternative = json!({"type": "object", "allOf": [alternative, {"properties": names}]});
        }
        let any = Value::Array(alternatives);
        match map.get_mut("anyOf") {
            None => {
                map.insert("anyOf".to_owned(), any);
            }
            Some(_) => {
                let mut wrapped = Map::new();
                wrapped.insert("anyOf".to_owned(), any);
                let all = map.entry("allOf").or_insert_with(|| Value::Array(Vec::new()));
                if let Value::Array(all) = all {
                    all.push(Value::Object(wrapped));
                }
            }
        }
        Ok(())
    }

    /// A property that only `one` requires, and one that only `other` does.
    fn only_required(&self, one: &Value, other: &Value) -> Option<(String, String)> {
        let required = |schema: &Value| -> BTreeSet<String> {
            let parts = self.parts(schema, MAX_DEPTH);
            let names = parts.iter().filter_map(|part| part.get("required")?.as_array()).flatten();
            names.filter_map(|name| name.as_str().map(str::to_owned)).collect()
        };
        let (one, other) = (required(one), required(other));
        Some((one.difference(&other).next()?.clone(), other.difference(&one).next()?.clone()))
    }

    /// True when certainly no value of the types `around` fits both.
    fn exclude(&mut self, one: &Value, other: &Value, around: u8, depth: usize) -> bool {
        if one == &Value::Bool(false) || other == &Value::Bool(false) {
            return true;
        }
        if depth == 0 || self.comparisons_left == 0 {
            return false;
        }
        self.comparisons_left -= 1;
        let (parts, others) = (self.parts(one, depth), self.parts(other, depth));
        let both = types(&parts) & types(&others) & around;
        if both == 0 || values_differ(&parts, &others) {
            return true;
        }
        if self.alternatives_exclude(&parts, other, both, depth) || self.alternatives_exclude(&others, one, both, depth)
        {
            return true;
        }
        match both {
            NUMBERS | INTEGER => bounds_exclude(&parts, &others, ["minimum", "maximum"]),
            STRING => bounds_exclude(&parts, &others, ["minLength", "maxLength"]),
            ARRAY => bounds_exclude(&parts, &others, ["minItems", "maxItems"]),
            OBJECT => self.properties_exclude(&parts, &others, depth),
            _ => false,
        }
    }

    /// Some part's `anyOf` or `oneOf` has only alternatives that exclude `other`.
    fn alternatives_exclude(&mut self, parts: &[Map<String, Value>], other: &Value, around: u8, depth: usize) -> bool {
        let lists =
            parts.iter().flat_map(|part| ["anyOf", "oneOf"].iter().filter_map(|key| part.get(*key)?.as_array()));
        lists.into_iter().any(|list| list.iter().all(|one| self.exclude(one, other, around, depth - 1)))
    }

    /// What must hold at once: the schema itself, what it refers to, the members of its `allOf`.
    fn parts(&self, schema: &Value, depth: usize) -> Vec<Map<String, Value>> {
        let mut parts = Vec::new();
        let mut todo = vec![(schema, depth)];
        while let Some((schema, depth)) = todo.pop() {
            let Value::Object(map) = schema else { continue };
            parts.push(map.clone());
            let Some(depth) = depth.checked_sub(1) else { continue };
            todo.extend(map.get("allOf").and_then(Value::as_array).into_iter().flatten().map(|part| (part, depth)));
            let target = map.get("$ref").and_then(Value::as_str).and_then(|r| self.root.pointer(r.strip_prefix('#')?));
            todo.extend(target.map(|target| (target, depth)));
        }
        parts
    }

    fn properties_exclude(
        &mut self,
        parts: &[Map<String, Value>],
        others: &[Map<String, Value>],
        depth: usize,
    ) -> bool {
        let all = || parts.iter().chain(others);
        let required = all().filter_map(|part| part.get("required")?.as_array()).flatten().filter_map(Value::as_str);
        for name in required.collect::<BTreeSet<_>>() {
            let schemas: Vec<&Value> = all().filter_map(|part| property(part, name)).collect();
            let pairs = schemas.iter().enumerate().flat_map(|(i, a)| schemas.iter().skip(i + 1).map(move |b| (*a, *b)));
            if schemas.contains(&&Value::Bool(false))
                || pairs.into_iter().any(|(a, b)| self.exclude(a, b, ALL, depth - 1))
            {
                return true;
            }
        }
        false
    }
}

/// What an object's schema says of a property; `None` where a pattern might, or where it says nothing.
fn property<'s>(part: &'s Map<String, Value>, name: &str) -> Option<&'s Value> {
    let named = part.get("properties").and_then(|members| members.get(name));
    let has_patterns = part.get("patternProperties").and_then(Value::as_object).is_some_and(|map| !map.is_empty());
    named.or_else(|| part.get("additionalProperties").filter(|_| !has_patterns))
}

const INTEGER: u8 = 1;
const NUMBERS: u8 = INTEGER | 2;
const STRING: u8 = 4;
const ARRAY: u8 = 8;
const OBJECT: u8 = 16;
const ALL: u8 = 0x7f;

fn type_named(name: &str) -> u8 {
    match name {
        "integer" => INTEGER,
        "number" => NUMBERS,
        "string" => STRING,
        "array" => ARRAY,
        "object" => OBJECT,
        "boolean" => 32,
        "null" => 64,
        _ => ALL,
    }
}

fn type_of(value: &Value) -> u8 {
    match value {
        Value::Number(n) if n.as_f64().is_some_and(|n| n.fract() == 0.0) => INTEGER,
        Value::Number(_) => NUMBERS,
        Value::String(_) => STRING,
        Value::Array(_) => ARRAY,
        Value::Object(_) => OBJECT,
        Value::Bool(_) => 32,
        Value::Null => 64,
    }
}

/// The types, as bits, that values of all parts may have.
fn types(parts: &[Map<String, Value>]) -> u8 {
    let mut all = ALL;
    for part in parts {
        match part.get("type") {
            Some(Value::String(name)) => all &= type_named(name),
            Some(Value::Array(names)) => {
                all &= names.iter().filter_map(Value::as_str).fold(0, |bits, name| bits | type_named(name));
            }
            _ => {}
        }
        if let Some(values) = listed(part) {
            all &= values.iter().fold(0, |bits, value| bits | type_of(value));
        }
    }
    all
}

/// The values that a part lists.
fn listed(part: &Map<String, Value>) -> Option<Vec<&Value>> {
    match (part.get("const"), part.get("enum")) {
        (Some(one), _) => Some(vec![one]),
        (None, Some(Value::Array(list))) => Some(list.iter().collect()),
        _ => None,
    }
}

fn values_differ(parts: &[Map<String, Value>], others: &[Map<String, Value>]) -> bool {
    let of = |parts: &'_ [Map<String, Value>]| -> Vec<Vec<Value>> {
        parts.iter().filter_map(|part| Some(listed(part)?.into_iter().cloned().collect())).collect()
    };
    let (lists, others) = (of(parts), of(others));
    lists.iter().any(|list| others.iter().any(|other| !list.iter().any(|v| other.iter().any(|o| equal(v, o)))))
}

/// Equality of JSON values, in which 1 and 1.0 are the same.
fn equal(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a.as_f64() == b.as_f64(),
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| equal(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(key, a)| b.get(key).is_some_and(|b| equal(a, b)))
        }
        _ => a == b,
    }
}

fn bounds_exclude(parts: &[Map<String, Value>], others: &[Map<String, Value>], [least, most]: [&str; 2]) -> bool {
    let all = || parts.iter().chain(others);
    let lower = all().filter_map(|part| part.get(least)?.as_f64()).fold(f64::NEG_INFINITY, f64::max);
    let upper = all().filter_map(|part| part.get(most)?.as_f64()).fold(f64::INFINITY, f64::min);
    lower > upper
}
