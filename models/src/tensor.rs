//! Tensors as they lie in mapped files: where each one is, and a borrowed view of its bytes.

use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memmap2::Mmap;
use sconce_kernels::dtype::WeightType;

use crate::error::ModelError;
use crate::file::advise_load;

/// Where a tensor lies and what it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Name in the file.
    pub name: String,
    /// Element or block type.
    pub ty: WeightType,
    /// Row-major, slowest first: a weight matrix is `[out, in]`, whatever order the file uses.
    pub shape: Vec<usize>,
    /// Which file of a split or sharded set, 0 if there is one.
    pub part: usize,
    /// Bytes in that file; checked to lie inside it.
    pub range: Range<usize>,
}

/// A tensor's bytes in the memory map. Not aligned to the element type.
#[derive(Clone, Copy, Debug)]
pub struct TensorView<'a> {
    /// Element or block type.
    pub ty: WeightType,
    /// Row-major, slowest first.
    pub shape: &'a [usize],
    /// `product(shape)` elements.
    pub data: &'a [u8],
}

/// All tensors of a checkpoint and the files they are in.
#[derive(Debug)]
pub(crate) struct TensorTable {
    parts: Vec<(PathBuf, Arc<Mmap>)>,
    tensors: Vec<TensorInfo>,
    index: HashMap<String, usize>,
}

impl TensorTable {
    /// Refuses a name that two parts hold. Every `range` must lie inside its part.
    pub(crate) fn new(parts: Vec<(PathBuf, Arc<Mmap>)>, tensors: Vec<TensorInfo>) -> Result<Self, ModelError> {
        let mut index = HashMap::new();
        for (i, tensor) in tensors.iter().enumerate() {
            if index.insert(tensor.name.clone(), i).is_some() {
                let path = parts.get(tensor.part).map_or(Path::new(""), |(path, _)| path);
                let problem = "two files of the set hold it";
                return Err(ModelError::damaged(path, format!("tensor {}", tensor.name), problem));
            }
        }
        Ok(Self { parts, tensors, index })
    }

    /// The first file.
    pub(crate) fn path(&self) -> &Path {
        self.parts.first().map_or(Path::new(""), |(path, _)| path)
    }

    pub(crate) fn part_path(&self, part: usize) -> Option<&PathBuf> {
        self.parts.get(part).map(|(path, _)| path)
    }

    /// In the order of the data in the files.
    pub(crate) fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    pub(crate) fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.get(*self.index.get(name)?)
    }

    /// The file that holds the tensor of this name.
    pub(crate) fn file_of(&self, name: &str) -> Option<&Path> {
        self.part_path(self.info(name)?.part).map(PathBuf::as_path)
    }

    pub(crate) fn view<'a>(&'a self, info: &'a TensorInfo) -> TensorView<'a> {
        let data = self.parts.get(info.part).and_then(|(_, map)| map.get(info.range.clone())).unwrap_or_default();
        TensorView { ty: info.ty, shape: &info.shape, data }
    }

    pub(crate) fn advise_load(&self) {
        self.parts.iter().for_each(|(_, map)| advise_load(map));
    }
}
