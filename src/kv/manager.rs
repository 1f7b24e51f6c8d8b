//! Block tables of sequences over all groups: admission with a prefix hit, growth, publication of
//! computed blocks, frees below the window.
//!
//! ```text
//! blocks of one sequence in a window group        promised: what it may still take
//!   NULL NULL [ 7 ][ 3 ][ 9 ]·····                 peak - held blocks, kept free (or
//!   left the window   held                         evictable) from everybody else
//! ```

use std::collections::HashMap;

use super::pool::BlockPool;
use super::{BlockHash, KvConfig, KvUsage};
use crate::types::{BlockId, GroupTable, SeqId};

/// What a sequence asks for when it enters the cache.
#[derive(Clone, Copy, Debug)]
pub struct Admission<'a> {
    /// Hashes of the full blocks of its tokens.
    pub hashes: &'a [BlockHash],
    /// A prefix hit covers at most this many tokens.
    pub max_hit_tokens: usize,
    /// Room for this many tokens in all is promised to it, if it is admitted.
    pub reserve_tokens: usize,
    /// Most tokens of one sequence that are in uncommitted batches at once.
    pub span: usize,
    /// Blocks of each group that must remain for others after the promise.
    pub headroom: usize,
}

#[derive(Debug)]
pub(super) struct SeqBlocks {
    pub(super) tables: Vec<GroupTable>,
    /// Leading entries of each table that are NULL.
    pub(super) num_null: Vec<usize>,
    /// Blocks promised at admission, those held included.
    pub(super) peak: Vec<usize>,
    /// Leading blocks whose content is named.
    pub(super) num_published: usize,
}

impl SeqBlocks {
    fn held(&self, group: usize) -> usize {
        self.tables[group].len() - self.num_null[group]
    }

    /// Promised and not taken yet.
    pub(super) fn outstanding(&self, group: usize) -> usize {
        self.peak[group].saturating_sub(self.held(group))
    }
}

/// Owns the blocks of every group. Sequences are named by id; the scheduler decides who gets what.
#[derive(Debug)]
pub struct KvManager {
    pub(super) config: KvConfig,
    pub(super) pool: BlockPool,
    pub(super) seqs: HashMap<SeqId, SeqBlocks>,
    /// Outstanding promises of all sequences, a group each.
    pub(super) promised: Vec<usize>,
}

impl KvManager {
    /// An empty cache.
    pub fn new(config: KvConfig) -> Self {
        let pool = BlockPool::new(&config);
        let promised = vec![0; config.groups.len()];
        Self { config, pool, seqs: HashMap::new(), promised }
    }

    /// What the cache is made of.
    pub fn config(&self) -> &KvConfig {
        &self.config
    }

    /// Blocks used, cached and free.
    pub fn usage(&self) -> KvUsage {
        self.pool.usage()
    }

    /// Sequences that hold blocks.
    pub fn num_seqs(&self) -> usize {
        self.seqs.len()
    }

    /// The block tables of a sequence, one a group; none if it holds nothing.
    pub fn tables(&self, seq: SeqId) -> &[GroupTable] {
        self.seqs.get(&seq).map_or(&[], |s| &s.tables)
    }

    /// Enters a sequence: takes the blocks of its prefix hit and promises room for `reserve_tokens`.
    /// Returns the tokens that the hit covers, or `None` (nothing changed) when there is no room.
    pub fn admit(&mut self, seq: SeqId, ask: Admission) -> Option<usize> {
        let num_groups = self.config.groups.len();
        let hit_blocks = self.lookup(ask.hashes, ask.max_hit_tokens);
        let hit_tokens = hit_blocks * self.config.block_size;
        let mut entry = SeqBlocks {
            tables: vec![vec![BlockId::NULL; hit_blocks]; num_groups],
            num_null: (0..num_groups).map(|g| self.config.first_visible_block(g, hit_tokens)).collect(),
            peak: (0..num_groups).map(|g| self.config.peak_blocks(g, ask.reserve_tokens, ask.span)).collect(),
            num_published: hit_blocks,
        };
        for group in 0..num_groups {
            for i in entry.num_null[group]..hit_blocks {
                let Some(block) = self.pool.find(group, &ask.hashes[i]) else { unreachable!("a hit has its blocks") };
                self.pool.share(group, block);
                entry.tables[group][i] = block;
            }
        }
        let demand: Vec<usize> =
            (0..num_groups).map(|g| entry.outstanding(g) + self.promised[g] + ask.headroom).collect();
        if !self.pool.fits(&demand) {
            for (group, table) in entry.tables.iter().enumerate() {
                table.iter().filter(|b| !b.is_null()).for_each(|&b| self.pool.unshare(group, b));
            }
            return None;
        }
        for (group, promised) in self.promised.iter_mut().enumerate() {
            *promised += entry.outstanding(group);
        }
        let previous = self.seqs.insert(seq, entry);
        assert!(previous.is_none(), "{seq} was admitted twice");
        Some(hit_tokens)
    }

    /// Grows the tables of a sequence in all groups to cover `num_tokens` tokens. `None` (nothing
    /// changed) when that would need blocks that are in use or promised to others.
    pub fn allocate(&mut self, seq: SeqId, num_tokens: usize) -> Option<()> {
        let entry = self.seqs.get_mut(&seq)?;
        let num_blocks = num_tokens.div_ceil(self.config.block_size);
        if entry.tables.iter().all(|t| t.len() >= num_blocks) {
            return Some(());
        }
        let missing = |e: &SeqBlocks, g: usize| num_blocks.saturating_sub(e.tables[g].len());
        let of_others = |e: &SeqBlocks, g: usize| self.promised[g] - e.outstanding(g);
        let groups = 0..entry.tables.len();
        // What it is promised beyond this need is kept possible too, unless sharing made that
        // impossible: a window block that it left but another still holds came back to nobody.
        let whole = groups.clone().map(|g| of_others(entry, g) + missing(entry, g).max(entry.outstanding(g)));
        let now = groups.map(|g| of_others(entry, g) + missing(entry, g));
        let mut demand: Vec<usize> = whole.collect();
        if !self.pool.fits(&demand) {
            demand = now.collect();
            if !self.pool.fits(&demand) {
                return None;
            }
        }
        for group in 0..entry.tables.len() {
            self.promised[group] -= entry.outstanding(group);
            for _ in 0..missing(entry, group) {
                let block = self.pool.take(group, &mut demand);
                entry.tables[group].push(block);
            }
            self.promised[group] += entry.outstanding(group);
        }
        Some(())
    }

    /// Tells that the first `num_computed` tokens are computed and committed: names the content of
    /// blocks that became full, so that others may share them, and frees what left the window.
    pub fn advance(&mut self, seq: SeqId, num_computed: usize, hashes: &[BlockHash]) {
        let Some(entry) = self.seqs.get_mut(&seq) else { return };
        let num_full = (num_computed / self.config.block_size).min(hashes.len());
        for (i, hash) in hashes.iter().enumerate().take(num_full).skip(entry.num_published) {
            for (group, table) in entry.tables.iter().enumerate() {
                if !table[i].is_null() {
                    self.pool.publish(group, table[i], *hash);
                }
            }
        }
        entry.num_published = entry.num_published.max(num_full);
        for group in 0..entry.tables.len() {
            let first = self.config.first_visible_block(group, num_computed).min(entry.tables[group].len());
            self.promised[group] -= entry.outstanding(group);
            while entry.num_null[group] < first {
                let at = entry.num_null[group];
                let block = std::mem::replace(&mut entry.tables[group][at], BlockId::NULL);
                self.pool.release(group, block);
                entry.num_null[group] += 1;
            }
            self.promised[group] += entry.outstanding(group);
        }
    }

    /// Gives back everything a sequence holds. Its head is released last, so that it is evicted last.
    pub fn free(&mut self, seq: SeqId) {
        let Some(entry) = self.seqs.remove(&seq) else { return };
        for (group, table) in entry.tables.iter().enumerate() {
            self.promised[group] -= entry.outstanding(group);
            for &block in table[entry.num_null[group]..].iter().rev() {
                self.pool.release(group, block);
            }
        }
    }

    /// Of the first `num_computed` tokens, those in blocks that no other sequence holds: what may have
    /// to be computed again if this sequence is preempted. (What it alone has in the prefix cache
    /// counts, since it would be evicted next.)
    pub fn exclusive_tokens(&self, seq: SeqId, num_computed: usize) -> usize {
        let Some(entry) = self.seqs.get(&seq) else { return 0 };
        let shared_run = |g: usize| entry.tables[g].iter().take_while(|&&b| self.pool.refs(g, b) > 1).count();
        // A group that freed its first blocks can't tell.
        let whole = (0..entry.tables.len()).filter(|&g| entry.num_null[g] == 0);
        let kept = whole.map(shared_run).min().unwrap_or(0);
        num_computed.saturating_sub(kept * self.config.block_size)
    }

    /// Blocks of the longest prefix that every group still has: all blocks for full attention, the
    /// last ones that a query after the prefix can see for a window.
    pub(super) fn lookup(&self, hashes: &[BlockHash], max_tokens: usize) -> usize {
        if !self.config.prefix_cache {
            return 0;
        }
        let limit = hashes.len().min(max_tokens / self.config.block_size);
        let present = |group: usize, i: usize| self.pool.find(group, &hashes[i]).is_some();
        let mut best = limit;
        // Each group can only shorten the hit, so this ends at the longest one that all accept.
        loop {
            let before = best;
            for group in 0..self.config.groups.len() {
                while best > 0 {
                    let first = self.config.first_visible_block(group, best * self.config.block_size);
                    // The last block missing bounds the hit from above: nothing longer can do without it.
                    match (first..best).rev().find(|&i| !present(group, i)) {
                        None => break,
                        Some(_) if first == 0 => {
                            best = (0..best).find(|&i| !present(group, i)).unwrap_or(0);
                        }
                        Some(missing) => best = missing,
                    }
                }
            }
            if best == before {
                return best;
            }
        }
    }
}
