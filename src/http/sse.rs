//! Server-sent events of a streamed answer, in OpenAI's order.
//!
//! Pieces, then the usage if it was asked for, then `[DONE]`. A failure becomes an error event and
//! `[DONE]` too: a stream is never just cut, since clients take that for a complete answer. While
//! nothing is to be said, comments keep the connection open.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

use axum::body::Bytes;
use futures_util::Stream;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

use super::generate::{Format, Generation};
use super::sampling::Streaming;

pub(super) struct EventStream<F> {
    generation: Generation,
    format: F,
    options: Streaming,
    heartbeat: Interval,
    ready: VecDeque<Bytes>,
    done: bool,
}

impl<F: Format> EventStream<F> {
    pub(super) fn new(generation: Generation, format: F, options: Streaming, every: Duration) -> Self {
        // A timer can't tick all the time.
        let every = every.max(Duration::from_millis(1));
        let mut heartbeat = interval_at(Instant::now() + every, every);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { generation, format, options, heartbeat, ready: VecDeque::new(), done: false }
    }

    /// The body of the response. Dropping it ends the generation.
    pub(super) fn into_stream(self) -> impl Stream<Item = Result<Bytes, Infallible>> + Send {
        futures_util::stream::unfold(self, |mut events| async move {
            let bytes = events.next().await?;
            Some((Ok(bytes), events))
        })
    }

    async fn next(&mut self) -> Option<Bytes> {
        while self.ready.is_empty() && !self.done {
            let piece = tokio::select! {
                biased;
                piece = self.generation.next() => piece,
                _ = self.heartbeat.tick() => return Some(Bytes::from_static(b": ping\n\n")),
            };
            self.heartbeat.reset();
            match piece {
                Some(Ok(piece)) => {
                    let chunks = self.format.chunks(piece, self.generation.usage());
                    self.ready.extend(chunks.iter().map(|c| event(c)));
                }
                Some(Err(error)) => {
                    self.ready.push_back(event(&error.body_json().to_string()));
                    self.end();
                }
                None => {
                    if self.options.include_usage {
                        self.ready.push_back(event(&self.format.usage_chunk(self.generation.usage())));
                    }
                    self.end();
                }
            }
        }
        self.ready.pop_front()
    }

    fn end(&mut self) {
        self.ready.push_back(Bytes::from_static(b"data: [DONE]\n\n"));
        self.done = true;
    }
}

/// One event. JSON on one line has no line break to escape.
fn event(json: &str) -> Bytes {
    Bytes::from(format!("data: {json}\n\n"))
}
