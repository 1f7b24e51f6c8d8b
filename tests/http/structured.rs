//! What an answer must look like: every way to say it reaches the engine, what can't be had is refused.

use serde_json::{Value, json};

use crate::client::{ask, post, send};
use crate::double::Server;

const CHAT: &str = "/v1/chat/completions";
const COMPLETIONS: &str = "/v1/completions";

fn body(path: &str, fields: &Value) -> Value {
    let mut body = match path {
        CHAT => json!({"messages": [{"role": "user", "content": "hi"}]}),
        _ => json!({"prompt": "hi"}),
    };
    body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    body
}

/// The constraint that reaches the engine, as it shows itself.
async fn constraint(server: &mut Server, path: &str, fields: &Value) -> Option<String> {
    let mut connection = send(server.addr, post(path, &body(path, fields))).await;
    let added = server.engine.added().await;
    let shown = added.request.constraint.as_ref().map(|constraint| format!("{constraint:?}"));
    added.started(0).eos(0);
    assert_eq!(connection.response().await.status, 200, "{fields}");
    shown
}

#[tokio::test]
async fn every_way_to_ask_for_a_form_reaches_the_engine() {
    let mut server = Server::start().await;
    let schema = json!({"type": "object"});
    let text = schema.to_string();
    let named = json!({"name": "n", "description": "d", "schema": schema, "strict": true});
    let as_schema = [
        json!({"response_format": {"type": "json_schema", "json_schema": named}}),
        json!({"response_format": {"type": "json_schema", "json_schema": {"schema": schema}}}),
        json!({"response_format": {"type": "json_object", "schema": schema}}),
        json!({"response_format": {"type": "json", "value": schema}}),
        json!({"structured_outputs": {"json": schema}}),
        json!({"structured_outputs": {"json": text, "regex": null, "disable_fallback": false}}),
        json!({"guided_json": schema, "guided_decoding_backend": "xgrammar"}),
        json!({"guided_json": text}),
        json!({"json_schema": text}),
    ];
    let others = [
        (json!({"response_format": {"type": "json_object"}}), "JsonObject"),
        (json!({"structured_outputs": {"json_object": true}}), "JsonObject"),
        (json!({"response_format": {"type": "regex", "value": "a+"}}), "Regex(\"a+\")"),
        (json!({"structured_outputs": {"regex": "a+"}}), "Regex(\"a+\")"),
        (json!({"guided_regex": "a+"}), "Regex(\"a+\")"),
        (json!({"regex": "a+"}), "Regex(\"a+\")"),
        (json!({"structured_outputs": {"choice": ["a", "b"]}}), "Choice([\"a\", \"b\"])"),
        (json!({"guided_choice": ["a", "b"]}), "Choice([\"a\", \"b\"])"),
        (json!({"structured_outputs": {"grammar": "g"}}), "Grammar(\"g\")"),
        (json!({"guided_grammar": "g"}), "Grammar(\"g\")"),
        (json!({"ebnf": "g"}), "Grammar(\"g\")"),
        (json!({"grammar": "g"}), "Grammar(\"g\")"),
    ];
    let none = [
        json!({}),
        json!({"response_format": {"type": "text"}}),
        json!({"response_format": null, "guided_json": null, "guided_choice": [], "grammar": ""}),
        json!({"structured_outputs": {}}),
    ];
    for path in [CHAT, COMPLETIONS] {
        for fields in &as_schema {
            let shown = constraint(&mut server, path, fields).await;
            assert_eq!(shown, Some(format!("Wanted(JsonSchema({schema:?}))")), "{fields}");
        }
        for (fields, wanted) in &others {
            assert_eq!(constraint(&mut server, path, fields).await, Some(format!("Wanted({wanted})")), "{fields}");
        }
        for fields in &none {
            assert_eq!(constraint(&mut server, path, fields).await, None, "{fields}");
        }
    }
    let compiled = 2.0 * (as_schema.len() + others.len()) as f64;
    assert_eq!(server.metric("sconce_grammar_compile_seconds_count"), compiled);
}

#[tokio::test]
async fn what_cannot_be_had_is_refused_by_name() {
    let server = Server::start().await;
    let format = |value: Value| json!({ "response_format": value });
    for (fields, param, code) in [
        (json!({"guided_grammar": "refuse"}), "guided_grammar", "invalid_grammar"),
        (json!({"structured_outputs": {"grammar": "refuse"}}), "structured_outputs.grammar", "invalid_grammar"),
        (json!({"guided_regex": "a", "guided_choice": ["a"]}), "guided_choice", "invalid_value"),
        (json!({"structured_outputs": {"regex": "a", "choice": ["a"]}}), "structured_outputs.choice", "invalid_value"),
        (json!({"response_format": {"type": "json_object"}, "guided_regex": "a"}), "guided_regex", "invalid_value"),
        (format(json!({"schema": {}})), "response_format.type", "missing_required_parameter"),
        (format(json!({"type": 1})), "response_format.type", "invalid_type"),
        (format(json!({"type": "yaml"})), "response_format.type", "unsupported_parameter"),
        (format(json!({"type": "json_schema"})), "response_format.json_schema", "missing_required_parameter"),
        (
            format(json!({"type": "json_schema", "json_schema": {"name": "n"}})),
            "response_format.json_schema.schema",
            "missing_required_parameter",
        ),
        (
            format(json!({"type": "json_schema", "json_schema": {"name": "a b", "schema": {}}})),
            "response_format.json_schema.name",
            "invalid_value",
        ),
        (
            format(json!({"type": "json_schema", "json_schema": {"name": "n", "schema": 3}})),
            "response_format.json_schema.schema",
            "invalid_type",
        ),
        (json!({"guided_json": "no schema"}), "guided_json", "invalid_value"),
        (json!({"guided_choice": ["a", 2]}), "guided_choice[1]", "invalid_type"),
        (json!({"guided_choice": vec!["a"; 5000]}), "guided_choice", "invalid_value"),
        (json!({"guided_regex": 5}), "guided_regex", "invalid_type"),
        (
            json!({"structured_outputs": {"regex": "a", "whitespace_pattern": " "}}),
            "structured_outputs.whitespace_pattern",
            "unsupported_parameter",
        ),
        (json!({"guided_whitespace_pattern": " "}), "guided_whitespace_pattern", "unsupported_parameter"),
    ] {
        for path in [CHAT, COMPLETIONS] {
            let response = ask(server.addr, path, &body(path, &fields)).await;
            let (status, got_code, got_param) = response.verdict();
            assert_eq!((status, got_param.as_deref(), got_code.as_deref()), (400, Some(param), Some(code)), "{fields}");
        }
    }
}

#[tokio::test]
async fn unknown_names_within_are_counted() {
    let mut server = Server::start().await;
    let fields =
        json!({"response_format": {"type": "json_schema", "colour": 1, "json_schema": {"schema": {}, "x": 2}}});
    constraint(&mut server, CHAT, &fields).await;
    assert_eq!(server.metric("sconce_unknown_request_fields_total"), 2.0);
}
