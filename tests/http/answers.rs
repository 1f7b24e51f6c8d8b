//! Shapes of answers and the order of stream events; what is streamed equals what is not.

use sconce::types::{EngineEvent, FinishReason, TokenLogprobs};
use serde_json::{Value, json};

use crate::client::{Response, ask, events, get, post, send};
use crate::double::{Added, BOS, CONTEXT, Server, Told, config, ids, info, logprobs, soon};

const CHAT: &str = "/v1/chat/completions";
const COMPLETIONS: &str = "/v1/completions";

/// Asks and plays `answer` for every request that reaches the engine.
async fn played(server: &mut Server, path: &str, body: Value, prompts: usize, answer: impl Fn(&Added)) -> Response {
    let mut connection = send(server.addr, post(path, &body)).await;
    // All prompts arrive before any is answered; each must live until the end.
    let mut added = Vec::new();
    for _ in 0..prompts {
        added.push(server.engine.added().await);
    }
    added.iter().for_each(&answer);
    connection.response().await
}

fn hello(n: u32) -> impl Fn(&Added) {
    move |added| {
        added.started(3);
        for choice in 0..n {
            added.text(choice, "Hé!").eos(choice);
        }
    }
}

fn chat(extra: Value) -> Value {
    let mut body = json!({"model": "org/model", "messages": [{"role": "user", "content": "hi"}]});
    body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    body
}

fn completion(extra: Value) -> Value {
    let mut body = json!({"model": "org/model", "prompt": "ab"});
    body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    body
}

#[tokio::test]
async fn a_chat_answer_has_every_required_key() {
    let mut server = Server::start().await;
    let response = played(&mut server, CHAT, chat(json!({})), 1, hello(1)).await;
    assert_eq!(response.status, 200);
    assert_eq!(response.header("content-type"), Some("application/json"));
    assert!(response.header("content-length").is_some());
    assert!(response.header("x-request-id").is_some() && response.header("openai-processing-ms").is_some());
    let json = response.json();
    assert_eq!(json["object"], "chat.completion");
    assert_eq!(json["model"], "org/model");
    assert!(json["id"].as_str().unwrap().starts_with("chatcmpl-"));
    assert!(json["created"].is_u64() && json["system_fingerprint"].is_string());
    let expected = json!([{"index": 0, "message": {"role": "assistant", "content": "Hé!", "refusal": null},
        "logprobs": null, "finish_reason": "stop"}]);
    assert_eq!(json["choices"], expected);
    let prompt = "user:hi\nassistant:".len() + 1;
    let usage = json!({"prompt_tokens": prompt, "completion_tokens": 5, "total_tokens": prompt + 5,
        "prompt_tokens_details": {"cached_tokens": 3}, "completion_tokens_details": {"reasoning_tokens": 0}});
    assert_eq!(json["usage"], usage);
}

#[tokio::test]
async fn the_engine_gets_what_the_client_asked_for() {
    let mut server = Server::start().await;
    let body = chat(json!({"temperature": 0.5, "top_p": 0.25, "min_p": 0.125, "seed": -1, "n": 2, "max_tokens": 7,
        "max_completion_tokens": 9, "presence_penalty": -1, "frequency_penalty": 1.5, "repetition_penalty": 1.25,
        "logit_bias": {"5": -100, "6": 2}, "min_tokens": 2, "stop_token_ids": [65], "ignore_eos": true,
        "bad_words": ["x"], "logprobs": true, "top_logprobs": 2, "cache_salt": "tenant", "stop": null}));
    let mut connection = send(server.addr, post(CHAT, &body)).await;
    let added = server.engine.added().await;
    let p = &added.request.params;
    assert_eq!((p.temperature, p.top_p, p.min_p, p.top_k), (0.5, 0.25, 0.125, 40), "top_k is the model's default");
    assert_eq!((p.presence_penalty, p.frequency_penalty, p.repetition_penalty), (-1.0, 1.5, 1.25));
    assert_eq!((p.seed, p.max_tokens, p.min_tokens, p.logprobs), (u64::MAX, 9, 2, Some(2)));
    assert_eq!(p.logit_bias, [(5, -100.0), (6, 2.0)]);
    assert_eq!(p.bad_words, [vec![120_u32]]);
    assert!(p.ignore_eos && p.stop_token_ids == [65] && p.eos_token_ids == [256]);
    assert_eq!(added.request.num_choices, 2);
    assert_ne!(added.request.cache_salt, 0);
    assert!(added.request.deadline.is_some());
    let prompt: Vec<u32> = [BOS].into_iter().chain(ids("user:hi\nassistant:")).collect();
    assert_eq!(added.request.prompt[..], prompt);
    added.started(0);
    added.text(0, "a").finish(0, FinishReason::Length).text(1, "b").finish(1, FinishReason::Length);
    assert_eq!(connection.response().await.status, 200);
}

#[tokio::test]
async fn absent_limits_become_the_rest_of_the_context_or_sixteen() {
    let mut server = Server::start().await;
    for (path, body, expected) in
        [(CHAT, chat(json!({"max_tokens": null})), CONTEXT - 19), (COMPLETIONS, completion(json!({})), 16)]
    {
        let mut connection = send(server.addr, post(path, &body)).await;
        let added = server.engine.added().await;
        assert_eq!(added.request.params.max_tokens as usize, expected);
        added.started(0).eos(0);
        assert_eq!(connection.response().await.status, 200);
    }
}

#[tokio::test]
async fn chat_events_come_in_openais_order() {
    let mut server = Server::start().await;
    let body = chat(json!({"stream": true, "stream_options": {"include_usage": true}}));
    let response = played(&mut server, CHAT, body, 1, hello(1)).await;
    assert_eq!(response.header("content-type"), Some("text/event-stream; charset=utf-8"));
    assert_eq!(response.header("cache-control"), Some("no-cache"));
    assert_eq!(response.header("x-accel-buffering"), Some("no"));
    let events = events(&response);
    let ids: std::collections::HashSet<_> =
        events.iter().map(|e| (e["id"].to_string(), e["created"].to_string(), e["model"].to_string())).collect();
    assert_eq!(ids.len(), 1);
    let (usage, chunks) = events.split_last().unwrap();
    assert!(chunks.iter().all(|c| c["object"] == "chat.completion.chunk"));
    assert!(chunks.iter().all(|c| c.get("usage") == Some(&Value::Null)));
    let deltas: Vec<_> = chunks.iter().map(|c| (c["choices"][0]["delta"].clone(), &c["choices"][0])).collect();
    assert_eq!(deltas[0].0, json!({"role": "assistant", "content": ""}));
    let text: Vec<_> = deltas[1..deltas.len() - 1].iter().map(|(d, _)| d["content"].as_str().unwrap()).collect();
    assert_eq!(text, ["H", "é", "!"], "characters are never cut");
    assert!(deltas[..deltas.len() - 1].iter().all(|(_, c)| c["finish_reason"].is_null()));
    let (last, choice) = deltas.last().unwrap();
    assert_eq!((last, &choice["finish_reason"]), (&json!({}), &json!("stop")));
    assert_eq!(usage["choices"], json!([]));
    assert_eq!(usage["usage"]["completion_tokens"], 5);
}

#[tokio::test]
async fn usage_is_absent_unless_asked_for_and_in_every_chunk_if_so() {
    let mut server = Server::start().await;
    let plain = played(&mut server, CHAT, chat(json!({"stream": true})), 1, hello(1)).await;
    assert!(events(&plain).iter().all(|e| e.get("usage").is_none()));
    let options = json!({"stream": true, "stream_options": {"include_usage": true, "continuous_usage_stats": true}});
    let continuous = played(&mut server, COMPLETIONS, completion(options), 1, hello(1)).await;
    let counts: Vec<_> = events(&continuous).iter().map(|e| e["usage"]["completion_tokens"].as_u64()).collect();
    assert!(counts.iter().all(Option::is_some) && counts.is_sorted(), "{counts:?}");
}

/// What a stream adds up to, in the shape of whole choices: (text, logprobs, finish reason).
fn gathered(events: &[Value], chat: bool, n: usize) -> Vec<(String, Value, String)> {
    let mut choices = vec![(String::new(), json!({}), String::new()); n];
    for c in events.iter().flat_map(|e| e["choices"].as_array().unwrap()) {
        let (text, logprobs, finish) = &mut choices[c["index"].as_u64().unwrap() as usize];
        assert_eq!(finish, "", "nothing follows the finish reason");
        text.push_str(if chat { &c["delta"]["content"] } else { &c["text"] }.as_str().unwrap_or_default());
        for (key, list) in c["logprobs"].as_object().into_iter().flatten() {
            let Some(list) = list.as_array() else { continue };
            let all = logprobs.as_object_mut().unwrap().entry(key).or_insert_with(|| json!([]));
            all.as_array_mut().unwrap().extend(list.iter().cloned());
        }
        *finish = c["finish_reason"].as_str().unwrap_or_default().to_owned();
    }
    choices
}

fn whole(json: &Value, chat: bool) -> Vec<(String, Value, String)> {
    let choice = |c: &Value| {
        let text = if chat { &c["message"]["content"] } else { &c["text"] };
        let mut logprobs = c["logprobs"].clone();
        if let Some(map) = logprobs.as_object_mut() {
            map.retain(|_, v| v.is_array());
        }
        let finish = c["finish_reason"].as_str().unwrap().to_owned();
        (text.as_str().unwrap().to_owned(), if logprobs.is_null() { json!({}) } else { logprobs }, finish)
    };
    json["choices"].as_array().unwrap().iter().map(choice).collect()
}

#[tokio::test]
async fn streamed_or_not_the_answer_is_the_same() {
    let mut server = Server::start().await;
    let cases = [
        (CHAT, json!({"n": 3}), 3),
        (CHAT, json!({"logprobs": true, "top_logprobs": 2, "stop": ["lo w", "zzz"]}), 1),
        (CHAT, json!({"logprobs": true, "n": 2}), 2),
        (COMPLETIONS, json!({"logprobs": 2, "stop": "wör"}), 1),
        (COMPLETIONS, json!({"logprobs": 0, "n": 2, "echo": true}), 2),
        (COMPLETIONS, json!({"stop": ["o", "wör"], "include_stop_str_in_output": true}), 1),
        (COMPLETIONS, json!({"stop": ["l"], "min_tokens": 4}), 1),
        (COMPLETIONS, json!({"echo": true}), 1),
    ];
    for (path, extra, n) in cases {
        let is_chat = path == CHAT;
        let answer = |added: &Added| {
            added.started(0);
            if added.request.params.prompt_logprobs.is_some() {
                score(added, 0);
            }
            // Interleaved, with a character whose bytes come apart.
            for byte in "hello wörld".bytes() {
                (0..n as u32).for_each(|c| {
                    added.token(c, byte.into());
                });
            }
            (0..n as u32).for_each(|c| {
                added.eos(c);
            });
        };
        let body = |stream: bool| {
            let mut body = if is_chat { chat(extra.clone()) } else { completion(extra.clone()) };
            body["stream"] = stream.into();
            body
        };
        let one = played(&mut server, path, body(false), 1, answer).await;
        assert_eq!(one.status, 200, "{}", one.body);
        let other = played(&mut server, path, body(true), 1, answer).await;
        assert_eq!(whole(&one.json(), is_chat), gathered(&events(&other), is_chat, n), "{extra}");
    }
}

/// Sends the log-probabilities of the prompt in two parts.
fn score(added: &Added, k: u32) {
    let all: Vec<TokenLogprobs> = added.request.prompt.iter().skip(1).map(|t| logprobs(*t, k)).collect();
    let (a, b) = all.split_at(all.len() / 2);
    added.send(EngineEvent::PromptLogprobs { choice: 0, first: 1, entries: a.to_vec() });
    added.send(EngineEvent::PromptLogprobs { choice: 0, first: 1 + a.len(), entries: b.to_vec() });
}

#[tokio::test]
async fn a_stop_string_across_tokens_ends_the_choice_and_tells_the_engine() {
    let mut server = Server::start().await;
    let body = chat(json!({"stop": "ll", "logprobs": true}));
    let response = played(&mut server, CHAT, body, 1, |added| {
        added.started(0).text(0, "hello");
    })
    .await;
    let choice = &response.json()["choices"][0];
    assert_eq!((&choice["message"]["content"], &choice["finish_reason"]), (&json!("he"), &json!("stop")));
    let bytes: Vec<u8> = logprob_bytes(&choice["logprobs"]["content"]);
    assert_eq!(bytes, b"he", "entries of what was cut are cut");
    assert_eq!(server.engine.told().await, Told::Stop(1, 0));
    assert_eq!(server.engine.told_now(), None, "a complete request is not aborted");
}

fn logprob_bytes(content: &Value) -> Vec<u8> {
    let entries = content.as_array().unwrap().iter();
    entries.flat_map(|e| e["bytes"].as_array().unwrap()).map(|b| b.as_u64().unwrap() as u8).collect()
}

#[tokio::test]
async fn chat_logprobs_have_all_keys_and_their_bytes_are_the_text() {
    let mut server = Server::start().await;
    let body = chat(json!({"logprobs": true, "top_logprobs": 2}));
    let response = played(&mut server, CHAT, body, 1, hello(1)).await;
    let logprobs = &response.json()["choices"][0]["logprobs"];
    assert_eq!(logprobs["refusal"], Value::Null);
    let content = logprobs["content"].as_array().unwrap();
    assert_eq!(logprob_bytes(&logprobs["content"]), "Hé!".as_bytes());
    let first = json!({"token": "H", "logprob": -0.72, "bytes": [72], "top_logprobs": [
        {"token": "H", "logprob": -0.72, "bytes": [72]}, {"token": "I", "logprob": -1.72, "bytes": [73]}]});
    assert_eq!(content[0], first);
    assert_eq!(content[1]["token"], "bytes:\\xc3");
}

#[tokio::test]
async fn impossible_tokens_have_a_finite_logprob() {
    let mut server = Server::start().await;
    let response = played(&mut server, CHAT, chat(json!({"logprobs": true})), 1, |added| {
        let impossible = TokenLogprobs { logprob: f32::NEG_INFINITY, ..logprobs(65, 0) };
        added.started(0);
        added.send(EngineEvent::Token { choice: 0, token: 65, logprobs: Some(impossible) });
        added.eos(0);
    })
    .await;
    assert_eq!(response.json()["choices"][0]["logprobs"]["content"][0]["logprob"], -9999.0);
}

#[tokio::test]
async fn an_echoed_and_scored_prompt_as_evaluation_harnesses_want_it() {
    let mut server = Server::start().await;
    let body = json!({"prompt": [97, 98], "echo": true, "logprobs": 1, "max_tokens": 1});
    let response = played(&mut server, COMPLETIONS, body, 1, |added| {
        assert_eq!(added.request.params.prompt_logprobs, Some(1));
        added.started(0);
        score(added, 1);
        added.text(0, "c").finish(0, FinishReason::Length);
    })
    .await;
    let choice = &response.json()["choices"][0];
    assert_eq!((&choice["text"], &choice["finish_reason"]), (&json!("abc"), &json!("length")));
    let expected = json!({"tokens": ["a", "b", "c"], "token_logprobs": [null, -0.98, -0.99],
        "top_logprobs": [null, {"b": -0.98}, {"c": -0.99}], "text_offset": [0, 1, 2]});
    assert_eq!(choice["logprobs"], expected);
    // Nothing generated: the prompt alone is scored.
    let body = json!({"prompt": "ab", "echo": true, "logprobs": 0, "max_tokens": 0});
    let response = played(&mut server, COMPLETIONS, body, 1, |added| {
        assert_eq!(added.request.params.max_tokens, 0);
        added.started(0);
        score(added, 0);
        added.finish(0, FinishReason::Length);
    })
    .await;
    let choice = &response.json()["choices"][0];
    assert_eq!(choice["text"], "ab");
    assert_eq!(choice["logprobs"]["token_logprobs"], json!([null, -0.97, -0.98]));
}

#[tokio::test]
async fn the_end_token_keeps_its_place_in_legacy_lists() {
    let mut server = Server::start().await;
    let response = played(&mut server, COMPLETIONS, completion(json!({"logprobs": 0})), 1, |added| {
        added.started(0).text(0, "x").eos(0);
    })
    .await;
    let choice = &response.json()["choices"][0];
    assert_eq!(choice["text"], "x");
    assert_eq!(choice["logprobs"]["text_offset"], json!([0, 1]));
}

#[tokio::test]
async fn prompt_logprobs_in_vllms_shape() {
    let mut server = Server::start().await;
    let response = played(&mut server, CHAT, chat(json!({"prompt_logprobs": 1})), 1, |added| {
        added.started(0);
        score(added, 1);
        added.eos(0);
    })
    .await;
    let lists = &response.json()["prompt_logprobs"];
    assert_eq!(lists[0], Value::Null);
    assert_eq!(lists[1]["117"], json!({"logprob": -1.17, "rank": 1, "decoded_token": "u"}));
}

#[tokio::test]
async fn batches_of_prompts_number_their_choices_by_prompt() {
    let mut server = Server::start().await;
    let body = json!({"prompt": ["p", "q"], "n": 2});
    let response = played(&mut server, COMPLETIONS, body, 2, |added| {
        added.started(1);
        let prompt = added.request.prompt[1] as u8 as char;
        (0..2).for_each(|c| {
            added.text(c, &format!("{prompt}{c}")).finish(c, FinishReason::Length);
        });
    })
    .await;
    let json = response.json();
    let texts: Vec<_> = json["choices"].as_array().unwrap().iter().map(|c| (&c["index"], &c["text"])).collect();
    let expected = [json!("p0"), json!("p1"), json!("q0"), json!("q1")];
    assert!(texts.iter().zip(&expected).enumerate().all(|(i, ((index, text), e))| **index == i && *text == e));
    assert_eq!(json["usage"]["prompt_tokens"], 4);
    assert_eq!(json["usage"]["completion_tokens"], 8);
    assert_eq!(json["usage"]["prompt_tokens_details"]["cached_tokens"], 2);
}

#[tokio::test]
async fn a_failure_in_a_stream_is_an_event_and_done() {
    let mut server = Server::start().await;
    let body = chat(json!({"stream": true}));
    let response = played(&mut server, CHAT, body, 1, |added| {
        added.started(0).text(0, "x").send(EngineEvent::Error(sconce::types::RequestError::Internal("/secret".into())));
    })
    .await;
    let events = events(&response);
    let error = events.last().unwrap();
    crate::client::check_error(error);
    assert_eq!(error["error"]["code"], "internal_error");
    assert!(!response.body.contains("secret"), "internals stay in the log");
}

#[tokio::test]
async fn an_engine_that_dies_tells_open_requests() {
    let (server, (handle, end)) = Server::loading(config(), info()).await;
    server.app.ready(handle, std::sync::Arc::new(crate::double::ByteText));
    let mut streamed = send(server.addr, post(CHAT, &chat(json!({"stream": true})))).await;
    let mut whole = send(server.addr, post(CHAT, &chat(json!({})))).await;
    streamed.head().await;
    let commands = end.commands.clone();
    let receive = tokio::task::spawn_blocking(move || [commands.recv().unwrap(), commands.recv().unwrap()]);
    drop(soon("both requests arrive", receive).await.unwrap());
    drop(end);
    let error = streamed.data().await;
    assert_eq!(error["error"]["code"], "engine_dead");
    assert_eq!(streamed.event().await, "data: [DONE]");
    let response = whole.response().await;
    assert_eq!((response.status, response.error()["code"].as_str()), (503, Some("engine_dead")));
    assert!(response.header("retry-after").is_some());
    assert_eq!(get(server.addr, "/health").await.status, 503);
    assert_eq!(get(server.addr, "/livez").await.status, 503);
    assert_eq!(ask(server.addr, CHAT, &chat(json!({}))).await.verdict().1.as_deref(), Some("engine_dead"));
}

#[tokio::test]
async fn silence_is_filled_with_comments() {
    let config = sconce::http::HttpConfig { heartbeat: std::time::Duration::from_millis(20), ..config() };
    let mut server = Server::with(config, info()).await;
    let mut connection = send(server.addr, post(CHAT, &chat(json!({"stream": true})))).await;
    connection.head().await;
    let added = server.engine.added().await;
    assert_eq!(connection.event().await, ": ping");
    assert_eq!(connection.event().await, ": ping");
    added.started(0).eos(0);
    let rest = connection.until("data: [DONE]").await;
    assert!(rest.contains("\"finish_reason\":\"stop\""));
}

#[tokio::test]
async fn small_endpoints() {
    let mut server = Server::start().await;
    let addr = server.addr;
    let models = get(addr, "/v1/models").await.json();
    assert_eq!(models["object"], "list");
    assert_eq!(models["data"][0]["id"], "org/model");
    assert_eq!(models["data"][1]["id"], "alias");
    for path in ["/v1/models/org/model", "/v1/models/org%2Fmodel"] {
        let model = get(addr, path).await.json();
        assert_eq!((&model["id"], &model["object"]), (&json!("org/model"), &json!("model")));
        assert_eq!(model["max_model_len"], CONTEXT);
        assert!(model["created"].is_u64() && model["owned_by"] == "sconce" && model["root"].is_string());
    }
    assert_eq!(get(addr, "/v1/models/nobody").await.verdict().0, 404);
    let tokens = ask(addr, "/tokenize", &json!({"model": "alias", "prompt": "ab", "return_token_strs": true})).await;
    let expected = json!({"count": 3, "max_model_len": CONTEXT, "tokens": [257, 97, 98], "token_strs": ["", "a", "b"]});
    assert_eq!(tokens.json(), expected);
    let messages = json!({"messages": [{"role": "user", "content": "x"}], "add_generation_prompt": false});
    assert_eq!(ask(addr, "/tokenize", &messages).await.json()["count"], "user:x\n".len() + 1);
    let text = ask(addr, "/detokenize", &json!({"tokens": [104, 195, 169]})).await;
    assert_eq!(text.json(), json!({"prompt": "hé"}));
    assert!(get(addr, "/version").await.json()["version"].is_string());
    for path in ["/health", "/readyz", "/livez"] {
        assert_eq!(get(addr, path).await.status, 200);
    }
    played(&mut server, CHAT, chat(json!({})), 1, hello(1)).await;
    let metrics = get(addr, "/metrics").await;
    assert!(metrics.header("content-type").unwrap().starts_with("text/plain; version=0.0.4"));
    assert!(metrics.body.contains("vllm:num_requests_waiting{model_name=\"org/model\",engine=\"0\"} 0"));
    assert!(metrics.body.contains("vllm:cache_config_info{"));
}

#[tokio::test]
async fn half_a_character_is_no_part_of_a_cut_answer() {
    let mut server = Server::start().await;
    for stream in [false, true] {
        let mut body = chat(json!({"stream": stream, "logprobs": true, "max_tokens": 3}));
        body["model"] = json!("org/model");
        let mut connection = send(server.addr, post(CHAT, &body)).await;
        let added = server.engine.added().await;
        // The first two of the three bytes of a euro sign.
        added.started(0).text(0, "a").token(0, 0xe2).token(0, 0x82).finish(0, FinishReason::Length);
        let text = match stream {
            true => connection.until("data: [DONE]").await,
            false => connection.response().await.body,
        };
        assert!(!text.contains('\u{fffd}') && text.contains("\"length\""), "{text}");
        assert!(text.contains("[226]") && text.contains("[130]"), "its tokens are reported: {text}");
    }
}

#[tokio::test]
async fn counters_of_generation_routes_exist_from_the_start() {
    let server = Server::start().await;
    let exposition = server.telemetry.render();
    for route in [CHAT, COMPLETIONS] {
        for code in [200, 400, 429, 500, 503, 504] {
            let line = format!("sconce_http_requests_total{{route=\"{route}\",code=\"{code}\"}} 0\n");
            assert!(exposition.contains(&line), "no {line} in {exposition}");
        }
    }
}

#[tokio::test]
async fn every_request_has_one_outcome() {
    let mut server = Server::start().await;
    played(&mut server, CHAT, chat(json!({})), 1, hello(1)).await;
    played(&mut server, CHAT, chat(json!({"max_tokens": 1})), 1, |a| {
        a.started(0).text(0, "x").finish(0, FinishReason::Length);
    })
    .await;
    played(&mut server, CHAT, chat(json!({})), 1, |a| {
        a.send(EngineEvent::Error(sconce::types::RequestError::Timeout));
    })
    .await;
    ask(server.addr, CHAT, &chat(json!({"n": 0}))).await;
    let outcome = |name: &str| format!(r#"sconce_request_outcomes_total{{outcome="{name}"}}"#);
    for name in ["stop", "length", "timeout", "rejected"] {
        server.metric_becomes(&outcome(name), 1.0).await;
    }
    assert_eq!(server.metric("sconce_requests_received_total"), 4.0);
    assert_eq!(server.metric(r#"vllm:time_to_first_token_seconds_count{model_name="org/model",engine="0"}"#), 2.0);
    assert_eq!(server.metric(r#"vllm:generation_tokens_total{model_name="org/model",engine="0"}"#), 6.0);
    assert_eq!(server.metric(r#"vllm:prefix_cache_hits_total{model_name="org/model",engine="0"}"#), 3.0);
    assert_eq!(server.metric(r#"sconce_rejected_total{reason="invalid"}"#), 1.0);
    assert_eq!(server.metric(r#"sconce_http_requests_total{route="/v1/chat/completions",code="200"}"#), 2.0);
}
