//! Which parts of a grammar may be lexemes of a lexer that takes the longest match.
//!
//! A lexeme that has matched is lost when it, or another that began with it, goes on by a byte with
//! which the next symbol could have begun. Such pairs are found on their automata; the one that goes
//! on is then spelled by characters, and the question asked again.

use std::collections::{HashMap, HashSet};

use llguidance::derivre::{Regex, StateID};

use super::regular::regex;
use super::{Expr, Rules};

/// State pairs looked at for two lexemes; beyond, they count as in conflict.
const MAX_STATES: usize = 3000;
/// Steps of automata for one grammar; beyond, all lexemes count as in conflict.
const MAX_STEPS: usize = 10_000_000;

/// A set of bytes.
#[derive(Clone, Copy, Default, PartialEq)]
pub(super) struct Bytes([u64; 4]);

impl Bytes {
    fn insert(&mut self, byte: u8) {
        self.0[byte as usize / 64] |= 1 << (byte % 64);
    }

    fn contains(&self, byte: u8) -> bool {
        self.0[byte as usize / 64] >> (byte % 64) & 1 == 1
    }

    /// Adds `other`; true if that changed anything.
    fn add(&mut self, other: &Self) -> bool {
        let before = *self;
        for (word, more) in self.0.iter_mut().zip(other.0) {
            *word |= more;
        }
        *self != before
    }
}

/// A rule's body over lexemes.
pub(super) enum Part {
    Lexeme(usize),
    Token(String),
    Rule(usize),
    Sequence(Vec<Part>),
    Choice(Vec<Part>),
    Repeat(Box<Part>, u32, Option<u32>),
}

pub(super) struct Lexeme {
    pub(super) regex: String,
    /// It matches the empty text too, which no lexeme may: it is optional then.
    pub(super) is_nullable: bool,
    automaton: Regex,
    first: Bytes,
}

/// The grammar over lexemes.
#[derive(Default)]
pub(super) struct Lexed {
    pub(super) lexemes: Vec<Lexeme>,
    by_regex: HashMap<String, usize>,
    /// Bodies of the rules that are still rules, by number.
    pub(super) bodies: HashMap<usize, Part>,
}

/// Chooses lexemes as large as they may be.
///
/// # Errors
/// What the engine can't make an automaton of.
pub(super) fn choose(rules: &Rules) -> Result<Lexed, String> {
    let mut spelled: HashSet<String> = HashSet::new();
    let mut steps_left = MAX_STEPS;
    loop {
        let mut lexed = Lexed::default();
        let mut todo = vec![rules.root];
        while let Some(number) = todo.pop() {
            let Some(rule) = rules.rules.get(number).filter(|_| !lexed.bodies.contains_key(&number)) else { continue };
            let body = lexed.part(rules, &rule.body, &spelled, &mut todo)?;
            lexed.bodies.insert(number, body);
        }
        let follow = follow(&lexed);
        let before = spelled.len();
        conflicts(&mut lexed, &follow, &mut spelled, &mut steps_left);
        if spelled.len() == before {
            return Ok(lexed);
        }
    }
}

impl Lexed {
    fn part(
        &mut self,
        rules: &Rules,
        expr: &Expr,
        spelled: &HashSet<String>,
        todo: &mut Vec<usize>,
    ) -> Result<Part, String> {
        if let Some(regex) = regex(rules, expr).filter(|regex| !spelled.contains(regex)) {
            return self.lexeme(regex);
        }
        let mut all = |items: &[Expr]| -> Result<Vec<Part>, String> {
            items.iter().map(|item| self.part(rules, item, spelled, todo)).collect()
        };
        Ok(match expr {
            Expr::Literal(text) if text.chars().nth(1).is_some() => {
                Part::Sequence(all(&text.chars().map(|c| Expr::Literal(c.to_string())).collect::<Vec<_>>())?)
            }
            // One character goes on to nothing, so it stays whatever `spelled` says.
            Expr::Literal(_) | Expr::Class { .. } => self.lexeme(regex(rules, expr).unwrap_or_default())?,
            Expr::Token(text) => Part::Token(text.clone()),
            Expr::Rule(number) => {
                todo.push(*number);
                Part::Rule(*number)
            }
            Expr::Sequence(items) => Part::Sequence(all(items)?),
            Expr::Choice(items) => Part::Choice(all(items)?),
            Expr::Repeat(item, least, most) => {
                Part::Repeat(Box::new(self.part(rules, item, spelled, todo)?), *least, *most)
            }
        })
    }

    fn lexeme(&mut self, regex: String) -> Result<Part, String> {
        if let Some(&number) = self.by_regex.get(&regex) {
            return Ok(Part::Lexeme(number));
        }
        let mut automaton = Regex::new(&regex).map_err(|e| e.to_string())?;
        let start = automaton.initial_state();
        let mut first = Bytes::default();
        (0..=255).filter(|&b| !automaton.transition(start, b).is_dead()).for_each(|b| first.insert(b));
        let is_nullable = automaton.is_accepting(start);
        if is_nullable && first == Bytes::default() {
            return Ok(Part::Sequence(Vec::new()));
        }
        self.by_regex.insert(regex.clone(), self.lexemes.len());
        self.lexemes.push(Lexeme { regex, is_nullable, automaton, first });
        Ok(Part::Lexeme(self.lexemes.len() - 1))
    }
}

impl Lexed {
    fn start(&mut self, lexeme: usize) -> Option<StateID> {
        self.lexemes.get_mut(lexeme).map(|lexeme| lexeme.automaton.initial_state())
    }

    fn accepts(&mut self, lexeme: usize, state: StateID) -> bool {
        self.lexemes.get_mut(lexeme).is_some_and(|lexeme| lexeme.automaton.is_accepting(state))
    }

    /// Where a lexeme's automaton goes by `byte`; `None` where nothing can match any more.
    fn step(&mut self, lexeme: usize, state: StateID, byte: u8) -> Option<StateID> {
        let next = self.lexemes.get_mut(lexeme)?.automaton.transition(state, byte);
        (!next.is_dead()).then_some(next)
    }
}

/// What a part may begin with, and whether it may be empty.
fn first(part: &Part, lexed: &Lexed, rules: &HashMap<usize, (Bytes, bool)>) -> (Bytes, bool) {
    match part {
        Part::Lexeme(number) => {
            lexed.lexemes.get(*number).map_or((Bytes::default(), true), |lexeme| (lexeme.first, lexeme.is_nullable))
        }
        Part::Token(_) => (Bytes::default(), false),
        Part::Rule(number) => rules.get(number).copied().unwrap_or_default(),
        Part::Sequence(items) => {
            let mut all = Bytes::default();
            for item in items {
                let (bytes, is_nullable) = first(item, lexed, rules);
                all.add(&bytes);
                if !is_nullable {
                    return (all, false);
                }
            }
            (all, true)
        }
        Part::Choice(items) => items.iter().fold((Bytes::default(), false), |(mut all, nullable), item| {
            let (bytes, is_nullable) = first(item, lexed, rules);
            all.add(&bytes);
            (all, nullable || is_nullable)
        }),
        Part::Repeat(item, least, _) => {
            let (bytes, is_nullable) = first(item, lexed, rules);
            (bytes, is_nullable || *least == 0)
        }
    }
}

/// The bytes that may follow each lexeme, by least fixed points as for any LL grammar.
fn follow(lexed: &Lexed) -> Vec<Bytes> {
    let mut firsts: HashMap<usize, (Bytes, bool)> = HashMap::new();
    loop {
        let mut changed = false;
        for (number, body) in &lexed.bodies {
            let now = first(body, lexed, &firsts);
            changed |= firsts.insert(*number, now) != Some(now);
        }
        if !changed {
            break;
        }
    }
    let mut follow = Follow {
        lexed,
        firsts,
        lexemes: vec![Bytes::default(); lexed.lexemes.len()],
        rules: HashMap::new(),
        changed: true,
    };
    while std::mem::take(&mut follow.changed) {
        for (number, body) in &lexed.bodies {
            let after = follow.rules.get(number).copied().unwrap_or_default();
            follow.visit(body, after);
        }
    }
    follow.lexemes
}

struct Follow<'a> {
    lexed: &'a Lexed,
    firsts: HashMap<usize, (Bytes, bool)>,
    lexemes: Vec<Bytes>,
    rules: HashMap<usize, Bytes>,
    changed: bool,
}

impl Follow<'_> {
    /// `after`: what may follow `part` where it stands.
    fn visit(&mut self, part: &Part, after: Bytes) {
        match part {
            Part::Lexeme(number) => {
                if let Some(bytes) = self.lexemes.get_mut(*number) {
                    self.changed |= bytes.add(&after);
                }
            }
            Part::Token(_) => {}
            Part::Rule(number) => self.changed |= self.rules.entry(*number).or_default().add(&after),
            Part::Sequence(items) => {
                let mut after = after;
                for item in items.iter().rev() {
                    self.visit(item, after);
                    let (bytes, is_nullable) = first(item, self.lexed, &self.firsts);
                    if !is_nullable {
                        after = Bytes::default();
                    }
                    after.add(&bytes);
                }
            }
            Part::Choice(items) => items.iter().for_each(|item| self.visit(item, after)),
            Part::Repeat(item, _, most) => {
                let mut after = after;
                if *most != Some(1) {
                    after.add(&first(item, self.lexed, &self.firsts).0);
                }
                self.visit(item, after);
            }
        }
    }
}

/// Adds to `spelled` the lexemes that go on where another, or they themselves, would have ended.
fn conflicts(lexed: &mut Lexed, follow: &[Bytes], spelled: &mut HashSet<String>, steps_left: &mut usize) {
    for (ended, after) in follow.iter().enumerate() {
        for longer in 0..lexed.lexemes.len() {
            if goes_on(lexed, [ended, longer], after, steps_left)
                && let Some(lexeme) = lexed.lexemes.get(longer)
            {
                spelled.insert(lexeme.regex.clone());
            }
        }
    }
}

/// Is there a text that is all of lexeme `ended`, and goes on in `longer` by a byte of `after`?
fn goes_on(lexed: &mut Lexed, [ended, longer]: [usize; 2], after: &Bytes, steps_left: &mut usize) -> bool {
    let (Some(a), Some(b)) = (lexed.start(ended), lexed.start(longer)) else { return false };
    let mut seen: HashSet<(StateID, StateID)> = HashSet::new();
    let mut todo = vec![(a, b, true)];
    while let Some((a, b, is_start)) = todo.pop() {
        let ends = !is_start && lexed.accepts(ended, a);
        for byte in 0..=255 {
            let Some(next) = lexed.step(longer, b, byte) else { continue };
            *steps_left = steps_left.saturating_sub(1);
            if (ends && after.contains(byte)) || *steps_left == 0 {
                return true;
            }
            let Some(along) = lexed.step(ended, a, byte) else { continue };
            if seen.insert((along, next)) {
                if seen.len() > MAX_STATES {
                    return true;
                }
                todo.push((along, next, false));
            }
        }
    }
    false
}
