//! One continuation: tokens in, text and log-probabilities out, never a broken character and never
//! a piece of a stop string.
//!
//! A token's log-probability entry leaves together with the last of its text, so that what is cut
//! off with a stop string takes its entries along. Streamed or not, answers are made of the same
//! pieces.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::http::text::Decoder;
use crate::text::StopMatcher;
use crate::text::answer::{AnswerMachine, Part};
use crate::types::{FinishReason, SamplingParams, TokenLogprobs, TopLogprob};

/// A token of the answer with its log-probabilities.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::http) struct TokenEntry {
    pub(in crate::http) token: u32,
    /// The bytes it adds to the text.
    pub(in crate::http) bytes: Vec<u8>,
    /// `None` for the first token of a prompt.
    pub(in crate::http) logprob: Option<f32>,
    pub(in crate::http) rank: u32,
    pub(in crate::http) top: Vec<TopLogprob>,
    /// Where its text begins, in characters from the start of the choice's text.
    pub(in crate::http) offset: usize,
    /// It ended the answer and is no part of its text.
    pub(in crate::http) is_stop: bool,
    end: usize,
}

impl TokenEntry {
    pub(super) fn new(token: u32, bytes: Vec<u8>, offset: usize, logprobs: Option<TokenLogprobs>) -> Self {
        let (logprob, rank, top) = match logprobs {
            Some(l) => (Some(finite(l.logprob)), l.rank, l.top),
            None => (None, 0, Vec::new()),
        };
        Self { token, bytes, logprob, rank, top, offset, is_stop: false, end: offset }
    }
}

/// JSON has no infinities: what is impossible gets the value that OpenAI gives it.
pub(in crate::http) fn finite(logprob: f32) -> f32 {
    if logprob.is_finite() { logprob.max(-9999.0) } else { -9999.0 }
}

/// What a choice gained.
#[derive(Clone, Debug, Default, PartialEq)]
pub(in crate::http) struct Piece {
    /// Index of the choice in the answer.
    pub(in crate::http) index: usize,
    /// The text as the model wrote it, without stop strings.
    pub(in crate::http) text: String,
    /// The same as thoughts, content and tool calls; of an answer that isn't read, nothing.
    pub(in crate::http) parts: Vec<Part>,
    pub(in crate::http) entries: Vec<TokenEntry>,
    /// Set on the last piece of a choice.
    pub(in crate::http) finish: Option<FinishReason>,
    /// The model waits for the tools that it called.
    pub(in crate::http) calls_tools: bool,
}

impl Piece {
    fn is_empty(&self) -> bool {
        self.text.is_empty() && self.parts.is_empty() && self.entries.is_empty() && self.finish.is_none()
    }
}

/// Stop strings of a request.
#[derive(Clone, Debug)]
pub(in crate::http) struct StopRule {
    /// One that has seen nothing yet.
    matcher: StopMatcher,
    /// Stop strings and stop tokens stay in the text.
    include: bool,
}

impl StopRule {
    pub(in crate::http) fn new(strings: &[String], include: bool) -> Self {
        Self { matcher: StopMatcher::new(strings, include), include }
    }
}

pub(super) struct Choice {
    index: usize,
    decoder: Box<dyn Decoder>,
    matcher: StopMatcher,
    /// Reads the text, if it is to be read.
    machine: Option<AnswerMachine>,
    include_stop: bool,
    params: Arc<SamplingParams>,
    num_tokens: u32,
    /// Characters decoded and characters given away.
    decoded: usize,
    sent: usize,
    held: VecDeque<TokenEntry>,
    finished: bool,
}

impl Choice {
    pub(super) fn new(
        index: usize,
        (decoder, machine): (Box<dyn Decoder>, Option<AnswerMachine>),
        stop: &StopRule,
        params: Arc<SamplingParams>,
    ) -> Self {
        Self {
            index,
            decoder,
            matcher: stop.matcher.clone(),
            machine,
            include_stop: stop.include,
            params,
            num_tokens: 0,
            decoded: 0,
            sent: 0,
            held: VecDeque::new(),
            finished: false,
        }
    }

    pub(super) fn finished(&self) -> bool {
        self.finished
    }

    pub(super) fn num_tokens(&self) -> u32 {
        self.num_tokens
    }

    /// Tokens with which the model thought.
    pub(super) fn reasoning_tokens(&self) -> usize {
        self.machine.as_ref().map_or(0, AnswerMachine::reasoning_tokens)
    }

    /// Begins the text with `text` (an echoed prompt), which stop strings don't see.
    pub(super) fn begin_with(&mut self, text: String, entries: Vec<TokenEntry>) -> Piece {
        self.decoded = text.chars().count();
        self.sent = self.decoded;
        Piece { index: self.index, text, entries, ..Piece::default() }
    }

    /// Takes the next token. The piece has `finish` set when a stop string was met.
    pub(super) fn push(&mut self, token: u32, logprobs: Option<TokenLogprobs>) -> Option<Piece> {
        self.num_tokens += 1;
        let is_stop = self.params.stops_at(token, self.num_tokens);
        let bytes = self.decoder.bytes_at(token);
        let mut entry = logprobs.map(|l| TokenEntry::new(token, bytes, self.decoded, Some(l)));
        if is_stop && !self.include_stop {
            // Its text is no part of the answer; `Finished` follows.
            self.held.extend(entry.map(|e| TokenEntry { is_stop: true, ..e }));
            return None;
        }
        let text = self.decoder.push(token);
        self.decoded += text.chars().count();
        if let Some(entry) = &mut entry {
            entry.end = self.decoded;
        }
        self.held.extend(entry);
        // Stop strings count from the first token after `min_tokens` on.
        let (mut text, matched) = match self.num_tokens <= self.params.min_tokens {
            true => (text, false),
            false => {
                let outcome = self.matcher.push(&text);
                (outcome.text, outcome.matched.is_some())
            }
        };
        let mut parts = Vec::new();
        let mut over = matched;
        if let Some(machine) = &mut self.machine {
            if matched {
                parts = machine.push_text(&text);
            } else {
                if machine.is_marker(token) {
                    text.push_str(&self.matcher.flush());
                }
                parts = machine.push(token, &text);
                over = machine.is_over();
            }
        }
        let piece = match over {
            true => self.last(text, parts, FinishReason::Stop),
            false => self.piece(text, parts),
        };
        (!piece.is_empty()).then_some(piece)
    }

    /// The engine ended this choice.
    pub(super) fn finish(&mut self, reason: FinishReason) -> Piece {
        let text = self.matcher.finish();
        let parts = self.machine.as_mut().map(|machine| machine.push_text(&text)).unwrap_or_default();
        self.last(text, parts, reason)
    }

    fn piece(&mut self, text: String, parts: Vec<Part>) -> Piece {
        self.sent += text.chars().count();
        let ready = self.held.iter().take_while(|e| !e.is_stop && e.end <= self.sent).count();
        let entries = self.held.drain(..ready).collect();
        Piece { index: self.index, text, parts, entries, ..Piece::default() }
    }

    fn last(&mut self, text: String, mut parts: Vec<Part>, reason: FinishReason) -> Piece {
        let ending = self.machine.as_mut().map(|machine| {
            let (rest, ending) = machine.finish(reason);
            parts.extend(rest);
            ending
        });
        self.finished = true;
        self.sent += text.chars().count();
        let sent = self.sent;
        // With a stop string, tokens wholly behind the cut are dropped.
        let entries = self.held.drain(..).filter(|e| e.offset < sent || e.end <= sent).collect();
        let calls_tools = ending.is_some_and(|ending| ending.calls_tools);
        Piece { index: self.index, text, parts, entries, finish: Some(reason), calls_tools }
    }
}
