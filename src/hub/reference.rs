//! MODEL as people write it: a path, an alias, or a hub id with an optional file or quantisation.

use std::path::PathBuf;

use super::{Alias, HubError, aliases};
use crate::config::{DEFAULT_MODEL, nearest};

/// What MODEL names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModelRef {
    /// A file or folder on this machine.
    Path(PathBuf),
    /// A short name.
    Alias(&'static Alias),
    /// A repository of the hub.
    Repo {
        /// `org/name`.
        repo: String,
        /// File name or quantisation after the colon.
        selector: Option<String>,
    },
}

impl ModelRef {
    /// Reads MODEL; `None` is the default model. A path that exists wins over everything else.
    ///
    /// # Errors
    /// [`HubError::NoSuchPath`] for what looks like a path and isn't there, [`HubError::NotAModel`] otherwise.
    pub fn parse(text: Option<&str>) -> Result<Self, HubError> {
        let text = text.unwrap_or(DEFAULT_MODEL).trim();
        let path = PathBuf::from(text);
        if !text.is_empty() && path.exists() {
            return Ok(Self::Path(path));
        }
        if let Some(alias) = aliases().iter().find(|alias| alias.name.eq_ignore_ascii_case(text)) {
            return Ok(Self::Alias(alias));
        }
        let (repo, selector) = match text.split_once(':') {
            Some((repo, selector)) => (repo, Some(selector.to_owned())),
            None => (text, None),
        };
        let looks_like_path = text.starts_with(['/', '.', '~', '\\']) || repo.to_ascii_lowercase().ends_with(".gguf");
        if looks_like_path {
            return Err(HubError::NoSuchPath(path));
        }
        if is_repo(repo) && selector.as_ref().is_none_or(|s| !s.is_empty()) {
            return Ok(Self::Repo { repo: repo.to_owned(), selector });
        }
        Err(HubError::NotAModel {
            text: text.to_owned(),
            suggestion: nearest(text, aliases().iter().map(|alias| alias.name)).map(str::to_owned),
        })
    }

    /// Name for the API when no other is configured; known before anything is downloaded.
    ///
    /// # Errors
    /// [`HubError::NoSuchPath`] for a split file whose first part is missing.
    pub fn model_name(&self) -> Result<String, HubError> {
        match self {
            Self::Path(path) => Ok(super::local(path)?.name),
            Self::Alias(alias) => Ok(alias.model_name.to_owned()),
            Self::Repo { repo, .. } => Ok(repo.clone()),
        }
    }
}

/// `org/name` in the hub's alphabet; nothing that could climb out of a folder.
fn is_repo(text: &str) -> bool {
    let part = |p: &str| {
        !p.is_empty()
            && p.len() <= 96
            && !p.starts_with(['.', '-'])
            && !p.contains("..")
            && p.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
    };
    text.split_once('/').is_some_and(|(org, name)| part(org) && part(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_write() {
        assert!(matches!(ModelRef::parse(None), Ok(ModelRef::Alias(a)) if a.name == "smollm2-135m"));
        assert!(matches!(ModelRef::parse(Some("Gemma3-270M")), Ok(ModelRef::Alias(a)) if a.name == "gemma3-270m"));
        let repo = |selector: Option<&str>| {
            Ok(ModelRef::Repo { repo: "Org/name-1.5_x".to_owned(), selector: selector.map(str::to_owned) })
        };
        assert_eq!(ModelRef::parse(Some("Org/name-1.5_x")), repo(None));
        assert_eq!(ModelRef::parse(Some("Org/name-1.5_x:Q4_K_M")), repo(Some("Q4_K_M")));
        assert_eq!(ModelRef::parse(Some("Org/name-1.5_x:sub/a.gguf")), repo(Some("sub/a.gguf")));
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(ModelRef::parse(dir.path().to_str()), Ok(ModelRef::Path(dir.path().to_owned())));
    }

    #[test]
    fn what_names_nothing() {
        for text in ["./no.gguf", "/no/where", "a/b.gguf", "no.gguf", "../x/y"] {
            assert_eq!(ModelRef::parse(Some(text)), Err(HubError::NoSuchPath(text.into())), "{text}");
        }
        for text in ["", "org/", "a/b/c", "org/na me", "-x/y", "org/a..b", "org/name:", "org\\name"] {
            assert!(matches!(ModelRef::parse(Some(text)), Err(HubError::NotAModel { .. })), "{text}");
        }
        let error = ModelRef::parse(Some("smolm2-135m")).unwrap_err().to_string();
        assert!(error.ends_with("did you mean `smollm2-135m`?"), "{error}");
    }
}
