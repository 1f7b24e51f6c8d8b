//! The work list of one attention call.

use super::{Attention, CHUNK};

/// Queries of a tile: enough to reuse a chunk of keys from cache, few enough to stay there.
const TILE_QUERIES: usize = 48;

/// A tile is split when it is more than `1 / (SHARE * threads)` of the step.
const SHARE: usize = 4;

/// Most values that partial results of split tiles may take; tiles beyond it stay whole.
const MAX_PARTIALS: usize = 16 << 20;

/// Consecutive queries (row-major over rows x heads of the group) of one sequence and KV head, and
/// the chunks they attend to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tile {
    pub(super) span: usize,
    pub(super) kv_head: usize,
    pub(super) first_query: usize,
    pub(super) num_queries: usize,
    pub(super) first_chunk: usize,
    pub(super) num_chunks: usize,
    /// Where the partials of a split tile begin, `[chunk][query][dv + 2]`.
    pub(super) first_partial: usize,
    cost: usize,
}

/// One claim of a thread: a whole tile, or one chunk of a split one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Item {
    pub(super) tile: Tile,
    /// Number of the one chunk of a split tile, counted from the tile's first.
    pub(super) chunk: Option<usize>,
}

/// Lists reused between calls.
#[derive(Debug, Default)]
pub(super) struct Plan {
    tiles: Vec<Tile>,
    items: Vec<Item>,
    split: Vec<Tile>,
    cost: usize,
}

impl Plan {
    /// Lists the work, largest first; returns how many values the partials take.
    pub(super) fn fill(&mut self, call: &Attention<'_>, threads: usize) -> usize {
        self.tiles.clear();
        self.items.clear();
        self.split.clear();
        for span in 0..call.spans.len() {
            (0..call.shape.num_kv_heads).for_each(|kv_head| self.push_tiles(call, span, kv_head));
        }
        let total: usize = self.tiles.iter().map(|tile| tile.cost).sum();
        self.cost = total;
        // Unstable sorting allocates nothing; the order of equals changes no result.
        self.tiles.sort_unstable_by_key(|tile| std::cmp::Reverse(tile.cost));
        let mut num_partials = 0;
        for tile in &mut self.tiles {
            let size = tile.num_chunks * tile.num_queries * (call.shape.head_dim_v + 2);
            let large = threads > 1 && tile.num_chunks > 1 && tile.cost > total / (SHARE * threads);
            if large && num_partials + size <= MAX_PARTIALS {
                tile.first_partial = num_partials;
                num_partials += size;
                self.split.push(*tile);
                self.items.extend((0..tile.num_chunks).map(|chunk| Item { tile: *tile, chunk: Some(chunk) }));
            } else {
                self.items.push(Item { tile: *tile, chunk: None });
            }
        }
        num_partials
    }

    fn push_tiles(&mut self, call: &Attention<'_>, span: usize, kv_head: usize) {
        let group = call.shape.group();
        let queries = call.spans[span].num_rows * group;
        for first_query in (0..queries).step_by(TILE_QUERIES) {
            let num_queries = TILE_QUERIES.min(queries - first_query);
            let mut tile = Tile {
                span,
                kv_head,
                first_query,
                num_queries,
                first_chunk: 0,
                num_chunks: 0,
                first_partial: 0,
                cost: 0,
            };
            let first = call.shape.kind.first_visible(call.position(&tile, 0));
            let last = call.position(&tile, num_queries - 1);
            tile.first_chunk = first / CHUNK;
            tile.num_chunks = last / CHUNK + 1 - tile.first_chunk;
            // A key costs as much to load as a few queries cost to compute.
            tile.cost = (last + 1 - first) * (num_queries + 4);
            self.tiles.push(tile);
        }
    }

    /// Tokens x queries of the whole call, about.
    pub(super) fn cost(&self) -> usize {
        self.cost
    }

    pub(super) fn items(&self) -> &[Item] {
        &self.items
    }

    pub(super) fn split_tiles(&self) -> &[Tile] {
        &self.split
    }
}
