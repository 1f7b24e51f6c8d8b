//! Everything that can go wrong between text and token ids, one line a message.

const MAX_MESSAGE_CHARS: usize = 400;

/// Why text could not be turned into tokens, or a model's text side not be loaded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    /// A file of the model is missing, unreadable or inconsistent.
    #[error("{source_name}: {message}")]
    Load {
        /// The file, or the GGUF key, at fault.
        source_name: String,
        /// What is wrong with it and what would help.
        message: String,
    },
    /// The model has no chat template, so conversations can't be rendered.
    #[error(
        "this model has no chat template: use /v1/completions, or start the server with --chat-template FILE.jinja"
    )]
    NoChatTemplate,
    /// The chat template refused the conversation or failed on it: the request is at fault.
    #[error("chat template: {0}")]
    Template(String),
    /// The text could not be tokenised.
    #[error("tokenizer: {0}")]
    Encode(String),
}

impl TextError {
    /// A [`TextError::Load`] naming `source_name`.
    pub(crate) fn load(source_name: impl Into<String>, message: impl std::fmt::Display) -> Self {
        // Text of the file may stand in it, of any length.
        let message = message.to_string().replace('\n', " ").chars().take(MAX_MESSAGE_CHARS).collect();
        Self::Load { source_name: source_name.into(), message }
    }
}
