//! From loading to the end: who is answered what, and when the server returns.

use std::sync::Arc;
use std::time::Duration;

use sconce::http::{HttpConfig, Shutdown, State};
use serde_json::{Value, json};

use crate::client::{ask, get, post, send};
use crate::double::{ByteText, Server, config, info, soon};

const CHAT: &str = "/v1/chat/completions";

fn hi(stream: bool) -> Value {
    json!({"messages": [{"role": "user", "content": "hi"}], "stream": stream})
}

async fn reaches(server: &Server, state: State) {
    let reached = async {
        while server.app.lifecycle().state() < state {
            tokio::task::yield_now().await;
        }
    };
    soon(&format!("{state:?}"), reached).await;
}

#[tokio::test]
async fn while_loading_only_liveness_is_green() {
    let (server, (handle, _end)) = Server::loading(config(), info()).await;
    assert_eq!(get(server.addr, "/livez").await.status, 200);
    for path in ["/health", "/readyz", "/v1/models"] {
        let response = get(server.addr, path).await;
        assert_eq!((response.status, response.error()["code"].as_str()), (503, Some("model_loading")), "{path}");
        assert!(response.header("retry-after").is_some());
    }
    assert_eq!(ask(server.addr, CHAT, &hi(false)).await.error()["type"], "service_unavailable_error");
    assert_eq!(get(server.addr, "/metrics").await.status, 200);
    server.app.ready(handle, Arc::new(ByteText));
    assert_eq!(get(server.addr, "/health").await.status, 200);
    assert_eq!(get(server.addr, "/v1/models").await.status, 200);
}

#[tokio::test]
async fn draining_finishes_what_is_open_and_refuses_the_rest() {
    let mut server = Server::start().await;
    let mut streamed = send(server.addr, post(CHAT, &hi(true))).await;
    let mut whole = send(server.addr, post(CHAT, &hi(false))).await;
    let (first, second) = (server.engine.added().await, server.engine.added().await);
    server.shutdown.send(Shutdown::Drain).unwrap();
    reaches(&server, State::Refusing).await;
    assert_eq!(get(server.addr, "/livez").await.status, 200);
    let health = get(server.addr, "/health").await;
    assert_eq!((health.status, health.error()["code"].as_str()), (503, Some("draining")));
    let refused = ask(server.addr, CHAT, &hi(false)).await;
    assert_eq!((refused.status, refused.error()["code"].as_str()), (503, Some("draining")));
    assert_eq!((refused.header("retry-after"), refused.header("connection")), (Some("1"), Some("close")));
    assert_eq!(server.metric("sconce_draining"), 1.0);
    assert!(!server.task.is_finished());
    first.started(0).text(0, "ok").eos(0);
    second.started(0).text(0, "ok").eos(0);
    assert!(streamed.until("data: [DONE]").await.contains("\"finish_reason\":\"stop\""));
    assert_eq!(whole.response().await.json()["choices"][0]["message"]["content"], "ok");
    soon("the server returns", server.task).await.unwrap();
}

#[tokio::test]
async fn new_requests_are_taken_during_the_drain_delay() {
    let limits = HttpConfig { drain_delay: Duration::from_secs(3600), ..config() };
    let mut server = Server::with(limits, info()).await;
    server.shutdown.send(Shutdown::Drain).unwrap();
    reaches(&server, State::Draining).await;
    assert_eq!(get(server.addr, "/health").await.status, 503);
    let mut connection = send(server.addr, post(CHAT, &hi(false))).await;
    server.engine.added().await.started(0).text(0, "ok").eos(0);
    assert_eq!(connection.response().await.status, 200);
}

#[tokio::test]
async fn what_outlives_the_grace_period_is_told_so() {
    let limits = HttpConfig { drain_timeout: Duration::from_millis(10), ..config() };
    let mut server = Server::with(limits, info()).await;
    let mut streamed = send(server.addr, post(CHAT, &hi(true))).await;
    let mut whole = send(server.addr, post(CHAT, &hi(false))).await;
    streamed.head().await;
    let _open = (server.engine.added().await, server.engine.added().await);
    server.shutdown.send(Shutdown::Drain).unwrap();
    assert_eq!(streamed.data().await["error"]["code"], "server_shutdown");
    assert_eq!(streamed.event().await, "data: [DONE]");
    let response = whole.response().await;
    assert_eq!((response.status, response.error()["code"].as_str()), (503, Some("server_shutdown")));
    soon("the server returns", server.task).await.unwrap();
}

#[tokio::test]
async fn a_client_that_reads_nothing_is_counted_at_the_end_too() {
    let limits = HttpConfig { drain_timeout: Duration::from_millis(10), ..config() };
    let mut server = Server::with(limits, info()).await;
    let mut deaf = send(server.addr, post(CHAT, &hi(true))).await;
    deaf.head().await;
    let added = server.engine.added().await;
    added.started(0);
    // More than the buffers of two sockets take.
    for _ in 0..60_000 {
        added.text(0, "a");
    }
    server.shutdown.send(Shutdown::Drain).unwrap();
    soon("the server returns", server.task).await.unwrap();
    let text = server.telemetry.render();
    let outcomes =
        text.lines().filter(|line| line.starts_with("sconce_request_outcomes_total") && line.ends_with(" 1"));
    assert_eq!(outcomes.count(), 1, "{text}");
}

#[tokio::test]
async fn a_second_signal_is_immediate() {
    let mut server = Server::start().await;
    let mut streamed = send(server.addr, post(CHAT, &hi(true))).await;
    streamed.head().await;
    let _open = server.engine.added().await;
    server.shutdown.send(Shutdown::Drain).unwrap();
    reaches(&server, State::Refusing).await;
    server.shutdown.send(Shutdown::Now).unwrap();
    soon("the server returns", server.task).await.unwrap();
}
