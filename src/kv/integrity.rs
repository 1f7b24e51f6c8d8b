//! Everything that must hold between steps.

use std::collections::HashMap;

use super::{BlockHash, KvManager};
use crate::types::BlockId;

macro_rules! ensure {
    ($condition:expr, $($message:tt)+) => {
        if !$condition {
            return Err(format!($($message)+));
        }
    };
}

impl KvManager {
    /// Checks reference counts against tables, leases, free lists, eviction orders, the hash index
    /// and promises. Slow; for tests.
    ///
    /// # Errors
    /// Names the first broken invariant.
    pub fn check_integrity(&self) -> Result<(), String> {
        self.check_tables()?;
        for group in 0..self.config.groups.len() {
            self.check_group(group)?;
        }
        self.check_superpages()
    }

    fn check_tables(&self) -> Result<(), String> {
        for group in 0..self.config.groups.len() {
            let mut refs: HashMap<BlockId, u32> = HashMap::new();
            let mut promised = 0;
            for (seq, entry) in &self.seqs {
                let table = &entry.tables[group];
                let num_null = entry.num_null[group];
                ensure!(table[..num_null].iter().all(|b| b.is_null()), "{seq} group {group}: block below the window");
                ensure!(table[num_null..].iter().all(|b| !b.is_null()), "{seq} group {group}: hole in the table");
                table[num_null..].iter().for_each(|&b| *refs.entry(b).or_default() += 1);
                promised += entry.outstanding(group);
            }
            ensure!(promised == self.promised[group], "group {group}: promised {promised} != {}", self.promised[group]);
            for (id, block) in self.pool.groups[group].blocks.iter().enumerate() {
                let expected = refs.remove(&BlockId(id as u32)).unwrap_or(0);
                ensure!(block.refs == expected, "group {group} block {id}: {} refs, {expected} tables", block.refs);
            }
            ensure!(refs.is_empty(), "group {group}: tables name unknown blocks");
        }
        Ok(())
    }

    fn check_group(&self, group: usize) -> Result<(), String> {
        let owner = &self.pool.groups[group];
        let used = owner.blocks.iter().filter(|b| b.refs > 0).count();
        let cached = owner.blocks.iter().filter(|b| b.refs == 0 && b.hash.is_some()).count();
        ensure!(used == owner.num_used, "group {group}: {used} used, counted {}", owner.num_used);
        ensure!(cached == owner.num_cached, "group {group}: {cached} cached, counted {}", owner.num_cached);
        let named: HashMap<BlockHash, BlockId> =
            owner.blocks.iter().enumerate().filter_map(|(i, b)| b.hash.map(|h| (h, BlockId(i as u32)))).collect();
        let num_named = owner.blocks.iter().filter(|b| b.hash.is_some()).count();
        ensure!(named.len() == num_named && named == owner.index, "group {group}: the hash index is wrong");
        let pinned = self.pool.superpages.iter().filter(|s| s.lease == Some(group) && s.num_used > 0).count();
        ensure!(pinned == owner.num_pinned, "group {group}: {pinned} pinned, counted {}", owner.num_pinned);
        for (id, block) in owner.blocks.iter().enumerate() {
            let page = &self.pool.superpages[id / owner.blocks_per_superpage];
            let leased = page.lease == Some(group);
            ensure!(leased || (block.refs == 0 && block.hash.is_none()), "group {group} block {id}: not leased");
            let listed = owner.lru.contains(&(block.last_use, BlockId(id as u32)));
            let evictable_here = leased && page.num_used > 0 && block.refs == 0 && block.hash.is_some();
            ensure!(listed == evictable_here, "group {group} block {id}: wrong in the eviction order");
            let free = leased && page.free.contains(&BlockId(id as u32));
            let should = leased && block.refs == 0 && block.hash.is_none();
            ensure!(free == should, "group {group} block {id}: free list says {free}");
        }
        Ok(())
    }

    fn check_superpages(&self) -> Result<(), String> {
        let pool = &self.pool;
        for (id, page) in pool.superpages.iter().enumerate() {
            ensure!(page.lease.is_none() == pool.unleased.contains(&id), "superpage {id}: unleased list is wrong");
            let idle = page.lease.is_some() && page.num_used == 0;
            ensure!(idle == pool.idle.contains(&(page.last_use, id)), "superpage {id}: idle list is wrong");
            let Some(group) = page.lease else { continue };
            let owner = &pool.groups[group];
            let count = owner.blocks_per_superpage;
            let used = owner.blocks[id * count..(id + 1) * count].iter().filter(|b| b.refs > 0).count();
            ensure!(used == page.num_used, "superpage {id}: {used} used, counted {}", page.num_used);
            ensure!(page.free.len() < count, "superpage {id}: all free but still leased");
            ensure!(page.free.is_sorted_by(|a, b| a > b), "superpage {id}: free list out of order");
            let open = page.num_used > 0 && !page.free.is_empty();
            ensure!(open == owner.open.contains(&id), "superpage {id}: open list is wrong");
        }
        let open: usize = pool.groups.iter().map(|g| g.open.len()).sum();
        let expected = pool.superpages.iter().filter(|s| s.num_used > 0 && !s.free.is_empty()).count();
        ensure!(open == expected, "stale entry in an open list");
        let idle = pool.superpages.iter().filter(|s| s.lease.is_some() && s.num_used == 0).count();
        ensure!(idle == pool.idle.len(), "stale entry in the idle list");
        let lru: usize = pool.groups.iter().map(|g| g.lru.len()).sum();
        let cached: usize = pool.groups.iter().map(|g| g.num_cached).sum();
        ensure!(lru <= cached, "stale entry in an eviction order");
        Ok(())
    }
}
