//! The text of a GBNF grammar to rules.
//!
//! Line ends are blanks: a rule reaches to the next `name ::=`, as xgrammar reads it and as every
//! grammar of llama.cpp may be read.

use std::collections::HashMap;

use super::{Expr, Rule, Rules};
use crate::text::grammar::error::GrammarError;

/// Most rules: whether they are regular is found by going over all of them again and again.
const MAX_RULES: usize = 2000;
/// Most repetitions of a repetition.
const MAX_SIGNS: usize = 8;

pub(super) struct Parser<'a> {
    text: &'a str,
    at: usize,
    max_depth: usize,
    names: HashMap<String, usize>,
    /// Rules by number, with the line of their first mention; `None` until defined.
    bodies: Vec<(Option<Expr>, usize)>,
}

/// Reads a whole grammar.
pub(super) fn parse(text: &str, max_depth: usize) -> Result<Rules, GrammarError> {
    let mut parser = Parser { text, at: 0, max_depth, names: HashMap::new(), bodies: Vec::new() };
    parser.skip_blanks();
    while parser.peek().is_some() {
        parser.rule()?;
    }
    let root = parser.names.get("root").copied();
    let root = root.ok_or_else(|| GrammarError::line(1, "there is no rule named root, where a grammar starts"))?;
    let mut names: Vec<&str> = vec![""; parser.bodies.len()];
    for (name, &number) in &parser.names {
        if let Some(slot) = names.get_mut(number) {
            *slot = name;
        }
    }
    let mut rules = Vec::with_capacity(parser.bodies.len());
    for ((body, line), name) in parser.bodies.into_iter().zip(names) {
        let body = body.ok_or_else(|| GrammarError::line(line, format!("there is no rule named {name:?}")))?;
        rules.push(Rule { body, is_regular: false });
    }
    Ok(Rules { rules, root })
}

fn is_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '-' || c == '_'
}

impl Parser<'_> {
    fn rest(&self) -> &str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += c.len_utf8();
        Some(c)
    }

    fn eat(&mut self, sign: &str) -> bool {
        let found = self.rest().starts_with(sign);
        if found {
            self.at += sign.len();
        }
        found
    }

    fn fault<T>(&self, message: impl std::fmt::Display) -> Result<T, GrammarError> {
        let before = self.text.get(..self.at).unwrap_or_default();
        Err(GrammarError::line(1 + before.matches('\n').count(), message))
    }

    fn line(&self) -> usize {
        1 + self.text.get(..self.at).unwrap_or_default().matches('\n').count()
    }

    /// Blanks, line ends and comments.
    fn skip_blanks(&mut self) {
        while let Some(c) = self.peek() {
            if c == '#' {
                self.at += self.rest().find('\n').unwrap_or(self.rest().len());
            } else if c.is_whitespace() {
                self.at += c.len_utf8();
            } else {
                break;
            }
        }
    }

    fn name(&mut self) -> &str {
        let length = self.rest().find(|c| !is_name(c)).unwrap_or(self.rest().len());
        let start = self.at;
        self.at += length;
        self.text.get(start..self.at).unwrap_or_default()
    }

    /// The number of the rule called `name`.
    fn number(&mut self, name: String) -> usize {
        let line = self.line();
        let next = self.bodies.len();
        let number = *self.names.entry(name).or_insert(next);
        if number == next {
            self.bodies.push((None, line));
        }
        number
    }

    fn rule(&mut self) -> Result<(), GrammarError> {
        let name = self.name().to_owned();
        if name.is_empty() {
            let shown: String = self.rest().chars().take(12).collect();
            return self.fault(format!("a rule's name stands here, not {shown:?}"));
        }
        self.skip_blanks();
        if !self.eat("::=") {
            return self.fault(format!("\"::=\" follows the rule's name {name:?}"));
        }
        let number = self.number(name.clone());
        if number >= MAX_RULES {
            return self.fault(format!("there are more than {MAX_RULES} rules"));
        }
        if self.bodies.get(number).is_some_and(|(body, _)| body.is_some()) {
            return self.fault(format!("the rule {name:?} is defined twice"));
        }
        let body = self.choice(0)?;
        if let Some(slot) = self.bodies.get_mut(number) {
            slot.0 = Some(body);
        }
        if let Some(c) = self.peek().filter(|&c| !is_name(c)) {
            return self.fault(format!("{c:?} can't stand here"));
        }
        Ok(())
    }

    fn choice(&mut self, depth: usize) -> Result<Expr, GrammarError> {
        if depth > self.max_depth {
            return self.fault(format!("groups are nested more than {} deep", self.max_depth));
        }
        let mut alternatives = vec![self.sequence(depth)?];
        while self.eat("|") {
            alternatives.push(self.sequence(depth)?);
        }
        Ok(if alternatives.len() == 1 { alternatives.remove(0) } else { Expr::Choice(alternatives) })
    }

    fn sequence(&mut self, depth: usize) -> Result<Expr, GrammarError> {
        let mut items = Vec::new();
        loop {
            self.skip_blanks();
            let item = match self.peek() {
                Some('"') => self.literal()?,
                Some('[') => self.class()?,
                Some('.') => {
                    self.next();
                    Expr::Class { ranges: Vec::new(), negated: true }
                }
                Some('(') => self.group(depth)?,
                Some('<') => self.token()?,
                Some(c) if is_name(c) && !self.at_rule() => {
                    let name = self.name().to_owned();
                    Expr::Rule(self.number(name))
                }
                Some('!') => return self.fault("negated tokens aren't supported"),
                Some('/') => return self.fault("regular expressions aren't part of GBNF; write the grammar in Lark"),
                _ => break,
            };
            items.push(self.repeated(item)?);
        }
        Ok(if items.len() == 1 { items.remove(0) } else { Expr::Sequence(items) })
    }

    /// Does the next rule begin here?
    fn at_rule(&self) -> bool {
        let mut ahead =
            Parser { text: self.text, at: self.at, max_depth: 0, names: HashMap::new(), bodies: Vec::new() };
        ahead.name();
        ahead.skip_blanks();
        ahead.rest().starts_with("::=")
    }

    fn group(&mut self, depth: usize) -> Result<Expr, GrammarError> {
        self.next();
        if self.eat("=") {
            return self.fault("look-ahead isn't supported");
        }
        let inner = self.choice(depth + 1)?;
        if !self.eat(")") {
            return self.fault("a group isn't closed by )");
        }
        Ok(inner)
    }

    fn token(&mut self) -> Result<Expr, GrammarError> {
        let end = self.rest().find(['>', '\n']).filter(|&end| self.rest()[end..].starts_with('>'));
        let Some(end) = end else { return self.fault("a token isn't closed by >") };
        let text = self.rest()[..=end].to_owned();
        self.at += text.len();
        Ok(Expr::Token(text))
    }

    /// `item` with the signs of repetition behind it.
    fn repeated(&mut self, mut item: Expr) -> Result<Expr, GrammarError> {
        for _ in 0..MAX_SIGNS {
            let (least, most) = match self.peek() {
                Some('*') => (0, None),
                Some('+') => (1, None),
                Some('?') => (0, Some(1)),
                Some('{') => {
                    item = self.counted(item)?;
                    continue;
                }
                _ => return Ok(item),
            };
            self.next();
            item = Expr::Repeat(Box::new(item), least, most);
        }
        self.fault(format!("more than {MAX_SIGNS} repetitions of one another"))
    }

    /// `{3}`, `{3,}`, `{3,5}` or `{,5}`.
    fn counted(&mut self, item: Expr) -> Result<Expr, GrammarError> {
        self.next();
        let end = self.rest().find('}').unwrap_or(0);
        let inside: String = self.rest()[..end].chars().filter(|c| !c.is_whitespace()).collect();
        let (least, most) = inside.split_once(',').unwrap_or((&inside, &inside));
        let number = |text: &str| text.parse::<u32>().ok().filter(|&n| n <= 100_000);
        let bounds = match (least, most) {
            ("", "") => None,
            (least, "") => number(least).map(|least| (least, None)),
            ("", most) => number(most).map(|most| (0, Some(most))),
            (least, most) => number(least).zip(number(most)).map(|(least, most)| (least, Some(most))),
        };
        match bounds.filter(|(least, most)| most.is_none_or(|most| *least <= most)) {
            Some((least, most)) => {
                self.at += end + 1;
                Ok(Expr::Repeat(Box::new(item), least, most))
            }
            None => self.fault("a repetition is {3}, {3,}, {3,5} or {,5}, of at most 100000"),
        }
    }

    fn literal(&mut self) -> Result<Expr, GrammarError> {
        self.next();
        let mut text = String::new();
        loop {
            match self.next() {
                Some('"') => return Ok(Expr::Literal(text)),
                Some('\\') => text.push(self.escape()?),
                Some(c) if c != '\n' => text.push(c),
                _ => return self.fault("a text isn't closed by \" on its line"),
            }
        }
    }

    fn class(&mut self) -> Result<Expr, GrammarError> {
        self.next();
        let negated = self.eat("^");
        let mut ranges = Vec::new();
        loop {
            if self.eat("]") {
                break;
            }
            let from = self.class_char()?;
            let to = if self.rest().starts_with('-') && !self.rest().starts_with("-]") {
                self.next();
                self.class_char()?
            } else {
                from
            };
            if to < from {
                return self.fault(format!("the range {from:?}-{to:?} runs backwards"));
            }
            ranges.push((from, to));
        }
        if ranges.is_empty() && !negated {
            return self.fault("[] matches nothing");
        }
        Ok(Expr::Class { ranges, negated })
    }

    fn class_char(&mut self) -> Result<char, GrammarError> {
        match self.next() {
            Some('\\') => self.escape(),
            Some(c) if c != '\n' => Ok(c),
            _ => self.fault("a class isn't closed by ] on its line"),
        }
    }

    fn escape(&mut self) -> Result<char, GrammarError> {
        let length = match self.next() {
            Some('n') => return Ok('\n'),
            Some('r') => return Ok('\r'),
            Some('t') => return Ok('\t'),
            Some('x') => 2,
            Some('u') => 4,
            Some('U') => 8,
            Some(c) if c.is_ascii_punctuation() => return Ok(c),
            _ => return self.fault("an escape is \\n \\r \\t \\xHH \\uHHHH \\UHHHHHHHH or \\ before a sign"),
        };
        let digits = self.rest().get(..length).unwrap_or_default().to_owned();
        match u32::from_str_radix(&digits, 16).ok().and_then(char::from_u32).filter(|_| digits.len() == length) {
            Some(c) => {
                self.at += length;
                Ok(c)
            }
            None => self.fault(format!("{digits:?} is the code of no character")),
        }
    }
}
