//! GGUF versions 2 and 3, little-endian, memory-mapped, single files and split sets.
//!
//! # Layout
//! - `cursor`: bounds-checked reads
//! - `metadata`: key-value pairs
//! - `header`: one file's tables and their checks
//! - `split`: names of the parts of a set
//!
//! The file is untrusted: every count is compared with the file's size before anything is allocated, and every
//! tensor's range is known to be inside its file before `Gguf` exists.

mod cursor;
mod header;
mod metadata;
mod split;

use std::path::Path;
use std::sync::Arc;

use crate::error::ModelError;
use crate::file::map_file;
use crate::tensor::{TensorInfo, TensorTable, TensorView};
pub use metadata::{Metadata, Strings};
pub(crate) use split::SplitName;

/// An open GGUF model.
#[derive(Debug)]
pub struct Gguf {
    /// Pairs of the first part.
    pub metadata: Metadata,
    table: TensorTable,
}

impl Gguf {
    /// Opens a file, or the whole set if `path` is any part of one.
    ///
    /// # Errors
    /// An unreadable or missing part, or anything in a header that can't be true of this file.
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        let name = SplitName::parse(path);
        let first = match &name {
            Some(name) if name.index > 0 => name.part(path, 0),
            _ => path.to_owned(),
        };
        let map = Arc::new(map_file(&first)?);
        let header::Header { metadata, mut tensors } = header::read(&first, &map, 0)?;
        let count = split::part_count(&first, &metadata)?;
        split::check_part(&first, &metadata, 0, count)?;
        let mut parts = vec![(first.clone(), map)];
        for index in 1..count {
            let part = name.as_ref().map_or_else(|| first.clone(), |name| name.part(&first, index));
            if !part.is_file() {
                let problem = format!("part {} of {count} of the split set isn't there", index + 1);
                return Err(ModelError::not_a_checkpoint(&part, problem, "download all parts into one folder"));
            }
            let map = Arc::new(map_file(&part)?);
            let header = header::read(&part, &map, index)?;
            split::check_part(&part, &header.metadata, index, count)?;
            tensors.extend(header.tensors);
            parts.push((part, map));
        }
        const KEY: &str = "split.tensors.count";
        if let Some(stated) = metadata.get_u64(KEY)
            && stated != tensors.len() as u64
        {
            let problem = format!("{stated}, the parts hold {}", tensors.len());
            return Err(ModelError::damaged(&first, KEY, problem));
        }
        Ok(Self { metadata, table: TensorTable::new(parts, tensors)? })
    }

    /// The file, or the first part of the set.
    pub fn path(&self) -> &Path {
        self.table.path()
    }

    /// All tensors, in the order their data lies in the files.
    pub fn tensors(&self) -> &[TensorInfo] {
        self.table.tensors()
    }

    /// Type, shape and place of a tensor.
    pub fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.table.info(name)
    }

    /// The file that holds the tensor of this name.
    pub(crate) fn file_of(&self, name: &str) -> Option<&Path> {
        self.table.file_of(name)
    }

    /// A tensor's bytes, in the map.
    pub fn view<'a>(&'a self, info: &'a TensorInfo) -> TensorView<'a> {
        self.table.view(info)
    }

    /// Hints that all weights will be read soon.
    pub fn advise_load(&self) {
        self.table.advise_load();
    }
}
