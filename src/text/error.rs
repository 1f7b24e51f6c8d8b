//! Everything that can go wrong between text and token ids, one line a message.

use std::path::Path;

const MAX_MESSAGE_CHARS: usize = 400;
const REDOWNLOAD: &str = "the file is damaged or incomplete: download it again";

/// Why text could not be turned into tokens, or a model's text side not be loaded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    /// A file of the model is missing, unreadable or inconsistent.
    #[error("{source_name}: {message}; {remedy}")]
    Load {
        /// The file at fault, and the key in it.
        source_name: String,
        /// What is wrong with it.
        message: String,
        /// What would help.
        remedy: String,
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
    /// A [`TextError::Load`] naming `source_name`, which is damaged.
    pub(crate) fn load(source_name: impl Into<String>, message: impl std::fmt::Display) -> Self {
        Self::unusable(source_name, message, REDOWNLOAD)
    }

    /// A [`TextError::Load`] naming `source_name` and what else than a fresh copy would help.
    pub(crate) fn unusable(
        source_name: impl Into<String>,
        message: impl std::fmt::Display,
        remedy: impl Into<String>,
    ) -> Self {
        // Text of the file may stand in it, of any length.
        let message = message.to_string().replace('\n', " ").chars().take(MAX_MESSAGE_CHARS).collect();
        Self::Load { source_name: source_name.into(), message, remedy: remedy.into() }
    }

    /// Whether a fresh copy of the model's files may help.
    pub fn is_damage(&self) -> bool {
        matches!(self, Self::Load { remedy, .. } if remedy == REDOWNLOAD)
    }

    /// Names the file that holds the key at fault.
    pub(crate) fn in_file(self, path: &Path) -> Self {
        match self {
            Self::Load { source_name, message, remedy } => {
                Self::Load { source_name: format!("{}: {source_name}", path.display()), message, remedy }
            }
            other => other,
        }
    }
}
