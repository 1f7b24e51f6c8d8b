//! Safetensors checkpoints: one file, or shards and `model.safetensors.index.json`.
//!
//! # Layout
//! - `header`: one file's header and its checks
//! - `index`: which shard holds which tensor

mod header;
mod index;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::ModelError;
use crate::file::map_file;
use crate::tensor::{TensorInfo, TensorTable, TensorView};

/// Name of the shard index.
pub(crate) const INDEX: &str = "model.safetensors.index.json";

/// The weights of an open folder of safetensors.
#[derive(Debug)]
pub struct Safetensors {
    table: TensorTable,
    /// Tensors of a dtype that isn't a weight type, and the dtype: an error only if one is asked for.
    unreadable: BTreeMap<String, String>,
}

impl Safetensors {
    /// Opens the weights in `dir`.
    ///
    /// # Errors
    /// No safetensors file, a shard of the index missing, or a header that can't be true of its file.
    pub fn open(dir: &Path) -> Result<Self, ModelError> {
        let index_path = dir.join(INDEX);
        if !index_path.is_file() {
            return Self::from_files(vec![single_file(dir)?]);
        }
        let weight_map = index::read(&index_path)?;
        let mut shards: Vec<&String> = weight_map.values().collect();
        shards.sort();
        shards.dedup();
        for shard in &shards {
            let path = dir.join(shard);
            if !path.is_file() {
                let problem = format!("the shard is named in {INDEX} but isn't there");
                return Err(ModelError::not_a_checkpoint(&path, problem, "download all shards into one folder"));
            }
        }
        let opened = Self::from_files(shards.into_iter().map(|shard| dir.join(shard)).collect())?;
        for (name, shard) in &weight_map {
            let part = opened.table.info(name).map(|info| info.part).and_then(|part| opened.table.part_path(part));
            let known = opened.unreadable.contains_key(name) || part == Some(&dir.join(shard));
            if !known {
                let problem = format!("{INDEX} names it, but the file doesn't hold it");
                return Err(ModelError::damaged(&dir.join(shard), format!("tensor {name}"), problem));
            }
        }
        Ok(opened)
    }

    fn from_files(paths: Vec<PathBuf>) -> Result<Self, ModelError> {
        let (mut parts, mut tensors, mut unreadable) = (Vec::new(), Vec::new(), BTreeMap::new());
        for (part, path) in paths.into_iter().enumerate() {
            let map = Arc::new(map_file(&path)?);
            let header = header::read(&path, &map, part)?;
            tensors.extend(header.tensors);
            unreadable.extend(header.unreadable);
            parts.push((path, map));
        }
        Ok(Self { table: TensorTable::new(parts, tensors)?, unreadable })
    }

    /// All tensors of a weight type, in the order their data lies in the files.
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

    /// Why `name` isn't among the tensors.
    pub(crate) fn explain_missing(&self, dir: &Path, name: &str) -> ModelError {
        match self.unreadable.get(name) {
            None => ModelError::missing_tensor(dir, name),
            Some(dtype) => ModelError::unsupported(
                dir,
                format!("tensor {name}"),
                format!("dtype {dtype}"),
                "F32, F16 and BF16 are supported: use an unquantised checkpoint or a GGUF file",
            ),
        }
    }
}

/// `model.safetensors`, or the only safetensors file there is.
fn single_file(dir: &Path) -> Result<PathBuf, ModelError> {
    let usual = dir.join("model.safetensors");
    if usual.is_file() {
        return Ok(usual);
    }
    let mut files = crate::file::files_with_extension(dir, &["safetensors"])?;
    match (files.pop(), files.len()) {
        (Some(only), 0) => Ok(only),
        (None, _) => Err(ModelError::not_a_checkpoint(dir, "no safetensors file", "download the weights")),
        (Some(_), more) => Err(ModelError::not_a_checkpoint(
            dir,
            format!("{} safetensors files but no {INDEX}", more + 1),
            "download the index too",
        )),
    }
}
