//! What ends a verb: one line for people, a number for scripts.

use crate::config::ConfigError;
use crate::hub::HubError;

/// Why a verb ended early.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The configuration can't be used. Exit code 2, as for wrong arguments.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The model can't be had. Exit code 3.
    #[error(transparent)]
    Hub(#[from] HubError),
    /// Anything else. Exit code 1.
    #[error("{0}")]
    Failed(String),
    /// Ctrl-C. Exit code 130, nothing is said.
    #[error("interrupted")]
    Interrupted,
    /// Who read our output has gone. Exit code 0, nothing is said.
    #[error("the reader of the output is gone")]
    OutputClosed,
}

impl CliError {
    /// The exit code of the process.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Failed(_) => 1,
            Self::Config(_) => 2,
            Self::Hub(_) => 3,
            Self::Interrupted => 130,
            Self::OutputClosed => 0,
        }
    }

    /// The line to report, if there is anything to say. Line breaks of an inner message become spaces.
    pub fn message(&self) -> Option<String> {
        match self {
            Self::Interrupted | Self::OutputClosed => None,
            error => Some(error.to_string().split_whitespace().collect::<Vec<_>>().join(" ")),
        }
    }
}
