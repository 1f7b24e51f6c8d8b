//! The metadata of one step as the kernels read it: one host buffer, uploaded once, cut into sections.
//!
//! ```text
//! tokens[M] | positions[M] | row_slot[M] | logit_rows[L] | table updates | work list of group 0 | group 1 | .. | extra
//! ```
//! Every section begins at a multiple of 16 bytes. Block tables stay on the device; only entries that changed travel.

use super::launch::DevicePtr;
use crate::backend::StepInput;
use crate::kv::{ArenaGeometry, NULL_BLOCK, REGION_ALIGN};

/// Row of a padding row in `row_slot`.
const NO_SLOT: u32 = u32::MAX;

/// Words between section starts.
const ALIGN_WORDS: usize = 4;

/// Where a section lies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Section {
    /// First word.
    pub at: usize,
    /// Words.
    pub len: usize,
}

/// A step's metadata on the host; reused from step to step.
#[derive(Debug, Default)]
pub struct StepMeta {
    words: Vec<u32>,
    /// Ids, `[M]`.
    pub tokens: Section,
    /// Positions, `[M]`.
    pub positions: Section,
    /// Slots of the rows, `[M]`.
    pub row_slot: Section,
    /// Rows whose logits are wanted.
    pub logit_rows: Section,
    /// (index, value) pairs of changed table entries.
    pub updates: Section,
    /// One work list a group.
    pub work: Vec<Section>,
    /// What the runner added.
    pub extra: Section,
}

impl StepMeta {
    /// Forgets the last step.
    pub fn clear(&mut self) {
        self.words.clear();
        self.work.clear();
    }

    /// Begins a step: rows and logit rows.
    pub fn begin(&mut self, step: &StepInput<'_>) {
        self.clear();
        self.tokens = self.push(step.tokens.iter().copied());
        self.positions = self.push(step.positions.iter().copied());
        let rows = step.tokens.len();
        self.row_slot = self.push(std::iter::repeat_n(NO_SLOT, rows));
        let slots = self.row_slot.at;
        if let Some(spans) = step.groups.first() {
            for (index, span) in spans.iter().enumerate() {
                let slot = slot_of(step, index);
                self.words[slots + span.first_row..][..span.num_rows].fill(slot);
            }
        }
        self.logit_rows = self.push(step.logit_rows.iter().copied());
    }

    /// Appends a section.
    pub fn push(&mut self, words: impl IntoIterator<Item = u32>) -> Section {
        let at = self.words.len().next_multiple_of(ALIGN_WORDS);
        self.words.resize(at, 0);
        self.words.extend(words);
        Section { at, len: self.words.len() - at }
    }

    /// Lengthens the last section to `len` words.
    ///
    /// # Panics
    /// If it is longer: a bug of the caller.
    pub fn pad(&mut self, section: Section, len: usize) -> Section {
        assert!(
            section.len <= len && section.at + section.len == self.words.len(),
            "metadata: no room to pad to {len}"
        );
        self.words.resize(section.at + len, 0);
        Section { at: section.at, len }
    }

    /// All of it, as it is uploaded.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: u32 has no padding, and any byte may be read.
        unsafe { std::slice::from_raw_parts(self.words.as_ptr().cast(), self.words.len() * 4) }
    }
}

impl Section {
    /// Its address when the metadata lies at `base`.
    pub fn address(self, base: DevicePtr) -> DevicePtr {
        base.byte_add(self.at * 4)
    }
}

/// The slot of the `index`th span.
pub fn slot_of(step: &StepInput<'_>, index: usize) -> u32 {
    step.slots.get(index).copied().unwrap_or(index as u32)
}

/// What the device's block tables hold, `[groups][slots][max_blocks]`, so that only changes are sent.
#[derive(Debug)]
pub struct TableMirror {
    entries: Vec<u32>,
    num_slots: usize,
    max_blocks: usize,
}

impl TableMirror {
    /// Tables that hold nothing yet.
    pub fn new(num_groups: usize, num_slots: usize, max_blocks: usize) -> Self {
        Self { entries: vec![NULL_BLOCK; num_groups * num_slots * max_blocks], num_slots, max_blocks }
    }

    /// Bytes of the tables on the device.
    pub fn bytes(&self) -> usize {
        self.entries.len() * 4
    }

    /// First word of a group's table.
    pub fn group_start(&self, group: usize) -> usize {
        group * self.num_slots * self.max_blocks
    }

    /// Entries of one slot's row.
    pub fn max_blocks(&self) -> usize {
        self.max_blocks
    }

    /// (index, value) of every entry of this step's tables that the device doesn't have yet. A value is a block's offset
    /// in the arena / 64. Blocks that left a window are not read, so what the device has there may stay.
    ///
    /// # Panics
    /// If a table is longer than a row or a slot is out of range: a bug of the caller.
    pub fn changes(&mut self, step: &StepInput<'_>, geometry: &ArenaGeometry, out: &mut Vec<u32>) {
        out.clear();
        for (group, spans) in step.groups.iter().enumerate() {
            for (index, span) in spans.iter().enumerate() {
                let slot = slot_of(step, index) as usize;
                assert!(slot < self.num_slots && span.table.len() <= self.max_blocks, "block tables: out of range");
                let first = self.group_start(group) + slot * self.max_blocks;
                let row = &mut self.entries[first..first + span.table.len()];
                for (i, (known, &id)) in row.iter_mut().zip(span.table).enumerate() {
                    if id == NULL_BLOCK {
                        continue;
                    }
                    let value = (geometry.block_offset(group, id) / REGION_ALIGN) as u32;
                    if *known != value {
                        *known = value;
                        out.extend([(first + i) as u32, value]);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::{CacheGroup, CacheKind, CacheSpec, KvDtype, SeqSpan};

    fn geometry() -> ArenaGeometry {
        let spec =
            CacheSpec { kind: CacheKind::Full, num_kv_heads: 1, head_dim_k: 64, head_dim_v: 64, dtype: KvDtype::Bf16 };
        ArenaGeometry::new(&[CacheGroup { spec, layers: vec![0] }])
    }

    #[test]
    fn only_changed_entries_travel_and_null_ones_never() {
        let geometry = geometry();
        let unit = (geometry.groups[0].block_bytes / REGION_ALIGN) as u32;
        let mut mirror = TableMirror::new(1, 4, 8);
        let mut changes = |table: &[u32], slot: u32| {
            let spans = [vec![SeqSpan { first_row: 0, num_rows: 1, start: 0, table }]];
            let step = StepInput { tokens: &[1], positions: &[0], groups: &spans, logit_rows: &[], slots: &[slot] };
            let mut out = Vec::new();
            mirror.changes(&step, &geometry, &mut out);
            out
        };
        assert_eq!(changes(&[3, 5], 2), [16, 3 * unit, 17, 5 * unit]);
        assert!(changes(&[3, 5], 2).is_empty());
        assert_eq!(changes(&[NULL_BLOCK, 5, 7], 2), [18, 7 * unit]);
        assert_eq!(changes(&[4], 2), [16, 4 * unit]);
        assert_eq!(changes(&[3], 0), [0, 3 * unit]);
    }

    #[test]
    fn rows_outside_every_span_are_padding() {
        let table = [0];
        let spans = [vec![
            SeqSpan { first_row: 0, num_rows: 2, start: 0, table: &table },
            SeqSpan { first_row: 2, num_rows: 1, start: 9, table: &table },
        ]];
        let step = StepInput {
            tokens: &[1, 2, 3, 0],
            positions: &[0, 1, 9, 0],
            groups: &spans,
            logit_rows: &[1, 2],
            slots: &[7, 3],
        };
        let mut meta = StepMeta::default();
        meta.begin(&step);
        let words = |section: Section| meta.words[section.at..section.at + section.len].to_vec();
        assert_eq!(words(meta.row_slot), [7, 7, 3, u32::MAX]);
        assert_eq!((words(meta.tokens), words(meta.logit_rows)), (vec![1, 2, 3, 0], vec![1, 2]));
        assert!([meta.tokens, meta.positions, meta.row_slot, meta.logit_rows].iter().all(|s| s.at.is_multiple_of(4)));
    }
}
