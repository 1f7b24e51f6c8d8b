//! Follows one output token by token: which tokens may come next, and which must.
//!
//! Each matcher has its automaton to itself, so that one request's cost or failure is its own and
//! threads don't wait for each other. A matcher that is done goes back to its grammar, and the next
//! request starts with the automaton as far as it is built.

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};

use llguidance::TokenParser;
use llguidance::api::StopReason;
use llguidance::panic_utils::catch_unwind;

use super::error::GrammarError;
use super::vocab::Vocab;

/// Matchers kept for reuse, a grammar.
const MAX_IDLE: usize = 16;

/// A compiled grammar: the state at its start, and matchers that were used before.
pub(super) struct Home {
    vocab: Arc<Vocab>,
    start: Mutex<TokenParser>,
    idle: Mutex<Vec<TokenParser>>,
    /// Automata above this many states are dropped rather than reused.
    max_reused_states: usize,
}

impl Home {
    pub(super) fn new(vocab: Arc<Vocab>, start: TokenParser, max_states: usize) -> Self {
        Self { vocab, start: Mutex::new(start), idle: Mutex::new(Vec::new()), max_reused_states: max_states / 4 }
    }

    fn take(&self) -> TokenParser {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        idle.unwrap_or_else(|| self.start.lock().unwrap_or_else(PoisonError::into_inner).deep_clone())
    }

    fn give_back(&self, mut parser: TokenParser) {
        let sound = |parser: &TokenParser| {
            parser.stop_reason().is_ok() && parser.parser.lexer_stats().num_states <= self.max_reused_states
        };
        let reset = catch_unwind(AssertUnwindSafe(|| Ok(sound(&parser) && parser.reset().is_ok())));
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if reset.unwrap_or(false) && idle.len() < MAX_IDLE {
            idle.push(parser);
        }
    }
}

/// The state of one output under a grammar.
pub struct Matcher {
    home: Arc<Home>,
    /// `Err` from the first failure on.
    parser: Result<Box<TokenParser>, GrammarError>,
}

impl std::fmt::Debug for Matcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Matcher").field("is_over", &self.is_over()).finish_non_exhaustive()
    }
}

impl Matcher {
    pub(super) fn new(home: Arc<Home>) -> Self {
        let parser = Ok(Box::new(home.take()));
        Self { home, parser }
    }

    /// Sets bit `t % 32` of word `t / 32` for every token `t` that may come next, and clears all
    /// others. The model's end tokens are among them exactly where the output may end.
    ///
    /// # Errors
    /// [`GrammarError::StepTooCostly`] or [`GrammarError::Failed`]: this matcher is of no more use.
    pub fn allowed(&mut self, words: &mut [u32]) -> Result<(), GrammarError> {
        let set = self.step(|parser| match parser.stopped() {
            true => Ok(parser.token_env.tok_trie().eos_token_set()),
            false => parser.compute_mask(),
        })?;
        let set = set.as_slice();
        let shared = set.len().min(words.len());
        words.fill(0);
        if let (Some(words), Some(set)) = (words.get_mut(..shared), set.get(..shared)) {
            words.copy_from_slice(set);
        }
        Ok(())
    }

    /// Goes on by the token that was drawn.
    ///
    /// # Errors
    /// [`GrammarError::NotAllowed`], after which the matcher is as before; otherwise as [`Self::allowed`].
    pub fn accept(&mut self, token: u32) -> Result<(), GrammarError> {
        let is_end = self.home.vocab.end_tokens.contains(&token);
        let accepted = self.step(|parser| {
            if parser.stopped() {
                return Ok(is_end);
            }
            if token as usize >= parser.token_env.tok_trie().vocab_size() || !parser.validate_token(token)? {
                return Ok(false);
            }
            parser.consume_token(token)?;
            parser.check_stop()?;
            Ok(true)
        })?;
        if accepted { Ok(()) } else { Err(GrammarError::NotAllowed(token)) }
    }

    /// True when nothing but an end token may follow.
    pub fn is_over(&self) -> bool {
        self.parser.as_ref().is_ok_and(|parser| parser.stopped())
    }

    /// The tokens that must come next, in the tokenizer's own spelling; empty where there is a
    /// choice. They still have to be accepted.
    ///
    /// # Errors
    /// As [`Self::allowed`].
    pub fn forced(&mut self) -> Result<Vec<u32>, GrammarError> {
        self.step(|parser| match parser.stopped() {
            true => Ok(Vec::new()),
            false => Ok(parser.compute_ff_tokens()),
        })
    }

    /// A second matcher at the same place, for another continuation.
    pub fn fork(&self) -> Self {
        let parser = match &self.parser {
            Ok(parser) => {
                let copy = catch_unwind(AssertUnwindSafe(|| Ok(Box::new(parser.deep_clone()))));
                copy.map_err(|e| GrammarError::from_step(&e))
            }
            Err(error) => Err(error.clone()),
        };
        Self { home: Arc::clone(&self.home), parser }
    }

    /// Runs one step; its failure, or a panic of the engine, is this matcher's last.
    fn step<T>(&mut self, work: impl FnOnce(&mut TokenParser) -> anyhow::Result<T>) -> Result<T, GrammarError> {
        let parser = match &mut self.parser {
            Ok(parser) => parser,
            Err(error) => return Err(error.clone()),
        };
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            let done = work(parser)?;
            match parser.parser.get_error() {
                Some(error) => Err(anyhow::anyhow!(error.message())),
                None => Ok(done),
            }
        }));
        let error = match outcome {
            Ok(done) => return Ok(done),
            Err(error) => match parser.stop_reason() {
                StopReason::LexerTooComplex | StopReason::ParserTooComplex => GrammarError::StepTooCostly,
                StopReason::NoExtensionBias => {
                    GrammarError::Failed("no token of this model continues the text".to_owned())
                }
                _ => GrammarError::from_step(&error),
            },
        };
        self.parser = Err(error.clone());
        Err(error)
    }
}

impl Drop for Matcher {
    fn drop(&mut self) {
        let unused = Err(GrammarError::Failed(String::new()));
        if let Ok(parser) = std::mem::replace(&mut self.parser, unused) {
            self.home.give_back(*parser);
        }
    }
}
