//! A batch laid out as the graph wants it: flat arrays, one span a sequence and group.

use sconce_kernels::backend::{StepInput, TOKEN_FROM_SLOT};
use sconce_kernels::kv::SeqSpan;

use crate::types::{Batch, BlockId};

/// The arrays; reused between steps.
#[derive(Debug, Default)]
pub(super) struct Flat {
    tokens: Vec<u32>,
    positions: Vec<u32>,
    logit_rows: Vec<u32>,
    /// Per group, the block tables of all rows one after another.
    tables: Vec<Vec<u32>>,
    /// Per row: first row in the batch, number of rows, position of the first.
    spans: Vec<(usize, usize, usize)>,
}

impl Flat {
    pub(super) fn fill(&mut self, batch: &Batch, num_groups: usize) {
        self.tokens.clear();
        self.positions.clear();
        self.logit_rows.clear();
        self.spans.clear();
        self.tables.resize(num_groups, Vec::new());
        self.tables.iter_mut().for_each(Vec::clear);
        for row in &batch.rows {
            let first = self.tokens.len();
            self.tokens.extend_from_slice(&row.tokens);
            if row.token_from_previous
                && let Some(last) = self.tokens.last_mut()
            {
                *last = TOKEN_FROM_SLOT;
            }
            self.positions.extend((row.start..row.start + row.tokens.len()).map(|p| p as u32));
            let end = self.tokens.len();
            self.logit_rows.extend((end - row.num_logits..end).map(|r| r as u32));
            self.spans.push((first, row.tokens.len(), row.start));
            for (flat, table) in self.tables.iter_mut().zip(&row.tables) {
                flat.extend(table.iter().map(|&BlockId(id)| id));
            }
        }
    }

    /// Adds rows that belong to no sequence until there are `rows`.
    pub(super) fn pad(&mut self, rows: usize) {
        self.tokens.resize(rows, 0);
        self.positions.resize(rows, 0);
        self.logit_rows.resize(rows, u32::MAX);
    }

    /// Per group, one span a row.
    pub(super) fn groups<'a>(&'a self, batch: &Batch) -> Vec<Vec<SeqSpan<'a>>> {
        let mut groups = Vec::with_capacity(self.tables.len());
        for (group, flat) in self.tables.iter().enumerate() {
            let mut rest = flat.as_slice();
            let spans = batch.rows.iter().zip(&self.spans).map(|(row, &(first_row, num_rows, start))| {
                let (table, tail) = rest.split_at(row.tables[group].len());
                rest = tail;
                SeqSpan { first_row, num_rows, start, table }
            });
            groups.push(spans.collect());
        }
        groups
    }

    /// The step, of which [`Self::groups`] and the sequences' slots are given.
    pub(super) fn step<'a>(&'a self, groups: &'a [Vec<SeqSpan<'a>>], slots: &'a [u32]) -> StepInput<'a> {
        let Self { tokens, positions, logit_rows, .. } = self;
        StepInput { tokens, positions, groups, slots, logit_rows }
    }
}
