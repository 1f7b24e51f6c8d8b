//! Typed reads of a Hugging Face `config.json`: the text part of it, defaults of the family, errors that name the key.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::error::{ModelError, REDOWNLOAD};

/// The text model's configuration. A key that isn't there falls back to the family's default; a key that is
/// `null` means "none".
pub(crate) struct HfConfig<'a> {
    path: PathBuf,
    values: &'a Map<String, Value>,
    defaults: Value,
}

impl<'a> HfConfig<'a> {
    /// `root` is the whole file; the text model of a multi-modal one is under `text_config`.
    pub(crate) fn new(dir: &Path, root: &'a Value, defaults: Value) -> Result<Self, ModelError> {
        let path = dir.join("config.json");
        let text = root.get("text_config").filter(|text| text.is_object()).unwrap_or(root);
        match text.as_object() {
            Some(values) => Ok(Self { path, values, defaults }),
            None => Err(ModelError::malformed(&path, "JSON", "isn't an object", REDOWNLOAD)),
        }
    }

    pub(crate) fn bad(&self, key: &str, problem: impl AsRef<str>) -> ModelError {
        ModelError::malformed(&self.path, key, problem, "the configuration is damaged: download it again or correct it")
    }

    /// `remedy` says which values there are.
    pub(crate) fn unsupported(&self, key: &str, problem: impl AsRef<str>, remedy: impl AsRef<str>) -> ModelError {
        ModelError::unsupported(&self.path, key, problem, remedy)
    }

    /// Absent and without default, or `null`: `None`.
    pub(crate) fn get(&self, key: &str) -> Option<&Value> {
        self.values.get(key).or_else(|| self.defaults.get(key)).filter(|value| !value.is_null())
    }

    pub(crate) fn object(&self, key: &str) -> Result<Option<&Map<String, Value>>, ModelError> {
        self.typed(key, "an object", Value::as_object)
    }

    pub(crate) fn usize(&self, key: &str) -> Result<usize, ModelError> {
        self.opt_usize(key)?.ok_or_else(|| self.bad(key, "is missing"))
    }

    pub(crate) fn opt_usize(&self, key: &str) -> Result<Option<usize>, ModelError> {
        self.typed(key, "a whole number from 1 to 4294967295", as_usize)
    }

    pub(crate) fn opt_f32(&self, key: &str) -> Result<Option<f32>, ModelError> {
        self.typed(key, "a finite number", as_f32)
    }

    pub(crate) fn f32(&self, key: &str) -> Result<f32, ModelError> {
        self.opt_f32(key)?.ok_or_else(|| self.bad(key, "is missing"))
    }

    pub(crate) fn flag(&self, key: &str) -> Result<bool, ModelError> {
        Ok(self.typed(key, "true or false", Value::as_bool)?.unwrap_or(false))
    }

    pub(crate) fn str(&self, key: &str) -> Result<Option<&str>, ModelError> {
        self.typed(key, "a string", Value::as_str)
    }

    pub(crate) fn list(&self, key: &str) -> Result<Option<&Vec<Value>>, ModelError> {
        self.typed(key, "a list", Value::as_array)
    }

    fn typed<'s, T>(
        &'s self,
        key: &str,
        expected: &str,
        convert: impl Fn(&'s Value) -> Option<T>,
    ) -> Result<Option<T>, ModelError> {
        match self.get(key) {
            None => Ok(None),
            Some(value) => match convert(value) {
                Some(converted) => Ok(Some(converted)),
                None => Err(self.bad(key, format!("{value} isn't {expected}"))),
            },
        }
    }
}

/// 1 ..= u32::MAX, also when written as a float (`4096.0`).
pub(crate) fn as_usize(value: &Value) -> Option<usize> {
    let whole = value.as_u64().or_else(|| {
        let float = value.as_f64().filter(|f| f.fract() == 0.0 && (1.0..=4_294_967_295.0).contains(f))?;
        Some(float as u64)
    })?;
    (1..=u64::from(u32::MAX)).contains(&whole).then_some(whole as usize)
}

pub(crate) fn as_f32(value: &Value) -> Option<f32> {
    value.as_f64().map(|v| v as f32).filter(|v| v.is_finite())
}
