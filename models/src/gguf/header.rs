//! One GGUF file: magic, counts, metadata, tensor table, and the checks that make the table safe to index with.
//!
//! ```text
//! magic "GGUF" | version u32 | tensor count u64 | pair count u64 | pairs ... | tensor infos ... | padding | data
//! ```

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use memmap2::Mmap;
use sconce_kernels::dtype::WeightType;

use super::cursor::Cursor;
use super::metadata::{Metadata, alignment};
use crate::error::{ModelError, clean};
use crate::tensor::TensorInfo;

/// Smallest pair in a file: empty key, type, one byte.
const MIN_PAIR_BYTES: usize = 13;
/// Smallest tensor entry in a file: empty name, no dimension.
const MIN_TENSOR_BYTES: usize = 24;
const MAX_PAIRS: usize = 65_536;
const MAX_TENSORS: usize = 1 << 20;
const MAX_NAME: usize = 255;
const MAX_DIMS: usize = 4;

/// One parsed file.
pub(super) struct Header {
    pub(super) metadata: Metadata,
    /// In file order of their data.
    pub(super) tensors: Vec<TensorInfo>,
}

/// Parses and checks one file. Tensors get part number `part`.
pub(super) fn read(path: &Path, map: &Arc<Mmap>, part: usize) -> Result<Header, ModelError> {
    let mut cursor = Cursor::new(map, path);
    check_magic(&mut cursor, path)?;
    let num_tensors = cursor.count("tensor count", MIN_TENSOR_BYTES)?;
    let num_pairs = cursor.count("metadata pair count", MIN_PAIR_BYTES)?;
    for (field, count, limit) in
        [("tensor count", num_tensors, MAX_TENSORS), ("metadata pair count", num_pairs, MAX_PAIRS)]
    {
        if count > limit {
            return Err(cursor.fail(field, format!("{count} is over the limit of {limit}")));
        }
    }
    let metadata = Metadata::read(&mut cursor, num_pairs, map.clone())?;
    let alignment = alignment(&metadata, path)?;
    let mut entries = Vec::new();
    let mut names = HashSet::new();
    for index in 0..num_tensors {
        let entry = read_entry(&mut cursor, index)?;
        if !names.insert(entry.name.clone()) {
            return Err(cursor.fail(&format!("tensor {}", entry.name), "the name appears twice"));
        }
        entries.push(entry);
    }
    let data_start = cursor.position().next_multiple_of(alignment);
    let mut tensors = Vec::new();
    for entry in entries {
        tensors.push(place(entry, path, map.len(), (data_start, alignment), part)?);
    }
    tensors.sort_by_key(|t| t.range.start);
    for pair in tensors.windows(2) {
        if let [a, b] = pair
            && a.range.end > b.range.start
        {
            let problem = format!("its data overlaps that of {}", a.name);
            return Err(ModelError::damaged(path, format!("tensor {}", b.name), problem));
        }
    }
    Ok(Header { metadata, tensors })
}

fn check_magic(cursor: &mut Cursor<'_>, path: &Path) -> Result<(), ModelError> {
    let magic: [u8; 4] = cursor.array("magic")?;
    if &magic != b"GGUF" {
        let problem = format!("starts with {:?}, not GGUF", clean(&String::from_utf8_lossy(&magic)));
        return Err(ModelError::malformed(
            path,
            "magic",
            problem,
            "this isn't a GGUF file: name one, or download it again",
        ));
    }
    match cursor.u32("version")? {
        2 | 3 => Ok(()),
        version if matches!(version.swap_bytes(), 1..=3) => Err(ModelError::unsupported(
            path,
            "version",
            "the file is big-endian",
            "convert the model for little-endian machines",
        )),
        version => Err(ModelError::unsupported(
            path,
            "version",
            format!("GGUF version {version}"),
            "versions 2 and 3 are supported: convert the model again with a current converter",
        )),
    }
}

struct Entry {
    name: String,
    /// As stored, fastest first.
    dims: Vec<usize>,
    type_id: u32,
    offset: u64,
}

fn read_entry(cursor: &mut Cursor<'_>, index: usize) -> Result<Entry, ModelError> {
    let (_, name) = cursor.string(&format!("name of tensor {index}"))?;
    if name.is_empty() || name.len() > MAX_NAME {
        return Err(cursor.fail(&format!("name of tensor {index}"), format!("length isn't in 1..={MAX_NAME}")));
    }
    let field = format!("tensor {name}");
    let num_dims = cursor.u32(&field)? as usize;
    if !(1..=MAX_DIMS).contains(&num_dims) {
        return Err(cursor.fail(&field, format!("{num_dims} dimensions, expected 1 to {MAX_DIMS}")));
    }
    let mut dims = Vec::new();
    for _ in 0..num_dims {
        let dim = cursor.u64(&field)?;
        match usize::try_from(dim) {
            Ok(dim) if dim > 0 => dims.push(dim),
            _ => return Err(cursor.fail(&field, format!("dimension of {dim}"))),
        }
    }
    Ok(Entry { name: name.to_owned(), dims, type_id: cursor.u32(&field)?, offset: cursor.u64(&field)? })
}

/// Turns a table entry into a byte range inside the file.
fn place(
    entry: Entry,
    path: &Path,
    file_len: usize,
    (data_start, alignment): (usize, usize),
    part: usize,
) -> Result<TensorInfo, ModelError> {
    let Entry { name, mut dims, type_id, offset } = entry;
    let field = format!("tensor {name}");
    let Some(ty) = WeightType::from_ggml(type_id) else {
        return Err(ModelError::unsupported(
            path,
            field,
            format!("ggml type {type_id}"),
            "supported: F32 F16 BF16 Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2_K Q3_K Q4_K Q5_K Q6_K; choose another quantisation",
        ));
    };
    let row_len = dims.first().copied().unwrap_or(0);
    let Some(row_bytes) = ty.row_bytes(row_len) else {
        let problem = format!("rows of {row_len} aren't whole {} blocks of {}", ty.name(), ty.block_len());
        return Err(ModelError::damaged(path, field, problem));
    };
    let size = dims.iter().skip(1).try_fold(row_bytes, |size, &dim| size.checked_mul(dim));
    let start = usize::try_from(offset).ok().and_then(|offset| offset.checked_add(data_start));
    let end = size.zip(start).and_then(|(size, start)| start.checked_add(size));
    if !offset.is_multiple_of(alignment as u64) {
        return Err(ModelError::damaged(path, field, format!("offset {offset} isn't a multiple of {alignment}")));
    }
    match (start, end) {
        (Some(start), Some(end)) if end <= file_len => {
            dims.reverse();
            Ok(TensorInfo { name, ty, shape: dims, part, range: start..end })
        }
        _ => {
            let problem =
                format!("its data (shape {dims:?} at offset {offset}) ends beyond the file's {file_len} bytes");
            Err(ModelError::damaged(path, field, problem))
        }
    }
}
