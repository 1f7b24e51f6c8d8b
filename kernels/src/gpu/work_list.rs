//! The work list of the attention kernel: which query tiles a step has, and over which keys each is cut.
//!
//! ```text
//! words = header (8 words: items, tiles a fold or 0, 0 ...) | item | item | ...
//! item  = slot, first row, start, first query, queries, tiles (begin | end << 16), first partial, split | splits << 16
//! ```
//! An item stands for all KV heads: the kernel multiplies. Items come largest first, and blocks deal them back and
//! forth, so their loads differ by little. The list is uploaded with the step's metadata; nothing else of a launch
//! depends on it.
//!
//! A split is the part of a query tile's keys between two multiples of the split size, which are absolute positions.
//! How many items share the splits of a tile is this file's free choice: the kernel folds them in one order either way.

use crate::kv::CacheKind;

/// Words in front of the items.
pub const HEADER_WORDS: usize = 8;

/// Words of an item.
pub const ITEM_WORDS: usize = 8;

/// Rows of the small query tile.
pub const NARROW_ROWS: usize = 16;

/// Smallest split that [`SplitPolicy::Adaptive`] makes, in tokens.
const MIN_SPLIT: usize = 128;

/// What an item costs beside its tiles, in tiles: the first copies have nobody to hide behind.
const ITEM_COST: usize = 1;

/// What storing a partial result and folding it costs, in tiles.
const SPLIT_COST: usize = 1;

/// Consecutive rows of one sequence in a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkSpan {
    /// Row of the block tables.
    pub slot: u32,
    /// First row in the step's buffers.
    pub first_row: u32,
    /// Rows; may be 0.
    pub num_rows: u32,
    /// Position of the first row.
    pub start: u32,
}

/// Where splits end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SplitPolicy {
    /// The step decides: only as many splits as keep every block busy. A row's bits depend on the step.
    Adaptive,
    /// At every multiple of this many tokens: a row's bits depend on the row alone.
    Fixed {
        /// A multiple of the KV tile.
        tokens: usize,
    },
}

/// What a list is made for; one for all steps of a cache group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkShape {
    /// Query heads that share a KV head.
    pub group: usize,
    /// KV heads.
    pub num_kv_heads: usize,
    /// Tokens of a KV tile.
    pub kv_tile: usize,
    /// Rows of the large query tile; [`NARROW_ROWS`] where only the small one fits the device.
    pub wide_rows: usize,
    /// Full or sliding window.
    pub kind: CacheKind,
    /// Blocks of the launch.
    pub num_blocks: usize,
    /// Room for partial results, in units of 16 rows of every KV head.
    pub num_units: usize,
    /// Where splits end.
    pub splits: SplitPolicy,
}

/// One item, as the kernel reads it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkItem {
    /// Row of the block tables.
    pub slot: u32,
    /// The sequence's first row in the step.
    pub first_row: u32,
    /// Position of that row.
    pub start: u32,
    /// First query of the tile; query `f` is token `f / group` of the span, head `f % group` of the KV head's.
    pub first_query: u32,
    /// Queries; more than [`NARROW_ROWS`] make the tile a large one.
    pub num_queries: u32,
    /// First KV tile, and in the upper half the one behind the last.
    pub tiles: u32,
    /// Where the partial results of the query tile's splits begin, in units.
    pub first_partial: u32,
    /// Which of them this item gives, and in the upper half how many there are; 1: the item writes the output.
    pub split: u32,
}

/// A query tile and the KV tiles that it attends to.
#[derive(Clone, Copy, Debug)]
struct QueryTile {
    span: WorkSpan,
    first_query: usize,
    num_queries: usize,
    begin: usize,
    end: usize,
}

/// Makes work lists; its buffers are reused.
#[derive(Debug)]
pub struct WorkPlanner {
    shape: WorkShape,
    tiles: Vec<QueryTile>,
    items: Vec<WorkItem>,
    words: Vec<u32>,
}

impl WorkShape {
    /// Most items that a step of `max_rows` rows of `max_seqs` sequences can have: what to reserve.
    pub fn max_items(&self, max_seqs: usize, max_rows: usize) -> usize {
        // A span has whole large tiles and at most two small ones behind them; an item of a split takes a unit or more.
        max_rows * self.group / self.wide_rows + 2 * max_seqs + self.num_units
    }

    /// Words of the largest list.
    pub fn max_words(&self, max_seqs: usize, max_rows: usize) -> usize {
        HEADER_WORDS + ITEM_WORDS * self.max_items(max_seqs, max_rows)
    }

    /// Units that the partial result of one split of a tile takes.
    fn units(&self, tile: &QueryTile) -> usize {
        if tile.num_queries > NARROW_ROWS { self.wide_rows / NARROW_ROWS } else { 1 }
    }

    /// The KV tiles of a query tile, and which of its queries come next.
    fn query_tile(&self, span: WorkSpan, first_query: usize) -> QueryTile {
        let left = span.num_rows as usize * self.group - first_query;
        let rows = if left > 2 * NARROW_ROWS { self.wide_rows } else { NARROW_ROWS };
        let num_queries = rows.min(left);
        let position = |query: usize| span.start as usize + query / self.group;
        let begin = self.kind.first_visible(position(first_query)) / self.kv_tile;
        let end = position(first_query + num_queries - 1) / self.kv_tile + 1;
        QueryTile { span, first_query, num_queries, begin, end }
    }
}

impl QueryTile {
    fn cost(&self) -> usize {
        self.end - self.begin
    }

    /// Splits that its keys touch.
    fn num_splits(&self, split_tiles: usize) -> usize {
        (self.end - 1) / split_tiles - self.begin / split_tiles + 1
    }

    /// Tiles of its largest split.
    fn largest_split(&self, split_tiles: usize) -> usize {
        let first = (self.begin / split_tiles + 1) * split_tiles;
        if first >= self.end { self.cost() } else { (first - self.begin).max((self.end - first).min(split_tiles)) }
    }
}

impl WorkPlanner {
    /// A planner for steps of one cache group.
    ///
    /// # Panics
    /// If a fixed split is not a positive multiple of the KV tile, or the shape has no heads or blocks.
    pub fn new(shape: WorkShape) -> Self {
        assert!(shape.group > 0 && shape.num_kv_heads > 0 && shape.num_blocks > 0, "work list: nothing to deal");
        if let SplitPolicy::Fixed { tokens } = shape.splits {
            let whole = tokens > 0 && tokens.is_multiple_of(shape.kv_tile);
            assert!(whole, "work list: a split of {tokens} tokens is no multiple of {}", shape.kv_tile);
        }
        Self { shape, tiles: Vec::new(), items: Vec::new(), words: Vec::new() }
    }

    /// What it plans for.
    pub fn shape(&self) -> &WorkShape {
        &self.shape
    }

    /// The list of a step, as the kernel reads it: at most [`WorkShape::max_words`].
    ///
    /// # Panics
    /// If a sequence is longer than 65,535 KV tiles.
    pub fn plan(&mut self, spans: &[WorkSpan]) -> &[u32] {
        self.cut_queries(spans);
        self.items.clear();
        let mut num_units = 0;
        match self.shape.splits {
            SplitPolicy::Adaptive => {
                let split_tiles = self.choose_split();
                (0..self.tiles.len()).for_each(|tile| self.push(tile, split_tiles, &mut num_units));
            }
            SplitPolicy::Fixed { tokens } => {
                let split_tiles = tokens / self.shape.kv_tile;
                let total: usize = self.tiles.iter().map(QueryTile::cost).sum();
                let share = total * self.shape.num_kv_heads / self.shape.num_blocks;
                for index in 0..self.tiles.len() {
                    let tile = &self.tiles[index];
                    let units = tile.num_splits(split_tiles) * self.shape.units(tile);
                    let apart = 2 * tile.cost() > share && num_units + units <= self.shape.num_units;
                    self.push(index, if apart { split_tiles } else { usize::MAX }, &mut num_units);
                }
            }
        }
        // Equal costs stay in the order of the step: neighbours share keys in the L2 cache.
        self.items.sort_by_key(|item| std::cmp::Reverse(coarse(item.num_tiles())));
        self.write_words();
        &self.words
    }

    /// The items of the latest list.
    pub fn items(&self) -> &[WorkItem] {
        &self.items
    }

    fn cut_queries(&mut self, spans: &[WorkSpan]) {
        self.tiles.clear();
        for &span in spans {
            let mut query = 0;
            while query < span.num_rows as usize * self.shape.group {
                let tile = self.shape.query_tile(span, query);
                assert!(tile.end <= 0xffff, "work list: {} KV tiles of one sequence", tile.end);
                query += tile.num_queries;
                self.tiles.push(tile);
            }
        }
    }

    /// The split size in tiles that ends the step soonest, by estimate; `usize::MAX` for none.
    fn choose_split(&self) -> usize {
        let largest = self.tiles.iter().map(QueryTile::cost).max().unwrap_or(0);
        let mut best = (self.estimate(usize::MAX).unwrap_or(usize::MAX), usize::MAX);
        let mut split_tiles = (MIN_SPLIT / self.shape.kv_tile).max(1);
        while split_tiles < largest {
            if let Some(time) = self.estimate(split_tiles)
                && time < best.0
            {
                best = (time, split_tiles);
            }
            split_tiles += (split_tiles / 2).max(1);
        }
        best.1
    }

    /// Twice the time of the busiest block, in tiles; `None` if the partial results have no room.
    fn estimate(&self, split_tiles: usize) -> Option<usize> {
        let (mut work, mut items, mut units, mut largest) = (0, 0, 0, 0);
        for tile in &self.tiles {
            let splits = tile.num_splits(split_tiles);
            let apart = splits > 1;
            items += splits;
            units += if apart { splits * self.shape.units(tile) } else { 0 };
            work += tile.cost() + splits * (ITEM_COST + if apart { SPLIT_COST } else { 0 });
            largest = largest.max(tile.largest_split(split_tiles) + ITEM_COST + if apart { SPLIT_COST } else { 0 });
        }
        if units > self.shape.num_units {
            return None;
        }
        let (heads, blocks) = (self.shape.num_kv_heads, self.shape.num_blocks);
        // Every block has one item at most; or all have their share, and some then half an item more.
        if items * heads <= blocks { Some(2 * largest) } else { Some(2 * work * heads / blocks + largest) }
    }

    /// Lists a tile as one item, or one a split.
    fn push(&mut self, tile: usize, split_tiles: usize, num_units: &mut usize) {
        let tile = self.tiles[tile];
        let num_splits = tile.num_splits(split_tiles);
        let mut begin = tile.begin;
        for split in 0..num_splits {
            let end = tile.end.min((begin / split_tiles + 1).saturating_mul(split_tiles));
            self.items.push(WorkItem {
                slot: tile.span.slot,
                first_row: tile.span.first_row,
                start: tile.span.start,
                first_query: tile.first_query as u32,
                num_queries: tile.num_queries as u32,
                tiles: (begin | end << 16) as u32,
                first_partial: *num_units as u32,
                split: (split | num_splits << 16) as u32,
            });
            begin = end;
        }
        if num_splits > 1 {
            *num_units += num_splits * self.shape.units(&tile);
        }
    }

    fn write_words(&mut self) {
        let fold_tiles = match self.shape.splits {
            SplitPolicy::Adaptive => 0,
            SplitPolicy::Fixed { tokens } => (tokens / self.shape.kv_tile) as u32,
        };
        self.words.clear();
        self.words.extend([self.items.len() as u32, fold_tiles]);
        self.words.resize(HEADER_WORDS, 0);
        self.words.extend(self.items.iter().flat_map(WorkItem::words));
    }
}

impl WorkItem {
    /// KV tiles it attends to.
    pub fn num_tiles(&self) -> usize {
        ((self.tiles >> 16) - (self.tiles & 0xffff)) as usize
    }

    fn words(&self) -> [u32; ITEM_WORDS] {
        let Self { slot, first_row, start, first_query, num_queries, tiles, first_partial, split } = *self;
        [slot, first_row, start, first_query, num_queries, tiles, first_partial, split]
    }
}

/// A cost to an eighth or better.
fn coarse(cost: usize) -> usize {
    let bits = cost.checked_ilog2().unwrap_or(0).saturating_sub(3);
    cost >> bits << bits
}
