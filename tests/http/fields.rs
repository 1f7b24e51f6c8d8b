//! Every request field: wrong types and ranges are 400 naming it, neutral values pass, the rest of
//! the table is honoured, ignored or refused as the contract says.

use sconce::http::HttpConfig;
use serde_json::{Map, Value, json};

use crate::client::{ask, post, send};
use crate::double::{Server, config, info};

const CHAT: &str = "/v1/chat/completions";
const COMPLETIONS: &str = "/v1/completions";

fn body(path: &str, field: &str, value: Value) -> Value {
    let mut map = Map::new();
    if path == CHAT {
        map.insert("messages".into(), json!([{"role": "user", "content": "hi"}]));
    } else {
        map.insert("prompt".into(), json!("hi"));
    }
    map.insert(field.into(), value);
    if field == "stream_options" {
        map.insert("stream".into(), true.into());
    }
    Value::Object(map)
}

async fn refused(server: &Server, path: &str, field: &str, value: Value, param: &str) {
    let response = ask(server.addr, path, &body(path, field, value.clone())).await;
    assert_eq!(response.status, 400, "{path} {field}: {value} -> {}", response.body);
    let error = response.error();
    assert_eq!(error["param"].as_str(), Some(param), "{path} {field}: {value} -> {}", response.body);
    assert_eq!(error["type"], "invalid_request_error");
    assert!(error["code"].is_string());
}

async fn passes(server: &mut Server, path: &str, field: &str, value: Value) {
    let mut connection = send(server.addr, post(path, &body(path, field, value.clone()))).await;
    let added = tokio::select! {
        added = server.engine.added() => added,
        response = connection.refusal() => panic!("{path} {field}: {value} -> {}", response.body),
    };
    added.started(0);
    for choice in 0..added.request.num_choices {
        added.eos(choice);
    }
    let response = connection.response().await;
    assert_eq!(response.status, 200, "{path} {field}: {value} -> {}", response.body);
}

/// Fields by JSON type. Any value of another type must be refused, null must pass.
const BOOLS: &[&str] = &[
    "stream",
    "ignore_eos",
    "include_stop_str_in_output",
    "skip_special_tokens",
    "add_special_tokens",
    "store",
    "use_beam_search",
    "early_stopping",
    "return_token_ids",
    "separate_reasoning",
    "stream_reasoning",
    "include_reasoning",
    "no_stop_trim",
    "return_hidden_states",
    "spaces_between_special_tokens",
    "return_tokens_as_token_ids",
];
const INTS: &[&str] = &[
    "max_tokens",
    "max_completion_tokens",
    "n",
    "seed",
    "top_k",
    "min_tokens",
    "prompt_logprobs",
    "priority",
    "best_of",
];
const NUMBERS: &[&str] =
    &["temperature", "top_p", "min_p", "presence_penalty", "frequency_penalty", "repetition_penalty", "length_penalty"];
const STRINGS: &[&str] = &[
    "model",
    "cache_salt",
    "service_tier",
    "prompt_cache_key",
    "prompt_cache_retention",
    "verbosity",
    "user",
    "safety_identifier",
    "request_id",
    "guided_regex",
    "guided_grammar",
    "regex",
    "ebnf",
    "grammar",
];
const LISTS: &[&str] = &["stop_token_ids", "bad_words", "allowed_token_ids", "guided_choice"];
const OBJECTS: &[&str] = &[
    "logit_bias",
    "stream_options",
    "metadata",
    "prediction",
    "web_search_options",
    "prompt_cache_options",
    "response_format",
    "structured_outputs",
    "mm_processor_kwargs",
    "kv_transfer_params",
    "vllm_xargs",
];
const CHAT_BOOLS: &[&str] =
    &["logprobs", "add_generation_prompt", "continue_final_message", "parallel_tool_calls", "echo"];
const CHAT_LISTS: &[&str] = &["messages", "tools", "functions", "modalities", "documents"];
const CHAT_OBJECTS: &[&str] = &["chat_template_kwargs", "audio"];

#[tokio::test]
async fn wrong_types_name_the_field() {
    let mut server = Server::start().await;
    let samples = [json!(true), json!(1), json!(1.5), json!("text"), json!([1]), json!({"a": 1})];
    // Which samples fit a kind, by index.
    let kinds: [(&[&str], &[usize]); 6] =
        [(BOOLS, &[0]), (INTS, &[1]), (NUMBERS, &[1, 2]), (STRINGS, &[3]), (LISTS, &[4]), (OBJECTS, &[5])];
    for path in [CHAT, COMPLETIONS] {
        for (fields, fitting) in kinds {
            for field in fields {
                for (_, sample) in samples.iter().enumerate().filter(|(i, _)| !fitting.contains(i)) {
                    refused(&server, path, field, sample.clone(), field).await;
                }
                passes(&mut server, path, field, Value::Null).await;
            }
        }
    }
    for (fields, fitting) in [(CHAT_BOOLS, 0), (CHAT_LISTS, 4), (CHAT_OBJECTS, 5)] {
        for field in fields {
            for (_, sample) in samples.iter().enumerate().filter(|(i, _)| *i != fitting) {
                refused(&server, CHAT, field, sample.clone(), field).await;
            }
        }
    }
    for value in [json!("x"), json!(true), json!(1.5), json!([]), json!({})] {
        refused(&server, COMPLETIONS, "logprobs", value, "logprobs").await;
    }
    for value in [json!(1), json!(true), json!({}), json!([]), json!([[]]), json!([1, "a"]), json!(["a", 1])] {
        let response = ask(server.addr, COMPLETIONS, &body(COMPLETIONS, "prompt", value.clone())).await;
        assert_eq!(response.status, 400, "{value}");
        assert!(response.error()["param"].as_str().unwrap().starts_with("prompt"));
    }
}

#[tokio::test]
async fn fields_of_the_other_endpoint_are_not_dropped_in_silence() {
    let mut server = Server::start().await;
    let tool = json!([{"type": "function", "function": {"name": "f"}}]);
    let chat_only = [
        ("messages", json!([{"role": "user", "content": "hi"}])),
        ("tools", tool),
        ("top_logprobs", json!(3)),
        ("tool_choice", json!("required")),
        ("reasoning_effort", json!("low")),
    ];
    for (field, value) in chat_only {
        refused(&server, COMPLETIONS, field, value, field).await;
    }
    for (field, value) in [("prompt", json!("x")), ("suffix", json!("x")), ("echo", json!(true))] {
        refused(&server, CHAT, field, value, field).await;
    }
    for (field, value) in [("tools", json!([])), ("top_logprobs", json!(0)), ("add_generation_prompt", json!(false))] {
        passes(&mut server, COMPLETIONS, field, value).await;
    }
    passes(&mut server, CHAT, "suffix", json!("")).await;
}

#[tokio::test]
async fn values_out_of_range_name_the_field() {
    let server = Server::start().await;
    let both = [
        ("n", json!(0)),
        ("n", json!(-1)),
        ("n", json!(9)),
        ("n", json!(129)),
        ("n", json!(1e18)),
        ("temperature", json!(-0.1)),
        ("temperature", json!(2.1)),
        ("temperature", json!(1e300)),
        ("top_p", json!(1.01)),
        ("top_p", json!(-1)),
        ("min_p", json!(2)),
        ("top_k", json!(-2)),
        ("presence_penalty", json!(2.5)),
        ("frequency_penalty", json!(-3)),
        ("repetition_penalty", json!(0)),
        ("max_tokens", json!(-1)),
        ("max_tokens", json!(1_u64 << 40)),
        ("max_tokens", json!(0)),
        ("max_completion_tokens", json!(1e15)),
        ("seed", json!(1e30)),
        ("best_of", json!(2)),
        // With the default number of tokens, or what the context has room for.
        ("min_tokens", json!(5000)),
        ("priority", json!(1)),
        ("stop", json!(["a", "b", "c", "d", "e"])),
        ("stop", json!("")),
        ("stop", json!(1)),
        ("logit_bias", json!((0..1025).map(|i| (i.to_string(), json!(0))).collect::<Map<_, _>>())),
        ("bad_words", json!(vec!["x"; 129])),
        ("stop_token_ids", json!(vec![1; 129])),
        ("prompt_logprobs", json!(21)),
        ("safety_identifier", json!("x".repeat(65))),
        ("metadata", json!((0..17).map(|i| (i.to_string(), json!("v"))).collect::<Map<_, _>>())),
    ];
    for path in [CHAT, COMPLETIONS] {
        for (field, value) in &both {
            let param = if *field == "max_completion_tokens" { "max_completion_tokens" } else { field };
            refused(&server, path, field, value.clone(), param).await;
        }
        for (field, value, param) in [
            ("stop", json!(["a", 1]), "stop[1]"),
            ("stop", json!(["a", ""]), "stop[1]"),
            ("bad_words", json!([""]), "bad_words[0]"),
            // The tokenizer of the double would panic on it: 500.
            ("bad_words", json!(["fine", format!("panic!{}", "x ".repeat(70))]), "bad_words[1]"),
            ("stop_token_ids", json!([5, 300]), "stop_token_ids[1]"),
            ("stop_token_ids", json!([-1]), "stop_token_ids[0]"),
            ("logit_bias", json!({"300": 1}), "logit_bias.300"),
            ("logit_bias", json!({"x": 1}), "logit_bias.x"),
            ("logit_bias", json!({"5": 101}), "logit_bias.5"),
            ("logit_bias", json!({"5": "1"}), "logit_bias.5"),
            ("metadata", json!({"k": 1}), "metadata.k"),
            ("stream_options", json!({"include_usage": 1}), "stream_options.include_usage"),
        ] {
            refused(&server, path, field, value, param).await;
        }
    }
    refused(&server, COMPLETIONS, "logprobs", json!(6), "logprobs").await;
    refused(&server, COMPLETIONS, "prompt", json!([97, 300]), "prompt[1]").await;
    refused(&server, COMPLETIONS, "prompt", json!([[97], [-1]]), "prompt[1][0]").await;
    refused(&server, COMPLETIONS, "prompt", json!(vec!["x"; 1025]), "prompt").await;
    refused(&server, CHAT, "top_logprobs", json!(21), "top_logprobs").await;
    refused(&server, CHAT, "top_logprobs", json!(2), "top_logprobs").await;
    let options = json!({"prompt": "x", "stream_options": {"include_usage": true}});
    let response = ask(server.addr, COMPLETIONS, &options).await;
    assert_eq!(response.error()["param"], "stream_options");
    assert_eq!(ask(server.addr, COMPLETIONS, &json!({})).await.error()["code"], "missing_required_parameter");
}

#[tokio::test]
async fn what_cannot_be_honoured_is_refused_and_neutral_values_pass() {
    let mut server = Server::start().await;
    let tool = json!([{"type": "function", "function": {"name": "f"}}]);
    let refusals = [
        ("functions", tool),
        ("function_call", json!({"name": "f"})),
        ("modalities", json!(["text", "audio"])),
        ("audio", json!({"voice": "x"})),
        ("moderation", json!({"model": "m"})),
        ("chat_template", json!("{{ messages }}")),
        ("echo", json!(true)),
        ("documents", json!([{}])),
    ];
    for (field, value) in refusals {
        refused(&server, CHAT, field, value, field).await;
    }
    let refusals = [
        ("use_beam_search", json!(true)),
        ("truncate_prompt_tokens", json!(5)),
        ("length_penalty", json!(2)),
        ("allowed_token_ids", json!([1])),
    ];
    for path in [CHAT, COMPLETIONS] {
        for (field, value) in &refusals {
            refused(&server, path, field, value.clone(), field).await;
        }
    }
    refused(&server, COMPLETIONS, "suffix", json!("x"), "suffix").await;
    let neutral = [
        ("tools", json!([])),
        ("functions", json!([])),
        ("tool_choice", json!("none")),
        ("tool_choice", json!("auto")),
        ("function_call", json!("none")),
        ("response_format", json!({"type": "text"})),
        ("modalities", json!(["text"])),
        ("parallel_tool_calls", json!(true)),
        ("logprobs", json!(false)),
        ("top_logprobs", json!(0)),
        ("n", json!(1)),
        ("n", json!(1.0)),
        ("echo", json!(false)),
        ("reasoning_effort", json!("low")),
        ("chat_template_kwargs", json!({"enable_thinking": false})),
    ];
    for (field, value) in neutral {
        passes(&mut server, CHAT, field, value).await;
    }
    let ignored = [
        ("store", json!(true)),
        ("service_tier", json!("auto")),
        ("prompt_cache_key", json!("k")),
        ("verbosity", json!("low")),
        ("prediction", json!({"type": "content", "content": "x"})),
        ("user", json!("u")),
        ("web_search_options", json!({})),
        ("metadata", json!({"k": "v"})),
        ("safety_identifier", json!("s")),
        ("best_of", json!(1)),
        ("use_beam_search", json!(false)),
        ("priority", json!(0)),
        ("top_k", json!(-1)),
        ("separate_reasoning", json!(true)),
        ("stream_reasoning", json!(true)),
        ("no_stop_trim", json!(false)),
        ("return_hidden_states", json!(false)),
        ("continue_final_message", json!(false)),
        ("seed", json!(u64::MAX)),
        ("seed", json!(i64::MIN)),
        ("stop", json!([])),
        ("structured_outputs", json!({})),
        ("temperature", json!(0)),
        ("repetition_penalty", json!(1)),
        ("stop", json!(["a", "b", "c", "d"])),
    ];
    for path in [CHAT, COMPLETIONS] {
        for (field, value) in &ignored {
            passes(&mut server, path, field, value.clone()).await;
        }
    }
    for (field, value) in [
        ("suffix", json!("")),
        ("echo", json!(false)),
        ("prompt", json!([97])),
        ("logprobs", Value::Null),
        ("logprobs", json!(false)),
    ] {
        passes(&mut server, COMPLETIONS, field, value).await;
    }
    refused(&server, CHAT, "chat_template_kwargs", json!({"loop": 1}), "chat_template_kwargs.loop").await;
}

/// Of each peer's fields a value that would change the answer and one that would not.
#[tokio::test]
async fn what_peers_know_is_refused_where_it_would_change_the_answer() {
    let mut server = Server::start().await;
    let telling = [
        ("stop_regex", json!("a+"), json!([])),
        ("thinking_token_budget", json!(100), json!(-1)),
        ("repetition_detection", json!({"max_pattern_size": 4}), json!({})),
        ("structural_tag", json!("{}"), json!("")),
        ("custom_logit_processor", json!("x"), json!("")),
        ("custom_params", json!({"a": 1}), json!({})),
        ("min_new_tokens", json!(5), json!(0)),
        ("max_new_tokens", json!(5), Value::Null),
        ("input_ids", json!([1]), json!([])),
        ("input_embeds", json!([[0.1]]), json!([])),
        ("typical_p", json!(0.9), json!(1.0)),
        ("mirostat", json!(2), json!(0)),
        ("xtc_probability", json!(0.5), json!(0)),
        ("dry_multiplier", json!(0.8), json!(0)),
        ("tfs_z", json!(0.9), json!(1)),
        ("top_a", json!(0.2), json!(0)),
        ("dynatemp_range", json!(0.5), json!(0.0)),
        ("top_n_sigma", json!(1.5), json!(-1)),
        ("samplers", json!(["top_k"]), json!([])),
        ("n_probs", json!(5), json!(0)),
        ("n_predict", json!(5), json!(-1)),
        ("repeat_penalty", json!(1.1), json!(1)),
        ("watermark", json!(true), json!(false)),
        ("decoder_input_details", json!(true), json!(false)),
        ("truncate", json!(5), Value::Null),
        ("return_full_text", json!(true), json!(false)),
        ("adapter_id", json!("a"), Value::Null),
        ("lora", json!([{"id": 0, "scale": 1}]), json!([])),
        ("options", json!({"num_ctx": 5}), json!({})),
        ("format", json!("json"), json!("")),
        ("enable_thinking", json!(false), Value::Null),
    ];
    for path in [CHAT, COMPLETIONS] {
        for (field, other, neutral) in &telling {
            refused(&server, path, field, other.clone(), field).await;
            passes(&mut server, path, field, neutral.clone()).await;
        }
        for field in ["cache_prompt", "id_slot", "keep_alive", "xtc_threshold", "dry_base", "mirostat_tau", "rid"] {
            passes(&mut server, path, field, json!(1)).await;
        }
        // How far back a penalty looks matters where there is one.
        passes(&mut server, path, "repeat_last_n", json!(64)).await;
        let mut penalised = body(path, "repeat_last_n", json!(64));
        penalised["frequency_penalty"] = json!(0.5);
        let response = ask(server.addr, path, &penalised).await;
        assert_eq!(response.verdict(), (400, Some("unsupported_parameter".into()), Some("repeat_last_n".into())));
    }
    assert_eq!(server.metric("sconce_unknown_request_fields_total"), 0.0);
}

#[tokio::test]
async fn unknown_fields_within_objects_count_too() {
    let mut server = Server::start().await;
    let mut strict = Server::with(HttpConfig { strict_fields: true, ..config() }, info()).await;
    let user = |extra: Value| {
        let mut message = json!({"role": "user", "content": [{"type": "text", "text": "x"}]});
        message.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        json!([message])
    };
    let call = |call: Value| json!([{"role": "assistant", "tool_calls": [call]}]);
    let part = json!({"type": "text", "text": "x", "zork": 1});
    let cases = [
        ("messages", user(json!({"zork": 1})), "messages[0].zork"),
        ("messages", user(json!({"content": [part]})), "messages[0].content[0].zork"),
        ("messages", call(json!({"zork": 1, "function": {"name": "f"}})), "messages[0].tool_calls[0].zork"),
        ("messages", call(json!({"function": {"name": "f", "zork": 1}})), "messages[0].tool_calls[0].function.zork"),
        ("stream_options", json!({"zork": 1}), "stream_options.zork"),
    ];
    for (i, (field, value, param)) in cases.into_iter().enumerate() {
        passes(&mut server, CHAT, field, value.clone()).await;
        assert_eq!(server.metric("sconce_unknown_request_fields_total"), (i + 1) as f64, "{param}");
        let response = ask(strict.addr, CHAT, &body(CHAT, field, value)).await;
        assert_eq!(response.verdict(), (400, Some("unknown_parameter".into()), Some(param.into())));
    }
    let response = ask(strict.addr, "/tokenize", &json!({"messages": user(json!({"zork": 1}))})).await;
    assert_eq!(response.verdict(), (400, Some("unknown_parameter".into()), Some("messages[0].zork".into())));
    // What answers carry and what other providers know passes, and nulls are absent.
    let known = user(json!({"annotations": [], "audio": null, "cache_control": {"type": "ephemeral"}, "zork": null}));
    passes(&mut strict, CHAT, "messages", known).await;
}

#[tokio::test]
async fn too_many_messages_and_parts_are_refused_by_their_count() {
    let server = Server::start().await;
    let message = json!({"role": "user", "content": ""});
    let part = json!({"type": "text", "text": ""});
    let call = json!({"function": {"name": "f"}});
    for messages in [
        vec![message; 8_193],
        vec![json!({"role": "user", "content": vec![part; 8_192]})],
        vec![json!({"role": "assistant", "tool_calls": vec![call; 8_192]})],
    ] {
        let response = ask(server.addr, CHAT, &json!({"messages": messages})).await;
        assert_eq!(response.verdict(), (400, Some("invalid_value".into()), Some("messages".into())));
        let message = response.error()["message"].to_string();
        assert!(message.contains("8193") && message.contains("8192"), "{message}");
    }
}

#[tokio::test]
async fn unknown_fields_are_counted_or_refused_when_strict() {
    let mut server = Server::start().await;
    passes(&mut server, CHAT, "zzz", json!({"deep": [1]})).await;
    passes(&mut server, COMPLETIONS, "\u{0}\n", json!(1)).await;
    assert_eq!(server.metric("sconce_unknown_request_fields_total"), 2.0);
    let strict = Server::with(HttpConfig { strict_fields: true, ..config() }, info()).await;
    let response = ask(strict.addr, CHAT, &body(CHAT, "zzz", json!(1))).await;
    assert_eq!(response.verdict(), (400, Some("unknown_parameter".into()), Some("zzz".into())));
}

#[tokio::test]
async fn messages_are_checked_to_the_path() {
    let mut server = Server::start().await;
    let call = json!([{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{broken"}}]);
    let good = json!([
        {"role": "system", "content": "s"}, {"role": "developer", "content": "d"},
        {"role": "user", "name": "n", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": null, "tool_calls": call},
        {"role": "tool", "tool_call_id": "c", "content": "1", "made_up": 5},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]}, {"role": "user", "content": ""},
        {"role": "assistant", "content": null, "refusal": "no"},
        {"role": "assistant", "content": "x", "function_call": null, "audio": null},
    ]);
    passes(&mut server, CHAT, "messages", good).await;
    let image = json!({"type": "image_url", "image_url": {"url": "http://x"}});
    let cases = [
        (json!([]), "messages"),
        (json!([1]), "messages[0]"),
        (json!([{}]), "messages[0].role"),
        (json!([{"role": 1}]), "messages[0].role"),
        (json!([{"role": "wizard", "content": "x"}]), "messages[0].role"),
        (json!([{"role": "user"}]), "messages[0].content"),
        (json!([{"role": "user", "content": null}]), "messages[0].content"),
        (json!([{"role": "user", "content": 5}]), "messages[0].content"),
        (json!([{"role": "user", "content": "x"}, {"role": "user", "content": ["x"]}]), "messages[1].content[0]"),
        (json!([{"role": "user", "content": [{"type": "text"}]}]), "messages[0].content[0].text"),
        (json!([{"role": "user", "content": [{"type": "text", "text": "x"}, image]}]), "messages[0].content[1]"),
        (json!([{"role": "user", "content": "x", "name": 5}]), "messages[0].name"),
        (json!([{"role": "tool", "content": "x"}]), "messages[0].tool_call_id"),
        (json!([{"role": "assistant"}]), "messages[0].content"),
        (json!([{"role": "assistant", "content": null, "tool_calls": []}]), "messages[0].content"),
        (json!([{"role": "assistant", "function_call": {"name": "f"}}]), "messages[0].function_call"),
        (json!([{"role": "assistant", "content": "x", "function_call": {"name": "f"}}]), "messages[0].function_call"),
        (json!([{"role": "assistant", "tool_calls": 5}]), "messages[0].tool_calls"),
        (json!([{"role": "assistant", "tool_calls": [5]}]), "messages[0].tool_calls[0]"),
        (json!([{"role": "assistant", "tool_calls": [{"function": {}}]}]), "messages[0].tool_calls[0].function.name"),
    ];
    for (messages, param) in cases {
        refused(&server, CHAT, "messages", messages, param).await;
    }
    let both = json!({"messages": [{"role": "user", "content": "x"}], "add_generation_prompt": true,
        "continue_final_message": true});
    assert_eq!(ask(server.addr, CHAT, &both).await.error()["param"], "continue_final_message");
}

#[tokio::test]
async fn tokenize_refuses_what_would_change_the_ids() {
    let server = Server::start().await;
    let messages = json!([{"role": "user", "content": "x"}]);
    for (body, code, param) in [
        (json!({"messages": messages, "tools": [{"type": "function"}]}), "unsupported_parameter", "tools"),
        (json!({"messages": messages, "chat_template": "x"}), "unsupported_parameter", "chat_template"),
        (json!({"messages": messages, "prompt": "x"}), "invalid_value", "messages"),
    ] {
        let response = ask(server.addr, "/tokenize", &body).await;
        assert_eq!(response.status, 400, "{body}");
        assert_eq!((&response.error()["code"], &response.error()["param"]), (&json!(code), &json!(param)));
    }
    let neutral = json!({"messages": messages, "tools": [], "prompt": null, "router_field": 1});
    assert_eq!(ask(server.addr, "/tokenize", &neutral).await.status, 200);
}
