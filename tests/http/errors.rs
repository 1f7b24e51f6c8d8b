//! The error table: status, type, code, parameter, headers.

use std::time::Duration;

use sconce::http::HttpConfig;
use sconce::types::{EngineEvent, RequestError};
use serde_json::{Value, json};

use crate::client::{ask, get, post, request, send};
use crate::double::{CONTEXT, KEY, Server, Told, config, info};

const CHAT: &str = "/v1/chat/completions";

fn hi() -> Value {
    json!({"messages": [{"role": "user", "content": "hi"}]})
}

#[tokio::test]
async fn broken_bodies_are_400_and_the_connection_goes_on() {
    let server = Server::start().await;
    let mut connection = crate::client::Connection::open(server.addr).await;
    let bodies = [
        "",
        "{",
        "null",
        "[]",
        "\"x\"",
        "{\"messages\":",
        "{'a':1}",
        "{\"a\":1}}",
        "\u{0}",
        "{\"a\":NaN}",
        "{\"a\":1e999}",
        "{\"a\":Infinity}",
        "{\"a\":\"\\ud800\"}",
    ];
    for body in bodies.iter().map(|b| (*b).to_owned()).chain([deep(65), deep(100_000)]) {
        connection.send(request("POST", CHAT, &["content-type: application/json"], &body)).await;
        let response = connection.response().await;
        let error = response.error();
        assert_eq!((response.status, error["type"].as_str()), (400, Some("invalid_request_error")), "{body:.20}");
    }
    connection.send(post(CHAT, &json!({"messages": []}))).await;
    assert_eq!(connection.response().await.verdict(), verdict(400, "invalid_value", "messages"));
}

fn deep(levels: usize) -> String {
    format!("{{\"messages\":{}{}}}", "[".repeat(levels - 1), "]".repeat(levels - 1))
}

fn verdict(status: u16, code: &str, param: &str) -> (u16, Option<String>, Option<String>) {
    (status, Some(code.to_owned()), Some(param.to_owned()).filter(|p| !p.is_empty()))
}

#[tokio::test]
async fn invalid_utf8_is_400() {
    let server = Server::start().await;
    let mut bytes = request("POST", CHAT, &["content-type: application/json"], "{\"a\":\"##\"}").into_bytes();
    let at = bytes.windows(2).position(|w| w == b"##").unwrap();
    bytes[at..at + 2].copy_from_slice(&[0xff, 0xfe]);
    assert_eq!(send(server.addr, bytes).await.response().await.status, 400);
}

#[tokio::test]
async fn over_length_has_the_phrase_and_both_counts() {
    let server = Server::start().await;
    let long = "x".repeat(CONTEXT);
    let tokens: Vec<u32> = vec![97; CONTEXT + 1];
    let cases = [
        (CHAT, json!({"messages": [{"role": "user", "content": long}]}), "messages", CONTEXT + 17),
        (CHAT, json!({"messages": [{"role": "user", "content": "hi"}], "max_tokens": CONTEXT}), "messages", 19),
        ("/v1/completions", json!({"prompt": long}), "prompt", CONTEXT + 1),
        ("/v1/completions", json!({"prompt": tokens}), "prompt", CONTEXT + 1),
        ("/v1/completions", json!({"prompt": "ab", "max_tokens": 4_000_000_000_u32}), "prompt", 3),
    ];
    for (path, body, param, count) in cases {
        let response = ask(server.addr, path, &body).await;
        assert_eq!(response.verdict(), verdict(400, "context_length_exceeded", param));
        let message = response.error()["message"].as_str().unwrap().to_owned();
        assert!(message.starts_with("This model's maximum context length is 512 tokens."), "{message}");
        assert!(message.contains(&format!("({count} in the {param}")), "{message}");
    }
    assert_eq!(server.metric(r#"sconce_rejected_total{reason="context_length"}"#), 5.0);
}

#[tokio::test]
async fn unknown_models_routes_and_methods() {
    let server = Server::start().await;
    let addr = server.addr;
    let mut body = hi();
    body["model"] = "gpt-4".into();
    let response = ask(addr, CHAT, &body).await;
    assert_eq!(response.verdict(), verdict(404, "model_not_found", "model"));
    for path in
        ["/", "/kv_event_sources", "/v1/completions/render", "/loads?model=", "/v1/models/", "/v2", "/v1/loads/"]
    {
        let response = get(addr, path).await;
        assert_eq!(response.verdict(), verdict(404, "not_found", ""), "{path}");
        assert_eq!(response.error()["type"], "invalid_request_error");
    }
    for (method, path, allow) in [
        ("GET", CHAT, "POST"),
        ("DELETE", "/v1/models", "GET, HEAD"),
        ("POST", "/health", "GET, HEAD"),
        ("PUT", "/tokenize", "POST"),
    ] {
        let response = send(addr, request(method, path, &[], "")).await.response().await;
        assert_eq!(response.verdict(), verdict(405, "method_not_allowed", ""), "{method} {path}");
        assert_eq!(response.header("allow"), Some(allow));
    }
}

#[tokio::test]
async fn content_types_and_sizes() {
    let server = Server::with(HttpConfig { max_body_bytes: 1000, ..config() }, info()).await;
    let addr = server.addr;
    for header in ["content-type: text/plain", "content-type: application/x-www-form-urlencoded", "x-nothing: 1"] {
        let response = send(addr, request("POST", CHAT, &[header], "{}")).await.response().await;
        assert_eq!(response.verdict(), verdict(415, "unsupported_media_type", ""));
    }
    let json = ["content-type: application/json; charset=utf-8"];
    let big = format!("{{\"a\":\"{}\"}}", "x".repeat(2000));
    let response = send(addr, request("POST", CHAT, &json, &big)).await.response().await;
    assert_eq!(response.verdict(), verdict(413, "request_too_large", ""));
    // Without a declared length it is found while reading.
    let chunk = format!("{:x}\r\n{big}\r\n0\r\n\r\n", big.len());
    let head = format!("POST {CHAT} HTTP/1.1\r\nhost: t\r\n{}\r\ntransfer-encoding: chunked\r\n\r\n", json[0]);
    let response = send(addr, head + &chunk).await.response().await;
    assert_eq!(response.verdict(), verdict(413, "request_too_large", ""));
}

#[tokio::test]
async fn a_full_queue_is_429_with_whole_seconds() {
    let mut server = Server::with(config(), sconce::engine::EngineInfo { max_queued_tokens: 30, ..info() }).await;
    // The double takes queued tokens off the count; keep them on it by hand.
    let (loading, (handle, end)) =
        Server::loading(config(), sconce::engine::EngineInfo { max_queued_tokens: 30, ..info() }).await;
    loading.app.ready(handle, std::sync::Arc::new(crate::double::ByteText));
    let mut first = send(loading.addr, post(CHAT, &json!({"messages": hi()["messages"], "stream": true}))).await;
    first.head().await;
    let response = ask(loading.addr, CHAT, &hi()).await;
    assert_eq!(response.verdict(), verdict(429, "queue_full", ""));
    assert_eq!(response.error()["type"], "rate_limit_error");
    let seconds: u64 = response.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=60).contains(&seconds));
    assert_eq!(loading.metric(r#"sconce_rejected_total{reason="queue_full"}"#), 1.0);
    // A batch is taken whole or not at all: what was submitted of it is aborted.
    let body = json!({"prompt": ["0123456789", "0123456789"]});
    let response = ask(loading.addr, "/v1/completions", &body).await;
    assert_eq!(response.status, 429);
    drop(end);
    let mut connection = send(server.addr, post(CHAT, &hi())).await;
    server.engine.added().await.started(0).eos(0);
    assert_eq!(connection.response().await.status, 200);
}

#[tokio::test]
async fn what_can_never_fit_is_400_at_once() {
    let server = Server::with(config(), sconce::engine::EngineInfo { kv_capacity_tokens: 64, ..info() }).await;
    let mut body = hi();
    body["max_tokens"] = 100.into();
    let response = ask(server.addr, CHAT, &body).await;
    assert_eq!((response.status, response.error()["code"].as_str()), (400, Some("never_fits")));
}

#[tokio::test]
async fn a_batch_that_the_queue_can_never_hold_is_400() {
    let mut server = Server::with(config(), sconce::engine::EngineInfo { max_queued_tokens: 10, ..info() }).await;
    for body in [
        json!({"prompt": ["abcd", "abcd", "abcd"]}),
        json!({"prompt": ["ab", "ab"], "n": 2}),
        json!({"prompt": [[97, 97, 97, 97, 97, 97], [97, 97, 97, 97, 97]]}),
    ] {
        let response = ask(server.addr, "/v1/completions", &body).await;
        assert_eq!(response.verdict(), verdict(400, "never_fits", "prompt"), "{body}");
        let message = response.error()["message"].to_string();
        assert!(message.contains("at least 1") && message.contains("holds 10"), "{message}");
    }
    // A single request may be longer than the queue; a batch that just fits passes.
    let one = json!({"prompt": "a prompt of more than ten"});
    for (body, prompts) in [(one, 1), (json!({"prompt": ["abcd", "abcd"]}), 2)] {
        let mut connection = send(server.addr, post("/v1/completions", &body)).await;
        for _ in 0..prompts {
            server.engine.added().await.started(0).eos(0);
        }
        assert_eq!(connection.response().await.status, 200);
    }
}

#[tokio::test]
async fn a_text_far_beyond_the_context_is_refused_before_it_is_tokenised() {
    let server = Server::start().await;
    // The tokenizer of the double would panic on it: 500.
    let long = format!("panic!{}", "x".repeat(CONTEXT + 4096));
    let messages = json!([{"role": "user", "content": long}]);
    for (path, body, param) in [
        ("/v1/completions", json!({"prompt": long}), "prompt"),
        ("/v1/completions", json!({"prompt": ["a", long]}), "prompt"),
        (CHAT, json!({"messages": messages}), "messages"),
    ] {
        let response = ask(server.addr, path, &body).await;
        assert_eq!(response.verdict(), verdict(400, "context_length_exceeded", param));
        let message = response.error()["message"].to_string();
        assert!(message.contains(&format!("maximum context length is {CONTEXT} tokens")), "{message}");
        assert!(message.contains("at least 5"), "{message}");
    }
    for (body, param) in [(json!({"prompt": long}), "prompt"), (json!({"messages": messages}), "messages")] {
        let response = ask(server.addr, "/tokenize", &body).await;
        assert_eq!(response.verdict(), verdict(400, "invalid_value", param));
    }
}

#[tokio::test]
async fn deadlines_are_504_or_an_event() {
    let mut server = Server::start().await;
    let header = ["content-type: application/json", "x-request-timeout-ms: 1000"];
    let mut whole = send(server.addr, request("POST", CHAT, &header, &hi().to_string())).await;
    let first = server.engine.added().await;
    let response = whole.response().await;
    assert_eq!(response.verdict(), verdict(504, "timeout", ""));
    assert_eq!(response.error()["type"], "timeout_error");
    assert_eq!(server.engine.told().await, Told::Abort(first.id));
    let mut body = hi();
    body["stream"] = true.into();
    let mut streamed = send(server.addr, request("POST", CHAT, &header, &body.to_string())).await;
    streamed.head().await;
    assert_eq!(streamed.data().await["error"]["code"], "timeout");
    assert_eq!(streamed.event().await, "data: [DONE]");
    let bad = ["content-type: application/json", "x-request-timeout-ms: soon"];
    let response = send(server.addr, request("POST", CHAT, &bad, &hi().to_string())).await.response().await;
    assert_eq!(response.status, 400);
    // A body that never comes counts too.
    let head = request("POST", CHAT, &header, &hi().to_string());
    let mut cut = send(server.addr, &head[..head.len() - 1]).await;
    assert_eq!(cut.response().await.status, 504);
}

#[tokio::test]
async fn the_engines_errors_have_their_statuses() {
    let mut server = Server::start().await;
    for (error, status, code) in [
        (RequestError::Timeout, 504, "timeout"),
        (RequestError::Internal("x".into()), 500, "internal_error"),
        (RequestError::EngineDead, 503, "engine_dead"),
        (RequestError::Shutdown, 503, "server_shutdown"),
    ] {
        let mut connection = send(server.addr, post(CHAT, &hi())).await;
        server.engine.added().await.send(EngineEvent::Error(error));
        assert_eq!(connection.response().await.verdict(), verdict(status, code, ""));
    }
}

#[tokio::test]
async fn a_panic_in_text_fails_that_request_alone() {
    let mut server = Server::start().await;
    let mut good = send(server.addr, post(CHAT, &json!({"messages": hi()["messages"], "stream": true}))).await;
    let added = server.engine.added().await;
    added.started(0).text(0, "a");
    good.until("\"a\"").await;
    let broken = json!({"messages": [{"role": "user", "content": "panic!"}]});
    assert_eq!(ask(server.addr, CHAT, &broken).await.verdict(), verdict(500, "internal_error", ""));
    // One whose decoder breaks in the middle of its answer.
    let mut connection = send(server.addr, post(CHAT, &hi())).await;
    let second = server.engine.added().await;
    second.started(0).token(0, crate::double::VOCAB as u32 - 1);
    assert_eq!(connection.response().await.status, 500);
    assert_eq!(server.engine.told().await, Told::Abort(second.id));
    added.text(0, "b").eos(0);
    let rest = good.until("data: [DONE]").await;
    assert!(rest.contains("\"b\"") && rest.contains("\"finish_reason\":\"stop\""));
}

#[tokio::test]
async fn a_template_that_refuses_is_400() {
    let server = Server::start().await;
    let body = json!({"messages": [{"role": "user", "content": "refuse"}]});
    assert_eq!(ask(server.addr, CHAT, &body).await.verdict(), verdict(400, "invalid_value", "messages"));
}

#[tokio::test]
async fn without_a_key_everything_but_probes_is_closed() {
    let server = Server::with(HttpConfig { api_keys: vec![KEY.into(), "sk-2".into()], ..config() }, info()).await;
    let addr = server.addr;
    for path in ["/health", "/livez", "/readyz"] {
        assert_eq!(get(addr, path).await.status, 200);
    }
    let tricks = [
        "/v1/models",
        "//v1/models",
        "/v1//models",
        "/%76%31/models",
        "/v1%2fmodels",
        "/health/../v1/models",
        "/health%2f..%2fv1/models",
        "/health/",
        "/health;/v1/models",
        "/./v1/models",
        "/V1/MODELS",
        "/metrics",
        "/version",
        "/tokenize",
        "/openapi.json",
        "/server_info",
        "/v1/loads",
        "/v2/models/org/model/ready",
        "/v2/models/health/ready",
        "/v2/health/ready/",
        "/v2/health/../models/x/ready",
        "/ping/../v1/models",
        "/nothing",
        "http://test/v1/models",
        "http://test/health/../v1/models",
        "/v1/models?x=/health",
        "/v1/models#/health",
        "*",
    ];
    for path in tricks {
        for header in ["x-a: b", "authorization: Bearer sk-tes", "authorization: Basic sk-test", "host: /health"] {
            let response = send(addr, request("GET", path, &[header], "")).await.response().await;
            assert!(matches!(response.status, 400 | 401), "{path} {header}: {}", response.status);
            if response.status == 401 {
                assert_eq!(response.verdict(), verdict(401, "invalid_api_key", ""));
            }
        }
    }
    for key in [KEY, "sk-2"] {
        let header = format!("authorization: Bearer {key}");
        for path in ["/v1/models", "http://test/v1/models", "/metrics"] {
            let response = send(addr, request("GET", path, &[&header], "")).await.response().await;
            assert_eq!(response.status, 200, "{path}");
        }
        let response = send(addr, request("GET", "//v1/models", &[&header], "")).await.response().await;
        assert_eq!(response.status, 404, "paths are never normalised");
    }
}

#[tokio::test]
async fn request_ids_are_kept_if_harmless() {
    let server = Server::start().await;
    let id = |given: &str| request("GET", "/version", &[&format!("x-request-id: {given}")], "");
    let kept = send(server.addr, id("abc-1.2_Z")).await.response().await;
    assert_eq!(kept.header("x-request-id"), Some("abc-1.2_Z"));
    for bad in ["a b", "<x>", &"x".repeat(129), ""] {
        let response = send(server.addr, id(bad)).await.response().await;
        assert_ne!(response.header("x-request-id"), Some(bad));
        assert!(response.header("x-request-id").is_some_and(|v| v.starts_with("req-")));
    }
}

#[tokio::test]
async fn a_stalled_engine_turns_readiness_red_but_not_liveness() {
    let (server, (handle, end)) =
        Server::loading(HttpConfig { stall_timeout: Duration::from_millis(1), ..config() }, info()).await;
    server.app.ready(handle, std::sync::Arc::new(crate::double::ByteText));
    assert_eq!(get(server.addr, "/health").await.status, 200);
    end.stats().busy.store(true, std::sync::atomic::Ordering::Relaxed);
    let red = async { while get(server.addr, "/health").await.status != 503 {} };
    crate::double::soon("health turns red", red).await;
    assert_eq!(get(server.addr, "/livez").await.status, 200);
}
