//! GGUF key-value metadata: scalars by value, strings and arrays as ranges of the memory map.
//!
//! Arrays are decoded when asked for, so opening a file with 262,144 tokens allocates nothing for them.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use memmap2::Mmap;

use super::cursor::Cursor;
use crate::error::ModelError;

/// Arrays of arrays deeper than this are refused.
const MAX_NESTING: usize = 4;

/// GGUF's value types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ValueType {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    String,
    Array,
    U64,
    I64,
    F64,
}

impl ValueType {
    fn from_id(id: u32) -> Option<Self> {
        use ValueType::*;
        [U8, I8, U16, I16, U32, I32, F32, Bool, String, Array, U64, I64, F64].get(id as usize).copied()
    }

    /// Bytes in the file; the least possible for strings (their length) and arrays (type and length).
    fn min_bytes(self) -> usize {
        use ValueType::*;
        match self {
            U8 | I8 | Bool => 1,
            U16 | I16 => 2,
            U32 | I32 | F32 => 4,
            String | U64 | I64 | F64 => 8,
            Array => 12,
        }
    }
}

#[derive(Clone, Debug)]
enum Value {
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Bool(bool),
    String(Range<usize>),
    Array { element: ValueType, count: usize, bytes: Range<usize> },
}

/// The metadata of a GGUF file. Accessors return `None` if the key is absent or of another type.
#[derive(Clone, Debug)]
pub struct Metadata {
    map: Arc<Mmap>,
    values: BTreeMap<String, Value>,
}

impl Metadata {
    /// Reads `count` pairs; keys must be unique.
    pub(super) fn read(cursor: &mut Cursor<'_>, count: usize, map: Arc<Mmap>) -> Result<Self, ModelError> {
        let mut values = BTreeMap::new();
        for index in 0..count {
            let (_, key) = cursor.string(&format!("key of metadata pair {index}"))?;
            if key.is_empty() || key.len() > 65_535 {
                return Err(cursor.fail(&format!("key of metadata pair {index}"), "length isn't in 1..=65535"));
            }
            let value = read_value(cursor, key)?;
            if values.insert(key.to_owned(), value).is_some() {
                return Err(cursor.fail(key, "the metadata key appears twice"));
            }
        }
        Ok(Self { map, values })
    }

    /// Whether `key` is present, of whatever type.
    pub fn contains(&self, key: &str) -> bool {
        self.values.contains_key(key)
    }

    /// All keys, sorted.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.values.keys().map(String::as_str)
    }

    /// A string.
    pub fn get_str(&self, key: &str) -> Option<&str> {
        match self.values.get(key)? {
            Value::String(range) => std::str::from_utf8(self.map.get(range.clone())?).ok(),
            _ => None,
        }
    }

    /// A non-negative integer of any width.
    pub fn get_u64(&self, key: &str) -> Option<u64> {
        match *self.values.get(key)? {
            Value::Unsigned(v) => Some(v),
            Value::Signed(v) => u64::try_from(v).ok(),
            _ => None,
        }
    }

    /// A non-negative integer that fits 32 bits: token ids.
    pub fn get_u32(&self, key: &str) -> Option<u32> {
        self.get_u64(key).and_then(|v| u32::try_from(v).ok())
    }

    /// A float (f64 is rounded).
    pub fn get_f32(&self, key: &str) -> Option<f32> {
        match *self.values.get(key)? {
            Value::Float(v) => Some(v as f32),
            _ => None,
        }
    }

    /// A boolean.
    pub fn get_bool(&self, key: &str) -> Option<bool> {
        match *self.values.get(key)? {
            Value::Bool(v) => Some(v),
            _ => None,
        }
    }

    /// Length of an array of any type.
    pub fn array_len(&self, key: &str) -> Option<usize> {
        match self.values.get(key)? {
            Value::Array { count, .. } => Some(*count),
            _ => None,
        }
    }

    /// An array of strings, read from the map as it is walked; collect it into whatever is needed.
    pub fn get_strings(&self, key: &str) -> Option<Strings<'_>> {
        let (element, count, bytes) = self.array(key)?;
        (element == ValueType::String).then_some(Strings { bytes, left: count })
    }

    /// An array of f32.
    pub fn get_f32s(&self, key: &str) -> Option<Vec<f32>> {
        let (element, _, bytes) = self.array(key)?;
        (element == ValueType::F32).then(|| chunks::<4>(bytes).map(f32::from_le_bytes).collect())
    }

    /// An array of 32- or 64-bit integers, each of which fits an i32.
    pub fn get_i32s(&self, key: &str) -> Option<Vec<i32>> {
        let (element, _, bytes) = self.array(key)?;
        match element {
            ValueType::I32 => Some(chunks::<4>(bytes).map(i32::from_le_bytes).collect()),
            ValueType::U32 => chunks::<4>(bytes).map(|b| i32::try_from(u32::from_le_bytes(b)).ok()).collect(),
            ValueType::I64 => chunks::<8>(bytes).map(|b| i32::try_from(i64::from_le_bytes(b)).ok()).collect(),
            ValueType::U64 => chunks::<8>(bytes).map(|b| i32::try_from(u64::from_le_bytes(b)).ok()).collect(),
            _ => None,
        }
    }

    /// An array of booleans.
    pub fn get_bools(&self, key: &str) -> Option<Vec<bool>> {
        let (element, _, bytes) = self.array(key)?;
        (element == ValueType::Bool).then(|| bytes.iter().map(|&b| b != 0).collect())
    }

    fn array(&self, key: &str) -> Option<(ValueType, usize, &[u8])> {
        match self.values.get(key)? {
            Value::Array { element, count, bytes } => Some((*element, *count, self.map.get(bytes.clone())?)),
            _ => None,
        }
    }
}

/// Walks an array of strings in a file. Ends early if the file was changed behind our back.
#[derive(Clone, Debug)]
pub struct Strings<'a> {
    bytes: &'a [u8],
    left: usize,
}

impl<'a> Iterator for Strings<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        self.left = self.left.checked_sub(1)?;
        let (len, rest) = self.bytes.split_first_chunk::<8>()?;
        let len = usize::try_from(u64::from_le_bytes(*len)).ok()?;
        let (text, rest) = rest.split_at_checked(len)?;
        self.bytes = rest;
        std::str::from_utf8(text).ok()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (0, Some(self.left))
    }
}

impl Strings<'_> {
    /// Strings not yet walked.
    pub fn remaining(&self) -> usize {
        self.left
    }
}

fn chunks<const N: usize>(bytes: &[u8]) -> impl Iterator<Item = [u8; N]> {
    bytes.as_chunks::<N>().0.iter().copied()
}

fn read_type(cursor: &mut Cursor<'_>, key: &str) -> Result<ValueType, ModelError> {
    let id = cursor.u32(key)?;
    ValueType::from_id(id).ok_or_else(|| cursor.fail(key, format!("unknown metadata value type {id}")))
}

fn read_value(cursor: &mut Cursor<'_>, key: &str) -> Result<Value, ModelError> {
    Ok(match read_type(cursor, key)? {
        ValueType::U8 => Value::Unsigned(u8::from_le_bytes(cursor.array(key)?).into()),
        ValueType::U16 => Value::Unsigned(u16::from_le_bytes(cursor.array(key)?).into()),
        ValueType::U32 => Value::Unsigned(cursor.u32(key)?.into()),
        ValueType::U64 => Value::Unsigned(cursor.u64(key)?),
        ValueType::I8 => Value::Signed(i8::from_le_bytes(cursor.array(key)?).into()),
        ValueType::I16 => Value::Signed(i16::from_le_bytes(cursor.array(key)?).into()),
        ValueType::I32 => Value::Signed(i32::from_le_bytes(cursor.array(key)?).into()),
        ValueType::I64 => Value::Signed(i64::from_le_bytes(cursor.array(key)?)),
        ValueType::F32 => Value::Float(f32::from_le_bytes(cursor.array(key)?).into()),
        ValueType::F64 => Value::Float(f64::from_le_bytes(cursor.array(key)?)),
        ValueType::Bool => match cursor.array::<1>(key)? {
            [0] => Value::Bool(false),
            [1] => Value::Bool(true),
            [other] => return Err(cursor.fail(key, format!("boolean holds {other}, not 0 or 1"))),
        },
        ValueType::String => Value::String(cursor.string(key)?.0),
        ValueType::Array => {
            let element = read_type(cursor, key)?;
            let count = cursor.count(key, element.min_bytes())?;
            let start = cursor.position();
            skip_array(cursor, key, element, count, 1)?;
            Value::Array { element, count, bytes: start..cursor.position() }
        }
    })
}

fn skip_array(
    cursor: &mut Cursor<'_>,
    key: &str,
    element: ValueType,
    count: usize,
    depth: usize,
) -> Result<(), ModelError> {
    match element {
        ValueType::String => {
            for _ in 0..count {
                cursor.string(key)?;
            }
        }
        ValueType::Array if depth >= MAX_NESTING => {
            return Err(cursor.fail(key, format!("arrays are nested deeper than {MAX_NESTING}")));
        }
        ValueType::Array => {
            for _ in 0..count {
                let inner = read_type(cursor, key)?;
                let inner_count = cursor.count(key, inner.min_bytes())?;
                skip_array(cursor, key, inner, inner_count, depth + 1)?;
            }
        }
        fixed => {
            // `count` was checked against the bytes left, so the product can't overflow.
            cursor.skip(count.saturating_mul(fixed.min_bytes()), key)?;
        }
    }
    Ok(())
}

/// `key` as a power-of-two alignment, 32 if absent.
pub(super) fn alignment(metadata: &Metadata, path: &Path) -> Result<usize, ModelError> {
    const KEY: &str = "general.alignment";
    if !metadata.contains(KEY) {
        return Ok(32);
    }
    let value = metadata.get_u64(KEY).and_then(|v| usize::try_from(v).ok()).unwrap_or(0);
    if value.is_power_of_two() && value <= 1 << 20 {
        Ok(value)
    } else {
        Err(ModelError::damaged(path, KEY, format!("{value} isn't a power of two up to 1048576")))
    }
}
