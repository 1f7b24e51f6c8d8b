//! How many sequences fit a KV budget: the arithmetic of `plan`, on the geometry that the engine uses.

use sconce_kernels::kv::{ArenaGeometry, BLOCK_SIZE, CacheKind, GroupGeometry};

/// A KV budget, cut as the engine cuts it.
#[derive(Debug)]
pub(super) struct Capacity<'a> {
    pub(super) geometry: &'a ArenaGeometry,
    pub(super) num_superpages: usize,
    /// Longest chunk of a prompt computed at once: a window layer holds it beside the window.
    pub(super) chunk: usize,
}

impl Capacity<'_> {
    /// Bytes that the next token of a long sequence adds, over all groups that keep everything.
    pub(super) fn bytes_per_token(&self) -> usize {
        let keeps_all = |group: &&GroupGeometry| group.spec.kind == CacheKind::Full;
        self.geometry.groups.iter().filter(keeps_all).map(|group| group.block_bytes / BLOCK_SIZE).sum()
    }

    /// Bytes a sequence holds for its windows, however long it gets.
    pub(super) fn window_bytes(&self) -> usize {
        let windows = self.geometry.groups.iter().filter(|group| group.spec.kind != CacheKind::Full);
        windows.map(|group| self.blocks(group, usize::MAX / 2) * group.block_bytes).sum()
    }

    /// Sequences of `len` tokens that fit at once.
    pub(super) fn sequences(&self, len: usize) -> usize {
        largest(1 << 24, |count| self.superpages(count, len) <= self.num_superpages)
    }

    /// Longest sequence that fits alone, up to `limit` tokens.
    pub(super) fn longest(&self, limit: usize) -> usize {
        largest(limit, |len| self.superpages(1, len) <= self.num_superpages)
    }

    fn superpages(&self, count: usize, len: usize) -> usize {
        let of_group =
            |group: &GroupGeometry| (count * self.blocks(group, len)).div_ceil(group.blocks_per_superpage.max(1));
        self.geometry.groups.iter().map(of_group).sum()
    }

    /// Blocks of one group that a sequence of `len` tokens holds at its peak.
    fn blocks(&self, group: &GroupGeometry, len: usize) -> usize {
        let all = len.div_ceil(BLOCK_SIZE);
        match group.spec.kind {
            CacheKind::Full => all,
            // Window and chunk begin anywhere in a block, hence one more.
            CacheKind::SlidingWindow { window } => all.min((window + self.chunk).div_ceil(BLOCK_SIZE) + 1),
        }
    }
}

/// The largest `n <= limit` with `fits(n)`, where fitting never comes back with growing `n`; 0 if none.
fn largest(limit: usize, fits: impl Fn(usize) -> bool) -> usize {
    let (mut low, mut high) = (0, limit);
    while low < high {
        let middle = low + (high - low).div_ceil(2);
        if fits(middle) {
            low = middle;
        } else {
            high = middle - 1;
        }
    }
    low
}

#[cfg(test)]
mod tests {
    use sconce_kernels::kv::{CacheGroup, CacheSpec, KvDtype};

    use super::*;

    fn group(kind: CacheKind, layers: usize) -> CacheGroup {
        let spec = CacheSpec { kind, num_kv_heads: 2, head_dim_k: 64, head_dim_v: 64, dtype: KvDtype::F16 };
        CacheGroup { spec, layers: (0..layers).collect() }
    }

    #[test]
    fn full_attention_fills_the_budget_exactly() {
        let geometry = ArenaGeometry::new(&[group(CacheKind::Full, 4)]);
        let capacity = Capacity { geometry: &geometry, num_superpages: 10, chunk: 256 };
        assert_eq!(capacity.bytes_per_token(), 4 * 2 * (64 + 64) * 2);
        let blocks = 10 * geometry.groups[0].blocks_per_superpage;
        assert_eq!(capacity.longest(usize::MAX / 4), blocks * BLOCK_SIZE);
        assert_eq!(capacity.sequences(BLOCK_SIZE), blocks);
        assert_eq!(capacity.sequences(BLOCK_SIZE + 1), blocks / 2);
        assert_eq!(capacity.sequences(blocks * BLOCK_SIZE + 1), 0);
    }

    #[test]
    fn windows_stop_growing() {
        let window = CacheKind::SlidingWindow { window: 512 };
        let geometry = ArenaGeometry::new(&[group(CacheKind::Full, 1), group(window, 5)]);
        let capacity = Capacity { geometry: &geometry, num_superpages: 64, chunk: 256 };
        let all_full = ArenaGeometry::new(&[group(CacheKind::Full, 1), group(CacheKind::Full, 5)]);
        let without = Capacity { geometry: &all_full, num_superpages: 64, chunk: 256 };
        assert!(capacity.sequences(8192) > 2 * without.sequences(8192));
        assert_eq!(capacity.window_bytes(), 25 * geometry.groups[1].block_bytes);
    }

    #[test]
    fn the_search_finds_the_edge() {
        for edge in [0, 1, 2, 99, 100] {
            assert_eq!(largest(100, |n| n <= edge), edge);
        }
    }
}
