//! What the KV cache is made of. One arena of superpages; each superpage is leased to one group at
//! a time and cut into that group's blocks:
//!
//! ```text
//! superpage   0          1          2          3
//!           [A0 A1 A2] [B2   B3 ] [A6 A7 A8] [unleased]      id = superpage * blocks_per_superpage + i
//! ```

use sconce_kernels::kv::CacheKind;

/// Sizes of the cache. Byte sizes are the arena's business: here a group only says how many of its
/// blocks a superpage holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KvConfig {
    /// Superpages in the arena, shared by all groups.
    pub num_superpages: usize,
    /// Tokens in a block, for every group.
    pub block_size: usize,
    /// The cache groups; block tables come in this order.
    pub groups: Vec<KvGroupConfig>,
    /// Keep computed blocks for later sequences with the same prefix.
    pub prefix_cache: bool,
}

/// One cache group: layers that keep the same tokens in blocks of the same size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvGroupConfig {
    /// How long a token is kept.
    pub kind: CacheKind,
    /// Blocks of this group in one superpage, at least 1.
    pub blocks_per_superpage: usize,
}

impl KvConfig {
    /// Index of the first block that a query at position `num_computed` or later can still see in
    /// group `group`: 0 for full attention.
    pub fn first_visible_block(&self, group: usize, num_computed: usize) -> usize {
        match self.groups[group].kind {
            CacheKind::Full => 0,
            CacheKind::SlidingWindow { window } => (num_computed + 1).saturating_sub(window) / self.block_size,
        }
    }

    /// Most blocks of `group` that a sequence of `num_tokens` tokens holds at any one time, when at
    /// most `span` of its tokens are in uncommitted batches. Full attention holds all of them; a
    /// window group only those that touch `window - 1 + span` consecutive tokens.
    pub fn peak_blocks(&self, group: usize, num_tokens: usize, span: usize) -> usize {
        let all = num_tokens.div_ceil(self.block_size);
        match self.groups[group].kind {
            CacheKind::Full => all,
            CacheKind::SlidingWindow { window } => {
                let run = window.saturating_sub(1).saturating_add(span).max(1);
                // A run of tokens touches at most this many blocks, wherever it begins.
                all.min((run - 1).div_ceil(self.block_size) + 1)
            }
        }
    }

    /// Tokens that one sequence alone can hold, with at most `span` of them in uncommitted batches.
    pub fn capacity_tokens(&self, span: usize) -> usize {
        let fits = |blocks: usize| {
            let superpages = self.groups.iter().enumerate().map(|(g, group)| {
                self.peak_blocks(g, blocks * self.block_size, span).div_ceil(group.blocks_per_superpage)
            });
            superpages.sum::<usize>() <= self.num_superpages
        };
        let most = self.groups.iter().map(|g| g.blocks_per_superpage).max().unwrap_or(0) * self.num_superpages;
        if fits(most + 1) {
            return usize::MAX; // only window groups: any length fits
        }
        let (mut low, mut high) = (0, most + 1); // fits(low), not fits(high)
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            if fits(middle) { low = middle } else { high = middle }
        }
        low * self.block_size
    }
}
