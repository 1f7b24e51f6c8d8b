//! Names for the content of full blocks: a chain of SHA-256 digests, so that equal hashes mean equal
//! tokens from the first position on, also when a client picks its tokens with ill intent.

use sha2::{Digest, Sha256};

/// Digest of a block's tokens, all tokens before them and the salt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlockHash([u8; 32]);

/// Appends to `hashes` the digests of those full blocks of `tokens` that it lacks.
///
/// The chain starts from `salt`, which separates tenants: equal prompts under different salts
/// share nothing.
pub fn extend_hashes(hashes: &mut Vec<BlockHash>, tokens: &[u32], block_size: usize, salt: u64) {
    for block in tokens.chunks_exact(block_size).skip(hashes.len()) {
        let mut digest = Sha256::new();
        match hashes.last() {
            Some(parent) => digest.update(parent.0),
            None => digest.update(salt.to_le_bytes()),
        }
        for token in block {
            digest.update(token.to_le_bytes());
        }
        hashes.push(BlockHash(digest.finalize().into()));
    }
}
