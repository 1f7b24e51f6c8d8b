//! What routers and orchestrators ask: loads, sizes, probes, SageMaker's routes, the prompt of a request, the document.

use std::sync::atomic::Ordering;
use std::time::Duration;

use sconce::http::HttpConfig;
use serde_json::{Value, json};

use crate::client::{Response, ask, events, get, post, request, send};
use crate::double::{CONTEXT, KEY, Server, VOCAB, config, ids, info, soon};

const CHAT: &str = "/v1/chat/completions";
const RENDER: &str = "/v1/chat/completions/render";

fn user(content: &str) -> Value {
    json!([{"role": "user", "content": content}])
}

fn with(mut body: Value, change: Value) -> Value {
    body.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
    body
}

#[tokio::test]
async fn loads_tell_what_runs_and_waits() {
    let (server, (handle, end)) = Server::loading(config(), info()).await;
    assert_eq!(get(server.addr, "/v1/loads").await.verdict().1.as_deref(), Some("model_loading"));
    server.app.ready(handle, std::sync::Arc::new(crate::double::ByteText));
    let stats = end.stats();
    stats.num_running.store(3, Ordering::Relaxed);
    stats.num_waiting.store(2, Ordering::Relaxed);
    stats.queued_tokens.store(77, Ordering::Relaxed);
    stats.used_blocks.store(16, Ordering::Relaxed);
    let loads = get(server.addr, "/v1/loads?include=core,queues").await.json();
    assert_eq!(loads["dp_rank_count"], 1);
    assert!(loads["timestamp"].as_str().is_some_and(|t| t.ends_with('Z') && t.contains('T')), "{loads}");
    let expected = json!([{
        "dp_rank": 0, "num_running_reqs": 3, "num_waiting_reqs": 2, "num_total_reqs": 5,
        "num_waiting_uncached_tokens": 77, "num_used_tokens": 16 * 32, "max_total_num_tokens": 64 * 32,
        "token_usage": 0.25, "utilization": 0.375, "max_running_requests": 8,
    }]);
    assert_eq!(loads["loads"], expected);
}

#[tokio::test]
async fn server_and_model_say_who_they_are() {
    let server = Server::with(HttpConfig { model_root: "/models/m.gguf".into(), ..config() }, info()).await;
    for path in ["/server_info", "/get_server_info"] {
        let told = get(server.addr, path).await.json();
        assert_eq!((&told["model_path"], &told["served_model_name"]), (&json!("/models/m.gguf"), &json!("org/model")));
        assert_eq!((&told["context_length"], &told["max_total_tokens"]), (&json!(CONTEXT), &json!(2048)));
        assert_eq!((&told["tp_size"], &told["max_running_requests"]), (&json!(1), &json!(8)));
    }
    for path in ["/model_info", "/get_model_info"] {
        let told = get(server.addr, path).await.json();
        assert_eq!((&told["tokenizer_path"], &told["is_generation"]), (&json!("/models/m.gguf"), &json!(true)));
        assert_eq!((&told["vocab_size"], &told["eos_token_ids"]), (&json!(VOCAB), &json!([256])));
    }
}

#[tokio::test]
async fn probes_of_every_orchestrator_agree() {
    let (server, (handle, end)) =
        Server::loading(HttpConfig { stall_timeout: Duration::from_millis(1), ..config() }, info()).await;
    let ready = ["/health", "/readyz", "/ping", "/v2/health/ready", "/v2/models/org%2Fmodel/ready"];
    let live = ["/livez", "/v2/health/live"];
    let addr = server.addr;
    for path in ready {
        let response = get(addr, path).await;
        assert_eq!((response.status, response.header("retry-after")), (503, Some("5")), "{path}");
    }
    for path in live {
        assert_eq!(get(addr, path).await.status, 200, "{path}");
    }
    server.app.ready(handle, std::sync::Arc::new(crate::double::ByteText));
    for path in ready.into_iter().chain(live) {
        assert_eq!(get(addr, path).await.status, 200, "{path}");
    }
    assert_eq!(get(addr, "/v2/health/ready").await.json(), json!({"ready": true}));
    assert_eq!(get(addr, "/v2/health/live").await.json(), json!({"live": true}));
    for path in ["/v2/models/org/model/ready", "/v2/models/alias/ready"] {
        let told = get(addr, path).await.json();
        assert_eq!(told["ready"], true);
        assert!(path.contains(told["name"].as_str().unwrap()));
    }
    assert_eq!(get(addr, "/v2/models/nobody/ready").await.verdict().1.as_deref(), Some("model_not_found"));
    for path in ["/v2/models//ready", "/v2/models/ready", "/v2/models/alias/READY", "/v2/health", "/ping/"] {
        assert_eq!(get(addr, path).await.verdict().1.as_deref(), Some("not_found"), "{path}");
    }
    end.stats().busy.store(true, Ordering::Relaxed);
    let red = async { while get(addr, "/ping").await.status != 503 {} };
    soon("every probe turns red", red).await;
    for path in ready {
        assert_eq!(get(addr, path).await.status, 503, "{path}");
    }
    drop(end);
    for path in live {
        assert_eq!(get(addr, path).await.status, 503, "{path}");
    }
}

#[tokio::test]
async fn the_body_decides_what_an_invocation_is() {
    let mut server = Server::start().await;
    for (body, object) in [
        (json!({"messages": user("hi"), "model": "alias"}), "chat.completion"),
        (json!({"prompt": "hi", "messages": null}), "text_completion"),
    ] {
        let mut connection = send(server.addr, post("/invocations", &body)).await;
        server.engine.added().await.started(0).text(0, "yes").eos(0);
        let answer = connection.response().await.json();
        assert_eq!((&answer["object"], &answer["usage"]["completion_tokens"]), (&json!(object), &json!(4)));
    }
    let stream = json!({"messages": user("hi"), "stream": true});
    let mut connection = send(server.addr, post("/invocations", &stream)).await;
    server.engine.added().await.started(0).text(0, "y").eos(0);
    let answer: Response = connection.response().await;
    assert_eq!(events(&answer).last().unwrap()["choices"][0]["finish_reason"], "stop");
    for (body, param) in [
        (json!({"messages": user("hi"), "temperature": 3}), "temperature"),
        (json!({"prompt": "hi", "echo": 1}), "echo"),
        (json!({"messages": user("hi"), "prompt": "x"}), "prompt"),
        (json!({"prompt": "hi", "model": "gpt-4"}), "model"),
    ] {
        assert_eq!(ask(server.addr, "/invocations", &body).await.error()["param"], param, "{body}");
    }
    assert_eq!(ask(server.addr, "/invocations", &json!({"model": "alias"})).await.status, 400);
    for (kind, body, status) in [("text/plain", "{}", 415), ("application/json", "{\"prompt\":", 400)] {
        let header = format!("content-type: {kind}");
        let response = send(server.addr, request("POST", "/invocations", &[&header], body)).await.response().await;
        assert_eq!(response.status, status);
        response.error();
    }
}

#[tokio::test]
async fn render_gives_the_exact_prompt_and_what_would_hold() {
    let mut server = Server::start().await;
    let body = json!({"model": "alias", "messages": user("hé"), "max_tokens": 7, "temperature": 0.5, "stop": "x",
        "stream": true});
    let told = ask(server.addr, RENDER, &body).await.json();
    let text = "user:hé\nassistant:";
    assert_eq!(
        (&told["prompt_text"], &told["stream"], &told["model"]),
        (&json!(text), &json!(true), &json!("org/model"))
    );
    let params = &told["sampling_params"];
    assert_eq!((&params["max_tokens"], &params["stop"], &params["n"]), (&json!(7), &json!(["x"]), &json!(1)));
    // The model's own recommendation.
    assert_eq!((&params["temperature"], &params["top_k"]), (&json!(0.5), &json!(40)));
    // The very ids that the endpoint computes.
    let mut connection = send(server.addr, post(CHAT, &with(body, json!({"stream": false})))).await;
    let added = server.engine.added().await;
    assert_eq!(told["token_ids"], json!(added.request.prompt.to_vec()));
    assert_eq!(told["token_ids"].as_array().unwrap()[1..], ids(text).iter().map(|id| json!(id)).collect::<Vec<_>>());
    added.started(0).eos(0);
    assert_eq!(connection.response().await.status, 200);
}

#[tokio::test]
async fn render_refuses_what_the_endpoint_refuses() {
    let server = Server::start().await;
    for change in [
        json!({"temperature": 3}),
        json!({"messages": []}),
        json!({"messages": user("refuse")}),
        json!({"messages": user(&"x".repeat(CONTEXT))}),
        json!({"max_tokens": CONTEXT}),
        json!({"model": "gpt-4"}),
        json!({"bad_words": [""]}),
        json!({"echo": true}),
        json!({"stream_options": {}}),
        json!({"top_logprobs": 3}),
    ] {
        let body = with(json!({"messages": user("hi")}), change);
        let (rendered, real) = (ask(server.addr, RENDER, &body).await, ask(server.addr, CHAT, &body).await);
        assert!(matches!(real.status, 400 | 404), "{body}");
        assert_eq!((rendered.status, rendered.error()), (real.status, real.error()), "{body}");
    }
}

#[tokio::test]
async fn tokenize_checks_every_field_of_vllms() {
    let server = Server::start().await;
    let chat = json!({"messages": user("x")});
    for (path, body, code, param) in [
        ("/tokenize", json!({}), "missing_required_parameter", "prompt"),
        ("/tokenize", json!({"prompt": 5}), "invalid_type", "prompt"),
        ("/tokenize", json!({"prompt": "x", "add_special_tokens": "no"}), "invalid_type", "add_special_tokens"),
        ("/tokenize", json!({"prompt": "x", "return_token_strs": 1}), "invalid_type", "return_token_strs"),
        ("/tokenize", with(chat.clone(), json!({"add_special_tokens": 0})), "invalid_type", "add_special_tokens"),
        ("/tokenize", with(chat.clone(), json!({"chat_template_kwargs": "x"})), "invalid_type", "chat_template_kwargs"),
        (
            "/tokenize",
            with(chat.clone(), json!({"media_io_kwargs": {"a": 1}})),
            "unsupported_parameter",
            "media_io_kwargs",
        ),
        ("/tokenize", json!({"prompt": "x", "model": 1}), "invalid_type", "model"),
        ("/detokenize", json!({}), "missing_required_parameter", "tokens"),
        ("/detokenize", json!({"tokens": "x"}), "invalid_type", "tokens"),
        ("/detokenize", json!({"tokens": [1, VOCAB]}), "invalid_value", "tokens[1]"),
        ("/detokenize", json!({"tokens": [-1]}), "invalid_value", "tokens[0]"),
    ] {
        let response = ask(server.addr, path, &body).await;
        assert_eq!(response.verdict(), (400, Some(code.to_owned()), Some(param.to_owned())), "{body}");
    }
    let strings = with(chat.clone(), json!({"add_generation_prompt": false, "return_token_strs": true}));
    let told = ask(server.addr, "/tokenize", &strings).await.json();
    assert_eq!(told["token_strs"], json!(["", "u", "s", "e", "r", ":", "x", "\n"]));
    assert_eq!(told["count"], 8);
    let open = with(chat, json!({"continue_final_message": true, "chat_template_kwargs": {"thinking": false}}));
    assert_eq!(ask(server.addr, "/tokenize", &open).await.json()["count"], 8);
    assert_eq!(ask(server.addr, "/detokenize", &json!({"tokens": []})).await.json(), json!({"prompt": ""}));
}

#[tokio::test]
async fn the_document_names_every_route_that_answers_and_no_other() {
    let server = Server::with(HttpConfig { root_path: "/openai".into(), ..config() }, info()).await;
    let addr = server.addr;
    let document = get(addr, "/openapi.json").await.json();
    assert_eq!((&document["openapi"], &document["servers"][0]["url"]), (&json!("3.1.0"), &json!("/openai")));
    let paths = document["paths"].as_object().unwrap();
    assert!(paths.len() > 20);
    for (path, operations) in paths {
        let path = &path.replace("{model}", "alias");
        for (method, operation) in operations.as_object().unwrap() {
            let header: &[&str] = if method == "post" { &["content-type: application/json"] } else { &[] };
            let known = send(addr, request(&method.to_uppercase(), path, header, "{}")).await.response().await;
            let expected = if method == "post" { 400 } else { 200 };
            assert_eq!(known.status, expected, "{method} {path}");
            if let Some(content) = operation["responses"]["200"].get("content").filter(|_| method == "get") {
                let kind = known.header("content-type").unwrap().split(';').next().unwrap();
                assert!(content.get(kind).is_some(), "{path}: {kind}");
            }
            let other = if method == "post" { "PUT" } else { "POST" };
            assert_eq!(send(addr, request(other, path, &[], "")).await.response().await.status, 405, "{other} {path}");
        }
    }
}

#[tokio::test]
async fn without_a_key_only_the_probes_of_the_document_are_open() {
    let server = Server::with(HttpConfig { api_keys: vec![KEY.into()], ..config() }, info()).await;
    let header = format!("authorization: Bearer {KEY}");
    let document = send(server.addr, request("GET", "/openapi.json", &[&header], "")).await.response().await.json();
    let mut open = Vec::new();
    for (path, operations) in document["paths"].as_object().unwrap() {
        for method in operations.as_object().unwrap().keys() {
            let asked = request(&method.to_uppercase(), &path.replace("{model}", "alias"), &[], "");
            match send(server.addr, asked).await.response().await.status {
                401 => {}
                200 => open.push(path.as_str()),
                other => panic!("{method} {path}: {other}"),
            }
        }
    }
    assert_eq!(open, ["/health", "/readyz", "/ping", "/livez", "/v2/health/ready", "/v2/health/live"]);
}
