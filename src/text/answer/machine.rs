//! From tokens to the parts of an answer: one machine for streams, for whole answers and for masks.
//!
//! ```text
//!            open                    opener
//!  content ---------> reasoning    content ---> calls ---> content
//!     ^---------------- close         ^-- (it was text) --'
//! ```
//! What it gives doesn't depend on how the text is cut. Time is linear in the text: nothing is read
//! twice but what may still become a marker.

use std::sync::Arc;

use super::call::{CallReader, Desk, Outcome};
use super::input::{Compared, Input, MARK, compare};
use super::parts::{Kind, Part, Writer};
use super::style::{Header, Inner, Opening, Place, Seek};
use super::tools::Tool;
use crate::types::FinishReason;

/// A header that is longer is none.
const MAX_HEADER: usize = 1024;

/// What a request says of its answer.
#[derive(Clone, Debug, Default)]
pub struct AnswerRules {
    /// The request's tools.
    pub tools: Vec<Tool>,
    /// Calls are read as calls; otherwise (no tools, `tool_choice` none) they are text.
    pub calls: bool,
    /// More than one call. Without it the answer is over with the first.
    pub parallel: bool,
    /// Where the answer begins.
    pub opening: Opening,
}

/// How an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ending {
    /// The model calls tools and waits for them (`finish_reason` is `tool_calls`): there is a call, all
    /// calls are complete, and the answer wasn't cut off.
    pub calls_tools: bool,
    /// The last call isn't complete: it was cut off, or went on as something else.
    pub half_call: bool,
}

#[derive(Debug)]
enum State {
    Text(Kind),
    /// Reading a call that began in a text of this kind.
    Call(Box<CallReader>, Kind),
    Header,
}

/// Reads one answer.
#[derive(Debug)]
pub struct AnswerMachine {
    style: Arc<Inner>,
    rules: Arc<AnswerRules>,
    input: Input,
    out: Writer,
    state: State,
    /// A call broke: what follows is text.
    broken: bool,
    over: bool,
    ended: bool,
    reasoning_tokens: usize,
}

impl AnswerMachine {
    pub(super) fn new(style: Arc<Inner>, rules: Arc<AnswerRules>) -> Self {
        let state = match rules.opening.0 {
            Place::Answer => State::Text(Kind::Content),
            Place::Reasoning => State::Text(Kind::Reasoning),
            Place::Header => State::Header,
        };
        let out = Writer::new(rules.opening.0 != Place::Answer);
        let (input, broken, over, ended) = (Input::default(), false, false, false);
        Self { style, rules, input, out, state, broken, over, ended, reasoning_tokens: 0 }
    }

    /// `token` is a marker of the model's: text that came before it must be given before it, and what is
    /// held back for the sake of stop strings with it.
    pub fn is_marker(&self, token: u32) -> bool {
        self.style.marks.of_token(token).is_some()
    }

    /// Takes the next token and the text that became complete with it; gives what is certain now. The
    /// text of a marker's token may end with the marker itself.
    pub fn push(&mut self, token: u32, text: &str) -> Vec<Part> {
        let was_reasoning = self.is_reasoning();
        match self.style.marks.of_token(token) {
            Some(mark) => {
                let [_, index] = mark;
                let before = text.strip_suffix(self.style.marks.text(index)).unwrap_or(text);
                self.feed(before.as_bytes());
                self.feed(&mark);
            }
            None => self.feed(text.as_bytes()),
        }
        self.reasoning_tokens += usize::from(was_reasoning || self.is_reasoning());
        self.out.take()
    }

    /// Takes text that no token came with.
    pub fn push_text(&mut self, text: &str) -> Vec<Part> {
        self.feed(text.as_bytes());
        self.out.take()
    }

    /// No more follows; gives what was held back. A call that isn't complete is said to be half.
    pub fn finish(&mut self, reason: FinishReason) -> (Vec<Part>, Ending) {
        self.ended = true;
        if !self.over {
            self.run();
            self.give_up();
        }
        let half_call = self.out.complete_calls() < self.out.calls();
        let is_whole = reason == FinishReason::Stop && !half_call;
        (self.out.take(), Ending { calls_tools: is_whole && self.out.calls() > 0, half_call })
    }

    /// The answer is complete though the model may go on: nothing that follows is part of it.
    pub fn is_over(&self) -> bool {
        self.over
    }

    /// The model thinks.
    pub fn is_reasoning(&self) -> bool {
        matches!(self.state, State::Text(Kind::Reasoning) | State::Call(_, Kind::Reasoning))
    }

    /// Tokens so far with which the model thought, markers included.
    pub fn reasoning_tokens(&self) -> usize {
        self.reasoning_tokens
    }

    fn feed(&mut self, bytes: &[u8]) {
        if !self.over && !bytes.is_empty() {
            self.input.push(bytes);
            self.run();
        }
    }

    fn run(&mut self) {
        while !self.over && self.step() {}
    }

    /// One change of state; false when more text is needed.
    fn step(&mut self) -> bool {
        match &self.state {
            State::Text(kind) => self.text_step(*kind),
            State::Header => self.header_step(),
            State::Call(_, kind) => self.call_step(*kind),
        }
    }

    fn text_step(&mut self, kind: Kind) -> bool {
        let style = Arc::clone(&self.style);
        let seeks = style.seeks(kind, self.rules.calls && !self.broken);
        let pending = self.input.pending();
        let mut end = pending.len();
        let mut found = None;
        for at in 0..pending.len() {
            let rest = pending.get(at..).unwrap_or_default();
            let compared = |literal: &[u8]| match compare(rest, literal) {
                Compared::Undecided if self.ended => Compared::Different,
                compared => compared,
            };
            if seeks.iter().any(|(literal, _)| compared(literal) == Compared::Undecided) {
                end = at;
                break;
            }
            let equal = seeks.iter().filter(|(literal, _)| compared(literal) == Compared::Equal);
            found = equal.max_by_key(|(literal, _)| literal.len());
            if found.is_some() {
                end = at;
                break;
            }
        }
        let text = pending.get(..end).unwrap_or_default();
        if seeks.is_empty() {
            // Nothing can follow that space would belong to.
            self.out.text(kind, text, &style.marks);
            self.out.release();
        } else {
            self.out.text(kind, text, &style.marks);
        }
        self.input.advance(end);
        match found {
            Some((literal, seek)) => {
                self.found(kind, literal, *seek);
                true
            }
            None => false,
        }
    }

    /// `literal` is what comes next.
    fn found(&mut self, kind: Kind, literal: &[u8], seek: Seek) {
        let at_edge = self.out.is_at_edge();
        match seek {
            Seek::Calls { at_edge: bare, .. } if bare && !at_edge => self.pass(kind, literal),
            Seek::Open if !at_edge => self.pass(kind, literal),
            Seek::Calls { in_section, .. } => {
                self.input.attempt();
                self.state = State::Call(Box::new(CallReader::new(in_section)), kind);
            }
            Seek::Stray => self.input.advance(literal.len()),
            Seek::Open | Seek::Close | Seek::Silent | Seek::Header => {
                self.input.advance(literal.len());
                self.out.boundary();
                self.state = match seek {
                    Seek::Open => State::Text(Kind::Reasoning),
                    Seek::Close => State::Text(Kind::Content),
                    Seek::Header => State::Header,
                    _ => State::Text(kind),
                };
            }
        }
    }

    /// It looks like a marker and is none here.
    fn pass(&mut self, kind: Kind, literal: &[u8]) {
        let length = if literal.first() == Some(&MARK) { literal.len() } else { 1 };
        self.out.text(kind, literal.get(..length).unwrap_or_default(), &self.style.marks);
        self.input.advance(length);
    }

    fn header_step(&mut self) -> bool {
        let style = Arc::clone(&self.style);
        let Some(channels) = &style.channels else { return false };
        let pending = self.input.pending();
        let found = (0..pending.len().min(MAX_HEADER))
            .find(|at| compare(pending.get(*at..).unwrap_or_default(), &channels.message) == Compared::Equal);
        let Some(at) = found else {
            if pending.len() < MAX_HEADER + channels.message.len() {
                return false;
            }
            self.state = State::Text(Kind::Content);
            return true;
        };
        let header = Header::read(&style.marks.spell(pending.get(..at).unwrap_or_default()), channels.format);
        self.out.boundary();
        self.input.advance(at + channels.message.len());
        self.state = match header {
            Header::Reasoning => State::Text(Kind::Reasoning),
            Header::Call(name) if self.rules.calls && !self.broken => {
                self.input.attempt();
                State::Call(Box::new(CallReader::named(name)), Kind::Content)
            }
            Header::Content | Header::Call(_) => State::Text(Kind::Content),
        };
        true
    }

    fn call_step(&mut self, kind: Kind) -> bool {
        let style = Arc::clone(&self.style);
        let (Some(calls), State::Call(reader, _)) = (&style.calls, &mut self.state) else { return false };
        let (input, out, marks) = (&mut self.input, &mut self.out, &style.marks);
        let calls_before = out.calls();
        let outcome = reader.read(&mut Desk { input, out, marks, calls, tools: &self.rules.tools });
        let mut kind = kind;
        if self.out.calls() > calls_before {
            // Whoever calls has done with thinking.
            kind = Kind::Content;
            if let State::Call(_, origin) = &mut self.state {
                *origin = kind;
            }
        }
        match outcome {
            Outcome::More if self.input.is_exhausted() => self.give_back(kind),
            Outcome::More => return false,
            Outcome::Text => self.give_back(kind),
            Outcome::Complete => self.over = !self.rules.parallel,
            Outcome::Over => self.state = State::Text(Kind::Content),
            Outcome::Broken => {
                let held = match &mut self.state {
                    State::Call(reader, _) => reader.held(),
                    _ => Vec::new(),
                };
                self.broken = true;
                self.state = State::Text(Kind::Content);
                self.out.text(Kind::Content, &held, &style.marks);
            }
        }
        true
    }

    /// What was tried as a call is text.
    fn give_back(&mut self, kind: Kind) {
        let passed = self.input.fail();
        self.out.text(kind, &passed, &self.style.marks);
        self.state = State::Text(kind);
        if passed.is_empty() {
            // Nothing was passed, so nothing changes if it is tried again.
            let length = match self.input.pending() {
                [] => 0,
                [MARK, ..] => 2,
                _ => 1,
            };
            let literal = self.input.pending().get(..length).unwrap_or_default().to_vec();
            self.pass(kind, &literal);
        }
    }

    /// The answer ends in the midst of something.
    fn give_up(&mut self) {
        let style = Arc::clone(&self.style);
        match &mut self.state {
            State::Text(kind) => {
                let rest = self.input.pending().to_vec();
                self.out.text(*kind, &rest, &style.marks);
            }
            State::Call(reader, _) if reader.is_announced() => {
                // The rest of a value that may have been text, or a marker.
                let mut rest = reader.held();
                rest.extend_from_slice(self.input.pending());
                self.out.text(Kind::Content, &rest, &style.marks);
            }
            State::Call(_, kind) => {
                let kind = *kind;
                let mut rest = self.input.fail();
                rest.extend_from_slice(self.input.pending());
                self.out.text(kind, &rest, &style.marks);
            }
            State::Header => {
                // Half a header says nothing; without a marker it isn't one.
                let rest = self.input.pending().to_vec();
                if !rest.contains(&MARK) {
                    self.out.text(Kind::Content, &rest, &style.marks);
                }
            }
        }
        self.out.release();
    }
}
