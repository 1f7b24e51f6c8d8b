//! What the bytes of a file must hash to. The hub's ETag says it, and so does the name of a file in its
//! cache: of a large file the SHA-256, of a small one the SHA-1 of git's blob.

use std::fs::File;
use std::io::{Read, Seek};
use std::path::Path;

use sha1::Sha1;
use sha2::{Digest, Sha256};

use super::{HubError, download};

/// A checksum that a file must have, in lower-case hex.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Checksum {
    /// SHA-256 of the bytes.
    Sha256(String),
    /// SHA-1 of `blob LENGTH\0` and the bytes.
    GitBlob(String),
}

impl Checksum {
    /// The checksum that an ETag of the hub is; `None` for one of another kind.
    pub(super) fn of_etag(etag: &str) -> Option<Self> {
        let hex = etag.bytes().all(|b| b.is_ascii_hexdigit()).then(|| etag.to_ascii_lowercase())?;
        match hex.len() {
            64 => Some(Self::Sha256(hex)),
            40 => Some(Self::GitBlob(hex)),
            _ => None,
        }
    }

    /// Compares with what was found; `name` is the file's for people.
    pub(super) fn expect(&self, found: String, name: &str) -> Result<(), HubError> {
        let (kind, expected) = match self {
            Self::Sha256(hex) => ("SHA-256", hex),
            Self::GitBlob(hex) => ("git's SHA-1", hex),
        };
        if found == *expected {
            return Ok(());
        }
        Err(HubError::Checksum { file: name.to_owned(), kind, expected: expected.clone(), found })
    }

    /// The checksum of this kind of an open file.
    pub(super) fn of(&self, file: &mut File) -> std::io::Result<String> {
        file.rewind()?;
        match self {
            Self::Sha256(_) => {
                let mut digest = Sha256::new();
                read_all(file, |bytes| digest.update(bytes))?;
                Ok(hex(digest))
            }
            Self::GitBlob(_) => {
                let mut digest = Sha1::new_with_prefix(format!("blob {}\0", file.metadata()?.len()));
                read_all(file, |bytes| digest.update(bytes))?;
                Ok(hex(digest))
            }
        }
    }

    /// Reads the file at `path`; [`HubError::Checksum`] if it is another one. It stays where it is.
    pub(super) async fn check(&self, path: &Path, name: &str) -> Result<(), HubError> {
        let (this, path) = (self.clone(), path.to_owned());
        let found = download::blocking(move || {
            File::open(&path).and_then(|mut file| this.of(&mut file)).map_err(|e| HubError::io(&path, &e))
        });
        self.expect(found.await?, name)
    }
}

/// Reads to the end and returns the number of bytes; leaves the position there.
pub(super) fn read_all(file: &mut File, mut take: impl FnMut(&[u8])) -> std::io::Result<u64> {
    let (mut len, mut buffer) = (0, vec![0; 1 << 20]);
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(len),
            n => {
                take(&buffer[..n]);
                len += n as u64;
            }
        }
    }
}

pub(super) fn hex(digest: impl Digest) -> String {
    digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn both_kinds_of_the_hub() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, "hello\n").unwrap();
        // `git hash-object f`, `sha256sum f`.
        for etag in [
            "ce013625030ba8dba906f756967f9e9ca394464a",
            "5891B5B522D5DF086D0FF0B110FBD9D21BB4FC7163AF34D08286A2E846F6BE03",
        ] {
            let sum = Checksum::of_etag(etag).unwrap();
            assert_eq!(sum.check(&path, "f").await, Ok(()));
            let other = Checksum::of_etag(&etag.replace('0', "1")).unwrap();
            assert!(matches!(other.check(&path, "f").await, Err(HubError::Checksum { .. })));
        }
        for etag in ["", "d41d8cd98f00b204e9800998ecf8427e", "5891b5b522d5df086d0ff0b110fbd9d21bb4fc71-7"] {
            assert_eq!(Checksum::of_etag(etag), None);
        }
    }
}
