//! Models on this machine: the hub's cache and our own folder of single files.
//!
//! The hub's layout, shared with its other clients:
//! `models--org--name/{refs/main, blobs/<etag>, snapshots/<commit>/<file> -> ../../blobs/<etag>}`.

use std::path::{Path, PathBuf};

use super::checksum::Checksum;
use super::select::{self, Selection};
use super::{HubSettings, ModelRef, aliases};

/// A model in one of the caches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CachedModel {
    /// What to write for MODEL.
    pub reference: String,
    /// File or folder.
    pub path: PathBuf,
    /// Bytes on disk.
    pub bytes: u64,
}

/// Folder of `org/name` in the hub's cache.
pub(super) fn repo_dir(hub_cache: &Path, repo: &str) -> PathBuf {
    hub_cache.join(format!("models--{}", repo.replace('/', "--")))
}

/// The model as the cache has it: a GGUF file or a snapshot folder; `None` unless every file of it is here.
pub(super) fn find(hub_cache: &Path, repo: &str, selector: Option<&str>) -> Option<PathBuf> {
    let snapshot = newest_snapshot(&repo_dir(hub_cache, repo))?;
    let selection = select::select(repo, &list_files(&snapshot), selector).ok()?;
    let path = opened_path(&snapshot, &selection);
    is_whole(&snapshot, &selection).then_some(path)
}

/// What to open of a snapshot.
pub(super) fn opened_path(snapshot: &Path, selection: &Selection) -> PathBuf {
    selection.gguf.as_ref().map_or_else(|| snapshot.to_owned(), |file| snapshot.join(file))
}

/// Files of a model that are here and whose checksum is known: the table of aliases says it, and the hub's
/// cache names its blobs by it.
pub(super) fn checksums(settings: &HubSettings, reference: &ModelRef) -> Vec<(PathBuf, Checksum)> {
    let (repo, selector, own) = match reference {
        ModelRef::Path(_) => (None, None, None),
        ModelRef::Alias(alias) => (alias.repo, alias.file.as_ref().map(|file| file.name), alias.file.as_ref()),
        ModelRef::Repo { repo, selector } => (Some(repo.as_str()), selector.as_deref(), None),
    };
    let own = own.map(|file| (settings.model_cache.join(file.name), Checksum::Sha256(file.sha256.to_owned())));
    let mut found: Vec<_> = own.into_iter().filter(|(path, _)| path.is_file()).collect();
    let snapshot = repo.and_then(|repo| Some((repo, newest_snapshot(&repo_dir(&settings.hub_cache, repo))?)));
    let Some((repo, snapshot)) = snapshot else { return found };
    for file in select::select(repo, &list_files(&snapshot), selector).map_or(Vec::new(), |s| s.files) {
        let Ok(blob) = snapshot.join(file).canonicalize() else { continue };
        let checksum = blob.file_name().and_then(|name| Checksum::of_etag(name.to_str()?));
        found.extend(checksum.map(|checksum| (blob, checksum)));
    }
    found
}

/// GGUF parts are counted by `select`; for safetensors the index names the shards and a tokenizer must be there.
fn is_whole(snapshot: &Path, selection: &Selection) -> bool {
    if selection.gguf.is_some() {
        return true;
    }
    let has = |name: &str| selection.files.iter().any(|f| f == name);
    let shards = match selection.files.iter().find(|f| f.ends_with(".safetensors.index.json")) {
        Some(index) => shard_names(&snapshot.join(index)),
        None => Some(Vec::new()),
    };
    has("tokenizer.json") && shards.is_some_and(|names| names.iter().all(|name| has(name)))
}

fn shard_names(index: &Path) -> Option<Vec<String>> {
    let json: serde_json::Value = serde_json::from_slice(&std::fs::read(index).ok()?).ok()?;
    json.get("weight_map")?.as_object()?.values().map(|file| file.as_str().map(str::to_owned)).collect()
}

/// Files below `root` as relative names with `/`; dangling links are left out.
fn list_files(root: &Path) -> Vec<String> {
    const DEEPEST: usize = 4;
    let mut files = Vec::new();
    let mut folders = vec![(root.to_owned(), String::new(), 0)];
    while let Some((dir, prefix, depth)) = folders.pop() {
        for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
            let Ok(name) = entry.file_name().into_string() else { continue };
            let (path, name) = (entry.path(), format!("{prefix}{name}"));
            if path.is_file() {
                files.push(name);
            } else if path.is_dir() && depth < DEEPEST {
                folders.push((path, format!("{name}/"), depth + 1));
            }
        }
    }
    files.sort();
    files
}

/// Everything that `resolve` would find without a network.
pub(super) fn scan(settings: &HubSettings) -> Vec<CachedModel> {
    let size = |path: &Path| std::fs::metadata(path).map_or(0, |meta| meta.len());
    let mut found = Vec::new();
    for alias in aliases() {
        if let Some(file) = &alias.file {
            let path = settings.model_cache.join(file.name);
            if path.is_file() {
                found.push(CachedModel { reference: alias.name.to_owned(), bytes: size(&path), path });
            }
        }
    }
    for entry in std::fs::read_dir(&settings.hub_cache).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(repo) = name.strip_prefix("models--").map(|rest| rest.replacen("--", "/", 1)) else { continue };
        let Some(snapshot) = newest_snapshot(&entry.path()) else { continue };
        let files = list_files(&snapshot);
        if find(&settings.hub_cache, &repo, None).as_deref() == Some(&snapshot) {
            let bytes = files.iter().map(|f| size(&snapshot.join(f))).sum();
            found.push(CachedModel { reference: repo.clone(), path: snapshot.clone(), bytes });
        }
        for file in files.iter().filter(|f| f.ends_with(".gguf")) {
            let reference = format!("{repo}:{file}");
            if let Some(path) = find(&settings.hub_cache, &repo, Some(file)) {
                found.push(CachedModel { reference, bytes: size(&path), path });
            }
        }
    }
    found.sort_by(|a, b| a.reference.cmp(&b.reference));
    found
}

/// The folder of the commit that `main` was at when it was last asked for.
fn newest_snapshot(repo_dir: &Path) -> Option<PathBuf> {
    let commit = std::fs::read_to_string(repo_dir.join("refs").join("main")).ok()?;
    let commit = commit.trim();
    let plain = !commit.is_empty() && commit.bytes().all(|b| b.is_ascii_alphanumeric());
    plain.then(|| repo_dir.join("snapshots").join(commit))
}
