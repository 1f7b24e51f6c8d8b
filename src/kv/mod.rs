//! The KV-cache manager: which block holds which tokens. No tensor in it.
//!
//! # Layout
//! - `config`: what the cache is made of: superpages, groups and their kinds
//! - `hash`: chained hashes that name the content of a full block
//! - `pool`: superpage leases, free blocks, reference counts, the hash index and eviction
//! - `manager`: block tables of sequences; admission, allocation, publication, window frees
//! - `integrity`: every invariant of the two, checked by tests after each step

mod config;
mod hash;
mod integrity;
mod manager;
mod pool;
#[cfg(test)]
mod tests;

pub use config::{KvConfig, KvGroupConfig};
pub use hash::{BlockHash, extend_hashes};
pub use manager::{Admission, KvManager};
pub use pool::KvUsage;
