//! A bounds-checked little-endian reader over a GGUF file's bytes. No read can pass the end of the file.

use std::ops::Range;
use std::path::Path;

use crate::error::ModelError;

/// Reads forward through `bytes`; `path` is for messages.
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    path: &'a Path,
    position: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(bytes: &'a [u8], path: &'a Path) -> Self {
        Self { bytes, path, position: 0 }
    }

    pub(super) fn position(&self) -> usize {
        self.position
    }

    pub(super) fn remaining(&self) -> usize {
        self.bytes.len().saturating_sub(self.position)
    }

    pub(super) fn fail(&self, field: &str, problem: impl AsRef<str>) -> ModelError {
        ModelError::damaged(self.path, field, problem)
    }

    /// Skips `len` bytes and returns where they are.
    pub(super) fn skip(&mut self, len: usize, field: &str) -> Result<Range<usize>, ModelError> {
        let end = self.position.checked_add(len).filter(|&end| end <= self.bytes.len());
        let Some(end) = end else {
            let problem = format!("needs {len} bytes at offset {}, only {} are left", self.position, self.remaining());
            return Err(self.fail(field, problem));
        };
        let range = self.position..end;
        self.position = end;
        Ok(range)
    }

    /// The next `N` bytes.
    pub(super) fn array<const N: usize>(&mut self, field: &str) -> Result<[u8; N], ModelError> {
        let range = self.skip(N, field)?;
        let slice = self.bytes.get(range).and_then(|s| <[u8; N]>::try_from(s).ok());
        slice.ok_or_else(|| self.fail(field, "the file ends here"))
    }

    pub(super) fn u32(&mut self, field: &str) -> Result<u32, ModelError> {
        Ok(u32::from_le_bytes(self.array(field)?))
    }

    pub(super) fn u64(&mut self, field: &str) -> Result<u64, ModelError> {
        Ok(u64::from_le_bytes(self.array(field)?))
    }

    /// A count of things that take at least `min_bytes` each: refused if the rest of the file can't hold them.
    pub(super) fn count(&mut self, field: &str, min_bytes: usize) -> Result<usize, ModelError> {
        let count = self.u64(field)?;
        self.check_count(count, field, min_bytes)
    }

    pub(super) fn check_count(&self, count: u64, field: &str, min_bytes: usize) -> Result<usize, ModelError> {
        let limit = self.remaining() / min_bytes.max(1);
        match usize::try_from(count) {
            Ok(count) if count <= limit => Ok(count),
            _ => Err(self.fail(field, format!("count {count} can't fit in the {} bytes left", self.remaining()))),
        }
    }

    /// A length-prefixed UTF-8 string; returns where its bytes are.
    pub(super) fn string(&mut self, field: &str) -> Result<(Range<usize>, &'a str), ModelError> {
        let len = self.count(field, 1)?;
        let range = self.skip(len, field)?;
        let bytes = self.bytes.get(range.clone()).unwrap_or_default();
        match std::str::from_utf8(bytes) {
            Ok(text) => Ok((range, text)),
            Err(_) => Err(self.fail(field, format!("the text at offset {} isn't UTF-8", range.start))),
        }
    }
}
