//! The document against the tables, and against itself.

use std::collections::BTreeSet;

use serde_json::Value;

use super::*;

fn parsed() -> Map<String, Value> {
    serde_json::from_str(COMPONENTS).expect("components.json is an object")
}

/// Every string under a key `$ref`.
fn references(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) => {
            if let Some(Value::String(target)) = map.get("$ref") {
                found.insert(target.clone());
            }
            map.values().for_each(|v| references(v, found));
        }
        Value::Array(items) => items.iter().for_each(|v| references(v, found)),
        _ => {}
    }
}

#[test]
fn every_route_and_method_is_in_it_and_nothing_else() {
    let document = build("/");
    let mut listed = BTreeSet::new();
    for (path, operations) in document["paths"].as_object().unwrap() {
        listed.extend(operations.as_object().unwrap().keys().map(|m| (path.as_str(), m.to_uppercase())));
    }
    let routes: BTreeSet<_> = ROUTES.iter().map(|r| (r.path, r.method.to_string())).collect();
    assert_eq!(listed, routes);
    assert_eq!(routes.len(), ROUTES.len(), "a path has one method");
}

#[test]
fn what_needs_no_key_is_what_the_routes_say() {
    let document = build("/");
    let open = |path: &str| {
        let operation = document["paths"][path].as_object().unwrap().values().next().unwrap();
        operation.get("security").is_some_and(|s| s.as_array().unwrap().is_empty())
    };
    for route in ROUTES {
        assert_eq!(open(route.path), route.access == Access::Open, "{}", route.path);
        assert!(route.access == Access::Key || !route.path.contains('{'), "an open path is exact");
    }
}

#[test]
fn every_reference_has_its_target_and_every_schema_its_use() {
    let document = build("/");
    let mut used = BTreeSet::new();
    references(&document, &mut used);
    for target in &used {
        assert!(document.pointer(target.trim_start_matches('#')).is_some(), "{target}");
    }
    for name in parsed().keys() {
        assert!(used.contains(&format!("#/components/schemas/{name}")), "{name} is used nowhere");
    }
}

#[test]
fn every_field_is_in_its_schema_and_nothing_else() {
    let (document, written) = (build("/"), parsed());
    for (name, endpoint) in [("ChatRequest", Endpoint::Chat), ("CompletionRequest", Endpoint::Completions)] {
        let table: BTreeSet<_> = schemas(endpoint).keys().cloned().collect();
        let schema = document["components"]["schemas"][name]["properties"].as_object().unwrap();
        assert_eq!(schema.keys().cloned().collect::<BTreeSet<_>>(), table, "{name}");
        for field in written[name]["properties"].as_object().unwrap().keys() {
            assert!(table.contains(field), "{name}.{field}");
        }
    }
}

#[test]
fn ranges_and_neutral_values_are_those_of_the_table() {
    let chat = schemas(Endpoint::Chat);
    assert_eq!(chat["top_logprobs"]["maximum"], 20);
    assert_eq!(chat["temperature"]["type"], json!(["number", "null"]));
    assert_eq!(chat["echo"]["enum"], json!([null, false]));
    assert_eq!(chat["safety_identifier"]["maxLength"], 64);
    assert!(chat["moderation"]["enum"].as_array().unwrap().len() == 1, "only null passes");
}
