//! What a client gets to see, in order, and the space between.
//!
//! Space beside a marker belongs to the marker: `</think>\n\nYes` is the answer `Yes`. Everything else
//! is given as it came. Space is held back until what follows it is known.

use super::input::{Marks, is_space};

/// Space held back is never longer than this; what is more is text.
const MAX_HELD: usize = 4096;

/// A piece of an answer. Pieces of the same kind that follow each other are one text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// What the model thinks.
    Reasoning(String),
    /// What it says.
    Content(String),
    /// A call begins.
    ToolCall {
        /// Place in the answer's list of calls, from 0.
        index: usize,
        /// The tool; not necessarily one of the request's.
        name: String,
        /// What the model calls this call, for models that do.
        id: Option<String>,
    },
    /// More of a call's arguments; the pieces of a complete call are one JSON object.
    ToolArguments {
        /// Place of the call.
        index: usize,
        /// The piece, never empty.
        text: String,
    },
}

/// Which text is being written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Reasoning,
    Content,
}

#[derive(Debug)]
pub(super) struct Writer {
    parts: Vec<Part>,
    held: String,
    /// The kind of what is held.
    kind: Kind,
    /// A marker came last, but for space.
    edge: bool,
    /// Nothing but space came yet.
    fresh: bool,
    /// Calls begun, and whether the last is complete.
    calls: usize,
    complete: bool,
}

impl Writer {
    /// `edge`: the prompt ends with a marker.
    pub(super) fn new(edge: bool) -> Self {
        let (parts, held) = (Vec::new(), String::new());
        Self { parts, held, kind: Kind::Content, edge, fresh: true, calls: 0, complete: true }
    }

    pub(super) fn take(&mut self) -> Vec<Part> {
        std::mem::take(&mut self.parts)
    }

    /// Nothing but space since the last marker, or since the answer began.
    pub(super) fn is_at_edge(&self) -> bool {
        self.edge || self.fresh
    }

    /// Calls begun.
    pub(super) fn calls(&self) -> usize {
        self.calls
    }

    /// Calls begun that are complete.
    pub(super) fn complete_calls(&self) -> usize {
        if self.complete { self.calls } else { self.calls.saturating_sub(1) }
    }

    /// Text as it came, markers spelled out.
    pub(super) fn text(&mut self, kind: Kind, bytes: &[u8], marks: &Marks) {
        let text = marks.spell(bytes);
        let mut text = text.as_str();
        if self.edge {
            text = text.trim_start_matches(|c: char| c.is_ascii() && is_space(c as u8));
        }
        if text.is_empty() {
            return;
        }
        self.edge = false;
        self.kind = kind;
        let body = text.trim_end_matches(|c: char| c.is_ascii() && is_space(c as u8));
        if !body.is_empty() {
            self.fresh = false;
            self.release();
            self.emit(kind, body);
        }
        self.held.push_str(text.get(body.len()..).unwrap_or_default());
        let excess = self.held.len().saturating_sub(MAX_HELD);
        if excess > 0 {
            let early: String = self.held.drain(..excess).collect();
            self.emit(kind, &early);
        }
    }

    /// A marker: the space before it and after it is its own.
    pub(super) fn boundary(&mut self) {
        self.held.clear();
        self.edge = true;
    }

    /// Gives up held space: no marker follows.
    pub(super) fn release(&mut self) {
        let held = std::mem::take(&mut self.held);
        self.emit(self.kind, &held);
    }

    pub(super) fn begin_call(&mut self, name: String, id: Option<String>) {
        self.boundary();
        self.parts.push(Part::ToolCall { index: self.calls, name, id });
        self.calls += 1;
        self.complete = false;
    }

    /// More of the arguments of the call that was begun last.
    pub(super) fn arguments(&mut self, more: &str) {
        let index = self.calls.saturating_sub(1);
        match self.parts.last_mut() {
            _ if more.is_empty() => {}
            Some(Part::ToolArguments { index: last, text }) if *last == index => text.push_str(more),
            _ => self.parts.push(Part::ToolArguments { index, text: more.to_owned() }),
        }
    }

    pub(super) fn end_call(&mut self) {
        self.complete = true;
        self.edge = true;
    }

    fn emit(&mut self, kind: Kind, more: &str) {
        match (kind, self.parts.last_mut()) {
            _ if more.is_empty() => {}
            (Kind::Reasoning, Some(Part::Reasoning(text))) | (Kind::Content, Some(Part::Content(text))) => {
                text.push_str(more);
            }
            (Kind::Reasoning, _) => self.parts.push(Part::Reasoning(more.to_owned())),
            (Kind::Content, _) => self.parts.push(Part::Content(more.to_owned())),
        }
    }
}
