//! How a model writes tool calls: a short program of operations, one for each thing it writes.
//!
//! ```text
//! begin call (between call)* end
//! ```
//! The same program reads calls ([`super::call`]) and is turned into the grammar that forces them.
//! One file a format lies in `formats`.

use super::input::{Literal, Marks};
use super::value::Dialect;

/// One thing that a model writes.
#[allow(dead_code, reason = "how space and keys are usually written is for the grammar that forces calls")]
#[derive(Clone, Copy, Debug)]
pub(super) enum Op {
    /// A marker: a token where the vocabulary has one, otherwise its characters.
    Mark(&'static str),
    /// A marker that models forget.
    MaybeMark(&'static str),
    /// These characters.
    Text(&'static str),
    /// These characters, or not.
    MaybeText(&'static str),
    /// Space, as the model usually writes it; any is read.
    Space(&'static str),
    /// The tool's name.
    Name,
    /// The call's id, which holds the tool's name: `functions.f:0`.
    Id,
    /// A token that begins an id which means nothing, and the id.
    MaybeId(&'static str),
    /// The arguments as one object; the string is what surrounds Gemma's strings.
    Arguments(Dialect, &'static str),
    /// Name and arguments as one JSON object, with the keys that the model usually writes.
    Object(&'static str, &'static str),
    /// The arguments one by one, between tags.
    Tagged(&'static Tags),
    /// The arguments as Python's keyword arguments, without the parentheses.
    Keywords,
}

/// Arguments between tags: `open key key_end value_open value close`.
#[derive(Debug)]
pub(super) struct Tags {
    pub(super) open: &'static str,
    pub(super) key_end: &'static str,
    /// Empty where the value follows the key at once.
    pub(super) value_open: &'static str,
    pub(super) close: &'static str,
    /// What follows the last argument. A `close` before anything else is part of the value.
    pub(super) after: &'static str,
    /// One line break before and after the value is not its own.
    pub(super) lines: bool,
}

/// A format.
#[derive(Debug)]
pub(super) struct CallFormat {
    /// As vLLM's `--tool-call-parser` spells it, and what else it goes by there.
    pub(super) names: &'static [&'static str],
    /// What a chat template's text holds if its model writes this: all of one of these sets.
    pub(super) signs: &'static [&'static [&'static str]],
    pub(super) begin: &'static [Op],
    pub(super) call: &'static [Op],
    pub(super) between: &'static [Op],
    pub(super) end: &'static [Op],
    /// Markers that say nothing.
    pub(super) silent: &'static [&'static str],
    /// Nothing but its looks tells a call from text: it is one only where the answer begins, and only
    /// of a tool that the request has.
    pub(super) bare: bool,
}

impl CallFormat {
    fn ops(&self) -> impl Iterator<Item = &Op> {
        [self.begin, self.call, self.between, self.end].into_iter().flatten()
    }

    /// Texts that may be tokens.
    pub(super) fn marks(&self) -> impl Iterator<Item = &'static str> {
        self.ops().flat_map(|op| match *op {
            Op::Mark(text) | Op::MaybeMark(text) | Op::MaybeId(text) => vec![text],
            Op::Arguments(Dialect::Gemma, delimiter) => vec![delimiter],
            Op::Tagged(tags) => vec![tags.open, tags.key_end, tags.value_open, tags.close, tags.after],
            _ => Vec::new(),
        })
    }
}

/// An [`Op`] for one vocabulary.
#[derive(Clone, Debug)]
pub(super) enum Step {
    Literal(Literal),
    MaybeLiteral(Literal),
    Space,
    Name,
    Id,
    MaybeId(Literal),
    Arguments(Dialect, Literal),
    Object,
    Tagged(TagLiterals),
    Keywords,
}

/// [`Tags`] for one vocabulary.
#[derive(Clone, Debug)]
pub(super) struct TagLiterals {
    pub(super) open: Literal,
    pub(super) key_end: Literal,
    pub(super) value_open: Literal,
    pub(super) close: Literal,
    pub(super) after: Literal,
    pub(super) lines: bool,
}

/// A format for one vocabulary.
#[derive(Debug)]
pub(super) struct Calls {
    pub(super) format: &'static CallFormat,
    pub(super) begin: Vec<Step>,
    pub(super) call: Vec<Step>,
    pub(super) between: Vec<Step>,
    pub(super) end: Vec<Step>,
    /// What begins calls, and whether it begins the section around them.
    pub(super) openers: Vec<(Literal, bool)>,
}

impl Calls {
    pub(super) fn new(format: &'static CallFormat, marks: &Marks) -> Self {
        let compile = |ops: &[Op]| ops.iter().map(|op| Step::new(op, marks)).collect::<Vec<_>>();
        let (begin, call) = (compile(format.begin), compile(format.call));
        let (between, end) = (compile(format.between), compile(format.end));
        let mut openers: Vec<(Literal, bool)> = first_literals(&begin).map(|l| (l, true)).collect();
        // Models forget the section, but a call must be told from text.
        let is_marked = matches!(format.call.first(), Some(Op::Mark(_) | Op::MaybeMark(_) | Op::Text(_)));
        if begin.is_empty() || is_marked {
            openers.extend(first_literals(&call).map(|l| (l, false)));
        }
        Self { format, begin, call, between, end, openers }
    }
}

/// What `steps` may begin with.
pub(super) fn first_literals<'a>(steps: impl IntoIterator<Item = &'a Step>) -> impl Iterator<Item = Literal> {
    let mut literals = Vec::new();
    for step in steps {
        match step {
            Step::MaybeLiteral(literal) => literals.push(literal.clone()),
            Step::Literal(literal) => {
                literals.push(literal.clone());
                break;
            }
            Step::Object => {
                literals.push(b"{".to_vec());
                break;
            }
            Step::Space => {}
            _ => break,
        }
    }
    literals.into_iter()
}

impl Step {
    fn new(op: &Op, marks: &Marks) -> Self {
        match *op {
            Op::Mark(text) => Self::Literal(marks.literal(text)),
            Op::MaybeMark(text) => Self::MaybeLiteral(marks.literal(text)),
            Op::Text(text) => Self::Literal(text.as_bytes().to_vec()),
            Op::MaybeText(text) => Self::MaybeLiteral(text.as_bytes().to_vec()),
            Op::Space(_) => Self::Space,
            Op::Name => Self::Name,
            Op::Id => Self::Id,
            Op::MaybeId(text) => Self::MaybeId(marks.literal(text)),
            Op::Arguments(dialect, delimiter) => Self::Arguments(dialect, marks.literal(delimiter)),
            Op::Object(..) => Self::Object,
            Op::Keywords => Self::Keywords,
            Op::Tagged(tags) => Self::Tagged(TagLiterals {
                open: marks.literal(tags.open),
                key_end: marks.literal(tags.key_end),
                value_open: marks.literal(tags.value_open),
                close: marks.literal(tags.close),
                after: marks.literal(tags.after),
                lines: tags.lines,
            }),
        }
    }
}
