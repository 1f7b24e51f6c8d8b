//! `$ref`: where it points, within the document only.

use serde_json::Value;

use crate::text::grammar::error::GrammarError;

/// Where in a document something stands: a JSON pointer as a URI fragment.
#[derive(Clone, Debug)]
pub(super) struct Place(String);

impl Place {
    pub(super) fn root() -> Self {
        Self("#".to_owned())
    }

    /// From a fragment that has resolved.
    pub(super) fn at(fragment: &str) -> Self {
        Self(fragment.to_owned())
    }

    pub(super) fn child(&self, key: &str) -> Self {
        Self(format!("{}/{}", self.0, key.replace('~', "~0").replace('/', "~1")))
    }

    pub(super) fn item(&self, index: usize) -> Self {
        Self(format!("{}/{index}", self.0))
    }
}

impl From<&Place> for String {
    fn from(place: &Place) -> Self {
        place.0.clone()
    }
}

/// The fragment that a `$ref` at `place` names, and the schema there.
pub(super) fn resolve<'a>(
    root: &'a Value,
    reference: &str,
    place: &Place,
) -> Result<(String, &'a Value), GrammarError> {
    let refuse = |reason: &str| GrammarError::keyword("$ref", place, format!("{reference:?} {reason}"));
    let base = ["$id", "id"].iter().find_map(|key| root.get(*key)?.as_str()).unwrap_or_default();
    let base = base.split('#').next().unwrap_or_default();
    let (document, fragment) = reference.split_once('#').unwrap_or((reference, ""));
    if !document.is_empty() && document != base {
        return Err(refuse("is another document; put the definition under $defs"));
    }
    let fragment = percent_decoded(fragment).ok_or_else(|| refuse("isn't a URI"))?;
    if fragment.is_empty() {
        return Ok(("#".to_owned(), root));
    }
    if fragment.starts_with('/') {
        let target = root.pointer(&fragment).ok_or_else(|| refuse("names no place in this schema"))?;
        return Ok((format!("#{fragment}"), target));
    }
    let mut found = Vec::new();
    anchors(root, &fragment, &mut Place::root(), &mut found);
    match found.as_slice() {
        [(at, target)] => Ok((String::from(at), target)),
        [] => Err(refuse("names no anchor in this schema")),
        _ => Err(refuse("names more than one anchor")),
    }
}

/// All places with the anchor `name` (`$id: "#name"` before 2019-09).
fn anchors<'a>(value: &'a Value, name: &str, place: &mut Place, found: &mut Vec<(Place, &'a Value)>) {
    match value {
        Value::Object(map) => {
            let text = |key: &str| map.get(key).and_then(Value::as_str);
            let old = ["$id", "id"].iter().any(|key| text(key).and_then(|id| id.strip_prefix('#')) == Some(name));
            if old || text("$anchor") == Some(name) {
                found.push((place.clone(), value));
            }
            for (key, inner) in map.iter().filter(|(key, _)| !matches!(key.as_str(), "const" | "enum")) {
                anchors(inner, name, &mut place.child(key), found);
            }
        }
        Value::Array(items) => {
            for (i, inner) in items.iter().enumerate() {
                anchors(inner, name, &mut place.item(i), found);
            }
        }
        _ => {}
    }
}

fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte == b'%' {
            let digits = std::str::from_utf8(rest.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = rest.get(2..)?;
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}
