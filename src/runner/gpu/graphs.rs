//! Captured graphs of decode steps, one for each number of rows in a list of buckets.

use std::collections::HashMap;

use sconce_kernels::gpu::device::GraphId;

use crate::types::Batch;

/// How a step is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// Launch by launch.
    Eager,
    /// Launch by launch, padded to a bucket: whatever is made on first use is then there when the bucket is captured.
    WarmUp(usize),
    /// Captured now, for this and all later steps of the bucket.
    Capture(usize),
    /// Replayed.
    Replay(usize, GraphId),
}

/// What is known of a bucket.
#[derive(Clone, Copy, Debug)]
enum State {
    Warm,
    Captured(GraphId),
}

/// The graphs made so far. They are captured when a bucket is used the second time, never before requests come.
#[derive(Debug)]
pub(super) struct Graphs {
    buckets: Vec<usize>,
    made: HashMap<usize, State>,
}

impl Graphs {
    /// Buckets for steps of up to `max_rows` rows; none when graphs are switched off.
    pub(super) fn new(enabled: bool, max_rows: usize) -> Self {
        let buckets = if enabled { buckets(max_rows) } else { Vec::new() };
        Self { buckets, made: HashMap::new() }
    }

    /// The way of a batch: a graph where every row decodes one token and samples.
    pub(super) fn way(&self, batch: &Batch) -> Way {
        let decodes = batch.rows.iter().all(|row| row.tokens.len() == 1 && row.num_logits == 1 && row.samples);
        let bucket = self.buckets.iter().copied().find(|&bucket| bucket >= batch.rows.len());
        match bucket.filter(|_| decodes) {
            None => Way::Eager,
            Some(bucket) => match self.made.get(&bucket) {
                None => Way::WarmUp(bucket),
                Some(State::Warm) => Way::Capture(bucket),
                Some(State::Captured(graph)) => Way::Replay(bucket, *graph),
            },
        }
    }

    /// The bucket has been computed once.
    pub(super) fn warmed(&mut self, bucket: usize) {
        self.made.insert(bucket, State::Warm);
    }

    /// The bucket has a graph.
    pub(super) fn captured(&mut self, bucket: usize, graph: GraphId) {
        self.made.insert(bucket, State::Captured(graph));
    }
}

/// 1, 2, 4, 8, then steps of 8, 16, 32 and 64: padding costs little, and there are few of them.
fn buckets(max_rows: usize) -> Vec<usize> {
    let mut list = vec![1, 2, 4];
    let mut next = 8;
    while next < max_rows {
        list.push(next);
        next += match next {
            0..32 => 8,
            32..64 => 16,
            64..256 => 32,
            _ => 64,
        };
    }
    list.retain(|&bucket| bucket < max_rows);
    list.push(max_rows);
    list
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{BatchRow, SeqId};

    fn batch(rows: usize, tokens: usize) -> Batch {
        let row = BatchRow {
            seq: SeqId(0),
            start: 9,
            tokens: vec![1; tokens],
            token_from_previous: false,
            num_logits: 1,
            samples: true,
            tables: vec![],
        };
        Batch { step: 1, rows: vec![row; rows], copies: vec![] }
    }

    #[test]
    fn buckets_rise_to_the_limit_and_pad_little() {
        for max in 1..600 {
            let list = buckets(max);
            assert_eq!(list.last(), Some(&max));
            assert!(list.windows(2).all(|w| w[0] < w[1] && w[1] <= 2 * w[0]), "{list:?}");
        }
        assert!(buckets(1024).len() < 32);
    }

    #[test]
    fn a_bucket_is_warmed_then_captured_then_replayed() {
        let mut graphs = Graphs::new(true, 16);
        assert_eq!(graphs.way(&batch(3, 1)), Way::WarmUp(4));
        graphs.warmed(4);
        assert_eq!(graphs.way(&batch(4, 1)), Way::Capture(4));
        graphs.captured(4, GraphId(7));
        assert_eq!(graphs.way(&batch(3, 1)), Way::Replay(4, GraphId(7)));
        assert_eq!(graphs.way(&batch(5, 1)), Way::WarmUp(8));
        assert_eq!(graphs.way(&batch(3, 2)), Way::Eager);
        assert_eq!(graphs.way(&batch(17, 1)), Way::Eager);
        assert_eq!(Graphs::new(false, 16).way(&batch(3, 1)), Way::Eager);
    }
}
