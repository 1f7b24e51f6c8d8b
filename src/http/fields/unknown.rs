//! Fields that nobody knows: ignored, as routers add such fields, but counted and logged once; a 400 on request.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use serde_json::{Map, Value};

use crate::http::error::ApiError;
use crate::http::json::shown;

/// Names of unknown fields that were logged already. Bounded, so that clients can't fill it.
#[derive(Debug, Default)]
pub(in crate::http) struct UnknownFields(Mutex<HashSet<String>>);

const MOST_NAMES_LOGGED: usize = 256;

impl UnknownFields {
    fn log_once(&self, name: &str) {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.len() < MOST_NAMES_LOGGED && !seen.contains(name) {
            tracing::warn!(field = name, "a request field that nobody knows is ignored");
            seen.insert(name.to_owned());
        }
    }
}

/// The unknown fields of one request.
pub(in crate::http) struct Unknown<'a> {
    strict: bool,
    logged: &'a UnknownFields,
    /// How many there were.
    pub(in crate::http) count: u64,
}

impl<'a> Unknown<'a> {
    /// With `strict` the first one is an error.
    pub(in crate::http) fn new(strict: bool, logged: &'a UnknownFields) -> Self {
        Self { strict, logged, count: 0 }
    }

    /// Nobody knows the field `name` of the object at `path` (empty for the body itself).
    ///
    /// # Errors
    /// 400 with the path of the field, when strict.
    pub(in crate::http) fn meet(&mut self, path: &str, name: &str) -> Result<(), ApiError> {
        let dot = if path.is_empty() { "" } else { "." };
        let full = format!("{path}{dot}{}", shown(name));
        if self.strict {
            return Err(ApiError::unknown_field(&full));
        }
        self.count += 1;
        self.logged.log_once(&without_indices(&full));
        Ok(())
    }

    /// Meets the fields of `object` that are not among `known`. Nulls mean absence.
    ///
    /// # Errors
    /// As [`Unknown::meet`].
    pub(super) fn others(
        &mut self,
        object: &Map<String, Value>,
        known: &[&str],
        path: impl Fn() -> String,
    ) -> Result<(), ApiError> {
        let mut others = object.iter().filter(|(name, value)| !value.is_null() && !known.contains(&name.as_str()));
        others.try_for_each(|(name, _)| self.meet(&path(), name))
    }
}

/// `messages[3].x` as `messages[].x`: one line in the log for all of them.
fn without_indices(path: &str) -> String {
    let mut inside = false;
    let keep = |c: &char| {
        let skip = inside && c.is_ascii_digit();
        inside = *c == '[' || skip;
        !skip
    };
    path.chars().filter(keep).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indices_are_no_part_of_a_fields_name_in_the_log() {
        assert_eq!(without_indices("messages[12].content[0].x1"), "messages[].content[].x1");
        assert_eq!(without_indices("zork2"), "zork2");
    }
}
