//! API keys: hashed at start, compared in constant time, all of them every time.

use http::HeaderMap;
use http::header::AUTHORIZATION;
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

/// The hashes of the keys that open the server.
#[derive(Clone, Debug, Default)]
pub(super) struct Keys(Vec<[u8; 32]>);

impl Keys {
    pub(super) fn new(keys: &[String]) -> Self {
        Self(keys.iter().map(|k| Sha256::digest(k.as_bytes()).into()).collect())
    }

    /// True when the request carries a valid key, or none is needed. Which key, and how much of it
    /// was right, doesn't show in the time this takes.
    pub(super) fn allow(&self, headers: &HeaderMap) -> bool {
        if self.0.is_empty() {
            return true;
        }
        let mut values = headers.get_all(AUTHORIZATION).iter();
        let (Some(value), None) = (values.next(), values.next()) else { return false };
        let Some((scheme, key)) = value.to_str().ok().and_then(|v| v.split_once(' ')) else { return false };
        if !scheme.eq_ignore_ascii_case("bearer") {
            return false;
        }
        let given: [u8; 32] = Sha256::digest(key.trim().as_bytes()).into();
        let hit = self.0.iter().fold(Choice::from(0), |hit, known| hit | known.ct_eq(&given));
        hit.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(header: &str) -> bool {
        let keys = Keys::new(&["sk-a".into(), "sk-b".into()]);
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, header.parse().unwrap());
        keys.allow(&headers)
    }

    #[test]
    fn any_of_the_keys_and_nothing_else() {
        assert!(allowed("Bearer sk-a") && allowed("bearer sk-b"));
        for bad in ["Bearer sk-c", "Bearer sk-", "Bearer", "Bearer ", "Basic sk-a", "sk-a", "Bearer sk-a sk-b"] {
            assert!(!allowed(bad), "{bad}");
        }
        assert!(!Keys::new(&["k".into()]).allow(&HeaderMap::new()));
        assert!(Keys::new(&[]).allow(&HeaderMap::new()));
    }

    #[test]
    fn two_authorization_headers_are_refused() {
        let mut headers = HeaderMap::new();
        headers.append(AUTHORIZATION, "Bearer k".parse().unwrap());
        headers.append(AUTHORIZATION, "Bearer x".parse().unwrap());
        assert!(!Keys::new(&["k".into()]).allow(&headers));
    }
}
