//! Grammars over the fixtures' vocabularies: texts traced byte by byte, and random walks over the
//! masks checked by other libraries.

mod corpus;
mod costs;
mod grammars;
mod keywords;
mod matching;
mod walk;

use std::path::Path;

use sconce_models::gguf::Gguf;

use super::*;
use crate::text::{GgufVocab, Tokenizer};

fn tokenizer_at(path: &Path) -> Tokenizer {
    let gguf = Gguf::open(path).unwrap();
    Tokenizer::from_gguf(&GgufVocab::from_metadata(&gguf.metadata).unwrap()).unwrap()
}

fn fixture(name: &str) -> Tokenizer {
    tokenizer_at(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/text").join(name))
}

/// A vocabulary with a token for every byte.
fn byte_level() -> Tokenizer {
    fixture("byte_level.gguf")
}

fn compiler_for(tokenizer: &Tokenizer) -> GrammarCompiler {
    let end: Vec<u32> = tokenizer.eos().into_iter().collect();
    assert!(!end.is_empty(), "the fixture has an end token");
    GrammarCompiler::new(tokenizer.clone(), &end, GrammarLimits::default())
}

/// A compiler, and what traces and walks need to know of its vocabulary.
struct Bench {
    tokenizer: Tokenizer,
    compiler: GrammarCompiler,
    end: u32,
    /// The token of each byte.
    bytes: Vec<Option<u32>>,
}

impl Bench {
    fn new(tokenizer: Tokenizer) -> Self {
        let compiler = compiler_for(&tokenizer);
        let mut bytes = vec![None; 256];
        for id in 0..tokenizer.vocab_size() as u32 {
            if let [byte] = tokenizer.token_bytes(id)[..]
                && !tokenizer.is_special(id)
            {
                bytes[byte as usize] = Some(id);
            }
        }
        Self { end: tokenizer.eos().unwrap(), tokenizer, compiler, bytes }
    }

    fn byte_level() -> Self {
        Self::new(byte_level())
    }

    fn matcher(&self, spec: &GrammarSpec) -> Matcher {
        self.compiler.compile(spec).unwrap_or_else(|e| panic!("{spec:?}: {e}")).matcher()
    }

    fn mask(&self, matcher: &mut Matcher) -> Vec<u32> {
        let mut words = vec![u32::MAX; self.tokenizer.vocab_size().div_ceil(32)];
        matcher.allowed(&mut words).unwrap();
        words
    }

    fn may_end(&self, matcher: &mut Matcher) -> bool {
        is_set(&self.mask(matcher), self.end)
    }

    /// How many bytes of `text` the grammar takes, and whether it may end there.
    fn follow(&self, matcher: &mut Matcher, text: &str) -> (usize, bool) {
        for (at, byte) in text.bytes().enumerate() {
            let token = self.bytes[byte as usize].expect("a token for every byte");
            match matcher.accept(token) {
                Ok(()) => {}
                Err(GrammarError::NotAllowed(_)) => return (at, false),
                Err(e) => panic!("{text:?} at {at}: {e}"),
            }
        }
        (text.len(), self.may_end(matcher))
    }

    /// Checks a trace: lines of `+ text` (may end there), `~ text` (may go on, not end) and `- text`, in which
    /// `^` stands before the first byte that is refused, or at the end where the text may not stop.
    fn trace(&self, spec: &GrammarSpec, lines: &str) {
        for line in lines.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let (sign, text) = line.split_once(' ').unwrap_or((line, ""));
            let mut matcher = self.matcher(spec);
            match sign {
                "+" => assert_eq!(self.follow(&mut matcher, text), (text.len(), true), "{spec:?}\n{line}"),
                "~" => assert_eq!(self.follow(&mut matcher, text), (text.len(), false), "{spec:?}\n{line}"),
                "-" => {
                    let at = text.find('^').unwrap_or_else(|| panic!("no ^ in {line}"));
                    let whole = text.replacen('^', "", 1);
                    assert_eq!(self.follow(&mut matcher, &whole).0, at, "{spec:?}\n{line}");
                    assert!(at < whole.len(), "{line}: ^ stands before a byte");
                }
                _ => panic!("no sign in {line:?}"),
            }
        }
    }
}

fn is_set(words: &[u32], token: u32) -> bool {
    words.get(token as usize / 32).is_some_and(|word| word >> (token % 32) & 1 == 1)
}

fn schema(text: &str) -> GrammarSpec {
    GrammarSpec::JsonSchema(serde_json::from_str(text).unwrap_or_else(|e| panic!("{text}: {e}")))
}
