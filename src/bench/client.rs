//! One streamed completion.

use std::time::Instant;

use futures_util::StreamExt;
use serde::Serialize;
use serde_json::{Value, json};

use super::BenchError;

/// Most bytes of an error that are told.
const ERROR_BYTES: usize = 300;

/// A server.
#[derive(Clone, Debug)]
pub struct Target {
    /// Such as `http://127.0.0.1:8000`.
    pub url: String,
    /// The model to name.
    pub model: String,
    /// Sent as a bearer token.
    pub api_key: Option<String>,
}

/// What to complete.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Prompt {
    /// Text.
    Text(String),
    /// Tokens.
    Ids(Vec<u32>),
}

/// When one answer came.
#[derive(Clone, Debug, PartialEq)]
pub struct Timeline {
    /// When the request was sent.
    pub sent: Instant,
    /// When each piece of the answer came.
    pub pieces: Vec<Instant>,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Tokens of the answer.
    pub tokens: usize,
}

impl Target {
    /// Completes a prompt with exactly `max_tokens` tokens.
    ///
    /// # Errors
    /// When the server refuses, breaks off, or can't be reached.
    pub async fn complete(
        &self,
        http: &reqwest::Client,
        prompt: &Prompt,
        max_tokens: usize,
    ) -> Result<Timeline, BenchError> {
        let body = json!({
            "model": self.model, "prompt": prompt, "max_tokens": max_tokens, "temperature": 0.0, "ignore_eos": true,
            "stream": true, "stream_options": {"include_usage": true},
        });
        let mut request = http.post(format!("{}/v1/completions", self.url));
        request = request.header("content-type", "application/json").body(body.to_string());
        if let Some(key) = &self.api_key {
            request = request.bearer_auth(key);
        }
        let sent = Instant::now();
        let response = request.send().await?;
        if !response.status().is_success() {
            let status = response.status();
            let text: String = response.text().await?.chars().take(ERROR_BYTES).collect();
            return Err(BenchError(format!("{status}: {text}")));
        }
        let mut timeline = Timeline { sent, pieces: Vec::new(), prompt_tokens: 0, tokens: 0 };
        let (mut stream, mut lines) = (response.bytes_stream(), Lines::default());
        while let Some(bytes) = stream.next().await {
            let (bytes, now) = (bytes?, Instant::now());
            lines.push(&bytes);
            while let Some(data) = lines.next_data() {
                if data == b"[DONE]" {
                    return Ok(timeline);
                }
                timeline.take(now, data)?;
            }
        }
        Err(BenchError("the answer broke off".to_owned()))
    }
}

impl Timeline {
    /// Takes the data of an event.
    fn take(&mut self, now: Instant, data: &[u8]) -> Result<(), BenchError> {
        let event: Value = serde_json::from_slice(data).map_err(|error| BenchError(format!("an event: {error}")))?;
        if let Some(error) = event.get("error") {
            return Err(BenchError(error.to_string()));
        }
        if event["choices"].as_array().is_some_and(|choices| !choices.is_empty()) {
            self.pieces.push(now);
        }
        let count = |name: &str| event["usage"][name].as_u64().map(|count| count as usize);
        self.prompt_tokens = count("prompt_tokens").unwrap_or(self.prompt_tokens);
        self.tokens = count("completion_tokens").unwrap_or(self.tokens);
        Ok(())
    }
}

/// Server-sent events cut into lines, however they arrive.
#[derive(Debug, Default)]
struct Lines {
    bytes: Vec<u8>,
    at: usize,
}

impl Lines {
    fn push(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.at);
        self.at = 0;
        self.bytes.extend_from_slice(bytes);
    }

    /// The next `data:` that is there as a whole.
    fn next_data(&mut self) -> Option<&[u8]> {
        loop {
            let rest = &self.bytes[self.at..];
            let end = rest.iter().position(|&byte| byte == b'\n')?;
            let start = self.at;
            self.at += end + 1;
            if self.bytes[start..start + end].starts_with(b"data:") {
                return Some(self.bytes[start + 5..start + end].trim_ascii());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_found_however_they_arrive() {
        let text = b": comment\n\ndata: {\"a\":1}\r\n\ndata:2\n\nevent: x\ndata: [DONE]\n\n";
        for size in 1..text.len() {
            let (mut lines, mut found) = (Lines::default(), Vec::new());
            for piece in text.chunks(size) {
                lines.push(piece);
                while let Some(data) = lines.next_data() {
                    found.push(String::from_utf8_lossy(data).into_owned());
                }
            }
            assert_eq!(found, ["{\"a\":1}", "2", "[DONE]"], "pieces of {size}");
        }
    }

    #[test]
    fn pieces_and_counts_are_taken_and_errors_end_it() {
        let now = Instant::now();
        let mut timeline = Timeline { sent: now, pieces: Vec::new(), prompt_tokens: 0, tokens: 0 };
        timeline.take(now, br#"{"choices":[{"text":"a"}],"usage":null}"#).expect("a piece");
        timeline.take(now, br#"{"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":7}}"#).expect("counts");
        assert_eq!((timeline.pieces.len(), timeline.prompt_tokens, timeline.tokens), (1, 5, 7));
        assert!(timeline.take(now, br#"{"error":{"message":"no"}}"#).is_err());
        assert!(timeline.take(now, b"{").is_err());
    }
}
