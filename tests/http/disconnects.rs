//! A client that goes away frees what it held, in every phase, streamed or not.

use serde_json::json;
use tokio::io::AsyncWriteExt;

use crate::client::{Connection, post, send};
use crate::double::{Added, Server, Told, config, info, soon};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Phase {
    Queued,
    Prefill,
    Decode,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Leave {
    Close,
    /// Only the client's half: end of file counts.
    HalfClose,
    Reset,
}

async fn leave(mut connection: Connection, how: Leave) -> Option<Connection> {
    match how {
        Leave::Close => None,
        Leave::HalfClose => {
            connection.socket.shutdown().await.unwrap();
            Some(connection)
        }
        Leave::Reset => {
            connection.socket.set_zero_linger().unwrap();
            None
        }
    }
}

fn reach(phase: Phase, added: &Added) {
    if phase != Phase::Queued {
        added.started(0);
    }
    if phase == Phase::Decode {
        added.text(0, "abc");
    }
}

#[tokio::test]
async fn a_client_that_leaves_aborts_its_request_in_every_phase() {
    let mut server = Server::start().await;
    let mut count = 0.0;
    for stream in [false, true] {
        for phase in [Phase::Queued, Phase::Prefill, Phase::Decode] {
            for how in [Leave::Close, Leave::HalfClose, Leave::Reset] {
                let body = json!({"messages": [{"role": "user", "content": "hi"}], "stream": stream});
                let mut connection = send(server.addr, post("/v1/chat/completions", &body)).await;
                let added = server.engine.added().await;
                reach(phase, &added);
                if stream {
                    connection.head().await;
                    if phase == Phase::Decode {
                        connection.until("\"c\"").await;
                    }
                }
                let _kept = leave(connection, how).await;
                assert_eq!(server.engine.told().await, Told::Abort(added.id), "{stream} {phase:?} {how:?}");
                soon("the channel closes", added.events.closed()).await;
                count += 1.0;
                server.metric_becomes(r#"sconce_request_outcomes_total{outcome="abort"}"#, count).await;
            }
        }
    }
    assert_eq!(server.metric("sconce_client_disconnects_total"), count);
    soon("no request is open", server.app.lifecycle().idle()).await;
}

/// What lies behind a request may be read ahead of the end of file.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn bytes_behind_the_request_do_not_hide_that_its_client_left() {
    let mut server = Server::start().await;
    for behind in ["\r\n", "GET /health HTTP/1.1\r\nhost: t\r\n\r\n"] {
        for stream in [false, true] {
            for how in [Leave::Close, Leave::HalfClose, Leave::Reset] {
                let body = json!({"messages": [{"role": "user", "content": "hi"}], "stream": stream});
                let connection = send(server.addr, post("/v1/chat/completions", &body) + behind).await;
                let added = server.engine.added().await;
                reach(Phase::Decode, &added);
                let _kept = leave(connection, how).await;
                assert_eq!(server.engine.told().await, Told::Abort(added.id), "{behind:?} {stream} {how:?}");
            }
        }
    }
    // Who stays gets both answers.
    let body = json!({"messages": [{"role": "user", "content": "hi"}]});
    let next = "GET /health HTTP/1.1\r\nhost: t\r\n\r\n";
    let mut connection = send(server.addr, post("/v1/chat/completions", &body) + next).await;
    server.engine.added().await.started(0).eos(0);
    assert_eq!((connection.response().await.status, connection.response().await.status), (200, 200));
}

#[tokio::test]
async fn a_batch_is_aborted_whole() {
    let mut server = Server::start().await;
    let body = json!({"prompt": ["a", "b", "c"], "stream": true});
    let connection = send(server.addr, post("/v1/completions", &body)).await;
    let mut open = Vec::new();
    for _ in 0..3 {
        open.push(server.engine.added().await);
    }
    drop(connection);
    let mut aborted = Vec::new();
    for _ in 0..3 {
        aborted.push(server.engine.told().await);
    }
    for added in open {
        assert!(aborted.contains(&Told::Abort(added.id)));
    }
}

#[tokio::test]
async fn a_client_that_does_not_read_is_dropped_and_its_request_aborted() {
    let config = sconce::http::HttpConfig { write_timeout: std::time::Duration::from_millis(200), ..config() };
    let mut server = Server::with(config, info()).await;
    let body = json!({"messages": [{"role": "user", "content": "hi"}], "stream": true});
    let mut slow = send(server.addr, post("/v1/chat/completions", &body)).await;
    slow.head().await;
    let added = server.engine.added().await;
    added.started(0);
    // More than the buffers of two sockets take.
    for _ in 0..60_000 {
        added.text(0, "a");
    }
    // Another client is served meanwhile.
    let mut other = send(server.addr, post("/v1/chat/completions", &json!({"messages": body["messages"]}))).await;
    let second = server.engine.added().await;
    second.started(0).eos(0);
    assert_eq!(other.response().await.status, 200);
    assert_eq!(server.engine.told().await, Told::Abort(added.id));
}

#[tokio::test]
async fn a_client_that_leaves_while_its_text_waits_never_reaches_the_engine() {
    let mut server = Server::start().await;
    let body = json!({"messages": [{"role": "user", "content": "hi"}]}).to_string();
    // The body never comes to its end.
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: t\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len() + 1
    );
    drop(send(server.addr, head + &body).await);
    server.metric_becomes("sconce_requests_received_total", 1.0).await;
    soon("no request is open", server.app.lifecycle().idle()).await;
    let body = json!({"messages": [{"role": "user", "content": "next"}]});
    let mut connection = send(server.addr, post("/v1/chat/completions", &body)).await;
    let added = server.engine.added().await;
    assert_eq!(added.id, 1, "the first request to reach the engine");
    added.started(0).eos(0);
    assert_eq!(connection.response().await.status, 200);
}
