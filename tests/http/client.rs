//! A client that speaks bytes, so that nothing is hidden or repaired.

use std::net::SocketAddr;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::double::soon;

pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Response {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e} in {}", self.body))
    }

    /// The error object, whose shape is checked.
    pub(crate) fn error(&self) -> Value {
        let mut json = self.json();
        assert_eq!(json.as_object().unwrap().len(), 1, "{json}");
        check_error(&json);
        json["error"].take()
    }

    /// (status, code, param)
    pub(crate) fn verdict(&self) -> (u16, Option<String>, Option<String>) {
        let error = self.error();
        let text = |key: &str| error[key].as_str().map(str::to_owned);
        (self.status, text("code"), text("param"))
    }
}

/// All four keys, of the right types.
pub(crate) fn check_error(json: &Value) {
    let error = json["error"].as_object().unwrap_or_else(|| panic!("no error in {json}"));
    let mut keys: Vec<_> = error.keys().map(String::as_str).collect();
    keys.sort_unstable();
    assert_eq!(keys, ["code", "message", "param", "type"]);
    assert!(error["message"].is_string() && error["type"].is_string());
    assert!(error["code"].is_string() || error["code"].is_null());
    assert!(error["param"].is_string() || error["param"].is_null());
}

pub(crate) struct Connection {
    pub(crate) socket: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    pub(crate) async fn open(addr: SocketAddr) -> Self {
        Self { socket: TcpStream::connect(addr).await.unwrap(), buffer: Vec::new() }
    }

    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.socket.write_all(bytes.as_ref()).await.unwrap();
    }

    /// Reads more; false at the end of the connection.
    async fn more(&mut self) -> bool {
        let mut chunk = [0; 16 << 10];
        // A reset is an end too.
        let n = soon("the server answers", self.socket.read(&mut chunk)).await.unwrap_or(0);
        self.buffer.extend_from_slice(&chunk[..n]);
        n > 0
    }

    /// Reads up to and including `end`.
    pub(crate) async fn until(&mut self, end: &str) -> String {
        loop {
            if let Some(at) = find(&self.buffer, end.as_bytes()) {
                let taken = self.buffer.drain(..at + end.len()).collect();
                return String::from_utf8(taken).unwrap();
            }
            assert!(self.more().await, "closed before {end:?}: {}", String::from_utf8_lossy(&self.buffer));
        }
    }

    async fn exactly(&mut self, n: usize) -> Vec<u8> {
        while self.buffer.len() < n {
            assert!(self.more().await, "closed in the body");
        }
        self.buffer.drain(..n).collect()
    }

    /// The rest until the server closes the connection.
    pub(crate) async fn rest(&mut self) -> String {
        while self.more().await {}
        String::from_utf8_lossy(&std::mem::take(&mut self.buffer)).into_owned()
    }

    pub(crate) async fn head(&mut self) -> Response {
        let head = self.until("\r\n\r\n").await;
        let mut lines = head.trim_end().split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let header = |l: &str| {
            let (name, value) = l.split_once(':').unwrap();
            (name.to_ascii_lowercase(), value.trim().to_owned())
        };
        Response { status, headers: lines.map(header).collect(), body: String::new() }
    }

    pub(crate) async fn response(&mut self) -> Response {
        let mut response = self.head().await;
        let mut body = Vec::new();
        if response.header("transfer-encoding") == Some("chunked") {
            while let Some(chunk) = self.chunk().await {
                body.extend(chunk);
            }
        } else {
            let length = response.header("content-length").map_or(0, |v| v.parse().unwrap());
            body = self.exactly(length).await;
        }
        response.body = String::from_utf8(body).unwrap();
        response
    }

    /// The answer if it is no 200. Takes nothing off the connection before it is sure.
    pub(crate) async fn refusal(&mut self) -> Response {
        const OK: &[u8] = b"HTTP/1.1 200 ";
        while self.buffer.len() < OK.len() {
            assert!(self.more().await, "closed without an answer");
        }
        if self.buffer.starts_with(OK) {
            return std::future::pending().await;
        }
        self.response().await
    }

    /// One chunk of a chunked body; `None` for the last.
    pub(crate) async fn chunk(&mut self) -> Option<Vec<u8>> {
        let size = self.until("\r\n").await;
        let size = usize::from_str_radix(size.trim(), 16).unwrap();
        let data = self.exactly(size + 2).await;
        (size > 0).then(|| data[..size].to_vec())
    }

    /// The next server-sent event or comment.
    pub(crate) async fn event(&mut self) -> String {
        let chunk = self.chunk().await.expect("the stream goes on");
        let text = String::from_utf8(chunk).unwrap();
        text.strip_suffix("\n\n").expect("one event a chunk").to_owned()
    }

    /// The next event as JSON.
    pub(crate) async fn data(&mut self) -> Value {
        let event = self.event().await;
        serde_json::from_str(event.strip_prefix("data: ").unwrap()).unwrap_or_else(|e| panic!("{e}: {event}"))
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|w| w == needle)
}

/// A request in bytes; `headers` are whole lines.
pub(crate) fn request(method: &str, path: &str, headers: &[&str], body: &str) -> String {
    let mut text = format!("{method} {path} HTTP/1.1\r\nhost: test\r\n");
    headers.iter().for_each(|h| text.push_str(&format!("{h}\r\n")));
    if method == "POST" {
        text.push_str(&format!("content-length: {}\r\n", body.len()));
    }
    text + "\r\n" + body
}

pub(crate) fn post(path: &str, body: &Value) -> String {
    request("POST", path, &["content-type: application/json"], &body.to_string())
}

pub(crate) async fn send(addr: SocketAddr, bytes: impl AsRef<[u8]>) -> Connection {
    let mut connection = Connection::open(addr).await;
    connection.send(bytes).await;
    connection
}

pub(crate) async fn get(addr: SocketAddr, path: &str) -> Response {
    send(addr, request("GET", path, &[], "")).await.response().await
}

pub(crate) async fn ask(addr: SocketAddr, path: &str, body: &Value) -> Response {
    send(addr, post(path, body)).await.response().await
}

/// All events of a streamed answer up to `[DONE]`, as JSON, without comments.
pub(crate) fn events(response: &Response) -> Vec<Value> {
    let mut events: Vec<&str> = response.body.split("\n\n").filter(|e| !e.starts_with(':')).collect();
    assert_eq!(events.pop(), Some(""));
    assert_eq!(events.pop(), Some("data: [DONE]"));
    events.iter().map(|e| serde_json::from_str(e.strip_prefix("data: ").unwrap()).unwrap()).collect()
}
