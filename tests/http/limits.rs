//! What a connection may do before and between requests.

use std::time::Duration;

use sconce::http::HttpConfig;
use tokio::io::AsyncReadExt;

use crate::client::{Connection, get, request, send};
use crate::double::{Server, config, info, soon};

#[tokio::test]
async fn header_bombs_are_refused_and_harm_nobody() {
    let server = Server::start().await;
    let big = request("GET", "/health", &[&format!("x-big: {}", "a".repeat(20_000))], "");
    let refused = send(server.addr, big).await.response().await;
    assert_eq!(refused.verdict(), (431, Some("request_headers_too_large".into()), None));
    assert!(refused.header("x-request-id").is_some());
    let lines: Vec<String> = (0..200).map(|i| format!("x-{i}: 1")).collect();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    assert_eq!(send(server.addr, request("GET", "/health", &lines, "")).await.head().await.status, 431);
    let mut endless = Connection::open(server.addr).await;
    endless.send("GET /health HTTP/1.1\r\nx: ").await;
    let flood = async {
        loop {
            // The server has closed when writing fails.
            if tokio::io::AsyncWriteExt::write_all(&mut endless.socket, &[b'a'; 4096]).await.is_err() {
                return;
            }
        }
    };
    soon("the flood is cut off", flood).await;
    let long = format!("/{}", "a".repeat(60_000));
    assert_eq!(send(server.addr, request("GET", &long, &[], "")).await.response().await.status, 431);
    // Beyond what is read at all there is a bare status.
    let huge = request("GET", "/health", &[&format!("x-big: {}", "a".repeat(200_000))], "");
    assert_eq!(send(server.addr, huge).await.head().await.status, 431);
    assert_eq!(get(server.addr, "/health").await.status, 200);
}

#[tokio::test]
async fn garbage_and_http2_prefaces_are_closed() {
    let server = Server::start().await;
    // A preface of HTTP/2 with its first frames: settings and a window update.
    const HTTP2: &str =
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\u{6}\u{4}\0\0\0\0\0\0\u{2}\0\0\0\0\0\0\u{4}\u{8}\0\0\0\0\0\0\u{f}\0\u{1}";
    for bytes in [
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        HTTP2,
        "\u{16}\u{3}\u{1}\u{2}\u{0}",
        "GET\r\n\r\n",
        "GET / HTTP/9.9\r\n\r\n",
    ] {
        let mut connection = send(server.addr, bytes).await;
        let rest = connection.rest().await;
        assert!(rest.is_empty() || rest.starts_with("HTTP/1.1 400"), "{rest}");
    }
    assert_eq!(get(server.addr, "/health").await.status, 200);
}

#[tokio::test]
async fn an_upgrade_to_http2_is_passed_over() {
    let server = Server::start().await;
    let wish = ["connection: upgrade, http2-settings", "upgrade: h2c", "http2-settings: AAMAAABkAAQAoAAAAAIAAAAA"];
    let mut connection = send(server.addr, request("GET", "/version", &wish, "")).await;
    let response = connection.response().await;
    assert_eq!((response.status, response.header("upgrade")), (200, None));
    assert!(response.json()["version"].is_string());
    // The connection goes on as it was.
    connection.send(request("GET", "/health", &[], "")).await;
    assert_eq!(connection.response().await.status, 200);
}

#[tokio::test]
async fn slow_heads_are_closed_and_idle_connections_are_not() {
    let limits = HttpConfig { header_timeout: Duration::from_millis(100), ..config() };
    let server = Server::with(limits, info()).await;
    let mut silent = Connection::open(server.addr).await;
    let mut slow = send(server.addr, "GET /health HTT").await;
    let mut kept = Connection::open(server.addr).await;
    kept.send(request("GET", "/health", &[], "")).await;
    assert_eq!(kept.response().await.status, 200);
    assert_eq!(silent.rest().await, "");
    let rest = slow.rest().await;
    assert!(rest.is_empty() || rest.starts_with("HTTP/1.1 408"), "{rest}");
    // By now more than the head's time has passed since the kept connection's answer.
    kept.send(request("GET", "/health", &[], "")).await;
    assert_eq!(kept.response().await.status, 200);
    // A second head that begins and does not end.
    kept.send("GET /hea").await;
    kept.rest().await;
}

#[tokio::test]
async fn idle_connections_are_closed_in_the_end() {
    let limits = HttpConfig { idle_timeout: Duration::from_millis(50), ..config() };
    let server = Server::with(limits, info()).await;
    let mut kept = send(server.addr, request("GET", "/health", &[], "")).await;
    assert_eq!(kept.response().await.status, 200);
    let mut byte = [0];
    assert_eq!(soon("the connection closes", kept.socket.read(&mut byte)).await.unwrap_or(0), 0);
}

#[tokio::test]
async fn a_slow_body_is_408() {
    let limits = HttpConfig { body_timeout: Duration::from_millis(50), ..config() };
    let server = Server::with(limits, info()).await;
    let head = request("POST", "/tokenize", &["content-type: application/json"], "{}");
    let mut connection = send(server.addr, &head[..head.len() - 1]).await;
    assert_eq!(connection.response().await.status, 408);
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let server = Server::start().await;
    let two = request("GET", "/version", &[], "") + &request("GET", "/health", &[], "");
    let mut connection = send(server.addr, two).await;
    assert!(connection.response().await.body.contains("version"));
    assert_eq!(connection.response().await.body, "");
}

#[tokio::test]
async fn a_prefix_can_stand_before_every_route() {
    let server = Server::with(HttpConfig { root_path: "/openai/".into(), ..config() }, info()).await;
    for path in ["/openai/v1/models", "/v1/models", "/openai/v1/models/org/model", "/openai/health"] {
        assert_eq!(get(server.addr, path).await.status, 200, "{path}");
    }
    for path in ["/openaiv1/models", "/openai", "/openai/openai/v1/models"] {
        assert_eq!(get(server.addr, path).await.status, 404, "{path}");
    }
}
