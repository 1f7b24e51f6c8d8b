//! KV-cache vocabulary and geometry: what a layer caches, how layers group, where a block lies.

/// Tokens in a KV block, for every cache group.
pub const BLOCK_SIZE: usize = 32;

/// How long a layer needs a token's keys and values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CacheKind {
    /// Every earlier token.
    Full,
    /// A query at position p sees positions `p - window + 1 ..= p`.
    SlidingWindow {
        /// Tokens visible, the query's own included.
        window: usize,
    },
}
