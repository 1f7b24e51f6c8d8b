//! Thoughts and tool calls: what the model writes reaches clients in its parts, streamed or not.

use sconce::types::FinishReason;
use serde_json::{Value, json};

use crate::client::{Connection, ask, events, post, send};
use crate::double::{Added, Server, Told};

const CHAT: &str = "/v1/chat/completions";
const TWO_CALLS: &str = "<think>hm, two</think>\n\nLet me see.\n<tool_call>\n{\"name\": \"sum\", \"arguments\": {\"a\": 1, \"b\": [2]}}\n</tool_call>\n<tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n</tool_call>";

fn tool(name: &str) -> Value {
    json!({"type": "function", "function": {"name": name, "parameters": {"type": "object"}}})
}

fn body(fields: &Value) -> Value {
    let mut body = json!({"messages": [{"role": "user", "content": "hi"}], "tools": [tool("sum"), tool("now")]});
    body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    body
}

async fn begin(server: &mut Server, fields: &Value) -> (Connection, Added) {
    let connection = send(server.addr, post(CHAT, &body(fields))).await;
    let added = server.engine.added().await;
    added.started(0);
    (connection, added)
}

/// The choice of an answer that the model ends itself.
async fn answer(server: &mut Server, fields: &Value, text: &str) -> Value {
    let (mut connection, added) = begin(server, fields).await;
    added.text(0, text).eos(0);
    let mut answer = connection.response().await.json();
    answer["choices"][0].take()
}

/// Calls without their ids, which are checked.
fn calls(message: &Value) -> Vec<(String, Value)> {
    let calls = message["tool_calls"].as_array().unwrap();
    let ids: std::collections::HashSet<_> = calls.iter().map(|call| call["id"].as_str().unwrap()).collect();
    assert!(ids.len() == calls.len() && ids.iter().all(|id| id.starts_with("call_")), "{ids:?}");
    let call = |call: &Value| {
        assert_eq!(call["type"], "function");
        let arguments = call["function"]["arguments"].as_str().unwrap();
        (call["function"]["name"].as_str().unwrap().to_owned(), serde_json::from_str(arguments).unwrap())
    };
    calls.iter().map(call).collect()
}

fn both() -> Vec<(String, Value)> {
    vec![("sum".into(), json!({"a": 1, "b": [2]})), ("now".into(), json!({}))]
}

#[tokio::test]
async fn an_answer_has_thoughts_content_and_calls() {
    let mut server = Server::start().await;
    let choice = answer(&mut server, &json!({}), TWO_CALLS).await;
    let message = &choice["message"];
    assert_eq!((&choice["finish_reason"], &message["content"]), (&json!("tool_calls"), &json!("Let me see.")));
    assert_eq!(message["reasoning_content"], "hm, two");
    assert_eq!(calls(message), both());
    let only = TWO_CALLS.split_once("see.\n").unwrap().1;
    let choice = answer(&mut server, &json!({}), only).await;
    assert_eq!(choice["message"]["content"], Value::Null);
    let choice = answer(&mut server, &json!({}), "just text").await;
    assert_eq!(choice["message"], json!({"role": "assistant", "content": "just text", "refusal": null}));
    assert_eq!(choice["finish_reason"], "stop");
}

#[tokio::test]
async fn a_stream_has_the_same_parts_in_order() {
    let mut server = Server::start().await;
    let fields = json!({"stream": true, "stream_options": {"include_usage": true}});
    let (mut connection, added) = begin(&mut server, &fields).await;
    added.text(0, TWO_CALLS).eos(0);
    let response = connection.response().await;
    let events = events(&response);
    let (usage, chunks) = events.split_last().unwrap();
    assert!(usage["usage"]["completion_tokens_details"]["reasoning_tokens"].as_u64().unwrap() >= 7);
    assert_eq!(chunks[0]["choices"][0]["delta"], json!({"role": "assistant", "content": ""}));
    assert_eq!(chunks.last().unwrap()["choices"][0]["finish_reason"], "tool_calls");
    let (mut text, mut thoughts, mut calls) = (String::new(), String::new(), Vec::<(String, String)>::new());
    for delta in chunks.iter().map(|chunk| &chunk["choices"][0]["delta"]) {
        text += delta["content"].as_str().unwrap_or_default();
        thoughts += delta["reasoning_content"].as_str().unwrap_or_default();
        let Some([call]) = delta["tool_calls"].as_array().map(Vec::as_slice) else { continue };
        let (index, function) = (call["index"].as_u64().unwrap() as usize, &call["function"]);
        let arguments = function["arguments"].as_str().unwrap();
        match function["name"].as_str() {
            Some(name) => {
                assert!(call["id"].is_string() && call["type"] == "function" && arguments.is_empty());
                assert_eq!(index, calls.len());
                calls.push((name.to_owned(), String::new()));
            }
            None => {
                assert!(call.get("id").is_none() && index + 1 == calls.len());
                calls[index].1 += arguments;
            }
        }
    }
    assert_eq!((text.as_str(), thoughts.as_str()), ("Let me see.", "hm, two"));
    let calls: Vec<_> = calls.into_iter().map(|(name, text)| (name, serde_json::from_str(&text).unwrap())).collect();
    assert_eq!(calls, both());
}

#[tokio::test]
async fn without_parallel_calls_the_answer_is_over_with_the_first() {
    let mut server = Server::start().await;
    let (mut connection, added) = begin(&mut server, &json!({"parallel_tool_calls": false})).await;
    added.text(0, TWO_CALLS);
    let choice = connection.response().await.json()["choices"][0].take();
    assert_eq!(server.engine.told().await, Told::Stop(added.id, 0));
    assert_eq!(calls(&choice["message"]), both()[..1]);
    assert_eq!(choice["finish_reason"], "tool_calls");
}

#[tokio::test]
async fn half_a_call_is_never_done() {
    let mut server = Server::start().await;
    for end in
        ["<tool_call>\n{\"name\": \"sum\", \"argu", "</tool_call>\n<tool_call>\n{\"name\": \"now\", \"arguments\": {"]
    {
        let at = TWO_CALLS.find(end).unwrap_or(0) + end.len();
        let text = if at > end.len() { &TWO_CALLS[..at] } else { end };
        let (mut connection, added) = begin(&mut server, &json!({})).await;
        added.text(0, text).finish(0, FinishReason::Length);
        let choice = connection.response().await.json()["choices"][0].take();
        assert_eq!(choice["finish_reason"], "length", "{text}");
    }
}

#[tokio::test]
async fn what_must_not_be_called_is_text() {
    let mut server = Server::start().await;
    let call = "<tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n</tool_call>";
    let choice = answer(&mut server, &json!({"tool_choice": "none"}), call).await;
    assert_eq!((&choice["message"]["content"], &choice["finish_reason"]), (&json!(call), &json!("stop")));
    assert!(choice["message"].get("tool_calls").is_none());
}

#[tokio::test]
async fn tools_are_checked_to_the_path() {
    let server = Server::start().await;
    let with = |change: &dyn Fn(&mut Value)| {
        let mut tool = tool("f");
        change(&mut tool);
        json!({ "tools": [tool] })
    };
    let function = |name: &'static str, value: Value| with(&move |tool| tool["function"][name] = value.clone());
    for (fields, param, code) in [
        (json!({"tools": [1]}), "tools[0]", "invalid_type"),
        (with(&|tool| tool["type"] = json!("custom")), "tools[0].type", "unsupported_parameter"),
        (json!({"tools": [{"type": "function"}]}), "tools[0].function", "missing_required_parameter"),
        (json!({"tools": [{"function": {"name": "f"}}]}), "tools[0].type", "missing_required_parameter"),
        (function("name", json!("a b")), "tools[0].function.name", "invalid_value"),
        (function("name", json!(3)), "tools[0].function.name", "invalid_type"),
        (function("parameters", json!("x")), "tools[0].function.parameters", "invalid_type"),
        (function("strict", json!(true)), "tools[0].function.strict", "unsupported_parameter"),
        (json!({"tools": [tool("f"), tool("f")]}), "tools[1].function.name", "invalid_value"),
        (json!({"tools": vec![tool("f"); 129]}), "tools", "invalid_value"),
        (json!({"tool_choice": "required"}), "tool_choice", "unsupported_parameter"),
        (
            json!({"tool_choice": {"type": "function", "function": {"name": "sum"}}}),
            "tool_choice",
            "unsupported_parameter",
        ),
        (json!({"tool_choice": "maybe"}), "tool_choice", "invalid_value"),
        (json!({"tool_choice": 1}), "tool_choice", "invalid_type"),
        (json!({"tools": [], "tool_choice": "required"}), "tool_choice", "invalid_value"),
    ] {
        let (status, got_code, got_param) = ask(server.addr, CHAT, &body(&fields)).await.verdict();
        assert_eq!((status, got_param.as_deref(), got_code.as_deref()), (400, Some(param), Some(code)), "{fields}");
    }
}
