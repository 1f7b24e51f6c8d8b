//! The block pool: superpage leases, free blocks, reference counts, the hash index and eviction.
//!
//! A block of a leased superpage is *used* (referenced), *cached* (unreferenced, its content named
//! by a hash, evictable) or *free*. A superpage is *pinned* while one of its blocks is used, *idle*
//! while it only has cached and free ones, and unleased once all are free. Idle and unleased
//! superpages can serve any group; the blocks of a pinned one only its own. Hence the exact test
//! of whether a demand can be met ([`BlockPool::fits`]).

use std::collections::{BTreeSet, HashMap};

use super::{BlockHash, KvConfig};
use crate::types::BlockId;

/// How the blocks of all groups are spent.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct KvUsage {
    /// Blocks that live sequences hold.
    pub used_blocks: usize,
    /// Blocks kept for later prefix hits, evictable at any time.
    pub cached_blocks: usize,
    /// Blocks that hold nothing; an unleased superpage counts with the first group's block count.
    pub free_blocks: usize,
    /// Part of the arena that live sequences hold, 0 to 1.
    pub used_fraction: f64,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Block {
    pub(super) refs: u32,
    pub(super) hash: Option<BlockHash>,
    /// When it was last released: the key of its eviction order.
    pub(super) last_use: u64,
}

#[derive(Debug)]
pub(super) struct Group {
    pub(super) blocks_per_superpage: usize,
    pub(super) blocks: Vec<Block>,
    pub(super) index: HashMap<BlockHash, BlockId>,
    /// Pinned superpages with a free block.
    pub(super) open: BTreeSet<usize>,
    /// Cached blocks of pinned superpages, least recently used first.
    pub(super) lru: BTreeSet<(u64, BlockId)>,
    pub(super) num_pinned: usize,
    pub(super) num_used: usize,
    pub(super) num_cached: usize,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Superpage {
    pub(super) lease: Option<usize>,
    pub(super) num_used: usize,
    /// Free blocks, highest first, so that the lowest is popped.
    pub(super) free: Vec<BlockId>,
    pub(super) last_use: u64,
}

#[derive(Debug)]
pub(super) struct BlockPool {
    pub(super) groups: Vec<Group>,
    pub(super) superpages: Vec<Superpage>,
    pub(super) unleased: BTreeSet<usize>,
    /// Idle superpages, least recently used first.
    pub(super) idle: BTreeSet<(u64, usize)>,
    clock: u64,
}

impl BlockPool {
    pub(super) fn new(config: &KvConfig) -> Self {
        let group = |blocks_per_superpage: usize| Group {
            blocks_per_superpage,
            blocks: vec![Block::default(); config.num_superpages * blocks_per_superpage],
            index: HashMap::new(),
            open: BTreeSet::new(),
            lru: BTreeSet::new(),
            num_pinned: 0,
            num_used: 0,
            num_cached: 0,
        };
        Self {
            groups: config.groups.iter().map(|g| group(g.blocks_per_superpage)).collect(),
            superpages: vec![Superpage::default(); config.num_superpages],
            unleased: (0..config.num_superpages).collect(),
            idle: BTreeSet::new(),
            clock: 0,
        }
    }

    pub(super) fn usage(&self) -> KvUsage {
        let mut usage = KvUsage::default();
        let mut superpages_used = 0.0;
        for group in &self.groups {
            usage.used_blocks += group.num_used;
            usage.cached_blocks += group.num_cached;
            superpages_used += group.num_used as f64 / group.blocks_per_superpage as f64;
        }
        let per_unleased = self.groups.first().map_or(0, |g| g.blocks_per_superpage);
        usage.free_blocks =
            self.unleased.len() * per_unleased + self.superpages.iter().map(|s| s.free.len()).sum::<usize>();
        usage.used_fraction = superpages_used / self.superpages.len().max(1) as f64;
        usage
    }

    /// True when `demand[g]` blocks of every group `g` can be had at once, evicting what may be evicted.
    pub(super) fn fits(&self, demand: &[usize]) -> bool {
        self.superpages_needed(demand) <= self.unleased.len() + self.idle.len()
    }

    fn superpages_needed(&self, demand: &[usize]) -> usize {
        (0..self.groups.len()).map(|g| self.superpages_needed_by(g, demand[g])).sum()
    }

    /// Superpages that `group` lacks for `demand` blocks after using up the ones pinned by it.
    fn superpages_needed_by(&self, group: usize, demand: usize) -> usize {
        let group = &self.groups[group];
        let in_pinned = group.num_pinned * group.blocks_per_superpage - group.num_used;
        demand.saturating_sub(in_pinned).div_ceil(group.blocks_per_superpage)
    }

    /// Takes one block of `group`. `demand` is everything that must still be met, this block
    /// included, and must fit; it still fits (less this block) afterwards.
    pub(super) fn take(&mut self, group: usize, demand: &mut [usize]) -> BlockId {
        let needs_superpage = self.superpages_needed_by(group, demand[group]) > 0;
        let affordable = needs_superpage || self.superpages_needed(demand) < self.unleased.len() + self.idle.len();
        demand[group] -= 1;
        if let Some(&superpage) = self.groups[group].open.first() {
            return self.take_free(group, superpage);
        }
        if affordable && let Some(superpage) = self.unleased.pop_first() {
            self.lease(superpage, group);
            return self.take_free(group, superpage);
        }
        let own = self.groups[group].lru.first().copied();
        let idle = self.idle.first().copied().filter(|_| affordable);
        match (own, idle) {
            (Some((age, block)), other) if other.is_none_or(|(idle_age, _)| age <= idle_age) => {
                self.evict(group, block);
                self.take_free(group, self.superpage_of(group, block))
            }
            (_, Some((_, superpage))) => {
                self.make_free(group, superpage);
                self.take_free(group, superpage)
            }
            _ => unreachable!("a block was taken without checking that the demand fits"),
        }
    }

    /// Adds a reference to a used or cached block.
    pub(super) fn share(&mut self, group: usize, block: BlockId) {
        let superpage = self.superpage_of(group, block);
        let entry = &mut self.groups[group].blocks[block.0 as usize];
        entry.refs += 1;
        if entry.refs > 1 {
            return;
        }
        let last_use = entry.last_use;
        self.pin(group, superpage);
        self.groups[group].lru.remove(&(last_use, block));
        self.groups[group].num_cached -= 1;
        self.groups[group].num_used += 1;
        self.superpages[superpage].num_used += 1;
    }

    /// Drops a reference; the last one makes the block cached (now the most recently used) or free.
    pub(super) fn release(&mut self, group: usize, block: BlockId) {
        self.clock += 1;
        let entry = &mut self.groups[group].blocks[block.0 as usize];
        if entry.refs == 1 {
            entry.last_use = self.clock;
        }
        self.unshare(group, block);
    }

    /// As [`Self::release`], leaving the block as old as it was.
    pub(super) fn unshare(&mut self, group: usize, block: BlockId) {
        let superpage = self.superpage_of(group, block);
        let entry = &mut self.groups[group].blocks[block.0 as usize];
        entry.refs -= 1;
        if entry.refs > 0 {
            return;
        }
        let (cached, last_use) = (entry.hash.is_some(), entry.last_use);
        self.groups[group].num_used -= 1;
        self.superpages[superpage].num_used -= 1;
        if cached {
            self.groups[group].num_cached += 1;
            self.groups[group].lru.insert((last_use, block));
            let page = &mut self.superpages[superpage];
            page.last_use = page.last_use.max(last_use);
        } else {
            self.put_free(superpage, block);
            self.groups[group].open.insert(superpage);
        }
        if self.superpages[superpage].num_used == 0 {
            self.unpin(group, superpage);
        }
    }

    /// Names the content of a used block. If another block already has that content, that one stays the named one.
    pub(super) fn publish(&mut self, group: usize, block: BlockId, hash: BlockHash) {
        let group = &mut self.groups[group];
        let entry = &mut group.blocks[block.0 as usize];
        if entry.hash.is_none() && !group.index.contains_key(&hash) {
            entry.hash = Some(hash);
            group.index.insert(hash, block);
        }
    }

    /// The block with this content.
    pub(super) fn find(&self, group: usize, hash: &BlockHash) -> Option<BlockId> {
        self.groups[group].index.get(hash).copied()
    }

    pub(super) fn refs(&self, group: usize, block: BlockId) -> u32 {
        self.groups[group].blocks[block.0 as usize].refs
    }

    fn superpage_of(&self, group: usize, block: BlockId) -> usize {
        block.0 as usize / self.groups[group].blocks_per_superpage
    }

    fn lease(&mut self, superpage: usize, group: usize) {
        let count = self.groups[group].blocks_per_superpage;
        let page = &mut self.superpages[superpage];
        page.lease = Some(group);
        page.last_use = 0;
        page.free.clear();
        page.free.extend((0..count).rev().map(|i| BlockId((superpage * count + i) as u32)));
    }

    fn take_free(&mut self, group: usize, superpage: usize) -> BlockId {
        self.pin(group, superpage);
        let page = &mut self.superpages[superpage];
        let Some(block) = page.free.pop() else { unreachable!("superpage {superpage} has no free block") };
        page.num_used += 1;
        if page.free.is_empty() {
            self.groups[group].open.remove(&superpage);
        }
        self.groups[group].num_used += 1;
        self.groups[group].blocks[block.0 as usize].refs = 1;
        block
    }

    fn put_free(&mut self, superpage: usize, block: BlockId) {
        let free = &mut self.superpages[superpage].free;
        let at = free.partition_point(|&b| b > block);
        free.insert(at, block);
    }

    /// Before the first block of a superpage becomes used: its cached blocks now serve its own group only.
    fn pin(&mut self, group: usize, superpage: usize) {
        let page = &self.superpages[superpage];
        if page.num_used > 0 {
            return;
        }
        self.idle.remove(&(page.last_use, superpage));
        if !page.free.is_empty() {
            self.groups[group].open.insert(superpage);
        }
        self.groups[group].num_pinned += 1;
        let cached = self.cached_blocks(group, superpage);
        self.groups[group].lru.extend(cached);
    }

    /// After the last used block of a superpage was released.
    fn unpin(&mut self, group: usize, superpage: usize) {
        let cached = self.cached_blocks(group, superpage);
        for key in &cached {
            self.groups[group].lru.remove(key);
        }
        self.groups[group].open.remove(&superpage);
        self.groups[group].num_pinned -= 1;
        if cached.is_empty() {
            self.return_superpage(superpage);
        } else {
            self.idle.insert((self.superpages[superpage].last_use, superpage));
        }
    }

    fn return_superpage(&mut self, superpage: usize) {
        self.superpages[superpage] = Superpage::default();
        self.unleased.insert(superpage);
    }

    /// Makes an idle superpage offer a free block of `group`, evicting no more than that takes.
    fn make_free(&mut self, group: usize, superpage: usize) {
        let Some(owner) = self.superpages[superpage].lease else { return };
        if owner == group {
            let oldest = self.cached_blocks(group, superpage).into_iter().min();
            if self.superpages[superpage].free.is_empty()
                && let Some((_, block)) = oldest
            {
                self.evict(group, block);
            }
            return;
        }
        for (_, block) in self.cached_blocks(owner, superpage) {
            self.evict(owner, block);
        }
        self.idle.remove(&(self.superpages[superpage].last_use, superpage));
        self.lease(superpage, group);
    }

    /// A cached block becomes free.
    fn evict(&mut self, group: usize, block: BlockId) {
        let superpage = self.superpage_of(group, block);
        let owner = &mut self.groups[group];
        let entry = &mut owner.blocks[block.0 as usize];
        owner.lru.remove(&(entry.last_use, block));
        if let Some(hash) = entry.hash.take() {
            owner.index.remove(&hash);
        }
        owner.num_cached -= 1;
        if self.superpages[superpage].num_used > 0 {
            owner.open.insert(superpage);
        }
        self.put_free(superpage, block);
    }

    /// Cached blocks of a superpage with their ages.
    fn cached_blocks(&self, group: usize, superpage: usize) -> Vec<(u64, BlockId)> {
        let count = self.groups[group].blocks_per_superpage;
        let ids = superpage * count..(superpage + 1) * count;
        let blocks = ids.map(|id| (BlockId(id as u32), &self.groups[group].blocks[id]));
        blocks.filter(|(_, b)| b.refs == 0 && b.hash.is_some()).map(|(id, b)| (b.last_use, id)).collect()
    }
}
