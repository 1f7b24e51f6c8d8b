//! How byte-level vocabularies cut text into words before merging: the GGUF key
//! `tokenizer.ggml.pre` as the pre-tokenizer that the model's own `tokenizer.json` has.
//!
//! The name is all a GGUF file says, so this is a table of facts about published tokenizers. A
//! name that isn't in it is an error: guessing would silently give other token ids than the model
//! was trained on.

use tokenizers::NormalizerWrapper;
use tokenizers::PreTokenizerWrapper;
use tokenizers::normalizers::unicode::NFC;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::tokenizer::SplitDelimiterBehavior;

use super::error::TextError;

const CONTRACTIONS: &str = "(?i:'s|'t|'re|'ve|'m|'ll|'d)";
const LLAMA3_TAIL: &str = r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2_TAIL: &str = r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN35_TAIL: &str =
    r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const UPPER: &str = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]";
const LOWER: &str = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]";
const GPT4O_TAIL: &str = r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const DEEPSEEK3: &str = concat!(
    r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"##,
    r"|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);

/// What a `pre` name stands for.
pub(crate) struct PreTokenizer {
    pub(crate) split: PreTokenizerWrapper,
    pub(crate) normalizer: Option<NormalizerWrapper>,
    /// A whole word that is a token is taken as it is, whatever the merges would give.
    pub(crate) ignore_merges: bool,
    /// Does the tokenizer put BOS first when the file doesn't say?
    pub(crate) add_bos: bool,
}

/// Steps of a pre-tokenizer, each applied to what the one before left.
enum Step {
    Digits,
    Regex(String),
    Gpt2,
}

/// Looks up `tokenizer.ggml.pre`.
pub(crate) fn pre_tokenizer(pre: &str) -> Result<PreTokenizer, TextError> {
    let (mut nfc, mut ignore_merges, mut add_bos) = (false, false, false);
    let steps = match pre {
        "gpt-2" | "gpt2" | "phi-2" | "mpt" | "olmo" | "exaone4" | "trillion" => vec![Step::Gpt2],
        "smollm" | "starcoder" | "refact" | "codeshell" => vec![Step::Digits, Step::Gpt2],
        "command-r" => {
            nfc = true;
            vec![Step::Digits, Step::Gpt2]
        }
        "llama3" | "llama-v3" | "llama-bpe" | "pixtral" | "falcon3" | "lfm2" => {
            (ignore_merges, add_bos) = (true, true);
            vec![Step::Regex(format!("{CONTRACTIONS}{LLAMA3_TAIL}"))]
        }
        "smaug-bpe" | "dbrx" | "glm4" | "chatglm-bpe" => {
            vec![Step::Regex(format!("{CONTRACTIONS}{LLAMA3_TAIL}"))]
        }
        "qwen2" | "deepseek-r1-qwen" | "megrez" => {
            nfc = true;
            vec![Step::Regex(format!("{CONTRACTIONS}{QWEN2_TAIL}"))]
        }
        "stablelm2" | "hunyuan" | "solar-open" | "grok-2" => {
            vec![Step::Regex(format!("{CONTRACTIONS}{QWEN2_TAIL}"))]
        }
        "qwen35" => {
            nfc = true;
            vec![Step::Regex(format!("{CONTRACTIONS}{QWEN35_TAIL}"))]
        }
        "tekken" => {
            (ignore_merges, add_bos) = (true, true);
            vec![Step::Regex(cased_words("", r"\p{N}"))]
        }
        "gpt-4o" | "llama4" | "minimax-m2" => {
            vec![Step::Regex(cased_words(&format!("{CONTRACTIONS}?"), r"\p{N}{1,3}"))]
        }
        "deepseek-v3" | "hunyuan-dense" => vec![
            Step::Regex(r"\p{N}{1,3}".into()),
            Step::Regex("[一-龥\u{3040}-ゟ゠-ヿ]+".into()),
            Step::Regex(DEEPSEEK3.into()),
        ],
        "deepseek-coder" => vec![
            Step::Regex(r"[\r\n]".into()),
            Step::Regex(r"\s?\p{L}+".into()),
            Step::Regex(r"\s?\p{P}+".into()),
            Step::Regex("[一-龥\u{800}-一가-\u{d7ff}]+".into()),
            Step::Digits,
        ],
        "falcon" | "default" => vec![
            Step::Regex(r"[\p{P}\$\+<=>\^~\|`]+".into()),
            Step::Regex(GPT2.into()),
            Step::Regex(r"\p{N}+".into()),
            Step::Regex("[0-9][0-9][0-9]".into()),
        ],
        other => {
            return Err(TextError::unusable(
                "tokenizer.ggml.pre",
                format!("pre-tokenizer {other:?} is unknown"),
                "serve the model's folder of Hugging Face files instead",
            ));
        }
    };
    let split = build(steps)?;
    Ok(PreTokenizer { split, normalizer: nfc.then(|| NFC.into()), ignore_merges, add_bos })
}

/// GPT-4o's words: capitals first, then small letters, each with an optional `suffix`.
fn cased_words(suffix: &str, digits: &str) -> String {
    let word = r"[^\r\n\p{L}\p{N}]?";
    format!("{word}{UPPER}*{LOWER}+{suffix}|{word}{UPPER}+{LOWER}*{suffix}|{digits}|{GPT4O_TAIL}")
}

fn build(steps: Vec<Step>) -> Result<PreTokenizerWrapper, TextError> {
    let mut parts: Vec<PreTokenizerWrapper> = Vec::with_capacity(steps.len() + 1);
    let mut gpt2 = false;
    for step in steps {
        match step {
            Step::Digits => parts.push(Digits::new(true).into()),
            Step::Gpt2 => gpt2 = true,
            Step::Regex(regex) => {
                let split = Split::new(SplitPattern::Regex(regex), SplitDelimiterBehavior::Isolated, false)
                    .map_err(|e| TextError::load("tokenizer.ggml.pre", e))?;
                parts.push(split.into());
            }
        }
    }
    // Last, every byte becomes a printable character; its own regular expression is GPT-2's.
    parts.push(ByteLevel::new(false, false, gpt2).into());
    Ok(Sequence::new(parts).into())
}
