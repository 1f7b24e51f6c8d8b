//! How one model writes its answers: found from its chat template, or named by the user.
//!
//! The template's text tells what the model was taught, the vocabulary which markers are tokens. What
//! a machine looks for in each state is worked out once, here.

use std::sync::Arc;

use super::format::{CallFormat, Calls};
use super::formats::{CALLS, CHANNELS, ChannelFormat, REASONING, ReasoningFormat};
use super::input::{Literal, MARK, Marks};
use super::machine::{AnswerMachine, AnswerRules};
use super::parts::Kind;
use crate::text::Tokenizer;

/// How a model writes reasoning and tool calls. Cheap to clone.
#[derive(Clone, Debug)]
pub struct AnswerStyle(Arc<Inner>);

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) marks: Marks,
    pub(super) reasoning: Option<(&'static ReasoningFormat, Literal, Literal)>,
    pub(super) calls: Option<Calls>,
    pub(super) channels: Option<Channels>,
    /// What to look for: `[reasoning, content] x [without calls, with calls]`.
    seeks: [[Vec<(Literal, Seek)>; 2]; 2],
}

/// A [`ChannelFormat`] for one vocabulary.
#[derive(Debug)]
pub(super) struct Channels {
    pub(super) format: &'static ChannelFormat,
    pub(super) message: Literal,
}

/// What was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seek {
    /// Reasoning begins, if the answer or a part of it does.
    Open,
    /// Reasoning ends.
    Close,
    /// Reasoning ends that didn't begin.
    Stray,
    /// Nothing but the edge of a text.
    Silent,
    /// The message ends; another's header may follow.
    Header,
    /// Calls begin.
    Calls {
        in_section: bool,
        /// Only where the answer or a part of it begins.
        at_edge: bool,
    },
}

/// Where an answer begins: what the prompt has already opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Opening(pub(super) Place);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Place {
    #[default]
    Answer,
    Reasoning,
    Header,
}

/// A parser's name that isn't known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{option}: {name:?} is not known; known are none, {known}")]
pub struct UnknownParser {
    /// `tool-call-parser` or `reasoning-parser`.
    pub option: &'static str,
    /// The name that was given.
    pub name: String,
    /// All names.
    pub known: String,
}

impl AnswerStyle {
    /// The style that `template` writes in; plain text where nothing is known.
    pub fn detect(template: &str, tokenizer: &Tokenizer) -> Self {
        let channels = CHANNELS.iter().copied().find(|f| has_signs(template, f.signs));
        let calls = CALLS.iter().copied().find(|f| has_signs(template, f.signs));
        let reasoning = REASONING.iter().copied().find(|f| f.signs.iter().any(|s| template.contains(s)));
        match channels {
            Some(_) => Self::new(None, None, channels, |text| marker_token(tokenizer, text)),
            None => Self::new(reasoning, calls, None, |text| marker_token(tokenizer, text)),
        }
    }

    /// As [`Self::detect`], but with the parsers that the user names, as vLLM does; `none` is plain text.
    ///
    /// # Errors
    /// [`UnknownParser`].
    pub fn named(
        tool_parser: Option<&str>,
        reasoning_parser: Option<&str>,
        template: &str,
        tokenizer: &Tokenizer,
    ) -> Result<Self, UnknownParser> {
        let found = Self::detect(template, tokenizer);
        let unknown = |option, name: &str, known: Vec<&str>| UnknownParser {
            option,
            name: name.to_owned(),
            known: known.join(", "),
        };
        let channels = |name: &str| CHANNELS.iter().copied().find(|f| f.names.contains(&name));
        let known = |names: &mut dyn Iterator<Item = &[&'static str]>| {
            let more = CHANNELS.iter().flat_map(|f| f.names);
            let mut all: Vec<&str> = names.flatten().copied().chain(more.copied()).collect();
            all.sort_unstable();
            all.dedup();
            all
        };
        if let Some(format) = tool_parser.and_then(channels).or(reasoning_parser.and_then(channels)) {
            return Ok(Self::new(None, None, Some(format), |text| marker_token(tokenizer, text)));
        }
        let calls = match tool_parser {
            None => found.0.calls.as_ref().map(|c| c.format),
            Some("none") => None,
            Some(name) => {
                // Several formats share a name: the template tells which.
                let mut formats = CALLS.iter().copied().filter(|f| f.names.contains(&name));
                let first = formats.clone().next();
                let best = formats.find(|f| has_signs(template, f.signs));
                let missing = || unknown("tool-call-parser", name, known(&mut CALLS.iter().map(|f| f.names)));
                Some(best.or(first).ok_or_else(missing)?)
            }
        };
        let reasoning = match reasoning_parser {
            None => found.0.reasoning.as_ref().map(|r| r.0),
            Some("none") => None,
            Some(name) => {
                let format = REASONING.iter().copied().find(|f| f.names.contains(&name));
                let missing = || unknown("reasoning-parser", name, known(&mut REASONING.iter().map(|f| f.names)));
                Some(format.ok_or_else(missing)?)
            }
        };
        let channels = match (tool_parser, reasoning_parser) {
            (None, None) => found.0.channels.as_ref().map(|c| c.format),
            _ => None,
        };
        Ok(Self::new(reasoning, calls, channels, |text| marker_token(tokenizer, text)))
    }

    pub(super) fn new(
        reasoning: Option<&'static ReasoningFormat>,
        calls: Option<&'static CallFormat>,
        channels: Option<&'static ChannelFormat>,
        token_of: impl Fn(&str) -> Option<u32>,
    ) -> Self {
        let calls = calls.or(channels.map(|c| &c.call));
        let mut texts: Vec<&'static str> = calls.into_iter().flat_map(CallFormat::marks).collect();
        texts.extend(calls.into_iter().flat_map(|c| c.silent));
        texts.extend(
            reasoning.into_iter().flat_map(|r| [mark_of(r.open), r.close].into_iter().chain(r.silent.iter().copied())),
        );
        if let Some(c) = channels {
            texts.extend([c.start, c.message, c.channel].into_iter().chain(c.ends.iter().chain(c.inner).copied()));
        }
        let marks = Marks::new(&texts, token_of);
        let inner = Inner {
            reasoning: reasoning.map(|r| (r, marks.literal(r.open), marks.literal(r.close))),
            calls: calls.map(|c| Calls::new(c, &marks)),
            channels: channels.map(|format| Channels { format, message: marks.literal(format.message) }),
            marks,
            seeks: Default::default(),
        };
        let seeks = [Kind::Reasoning, Kind::Content].map(|kind| [false, true].map(|calls| inner.list(kind, calls)));
        Self(Arc::new(Inner { seeks, ..inner }))
    }

    /// The tool parser in use; `None` where calls are not known.
    pub fn tool_parser(&self) -> Option<&'static str> {
        self.0.calls.as_ref().and_then(|c| c.format.names.first().copied())
    }

    /// The reasoning parser in use; `None` where reasoning is not known.
    pub fn reasoning_parser(&self) -> Option<&'static str> {
        let channels = self.0.channels.as_ref().and_then(|c| c.format.names.last().copied());
        self.0.reasoning.as_ref().and_then(|(r, ..)| r.names.first().copied()).or(channels)
    }

    /// Where an answer begins that follows `prompt`, a rendered conversation.
    pub fn opening(&self, prompt: &str) -> Opening {
        let prompt = prompt.trim_end();
        if let Some(channels) = &self.0.channels {
            let format = channels.format;
            let Some(at) = prompt.rfind(format.start) else { return Opening::default() };
            let header = prompt.get(at..).unwrap_or_default();
            return Opening(match header.find(format.message) {
                None => Place::Header,
                Some(end) => match Header::read(header.get(..end).unwrap_or_default(), format) {
                    Header::Reasoning => Place::Reasoning,
                    _ => Place::Answer,
                },
            });
        }
        let open = self.0.reasoning.as_ref().is_some_and(|(r, ..)| prompt.ends_with(r.open.trim_end()));
        Opening(if open { Place::Reasoning } else { Place::Answer })
    }

    /// A machine for one answer.
    pub fn machine(&self, rules: &Arc<AnswerRules>) -> AnswerMachine {
        AnswerMachine::new(Arc::clone(&self.0), Arc::clone(rules))
    }

    #[cfg(test)]
    pub(super) fn inner(&self) -> &Arc<Inner> {
        &self.0
    }
}

impl Inner {
    /// What to look for in a text of `kind`.
    pub(super) fn seeks(&self, kind: Kind, calls: bool) -> &[(Literal, Seek)] {
        &self.seeks[usize::from(kind == Kind::Content)][usize::from(calls)]
    }

    fn list(&self, kind: Kind, with_calls: bool) -> Vec<(Literal, Seek)> {
        let mut list = Vec::new();
        if let Some((format, open, close)) = &self.reasoning {
            match kind {
                Kind::Reasoning => list.push((close.clone(), Seek::Close)),
                Kind::Content => {
                    list.push((open.clone(), Seek::Open));
                    if close.first() == Some(&MARK) {
                        list.push((close.clone(), Seek::Stray));
                    }
                }
            }
            list.extend(format.silent.iter().map(|text| (self.marks.literal(text), Seek::Silent)));
        }
        if let Some(Channels { format, .. }) = &self.channels {
            let texts = format.ends.iter().chain([&format.start]);
            list.extend(texts.map(|text| (self.marks.literal(text), Seek::Header)));
            return list;
        }
        if let Some(calls) = self.calls.as_ref().filter(|_| with_calls) {
            for (literal, in_section) in &calls.openers {
                let is_token = literal.first() == Some(&MARK);
                // A model that forgets to end its thoughts before a call writes the token for it.
                if kind == Kind::Content || is_token {
                    let seek = Seek::Calls { in_section: *in_section, at_edge: calls.format.bare && !is_token };
                    list.push((literal.clone(), seek));
                }
            }
            list.extend(calls.format.silent.iter().map(|text| (self.marks.literal(text), Seek::Silent)));
        }
        list
    }
}

/// For whom a message is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Header {
    Reasoning,
    Content,
    Call(String),
}

impl Header {
    /// Reads a header with its markers spelled out.
    pub(super) fn read(header: &str, format: &ChannelFormat) -> Self {
        let word_after = |mark: &str| {
            let rest = header.get(header.find(mark)? + mark.len()..)?;
            rest.split(|c: char| c.is_whitespace() || c == '<').next()
        };
        let recipient = word_after("to=").filter(|r| !r.is_empty());
        let is_analysis = word_after(format.channel) == Some("analysis");
        match recipient {
            Some("self") => Self::Reasoning,
            Some("user" | "assistant") | None if !is_analysis => Self::Content,
            Some(name) if name.len() > format.tools.len() && name.starts_with(format.tools) => {
                Self::Call(name.get(format.tools.len()..).unwrap_or_default().to_owned())
            }
            // A tool that is no function of the request's: what is said to it is no answer.
            _ => Self::Reasoning,
        }
    }
}

/// The marker that `open` begins with; behind it may stand text.
fn mark_of(open: &'static str) -> &'static str {
    open.find('>').and_then(|end| open.get(..=end)).unwrap_or(open)
}

pub(super) fn has_signs(template: &str, signs: &[&[&str]]) -> bool {
    signs.iter().any(|set| set.iter().all(|sign| template.contains(sign)))
}

/// The token that a tokenizer writes wherever `text` stands; `None` if the vocabulary has none.
fn marker_token(tokenizer: &Tokenizer, text: &str) -> Option<u32> {
    let id = tokenizer.token_to_id(text)?;
    let is_literal = || tokenizer.encode(&format!("a{text}a"), false).is_ok_and(|ids| ids.contains(&id));
    (tokenizer.is_special(id) || is_literal()).then_some(id)
}
