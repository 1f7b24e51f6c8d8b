//! Everything a model says about text, loaded together: tokenizer, chat template, end-of-turn
//! tokens, sampling defaults.
//!
//! A folder of Hugging Face files and a GGUF file say it in different places; what this owns is
//! the order in which they are asked.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use sconce_models::checkpoint::Checkpoint;
use sconce_models::gguf::Gguf;
use serde_json::{Map, Value};

use super::answer::AnswerStyle;
use super::error::TextError;
use super::generation::{SamplingDefaults, eos_ids, well_known_end_tokens};
use super::gguf_vocab::GgufVocab;
use super::grammar::{GrammarCompiler, GrammarLimits};
use super::message::ChatMessage;
use super::template::{ChatTemplate, RenderOptions};
use super::tokenizer::Tokenizer;

/// Largest file read into memory; published tokenizers stay below 40 MB.
const MAX_FILE_BYTES: u64 = 256 << 20;

/// How to load the text side.
#[derive(Clone, Debug)]
pub struct TextOptions {
    /// Use this template instead of the model's own.
    pub chat_template: Option<PathBuf>,
    /// Take end-of-turn tokens and sampling defaults from `generation_config.json` (or the GGUF file).
    pub use_generation_config: bool,
}

impl Default for TextOptions {
    fn default() -> Self {
        Self { chat_template: None, use_generation_config: true }
    }
}

/// The text side of a loaded model.
#[derive(Debug)]
pub struct TextModel {
    /// Text to ids and back.
    pub tokenizer: Tokenizer,
    /// Conversations to text, if the model has a template.
    pub chat_template: Option<ChatTemplate>,
    /// Tokens that end an answer.
    pub eos_token_ids: Vec<u32>,
    /// What a request that doesn't say is sampled with.
    pub sampling_defaults: SamplingDefaults,
    /// How the model writes thoughts and tool calls.
    pub style: AnswerStyle,
    /// Makes constraints of what clients want an answer's text to be.
    pub grammars: GrammarCompiler,
}

impl TextModel {
    /// From whatever the checkpoint is: its GGUF metadata, or the folder of Hugging Face files.
    ///
    /// # Errors
    /// [`TextError::Load`] naming the file or key at fault.
    pub fn load(checkpoint: &Checkpoint, options: &TextOptions) -> Result<Self, TextError> {
        match (checkpoint.gguf(), checkpoint.dir()) {
            (Some(gguf), _) => Self::from_gguf(gguf, options),
            (None, Some(dir)) => Self::from_dir(dir, options),
            (None, None) => Self::from_dir(checkpoint.path(), options),
        }
    }

    /// From a folder with `tokenizer.json` and its companions.
    ///
    /// # Errors
    /// [`TextError::Load`] naming the file that is missing or damaged.
    pub fn from_dir(dir: &Path, options: &TextOptions) -> Result<Self, TextError> {
        let config = read_json(&dir.join("tokenizer_config.json"))?.unwrap_or_default();
        let path = dir.join("tokenizer.json");
        let missing = || TextError::unusable(shown(&path), "no such file, and the model needs it", "download it too");
        let bytes = read_file(&path)?.ok_or_else(missing)?;
        let tokens = special_token_texts(&config);
        let text = |key: &str| tokens.get(key).and_then(Value::as_str);
        let tokenizer = Tokenizer::from_json(&bytes, &shown(&path), text("bos_token"), text("eos_token"))?;

        let mut eos_token_ids: Vec<u32> = tokenizer.eos().into_iter().collect();
        let model_config = read_json(&dir.join("config.json"))?.unwrap_or_default();
        eos_token_ids.extend(eos_ids(&model_config));
        eos_token_ids.extend(model_config.get("text_config").map(eos_ids).unwrap_or_default());
        let mut sampling_defaults = SamplingDefaults::default();
        let path = dir.join("generation_config.json");
        if options.use_generation_config
            && let Some(generation) = read_json(&path)?
        {
            eos_token_ids.extend(eos_ids(&generation));
            sampling_defaults = SamplingDefaults::from_config(&generation, &shown(&path))?;
        }
        let (source, name) = match template_override(options)? {
            Some(found) => (Some(found.0), found.1),
            None => {
                let path = dir.join("chat_template.jinja");
                match read_file(&path)? {
                    Some(bytes) => (Some(utf8(bytes, &path)?), shown(&path)),
                    None => (
                        template_in_config(&config),
                        format!("{}: chat_template", shown(&dir.join("tokenizer_config.json"))),
                    ),
                }
            }
        };
        let chat_template = source.map(|source| ChatTemplate::new(&source, tokens, &name)).transpose()?;
        Ok(Self::new(tokenizer, chat_template, eos_token_ids, sampling_defaults))
    }

    /// From the metadata of a GGUF file: its vocabulary, its template and what it says of sampling.
    ///
    /// # Errors
    /// [`TextError::Load`] naming the key at fault.
    pub fn from_gguf(gguf: &Gguf, options: &TextOptions) -> Result<Self, TextError> {
        let here = |error: TextError| error.in_file(gguf.path());
        let vocab = &GgufVocab::from_metadata(&gguf.metadata).map_err(here)?;
        let tokenizer = Tokenizer::from_gguf(vocab).map_err(here)?;
        let mut tokens = Map::new();
        let ids =
            [("bos_token", vocab.bos), ("eos_token", vocab.eos), ("unk_token", vocab.unk), ("pad_token", vocab.pad)];
        for (name, id) in ids {
            if let Some(text) = id.and_then(|id| vocab.tokens.get(id as usize)) {
                tokens.insert(name.to_owned(), Value::from(*text));
            }
        }
        let mut eos_token_ids: Vec<u32> = [vocab.eos, vocab.eot, vocab.eom].into_iter().flatten().collect();
        let mut sampling_defaults = SamplingDefaults::default();
        if options.use_generation_config {
            eos_token_ids.extend(well_known_end_tokens(&tokenizer));
            sampling_defaults = SamplingDefaults::from_metadata(&gguf.metadata).map_err(here)?;
        }
        let (source, name) = match template_override(options)? {
            Some(found) => (Some(found.0), found.1),
            None => {
                let key = "tokenizer.chat_template";
                (gguf.metadata.get_str(key).map(str::to_owned), format!("{}: {key}", shown(gguf.path())))
            }
        };
        let chat_template = source.map(|source| ChatTemplate::new(&source, tokens, &name)).transpose()?;
        Ok(Self::new(tokenizer, chat_template, eos_token_ids, sampling_defaults))
    }

    /// Of its parts.
    pub fn new(
        tokenizer: Tokenizer,
        chat_template: Option<ChatTemplate>,
        mut eos_token_ids: Vec<u32>,
        sampling_defaults: SamplingDefaults,
    ) -> Self {
        let mut seen = std::collections::HashSet::new();
        eos_token_ids.retain(|id| seen.insert(*id));
        let grammars = GrammarCompiler::new(tokenizer.clone(), &eos_token_ids, GrammarLimits::default());
        let style = AnswerStyle::detect(chat_template.as_ref().map_or("", ChatTemplate::source), &tokenizer);
        Self { tokenizer, chat_template, eos_token_ids, sampling_defaults, style, grammars }
    }

    /// The text of a conversation.
    ///
    /// # Errors
    /// [`TextError::NoChatTemplate`], or [`TextError::Template`] when the template refuses it.
    pub fn render_chat(&self, messages: &[ChatMessage], options: &RenderOptions) -> Result<String, TextError> {
        self.chat_template.as_ref().ok_or(TextError::NoChatTemplate)?.render(messages, options)
    }

    /// The ids of a conversation, BOS first exactly once if the tokenizer knows one to add:
    /// templates that write it get no second, templates that don't get the first.
    ///
    /// # Errors
    /// As [`TextModel::render_chat`], or [`TextError::Encode`].
    pub fn encode_chat(&self, messages: &[ChatMessage], options: &RenderOptions) -> Result<Vec<u32>, TextError> {
        self.tokenizer.encode_once(&self.render_chat(messages, options)?)
    }
}

/// The operator's own template and its name.
fn template_override(options: &TextOptions) -> Result<Option<(String, String)>, TextError> {
    let Some(path) = &options.chat_template else { return Ok(None) };
    let missing = || TextError::unusable(shown(path), "no such chat template file", "name another one");
    let bytes = read_file(path)?.ok_or_else(missing)?;
    Ok(Some((utf8(bytes, path)?, shown(path))))
}

/// `chat_template`: one text, or a list of named ones of which `default` counts.
fn template_in_config(config: &Value) -> Option<String> {
    match config.get("chat_template")? {
        Value::String(source) => Some(source.clone()),
        Value::Array(list) => {
            let named = |t: &&Value| t.get("name").and_then(Value::as_str) == Some("default");
            let chosen = list.iter().find(named).or(list.first())?;
            chosen.get("template")?.as_str().map(str::to_owned)
        }
        _ => None,
    }
}

/// Every `*_token` of `tokenizer_config.json` that is a text or an added token.
fn special_token_texts(config: &Value) -> Map<String, Value> {
    let entries = config.as_object().into_iter().flatten();
    let texts = entries.filter(|(key, _)| key.ends_with("_token")).filter_map(|(key, value)| {
        let text = value.as_str().or_else(|| value.get("content")?.as_str())?;
        Some((key.clone(), Value::from(text)))
    });
    texts.collect()
}

/// A path as it stands in messages.
fn shown(path: &Path) -> String {
    path.display().to_string()
}

/// The bytes of a file; `None` when there is none.
fn read_file(path: &Path) -> Result<Option<Vec<u8>>, TextError> {
    let unreadable = |error| TextError::unusable(shown(path), error, "make it a file that this user may read");
    let file = match fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unreadable(error)),
    };
    let mut bytes = Vec::new();
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(TextError::load(shown(path), format!("larger than {MAX_FILE_BYTES} bytes")));
    }
    Ok(Some(bytes))
}

fn read_json(path: &Path) -> Result<Option<Value>, TextError> {
    let Some(bytes) = read_file(path)? else { return Ok(None) };
    serde_json::from_slice(&bytes).map(Some).map_err(|e| TextError::load(shown(path), e))
}

fn utf8(bytes: Vec<u8>, path: &Path) -> Result<String, TextError> {
    String::from_utf8(bytes).map_err(|_| TextError::load(shown(path), "not UTF-8 text"))
}
