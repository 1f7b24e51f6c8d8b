//! Files of a checkpoint: memory maps (one place for the `unsafe` and the checks around it), JSON, listings.
//!
//! A map is only as stable as its file: whoever truncates the file while it is served kills the process
//! (SIGBUS). Files that other users may write to are therefore reported.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use memmap2::{Advice, Mmap};

use crate::error::{ModelError, REDOWNLOAD};

/// Shard indices of the largest models have some MB.
const MAX_JSON: u64 = 64 << 20;

/// Maps a regular, non-empty file for reading.
///
/// # Errors
/// The file can't be opened, isn't a regular file, or is empty.
pub(crate) fn map_file(path: &Path) -> Result<Mmap, ModelError> {
    let file = File::open(path).map_err(|e| ModelError::io(path, "open the file", e))?;
    let meta = file.metadata().map_err(|e| ModelError::io(path, "read the file's size", e))?;
    if !meta.is_file() {
        return Err(ModelError::not_a_checkpoint(path, "not a regular file", "name a checkpoint file or folder"));
    }
    if meta.len() == 0 {
        return Err(ModelError::damaged(path, "size", "the file is empty"));
    }
    warn_if_writable_by_others(path, &meta);
    // SAFETY: the map is read-only and handed out as `&[u8]` only; text in it is checked again whenever it is
    // read, so another process that writes to the file can change values but not break an invariant of ours.
    let map = unsafe { Mmap::map(&file) }.map_err(|e| ModelError::io(path, "map the file", e))?;
    Ok(map)
}

/// Tells the system that the whole map will be read soon, front to back. A hint: failure is of no account.
pub(crate) fn advise_load(map: &Mmap) {
    let _ = map.advise(Advice::Sequential);
    let _ = map.advise(Advice::WillNeed);
}

/// Reads a JSON file of at most [`MAX_JSON`] bytes; nesting beyond 128 levels is an error.
pub(crate) fn read_json(path: &Path) -> Result<serde_json::Value, ModelError> {
    let file = File::open(path).map_err(|e| ModelError::io(path, "open the file", e))?;
    let mut text = String::new();
    file.take(MAX_JSON + 1).read_to_string(&mut text).map_err(|e| ModelError::io(path, "read the file", e))?;
    if text.len() as u64 > MAX_JSON {
        return Err(ModelError::damaged(path, "size", format!("over the limit of {MAX_JSON} bytes")));
    }
    serde_json::from_str(&text).map_err(|e| ModelError::malformed(path, "JSON", e.to_string(), REDOWNLOAD))
}

/// Regular files in `dir` with one of the extensions, sorted by name.
pub(crate) fn files_with_extension(dir: &Path, extensions: &[&str]) -> Result<Vec<PathBuf>, ModelError> {
    let mut files = Vec::new();
    let entries = std::fs::read_dir(dir).map_err(|e| ModelError::io(dir, "list the folder", e))?;
    for entry in entries {
        let path = entry.map_err(|e| ModelError::io(dir, "list the folder", e))?.path();
        let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
        if extensions.contains(&extension) && path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(unix)]
fn warn_if_writable_by_others(path: &Path, meta: &std::fs::Metadata) {
    use std::os::unix::fs::PermissionsExt;
    if meta.permissions().mode() & 0o002 != 0 {
        tracing::warn!(path = %path.display(), "checkpoint is writable by every user: a change while it is served crashes the server");
    }
}

#[cfg(not(unix))]
fn warn_if_writable_by_others(_path: &Path, _meta: &std::fs::Metadata) {}
