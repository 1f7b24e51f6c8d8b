//! What can go wrong with a checkpoint. Every message is one line: the file, the field, the problem, the remedy.
//!
//! Text that comes from a file is escaped and shortened before it enters a message, so that a hostile
//! name can't break the log line.

use std::path::Path;

/// Remedy for a file that contradicts itself.
pub(crate) const REDOWNLOAD: &str = "the file is damaged or incomplete: download it again";

/// Why a checkpoint can't be opened or described.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The operating system refused.
    #[error("{path}: can't {action}: {source}")]
    Io {
        /// File or folder.
        path: String,
        /// What was tried.
        action: &'static str,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The file contradicts its own format.
    #[error("{path}: {field}: {problem}; {remedy}")]
    Malformed {
        /// File.
        path: String,
        /// Header field, metadata key or tensor.
        field: String,
        /// What is wrong, with the limit it breaks.
        problem: String,
        /// What to do about it.
        remedy: String,
    },
    /// The file is sound, but asks for something that isn't implemented.
    #[error("{path}: {field}: {problem}; {remedy}")]
    Unsupported {
        /// File.
        path: String,
        /// Header field, configuration key or tensor.
        field: String,
        /// What isn't supported.
        problem: String,
        /// What is.
        remedy: String,
    },
    /// A tensor that the architecture needs isn't there.
    #[error(
        "{path}: tensor {name} is missing; the checkpoint is incomplete or of another architecture: download it again"
    )]
    MissingTensor {
        /// File or folder.
        path: String,
        /// Name looked for.
        name: String,
    },
    /// A sound tensor that the device didn't take.
    #[error("{path}: tensor {name}: {reason}")]
    Tensor {
        /// File.
        path: String,
        /// Its name.
        name: String,
        /// The device's answer.
        reason: String,
    },
    /// Nothing to load at this path.
    #[error("{path}: {problem}; {remedy}")]
    NotACheckpoint {
        /// File or folder.
        path: String,
        /// What was found instead.
        problem: String,
        /// What to do about it.
        remedy: String,
    },
}

impl ModelError {
    /// Whether a fresh copy of the files may help.
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Malformed { remedy, .. } => remedy == REDOWNLOAD,
            Self::MissingTensor { .. } => true,
            _ => false,
        }
    }

    /// The file contradicts its format and a fresh copy may help.
    pub(crate) fn damaged(path: &Path, field: impl AsRef<str>, problem: impl AsRef<str>) -> Self {
        Self::malformed(path, field, problem, REDOWNLOAD)
    }

    /// The file contradicts its format.
    pub(crate) fn malformed(
        path: &Path,
        field: impl AsRef<str>,
        problem: impl AsRef<str>,
        remedy: impl AsRef<str>,
    ) -> Self {
        Self::Malformed {
            path: show_path(path),
            field: clean(field.as_ref()),
            problem: clean(problem.as_ref()),
            remedy: remedy.as_ref().to_owned(),
        }
    }

    /// The file asks for something that isn't implemented.
    pub(crate) fn unsupported(
        path: &Path,
        field: impl AsRef<str>,
        problem: impl AsRef<str>,
        remedy: impl AsRef<str>,
    ) -> Self {
        Self::Unsupported {
            path: show_path(path),
            field: clean(field.as_ref()),
            problem: clean(problem.as_ref()),
            remedy: remedy.as_ref().to_owned(),
        }
    }

    pub(crate) fn io(path: &Path, action: &'static str, source: std::io::Error) -> Self {
        Self::Io { path: show_path(path), action, source }
    }

    pub(crate) fn missing_tensor(path: &Path, name: &str) -> Self {
        Self::MissingTensor { path: show_path(path), name: clean(name) }
    }

    pub(crate) fn tensor(path: &Path, name: &str, reason: impl std::fmt::Display) -> Self {
        Self::Tensor { path: show_path(path), name: clean(name), reason: reason.to_string() }
    }

    pub(crate) fn not_a_checkpoint(path: &Path, problem: impl AsRef<str>, remedy: impl Into<String>) -> Self {
        Self::NotACheckpoint { path: show_path(path), problem: clean(problem.as_ref()), remedy: remedy.into() }
    }
}

/// A path on one line.
fn show_path(path: &Path) -> String {
    clean_to(&path.display().to_string(), 4096)
}

/// Foreign text on one line, at most 200 characters of it.
pub(crate) fn clean(text: &str) -> String {
    clean_to(text, 200)
}

fn clean_to(text: &str, limit: usize) -> String {
    let mut out = String::new();
    for (count, c) in text.chars().enumerate() {
        if count == limit {
            out.push_str("...");
            break;
        }
        if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}
