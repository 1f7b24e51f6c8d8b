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

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memmap2::Mmap;

pub use header::TensorInfo;
pub use metadata::{Metadata, Strings, ValueType};
pub(crate) use split::SplitName;

use crate::error::ModelError;
use crate::file::{advise_load, map_file};

/// An open GGUF model.
#[derive(Debug)]
pub struct Gguf {
    /// Pairs of the first part.
    pub metadata: Metadata,
    parts: Vec<(PathBuf, Arc<Mmap>)>,
    tensors: Vec<TensorInfo>,
    index: HashMap<String, usize>,
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
        let header = header::read(&first, &map, 0)?;
        let count = split::part_count(&first, &header.metadata)?;
        split::check_part(&first, &header.metadata, 0, count)?;
        let mut parts = vec![(first.clone(), map)];
        let mut tensors = header.tensors;
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
        Self::assemble(header.metadata, parts, tensors)
    }

    fn assemble(
        metadata: Metadata,
        parts: Vec<(PathBuf, Arc<Mmap>)>,
        tensors: Vec<TensorInfo>,
    ) -> Result<Self, ModelError> {
        let mut index = HashMap::new();
        let path = parts.first().map(|(path, _)| path.clone()).unwrap_or_default();
        for (i, tensor) in tensors.iter().enumerate() {
            if index.insert(tensor.name.clone(), i).is_some() {
                let problem = "two parts of the split set hold it";
                return Err(ModelError::damaged(&path, format!("tensor {}", tensor.name), problem));
            }
        }
        const KEY: &str = "split.tensors.count";
        if let Some(stated) = metadata.get_u64(KEY)
            && parts.len() > 1
            && stated != tensors.len() as u64
        {
            let problem = format!("{stated}, the parts hold {}", tensors.len());
            return Err(ModelError::damaged(&path, KEY, problem));
        }
        Ok(Self { metadata, parts, tensors, index })
    }

    /// The file, or the first part of the set.
    pub fn path(&self) -> &Path {
        self.parts.first().map_or(Path::new(""), |(path, _)| path)
    }

    /// All tensors, in the order their data lies in the files.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// Type, shape and place of a tensor.
    pub fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.get(*self.index.get(name)?)
    }

    /// Bytes of a tensor, in the map.
    pub fn data(&self, info: &TensorInfo) -> &[u8] {
        self.parts.get(info.part).and_then(|(_, map)| map.get(info.range.clone())).unwrap_or_default()
    }

    /// Hints that all weights will be read soon.
    pub fn advise_load(&self) {
        self.parts.iter().for_each(|(_, map)| advise_load(map));
    }
}
