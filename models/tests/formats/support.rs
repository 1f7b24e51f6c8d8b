//! Helpers of all tests here: temporary files and the form every error must have.

use std::path::{Path, PathBuf};

use sconce_models::error::ModelError;

/// A temporary folder with a file of these bytes in it.
pub(crate) fn file(name: &str, bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("temporary folder");
    let path = dir.path().join(name);
    std::fs::write(&path, bytes).expect("write");
    (dir, path)
}

/// One line that names the file.
pub(crate) fn assert_one_line(error: &ModelError, path: &Path) {
    let text = error.to_string();
    assert!(!text.contains(['\n', '\r', '\0']), "{text:?}");
    assert!(text.len() < 2000, "{text:?}");
    assert!(text.contains(&path.display().to_string()), "{text:?} doesn't name {path:?}");
}

/// One line that names the file and says `expected`.
pub(crate) fn assert_refused<T>(result: Result<T, ModelError>, path: &Path, expected: &str) {
    match result {
        Ok(_) => panic!("accepted, expected an error with {expected:?}"),
        Err(error) => {
            assert_one_line(&error, path);
            assert!(error.to_string().contains(expected), "{error} doesn't say {expected:?}");
        }
    }
}
