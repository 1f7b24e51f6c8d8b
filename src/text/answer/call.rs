//! Reads calls by the program of their format.
//!
//! Until the tool's name and the beginning of its arguments are read, it is an attempt, which may fail
//! and was text then. From there on the call is announced and its arguments pass as they come. It is
//! complete with its arguments; markers that should follow are taken if they do.

use super::format::{Calls, Step, first_literals};
use super::input::{Compared, Input, Literal, MARK, Marks, compare, count_spaces, is_space};
use super::keywords::KeywordScanner;
use super::object::{Found, ObjectScanner};
use super::parts::Writer;
use super::tagged::TaggedScanner;
use super::tools::Tool;
use super::value::{Scan, ValueScanner};

/// OpenAI allows 64 characters.
const MAX_NAME: usize = 256;

/// What surrounds the reading of calls.
pub(super) struct Desk<'a> {
    pub(super) input: &'a mut Input,
    pub(super) out: &'a mut Writer,
    pub(super) marks: &'a Marks,
    pub(super) calls: &'a Calls,
    pub(super) tools: &'a [Tool],
}

/// How reading came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// More text is needed.
    More,
    /// The attempt was text.
    Text,
    /// The call that is announced doesn't go on as a call.
    Broken,
    /// A call is complete; reading goes on.
    Complete,
    /// No call follows.
    Over,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Begin,
    Between,
    Call,
    /// Behind the arguments.
    Closing,
    After,
    End,
}

/// The scanner of the step that is being read.
#[derive(Debug)]
enum Sub {
    None,
    Value(ValueScanner),
    Object(ObjectScanner),
    Tagged(TaggedScanner),
    Keywords(KeywordScanner),
}

/// One section of calls.
#[derive(Debug)]
pub(super) struct CallReader {
    phase: Phase,
    at: usize,
    sub: Sub,
    name: Option<String>,
    id: Option<String>,
    announced: bool,
    has_arguments: bool,
}

/// What a step came to.
enum Did {
    Next,
    Wait,
    Fail,
    Complete,
}

impl CallReader {
    /// At the beginning of a section, or of a call without one.
    pub(super) fn new(in_section: bool) -> Self {
        let phase = if in_section { Phase::Begin } else { Phase::Call };
        let (name, id) = (None, None);
        Self { phase, at: 0, sub: Sub::None, name, id, announced: false, has_arguments: false }
    }

    /// A call whose name is known already.
    pub(super) fn named(name: String) -> Self {
        Self { name: Some(name), ..Self::new(false) }
    }

    /// A call is announced and not complete.
    pub(super) fn is_announced(&self) -> bool {
        self.announced
    }

    /// What of an announced call was read and not given away.
    pub(super) fn held(&mut self) -> Vec<u8> {
        match &mut self.sub {
            Sub::Tagged(scanner) => scanner.held(),
            _ => Vec::new(),
        }
    }

    /// Reads on.
    pub(super) fn read(&mut self, desk: &mut Desk<'_>) -> Outcome {
        loop {
            let steps: &[Step] = match self.phase {
                Phase::Begin => &desk.calls.begin,
                Phase::Between => &desk.calls.between,
                Phase::Call | Phase::Closing => &desk.calls.call,
                Phase::End => &desk.calls.end,
                Phase::After => match self.after(desk) {
                    Some(outcome) => return outcome,
                    None => continue,
                },
            };
            let Some(step) = steps.get(self.at) else {
                self.at = 0;
                match self.phase {
                    Phase::Begin | Phase::Between => self.phase = Phase::Call,
                    Phase::Call | Phase::Closing | Phase::After => self.phase = Phase::After,
                    Phase::End => return Outcome::Over,
                }
                continue;
            };
            match self.step(step, desk) {
                Did::Next => self.at += 1,
                Did::Wait => return Outcome::More,
                Did::Complete => {
                    self.at += usize::from(matches!(self.sub, Sub::None));
                    self.phase = Phase::Closing;
                    return Outcome::Complete;
                }
                Did::Fail => match self.phase {
                    Phase::Closing => (self.phase, self.at) = (Phase::After, 0),
                    Phase::End => return Outcome::Over,
                    _ if self.announced => return Outcome::Broken,
                    _ => return Outcome::Text,
                },
            }
        }
    }

    /// Behind a call: another one, the end of the section, or text.
    fn after(&mut self, desk: &mut Desk<'_>) -> Option<Outcome> {
        let pending = desk.input.pending();
        let rest = pending.get(count_spaces(pending)..).unwrap_or_default();
        let another = first_literals(desk.calls.between.iter().chain(&desk.calls.call));
        let end = first_literals(&desk.calls.end);
        // The surest of what may come.
        let surest = |literals: &mut dyn Iterator<Item = Literal>| {
            literals.map(|l| compare(rest, &l)).min().unwrap_or(Compared::Different)
        };
        let (another, end) = (surest(&mut { another }), surest(&mut { end }));
        match (another, end) {
            (Compared::Equal, _) => {
                *self = Self { phase: Phase::Between, ..Self::new(false) };
                desk.input.attempt();
                None
            }
            (_, Compared::Equal) => {
                (self.phase, self.at) = (Phase::End, 0);
                None
            }
            (Compared::Undecided, _) | (_, Compared::Undecided) => Some(Outcome::More),
            _ => Some(Outcome::Over),
        }
    }

    fn step(&mut self, step: &Step, desk: &mut Desk<'_>) -> Did {
        match step {
            Step::Space => {
                let spaces = count_spaces(desk.input.pending());
                desk.input.advance(spaces);
                if desk.input.pending().is_empty() { Did::Wait } else { Did::Next }
            }
            Step::Literal(literal) => literal_step(literal, desk, Did::Fail),
            Step::MaybeLiteral(literal) => literal_step(literal, desk, Did::Next),
            Step::MaybeId(literal) => match compare(desk.input.pending(), literal) {
                Compared::Different => Did::Next,
                Compared::Undecided => Did::Wait,
                Compared::Equal => match read_word(desk.input.pending().get(literal.len()..).unwrap_or_default()) {
                    Some(word) => {
                        desk.input.advance(literal.len() + word.len());
                        Did::Next
                    }
                    None => Did::Wait,
                },
            },
            Step::Name | Step::Id => {
                let is_id = matches!(step, Step::Id);
                let Some(word) = read_word(desk.input.pending()) else { return Did::Wait };
                desk.input.advance(word.len());
                self.name_from(word, is_id)
            }
            // The call is complete, but not the object that it stands in.
            Step::Object if self.phase == Phase::Closing => self.rest_of_object(desk),
            _ => self.arguments_step(step, desk),
        }
    }

    fn rest_of_object(&mut self, desk: &mut Desk<'_>) -> Did {
        let Sub::Object(object) = &mut self.sub else { return Did::Next };
        let (used, scan) = object.scan(desk.input.pending(), desk.marks, &mut Found::default());
        desk.input.advance(used);
        match scan {
            Scan::More => Did::Wait,
            Scan::Done | Scan::Error => {
                self.sub = Sub::None;
                Did::Next
            }
        }
    }

    fn name_from(&mut self, word: String, is_id: bool) -> Did {
        let mut name = word.as_str();
        if is_id {
            name = name.strip_prefix("functions.").unwrap_or(name);
            name = match name.rsplit_once(':') {
                Some((name, number)) if number.bytes().all(|b| b.is_ascii_digit()) => name,
                _ => name,
            };
        }
        if name.is_empty() || word.len() > MAX_NAME {
            return Did::Fail;
        }
        self.name = Some(name.to_owned());
        self.id = is_id.then_some(word);
        Did::Next
    }

    /// A step that reads arguments.
    fn arguments_step(&mut self, step: &Step, desk: &mut Desk<'_>) -> Did {
        if matches!(self.sub, Sub::None) {
            self.sub = match step {
                Step::Arguments(dialect, delimiter) => {
                    if desk.input.pending().first().is_some_and(|b| *b != b'{') {
                        return Did::Fail;
                    }
                    Sub::Value(ValueScanner::new(*dialect, delimiter.clone()))
                }
                Step::Object => Sub::Object(ObjectScanner::new()),
                Step::Tagged(tags) => Sub::Tagged(TaggedScanner::new(tags.clone())),
                _ => Sub::Keywords(KeywordScanner::new()),
            };
        }
        if desk.input.pending().is_empty() {
            return Did::Wait;
        }
        let mut found = Found::default();
        let marks = desk.marks;
        let scan = match &mut self.sub {
            Sub::None => Scan::Error,
            Sub::Tagged(scanner) => {
                let tool = self.name.as_ref().and_then(|n| desk.tools.iter().find(|t| t.name == *n));
                scanner.scan(desk.input, marks, tool, &mut found.arguments)
            }
            sub => {
                let pending = desk.input.pending();
                let (used, scan) = match sub {
                    Sub::Object(scanner) => scanner.scan(pending, marks, &mut found),
                    Sub::Value(scanner) => scanner.scan(pending, marks, &mut found.arguments),
                    Sub::Keywords(scanner) => scanner.scan(pending, marks, &mut found.arguments),
                    _ => (0, Scan::Error),
                };
                desk.input.advance(used);
                scan
            }
        };
        self.take(found, scan, desk)
    }

    /// Gives away what was found.
    fn take(&mut self, found: Found, scan: Scan, desk: &mut Desk<'_>) -> Did {
        if let Some(name) = found.name {
            self.name = Some(name);
        }
        if !found.arguments.is_empty() {
            if !self.announce(desk) {
                return Did::Fail;
            }
            self.has_arguments = true;
            desk.out.arguments(&String::from_utf8_lossy(&found.arguments));
        }
        let is_complete = match &mut self.sub {
            Sub::Object(object) if scan != Scan::Done => object.is_complete(),
            Sub::Object(object) => {
                if desk.calls.format.bare && !object.has_arguments() {
                    return Did::Fail;
                }
                self.name = object.take_name().or(self.name.take());
                true
            }
            _ => scan == Scan::Done,
        };
        match scan {
            _ if is_complete => {}
            Scan::Error => return Did::Fail,
            Scan::More | Scan::Done => return Did::Wait,
        }
        if !self.announce(desk) {
            return Did::Fail;
        }
        if !self.has_arguments {
            desk.out.arguments("{}");
        }
        desk.out.end_call();
        self.announced = false;
        if scan == Scan::Done || !matches!(self.sub, Sub::Object(_)) {
            self.sub = Sub::None;
        }
        Did::Complete
    }

    /// The attempt is a call; false if it is none after all.
    fn announce(&mut self, desk: &mut Desk<'_>) -> bool {
        if self.announced {
            return true;
        }
        let Some(name) = self.name.clone() else { return false };
        let is_known = desk.tools.iter().any(|tool| tool.name == name);
        if name.is_empty() || (desk.calls.format.bare && !is_known) {
            return false;
        }
        desk.input.succeed();
        desk.out.begin_call(name, self.id.take());
        self.announced = true;
        true
    }
}

fn literal_step(literal: &[u8], desk: &mut Desk<'_>, otherwise: Did) -> Did {
    match compare(desk.input.pending(), literal) {
        Compared::Equal => {
            desk.input.advance(literal.len());
            Did::Next
        }
        Compared::Different => otherwise,
        Compared::Undecided => Did::Wait,
    }
}

/// The word that `bytes` begins with; `None` while it may go on.
fn read_word(bytes: &[u8]) -> Option<String> {
    let is_part = |b: &u8| !is_space(*b) && *b != MARK && !b"<>()[]{}\"'`,;=".contains(b);
    let length = bytes.iter().take_while(|b| is_part(b)).count();
    (length < bytes.len() || length > MAX_NAME)
        .then(|| String::from_utf8_lossy(bytes.get(..length).unwrap_or_default()).into_owned())
}
