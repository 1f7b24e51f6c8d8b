//! The rows of the table as JSON Schemas, for the OpenAPI document.

use serde_json::{Map, Value, json};

use super::check_kind;
use super::table::{Endpoint, Field, Kind, Rule, fields};

/// The schema of each field that `endpoint` knows, by name.
pub(in crate::http) fn schemas(endpoint: Endpoint) -> Map<String, Value> {
    fields(endpoint).map(|field| (field.name.to_owned(), schema(field))).collect()
}

fn schema(field: &Field) -> Value {
    match field.rule {
        Rule::Honoured => kind(field.kind),
        Rule::Ignored => described(kind(field.kind), "Has no effect here."),
        Rule::Neutral(passes) => {
            let passing = |value: &Value| check_kind(field, value).is_ok() && passes(value, &Map::new());
            let values: Vec<_> = std::iter::once(Value::Null).chain(candidates().into_iter().filter(passing)).collect();
            described(json!({"enum": values}), "Only values that change nothing are accepted.")
        }
    }
}

fn described(mut schema: Value, text: &str) -> Value {
    schema["description"] = text.into();
    schema
}

/// Values among which every field finds those that do nothing.
fn candidates() -> Vec<Value> {
    let scalars = [json!(false), json!(true), json!(0), json!(1), json!(-1), json!(""), json!("none"), json!("auto")];
    let others = [json!([]), json!({}), json!({"type": "text"}), json!(["text"])];
    scalars.into_iter().chain(others).collect()
}

fn kind(kind: Kind) -> Value {
    let of = |name: &str| json!({"type": [name, "null"]});
    let range = |mut schema: Value, low: Value, high: Value| {
        schema["minimum"] = low;
        schema["maximum"] = high;
        schema
    };
    match kind {
        Kind::Bool => of("boolean"),
        Kind::Int(low, high) => range(of("integer"), number(low), number(high)),
        Kind::IntOrFalse(low, high) => {
            json!({"anyOf": [range(of("integer"), number(low), number(high)), {"const": false}]})
        }
        Kind::Num(low, high) => range(of("number"), low.into(), high.into()),
        Kind::Str(usize::MAX) => of("string"),
        Kind::Str(most) => {
            let mut schema = of("string");
            schema["maxLength"] = most.into();
            schema
        }
        Kind::List => of("array"),
        Kind::Map => of("object"),
        Kind::Any => json!({}),
    }
}

/// A bound of an integer field: one end fits `i64`, the other `u64`.
fn number(bound: i128) -> Value {
    match u64::try_from(bound) {
        Ok(bound) => bound.into(),
        Err(_) => i64::try_from(bound).unwrap_or(i64::MIN).into(),
    }
}
