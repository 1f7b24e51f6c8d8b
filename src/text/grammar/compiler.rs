//! Specifications to compiled grammars: within limits, once each, and kept.
//!
//! Compiling runs where it is called, on a thread of its own for the sake of the stack, and is
//! bounded by counts and by fuel, not by a clock: what is too costly fails the same way everywhere.
//! The vocabulary's trie is built by the first call.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock};

use llguidance::TokenParser;
use llguidance::api::{ParserLimits, StopReason, TopLevelGrammar};
use llguidance::panic_utils::catch_unwind;

use super::error::GrammarError;
use super::matcher::{Home, Matcher};
use super::spec::{GrammarSpec, SpecKey};
use super::vocab::Vocab;
use super::{lark, schema};
use crate::text::Tokenizer;

/// Fuel for building a grammar's automaton: about 50,000 a millisecond.
pub(super) const COMPILE_FUEL: u64 = 1_000_000;
/// Stack for compiling: the engine recurses once a property of an object and once a level of a schema.
/// Only what is touched is backed by memory.
const STACK_BYTES: usize = 256 << 20;

/// What a specification may cost.
#[derive(Clone, Debug)]
pub struct GrammarLimits {
    /// Bytes of a specification's text.
    pub max_spec_bytes: usize,
    /// Levels of nesting, of schemas and of groups in grammars.
    pub max_depth: usize,
    /// Subschemas and listed values of one schema, references followed once; a pattern counts as several.
    pub max_schema_nodes: usize,
    /// Named properties of one object: their cost grows with the square.
    pub max_properties: usize,
    /// `patternProperties` of one object: each is compared with each.
    pub max_patterns: usize,
    /// Compiled grammars kept, the least recently used dropped first.
    pub max_cached: usize,
    /// Fuel of one step's automaton, about 14,000 a millisecond.
    pub step_fuel: u64,
    /// Items of one step's parser, about 20,000 a millisecond.
    pub step_items: usize,
    /// States of one request's automaton, 1 to 2 kB each.
    pub max_states: usize,
}

impl Default for GrammarLimits {
    fn default() -> Self {
        Self {
            max_spec_bytes: 512 << 10,
            max_depth: 64,
            max_schema_nodes: 20_000,
            max_properties: 512,
            max_patterns: 32,
            max_cached: 128,
            step_fuel: 200_000,
            step_items: 50_000,
            max_states: 50_000,
        }
    }
}

/// Compiles grammars for one model's vocabulary. Shared by all threads.
pub struct GrammarCompiler {
    tokenizer: Tokenizer,
    end_tokens: Vec<u32>,
    limits: GrammarLimits,
    vocab: OnceLock<Result<Arc<Vocab>, GrammarError>>,
    cache: Mutex<Cache>,
}

impl std::fmt::Debug for GrammarCompiler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GrammarCompiler").field("limits", &self.limits).finish_non_exhaustive()
    }
}

/// A compiled grammar; cheap to clone.
#[derive(Clone)]
pub struct CompiledGrammar(Arc<Home>);

impl std::fmt::Debug for CompiledGrammar {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CompiledGrammar").finish_non_exhaustive()
    }
}

impl CompiledGrammar {
    /// A matcher at the start of an output.
    pub fn matcher(&self) -> Matcher {
        Matcher::new(Arc::clone(&self.0))
    }

    #[cfg(test)]
    pub(super) fn is_same_as(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// One specification's grammar, or why it is none; empty while its first caller compiles it.
type Slot = Arc<OnceLock<Result<CompiledGrammar, GrammarError>>>;

#[derive(Default)]
struct Cache {
    /// Slot and when it was last used.
    slots: HashMap<SpecKey, (Slot, u64)>,
    clock: u64,
}

impl GrammarCompiler {
    /// For a model's tokenizer and the tokens that end its answers. Cheap: see [`Self::warm_up`].
    pub fn new(tokenizer: Tokenizer, end_tokens: &[u32], limits: GrammarLimits) -> Self {
        let cache = Mutex::new(Cache::default());
        Self { tokenizer, end_tokens: end_tokens.to_vec(), limits, vocab: OnceLock::new(), cache }
    }

    /// Builds the vocabulary's trie, which the first [`Self::compile`] would do otherwise.
    ///
    /// # Errors
    /// [`GrammarError::Vocabulary`].
    pub fn warm_up(&self) -> Result<(), GrammarError> {
        self.vocab().map(|_| ())
    }

    /// The grammar of `spec`, from the cache if it is there. Callers with the same `spec` at the
    /// same time share one compilation; failures are kept as well.
    ///
    /// # Errors
    /// [`GrammarError`], of which all but [`GrammarError::Vocabulary`] and [`GrammarError::Failed`]
    /// are the specification's fault.
    pub fn compile(&self, spec: &GrammarSpec) -> Result<CompiledGrammar, GrammarError> {
        let (key, num_bytes) = spec.key();
        if num_bytes > self.limits.max_spec_bytes {
            return Err(GrammarError::Limit {
                what: "the size of the specification in bytes",
                limit: self.limits.max_spec_bytes as u64,
                remedy: "use a smaller one",
            });
        }
        let vocab = self.vocab()?;
        let slot = self.slot(key);
        slot.get_or_init(|| self.compile_now(spec, &vocab)).clone()
    }

    #[cfg(test)]
    pub(super) fn num_cached(&self) -> usize {
        self.cache.lock().unwrap().slots.len()
    }

    fn vocab(&self) -> Result<Arc<Vocab>, GrammarError> {
        let limits = ParserLimits {
            initial_lexer_fuel: COMPILE_FUEL,
            step_lexer_fuel: self.limits.step_fuel,
            step_max_items: self.limits.step_items,
            max_lexer_states: self.limits.max_states,
            verbose_errors: false,
            ..ParserLimits::default()
        };
        let build = || Vocab::new(&self.tokenizer, &self.end_tokens, limits).map(Arc::new);
        self.vocab.get_or_init(build).clone()
    }

    /// The cache's slot for `key`, made if there is none.
    fn slot(&self, key: SpecKey) -> Slot {
        let mut cache = self.cache.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        cache.clock += 1;
        let now = cache.clock;
        let entry = cache.slots.entry(key).or_default();
        entry.1 = now;
        let slot = Arc::clone(&entry.0);
        while cache.slots.len() > self.limits.max_cached.max(1) {
            let oldest = cache.slots.iter().min_by_key(|(_, (_, used))| *used).map(|(key, _)| *key);
            oldest.and_then(|key| cache.slots.remove(&key));
        }
        slot
    }

    fn compile_now(&self, spec: &GrammarSpec, vocab: &Arc<Vocab>) -> Result<CompiledGrammar, GrammarError> {
        let failed = || GrammarError::Failed("no thread to compile on".to_owned());
        std::thread::scope(|scope| {
            let build = || {
                let grammar = grammar_of(spec, &self.limits)?;
                first_state(vocab, grammar)
            };
            let thread = std::thread::Builder::new().name("grammar".to_owned()).stack_size(STACK_BYTES);
            let parser = thread.spawn_scoped(scope, build).map_err(|_| failed())?.join().map_err(|_| failed())??;
            Ok(CompiledGrammar(Arc::new(Home::new(Arc::clone(vocab), parser, self.limits.max_states))))
        })
    }
}

/// What the engine compiles.
fn grammar_of(spec: &GrammarSpec, limits: &GrammarLimits) -> Result<TopLevelGrammar, GrammarError> {
    match spec {
        GrammarSpec::JsonObject => {
            Ok(TopLevelGrammar::from_json_schema(schema::prepare(&serde_json::json!({"type": "object"}), limits)?))
        }
        GrammarSpec::JsonSchema(schema) => Ok(TopLevelGrammar::from_json_schema(schema::prepare(schema, limits)?)),
        GrammarSpec::Regex(regex) => Ok(TopLevelGrammar::from_lark(lark::of_regex(regex)?)),
        GrammarSpec::Choice(choices) => Ok(TopLevelGrammar::from_lark(lark::of_choices(choices)?)),
        GrammarSpec::Grammar(text) => Ok(TopLevelGrammar::from_lark(lark::of_grammar(text, limits)?)),
    }
}

/// A parser at the start, which has been shown to have a first token.
fn first_state(vocab: &Vocab, grammar: TopLevelGrammar) -> Result<TokenParser, GrammarError> {
    let mut parser =
        vocab.factory.create_parser(grammar).map_err(|e| schema::explain(GrammarError::from_compile(&e)))?;
    parser.start_without_prompt();
    let first = catch_unwind(std::panic::AssertUnwindSafe(|| parser.compute_mask()));
    match (first, parser.stop_reason()) {
        (Ok(_), _) => Ok(parser),
        (Err(_), StopReason::NoExtensionBias) => {
            Err(GrammarError::Unsatisfiable("no token of this model may come first".to_owned()))
        }
        (Err(_), StopReason::LexerTooComplex | StopReason::ParserTooComplex) => Err(GrammarError::StepTooCostly),
        (Err(e), _) => Err(GrammarError::from_compile(&e)),
    }
}
