//! KV-cache vocabulary and geometry: what a layer caches, how layers group, where a block lies.
//!
//! ```text
//! arena      = superpage 0 | superpage 1 | ...          each leased to one group
//! superpage  = block 0 | block 1 | ... | unused tail    block ids count through the group's own numbering
//! block      = layer 0 | layer 1 | ...                  32 tokens of every layer of the group
//! layer      = K of head 0 | K of head 1 | ... | V of head 0 | V of head 1 | ...
//! K region   = [head_dim_k / 2][token][2]               V region = [token / 2][head_dim_v][2]
//! ```
//! The pair orders let one 32-bit lane hold two elements of one dot product, so neither f32 nor
//! bf16 pair products need a horizontal sum a token.

/// Tokens in a KV block, for every cache group.
pub const BLOCK_SIZE: usize = 32;

/// Entry of a block table whose block was freed (it left the window) and is never read.
pub const NULL_BLOCK: u32 = u32::MAX;

/// Alignment of every region of the arena, in bytes: one cache line, one widest vector.
pub const REGION_ALIGN: usize = 64;

/// Smallest superpage, in bytes.
const MIN_SUPERPAGE_BYTES: usize = 2 << 20;

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

impl CacheKind {
    /// First position that a query at `position` sees.
    pub fn first_visible(self, position: usize) -> usize {
        match self {
            Self::Full => 0,
            Self::SlidingWindow { window } => (position + 1).saturating_sub(window.max(1)),
        }
    }
}

/// Element type of cached keys and values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum KvDtype {
    /// IEEE half precision; values beyond its range saturate.
    #[default]
    F16,
    /// bfloat16.
    Bf16,
    /// Single precision: no rounding at all.
    F32,
    /// FP8 of four exponent and three mantissa bits, without a scale; values beyond +-448 saturate. CUDA only.
    E4m3,
}

impl KvDtype {
    /// Bytes an element.
    pub fn bytes(self) -> usize {
        match self {
            Self::F16 | Self::Bf16 => 2,
            Self::F32 => 4,
            Self::E4m3 => 1,
        }
    }

    /// Name as flags and messages write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::F32 => "f32",
            Self::E4m3 => "fp8_e4m3",
        }
    }
}

/// What one layer caches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CacheSpec {
    /// Full or sliding window.
    pub kind: CacheKind,
    /// Key/value heads.
    pub num_kv_heads: usize,
    /// Width of a key head. Even.
    pub head_dim_k: usize,
    /// Width of a value head. Even.
    pub head_dim_v: usize,
    /// Element type.
    pub dtype: KvDtype,
}

impl CacheSpec {
    /// Bytes that one layer keeps a token, padding aside.
    pub fn bytes_per_token(&self) -> usize {
        self.num_kv_heads * (self.head_dim_k + self.head_dim_v) * self.dtype.bytes()
    }
}

/// Layers that cache the same things and so share one block table a sequence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheGroup {
    /// What each of the layers caches.
    pub spec: CacheSpec,
    /// Layer numbers, ascending.
    pub layers: Vec<usize>,
}

/// Where a layer's cache lies: which group, and which of the group's layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerSlot {
    /// Index of the group.
    pub group: usize,
    /// Index of the layer among the group's layers.
    pub index: usize,
}

/// Groups layers of equal spec, in order of first appearance.
pub fn group_layers(specs: &[CacheSpec]) -> Vec<CacheGroup> {
    let mut groups: Vec<CacheGroup> = Vec::new();
    for (layer, spec) in specs.iter().enumerate() {
        match groups.iter_mut().find(|group| group.spec == *spec) {
            Some(group) => group.layers.push(layer),
            None => groups.push(CacheGroup { spec: *spec, layers: vec![layer] }),
        }
    }
    groups
}

/// The slot of every layer, by layer number: the inverse of [`group_layers`].
pub fn layer_slots(groups: &[CacheGroup]) -> Vec<LayerSlot> {
    let num_layers = groups.iter().map(|group| group.layers.len()).sum();
    let mut slots = vec![LayerSlot { group: 0, index: 0 }; num_layers];
    for (group, members) in groups.iter().enumerate() {
        for (index, &layer) in members.layers.iter().enumerate() {
            slots[layer] = LayerSlot { group, index };
        }
    }
    slots
}

/// Strides inside a block of one group, in bytes. Every region starts at a multiple of [`REGION_ALIGN`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupGeometry {
    /// What a layer of the group caches.
    pub spec: CacheSpec,
    /// Layers of the group.
    pub num_layers: usize,
    /// One head's keys of a block.
    pub k_bytes: usize,
    /// One head's values of a block.
    pub v_bytes: usize,
    /// One layer of a block: all heads' keys, then all heads' values.
    pub layer_bytes: usize,
    /// A whole block: all layers.
    pub block_bytes: usize,
    /// Blocks in a superpage leased to this group; at least 1.
    pub blocks_per_superpage: usize,
}

impl GroupGeometry {
    fn new(group: &CacheGroup) -> Self {
        let spec = group.spec;
        let region = |dim: usize| (BLOCK_SIZE * dim * spec.dtype.bytes()).next_multiple_of(REGION_ALIGN);
        let (k_bytes, v_bytes) = (region(spec.head_dim_k), region(spec.head_dim_v));
        let layer_bytes = spec.num_kv_heads * (k_bytes + v_bytes);
        let num_layers = group.layers.len();
        let block_bytes = (num_layers * layer_bytes).max(REGION_ALIGN);
        Self { spec, num_layers, k_bytes, v_bytes, layer_bytes, block_bytes, blocks_per_superpage: 1 }
    }

    /// Offset of a head's keys from the start of a block.
    pub fn k_offset(&self, layer_index: usize, kv_head: usize) -> usize {
        layer_index * self.layer_bytes + kv_head * self.k_bytes
    }

    /// Offset of a head's values from the start of a block.
    pub fn v_offset(&self, layer_index: usize, kv_head: usize) -> usize {
        layer_index * self.layer_bytes + self.spec.num_kv_heads * self.k_bytes + kv_head * self.v_bytes
    }
}

/// How the arena is cut: superpages of one size, blocks of a size a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArenaGeometry {
    /// Bytes of a superpage; a multiple of [`REGION_ALIGN`].
    pub superpage_bytes: usize,
    /// One entry a cache group.
    pub groups: Vec<GroupGeometry>,
}

impl ArenaGeometry {
    /// Chooses a superpage of at least 2 MiB that wastes little at its end in every group: the
    /// smallest multiple of the largest block that wastes at most 4 %, or the best of 16 tried.
    pub fn new(groups: &[CacheGroup]) -> Self {
        let mut groups: Vec<GroupGeometry> = groups.iter().map(GroupGeometry::new).collect();
        let largest = groups.iter().map(|group| group.block_bytes).max().unwrap_or(REGION_ALIGN);
        let first = MIN_SUPERPAGE_BYTES.div_ceil(largest).max(1);
        let mut best = (usize::MAX, largest * first);
        for superpage in (first..first + 16).map(|count| count * largest) {
            let waste =
                groups.iter().map(|group| (superpage % group.block_bytes) * 1000 / superpage).max().unwrap_or(0);
            if waste < best.0 {
                best = (waste, superpage);
            }
            if waste <= 40 {
                break;
            }
        }
        let superpage_bytes = best.1;
        for group in &mut groups {
            group.blocks_per_superpage = superpage_bytes / group.block_bytes;
        }
        Self { superpage_bytes, groups }
    }

    /// Superpages that fit `bytes` of memory.
    pub fn superpages_in(&self, bytes: usize) -> usize {
        bytes / self.superpage_bytes
    }

    /// Offset of block `id` of group `group` from the start of the arena, in bytes.
    pub fn block_offset(&self, group: usize, id: u32) -> usize {
        let geometry = &self.groups[group];
        let (superpage, block) =
            (id as usize / geometry.blocks_per_superpage, id as usize % geometry.blocks_per_superpage);
        superpage * self.superpage_bytes + block * geometry.block_bytes
    }
}

/// Consecutive rows of a step that belong to one sequence, as attention sees them.
#[derive(Clone, Copy, Debug)]
pub struct SeqSpan<'a> {
    /// Index of the first row in the step's buffers.
    pub first_row: usize,
    /// Rows of this sequence in the step.
    pub num_rows: usize,
    /// Position of the first row in the sequence; row i stands at `start + i`.
    pub start: usize,
    /// Block ids of the layer's group, entry i for tokens `32 i .. 32 i + 32`; [`NULL_BLOCK`] below the window.
    pub table: &'a [u32],
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(kind: CacheKind, heads: usize, dim: usize) -> CacheSpec {
        CacheSpec { kind, num_kv_heads: heads, head_dim_k: dim, head_dim_v: dim, dtype: KvDtype::F16 }
    }

    #[test]
    fn layers_of_one_spec_share_a_group_and_slots_invert_the_grouping() {
        let full = spec(CacheKind::Full, 1, 256);
        let window = spec(CacheKind::SlidingWindow { window: 512 }, 1, 256);
        let specs: Vec<_> = (0..18).map(|layer| if layer % 6 == 5 { full } else { window }).collect();
        let groups = group_layers(&specs);
        assert_eq!(groups.iter().map(|group| group.layers.len()).collect::<Vec<_>>(), [15, 3]);
        for (layer, slot) in layer_slots(&groups).into_iter().enumerate() {
            assert_eq!(groups[slot.group].layers[slot.index], layer);
            assert_eq!(groups[slot.group].spec, specs[layer]);
        }
    }

    #[test]
    fn regions_of_a_block_tile_it_without_overlap() {
        let mixed = CacheSpec { head_dim_k: 66, head_dim_v: 34, ..spec(CacheKind::Full, 3, 0) };
        let geometry = ArenaGeometry::new(&[CacheGroup { spec: mixed, layers: vec![0, 1] }]);
        let group = geometry.groups[0];
        let mut regions: Vec<(usize, usize)> = (0..2)
            .flat_map(|layer| (0..3).map(move |head| (layer, head)))
            .flat_map(|(layer, head)| {
                [(group.k_offset(layer, head), group.k_bytes), (group.v_offset(layer, head), group.v_bytes)]
            })
            .collect();
        regions.sort_unstable();
        let mut end = 0;
        for (start, bytes) in regions {
            assert_eq!((start, start % REGION_ALIGN), (end, 0));
            end = start + bytes;
        }
        assert_eq!(end, group.block_bytes);
    }

    #[test]
    fn superpages_hold_whole_blocks_of_every_group_with_little_waste() {
        let groups = [
            CacheGroup { spec: spec(CacheKind::Full, 1, 256), layers: (0..3).collect() },
            CacheGroup { spec: spec(CacheKind::SlidingWindow { window: 512 }, 1, 256), layers: (3..18).collect() },
        ];
        let geometry = ArenaGeometry::new(&groups);
        assert!(geometry.superpage_bytes >= MIN_SUPERPAGE_BYTES);
        for (index, group) in geometry.groups.iter().enumerate() {
            let per = group.blocks_per_superpage;
            assert!(per >= 1 && per * group.block_bytes <= geometry.superpage_bytes);
            assert!((geometry.superpage_bytes - per * group.block_bytes) * 25 <= geometry.superpage_bytes);
            assert_eq!(geometry.block_offset(index, per as u32), geometry.superpage_bytes);
        }
    }

    #[test]
    fn a_window_includes_the_query_itself() {
        let window = CacheKind::SlidingWindow { window: 4 };
        assert_eq!((window.first_visible(2), window.first_visible(3), window.first_visible(10)), (0, 0, 7));
        assert_eq!(CacheKind::Full.first_visible(10), 0);
    }
}
