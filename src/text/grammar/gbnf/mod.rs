//! GBNF, the grammars of llama.cpp (and, as EBNF, of xgrammar and vLLM), written as Lark for the engine.
//!
//! GBNF has no lexer: every character is a symbol. The engine has one, and it takes the longest
//! match, so parts of a grammar may become lexemes only where that changes nothing; `lexemes`
//! decides it exactly, on automata. What is left is spelled character by character.
//!
//! # Layout
//! - `parse`: text to rules, with lines; `regular`: parts without recursion as regular expressions
//! - `lexemes`: which of them may be lexemes; `emit`: Lark

mod emit;
mod lexemes;
mod parse;
mod regular;

pub(super) use emit::to_lark;

/// A grammar's rules, `root` among them.
struct Rules {
    rules: Vec<Rule>,
    root: usize,
}

struct Rule {
    body: Expr,
    /// Does it lead back to itself, or hold a token, so that it is no regular expression?
    is_regular: bool,
}

/// The right side of a rule, or a part of it.
#[derive(Clone, Debug, PartialEq)]
enum Expr {
    Literal(String),
    /// One character of these ranges, or of all others.
    Class {
        ranges: Vec<(char, char)>,
        negated: bool,
    },
    /// A token of the model by name or id, `<...>`, passed on.
    Token(String),
    Rule(usize),
    Sequence(Vec<Expr>),
    Choice(Vec<Expr>),
    /// At least and at most so often.
    Repeat(Box<Expr>, u32, Option<u32>),
}
