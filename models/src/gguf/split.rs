//! File names of split GGUF sets, `NAME-00001-of-0000N.gguf`, and the agreement between the parts.

use std::path::{Path, PathBuf};

use super::metadata::Metadata;
use crate::error::ModelError;

/// What a file name says about a split set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SplitName {
    prefix: String,
    /// From 0.
    pub(crate) index: usize,
    pub(crate) count: usize,
}

impl SplitName {
    /// `None` if the name isn't that of a part.
    pub(crate) fn parse(path: &Path) -> Option<Self> {
        let stem = path.file_name()?.to_str()?.strip_suffix(".gguf")?;
        let (rest, count) = stem.rsplit_once("-of-")?;
        let (prefix, number) = rest.rsplit_once('-')?;
        let digits = |s: &str| (s.len() == 5 && s.bytes().all(|b| b.is_ascii_digit())).then(|| s.parse::<usize>().ok());
        let (number, count) = (digits(number)??, digits(count)??);
        (1..=count).contains(&number).then(|| Self { prefix: prefix.to_owned(), index: number - 1, count })
    }

    /// Path of part `index` (from 0) of the set that `path` belongs to.
    pub(crate) fn part(&self, path: &Path, index: usize) -> PathBuf {
        path.with_file_name(format!("{}-{:05}-of-{:05}.gguf", self.prefix, index + 1, self.count))
    }
}

/// `split.count`, 1 if the file isn't part of a set; checked against the file's name.
pub(super) fn part_count(path: &Path, metadata: &Metadata) -> Result<usize, ModelError> {
    let stated = count_field(path, metadata)?;
    let named = SplitName::parse(path).map_or(1, |name| name.count);
    if stated == named {
        return Ok(stated);
    }
    Err(ModelError::malformed(
        path,
        "split.count",
        format!("the file says it is one of {stated} parts, its name says {named}"),
        "keep the names NAME-00001-of-0000N.gguf that the parts were published under",
    ))
}

/// Checks that the file is part `index` of `count`.
pub(super) fn check_part(path: &Path, metadata: &Metadata, index: usize, count: usize) -> Result<(), ModelError> {
    let stated = count_field(path, metadata)?;
    if stated != count {
        return Err(ModelError::damaged(path, "split.count", format!("{stated}, the first part says {count}")));
    }
    let number = metadata.get_u64("split.no");
    if count > 1 && number != Some(index as u64) {
        let stated = number.map_or("nothing".to_owned(), |n| n.to_string());
        return Err(ModelError::damaged(path, "split.no", format!("says {stated}, expected {index}")));
    }
    Ok(())
}

fn count_field(path: &Path, metadata: &Metadata) -> Result<usize, ModelError> {
    const KEY: &str = "split.count";
    match metadata.get_u64(KEY) {
        Some(count @ 0..=99_999) => Ok((count as usize).max(1)),
        None if !metadata.contains(KEY) => Ok(1),
        _ => Err(ModelError::damaged(path, KEY, "isn't an integer up to 99999")),
    }
}
