//! One safetensors file: the crate's parser behind a smaller cap, and what it doesn't check.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::path::Path;

use memmap2::Mmap;
use safetensors::{Dtype, SafeTensors};
use sconce_kernels::dtype::WeightType;
use serde::de::{Deserializer as _, IgnoredAny, MapAccess, Visitor};

use crate::error::ModelError;
use crate::tensor::TensorInfo;

/// A header names some hundred bytes a tensor; the format's own limit of 100 MB invites abuse.
const MAX_HEADER: usize = 32 << 20;

/// One parsed file.
pub(super) struct Header {
    /// In the order of the data.
    pub(super) tensors: Vec<TensorInfo>,
    /// Name and dtype of what can't be a weight here.
    pub(super) unreadable: BTreeMap<String, String>,
}

/// Parses and checks one file. Tensors get part number `part`.
pub(super) fn read(path: &Path, map: &Mmap, part: usize) -> Result<Header, ModelError> {
    let header_len = header_len(path, map)?;
    let json = map.get(8..8 + header_len).unwrap_or_default();
    check_unique_names(path, json)?;
    let (_, metadata) =
        SafeTensors::read_metadata(map).map_err(|e| ModelError::damaged(path, "safetensors header", e.to_string()))?;
    let data_start = 8 + header_len;
    let (mut tensors, mut unreadable) = (Vec::new(), BTreeMap::new());
    for (name, info) in metadata.tensors() {
        let field = format!("tensor {name}");
        let Some(ty) = weight_type(info.dtype) else {
            unreadable.insert(name, format!("{:?}", info.dtype));
            continue;
        };
        let (start, end) = info.data_offsets;
        let range = start.checked_add(data_start).zip(end.checked_add(data_start));
        match range {
            Some((start, end)) if start <= end && end <= map.len() => {
                tensors.push(TensorInfo { name, ty, shape: info.shape.clone(), part, range: start..end });
            }
            _ => return Err(ModelError::damaged(path, field, "its data ends beyond the file")),
        }
    }
    tensors.sort_by_key(|t| t.range.start);
    Ok(Header { tensors, unreadable })
}

fn header_len(path: &Path, map: &Mmap) -> Result<usize, ModelError> {
    const FIELD: &str = "header length";
    let Some(len) = map.first_chunk::<8>().map(|bytes| u64::from_le_bytes(*bytes)) else {
        return Err(ModelError::damaged(path, FIELD, "the file is shorter than 8 bytes"));
    };
    let left = map.len().saturating_sub(8);
    match usize::try_from(len) {
        Ok(len) if len <= left.min(MAX_HEADER) => Ok(len),
        _ => Err(ModelError::damaged(
            path,
            FIELD,
            format!("{len} bytes, the file holds {left} and the limit is {MAX_HEADER}"),
        )),
    }
}

fn weight_type(dtype: Dtype) -> Option<WeightType> {
    match dtype {
        Dtype::F32 => Some(WeightType::F32),
        Dtype::F16 => Some(WeightType::F16),
        Dtype::BF16 => Some(WeightType::BF16),
        _ => None,
    }
}

/// A JSON parser keeps the last of two equal keys without a word; readers that keep the first would then
/// see another model.
fn check_unique_names(path: &Path, json: &[u8]) -> Result<(), ModelError> {
    struct Names;
    impl<'de> Visitor<'de> for Names {
        type Value = ();

        fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
            f.write_str("an object of tensors")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
            let mut seen = HashSet::new();
            while let Some((name, _)) = map.next_entry::<String, IgnoredAny>()? {
                if seen.contains(&name) {
                    return Err(serde::de::Error::custom(format_args!("{name} appears twice")));
                }
                seen.insert(name);
            }
            Ok(())
        }
    }
    serde_json::Deserializer::from_slice(json)
        .deserialize_map(Names)
        .map_err(|e| ModelError::damaged(path, "safetensors header", e.to_string()))
}
