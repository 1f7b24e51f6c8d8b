//! Memory maps of checkpoint files: one place for the `unsafe` and for the checks around it.
//!
//! A map is only as stable as its file: whoever truncates the file while it is served kills the process
//! (SIGBUS). Files that other users may write to are therefore reported.

use std::fs::File;
use std::path::Path;

use memmap2::{Advice, Mmap};

use crate::error::ModelError;

/// Maps a regular, non-empty file for reading.
///
/// # Errors
/// The file can't be opened, isn't a regular file, or is empty.
#[allow(unsafe_code)]
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

#[cfg(unix)]
fn warn_if_writable_by_others(path: &Path, meta: &std::fs::Metadata) {
    use std::os::unix::fs::PermissionsExt;
    if meta.permissions().mode() & 0o002 != 0 {
        tracing::warn!(path = %path.display(), "checkpoint is writable by every user: a change while it is served crashes the server");
    }
}

#[cfg(not(unix))]
fn warn_if_writable_by_others(_path: &Path, _meta: &std::fs::Metadata) {}
