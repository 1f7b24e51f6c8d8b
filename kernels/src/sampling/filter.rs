//! Which tokens may be drawn: min-p, top-k and top-p, in that order, without sorting the vocabulary.
//!
//! Tokens are bucketed by the leading bits of their logit's order-preserving key (one radix pass); only the bucket
//! in which the threshold falls is sorted. Ties are broken by token id, lower first.

/// Which tokens may be drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Filters {
    /// Keep the `top_k` most likely tokens; 0 keeps all.
    pub top_k: u32,
    /// Keep the smallest set of tokens whose probability reaches `top_p`; 1 keeps all.
    pub top_p: f32,
    /// Drop tokens less likely than `min_p` times the most likely one; 0 keeps all.
    pub min_p: f32,
}

impl Default for Filters {
    fn default() -> Self {
        Self { top_k: 0, top_p: 1.0, min_p: 0.0 }
    }
}

impl Filters {
    /// Lowest value of `logit - max` (scaled by temperature) that passes min-p.
    pub(crate) fn min_p_floor(&self) -> f32 {
        if self.min_p > 0.0 { self.min_p.ln() } else { f32::NEG_INFINITY }
    }
}

/// Leading bits of the key that pick a bucket.
const RADIX_BITS: u32 = 12;
const BUCKETS: usize = 1 << RADIX_BITS;

/// Maps f32 order to u32 order; both zeros are one value.
fn key(x: f32) -> u32 {
    let bits = if x == 0.0 { 0 } else { x.to_bits() };
    if bits >> 31 == 1 { !bits } else { bits | 0x8000_0000 }
}

fn bucket(x: f32) -> usize {
    (key(x) >> (32 - RADIX_BITS)) as usize
}

/// Scratch of the filters, reused between rows.
#[derive(Debug, Default)]
pub(super) struct Filter {
    /// Tokens that survive, ascending by id (empty when no filter is active).
    pub(super) kept: Vec<u32>,
    mass: Vec<f64>,
    edge: Vec<u32>,
}

impl Filter {
    /// Fills `kept` with the tokens that pass every filter. `logits` are scaled by temperature, `max` is
    /// their maximum. Returns false when no filter is active and every token may be drawn.
    pub(super) fn apply(&mut self, filters: &Filters, logits: &[f32], max: f32) -> bool {
        let top_k = if filters.top_k == 0 { logits.len() } else { filters.top_k as usize };
        if filters.min_p <= 0.0 && top_k >= logits.len() && filters.top_p >= 1.0 {
            return false;
        }
        let floor = max + filters.min_p_floor();
        self.kept.clear();
        self.kept.extend(
            (0..logits.len() as u32).filter(|&t| logits[t as usize] > f32::NEG_INFINITY && logits[t as usize] >= floor),
        );
        if top_k < self.kept.len() {
            self.keep_heaviest(logits, top_k as f64, |_| 1.0);
        }
        if filters.top_p < 1.0 {
            let total: f64 = self.kept.iter().map(|&t| weight(logits[t as usize], max)).sum();
            self.keep_heaviest(logits, f64::from(filters.top_p) * total, |x| weight(x, max));
        }
        true
    }

    /// Keeps the smallest set of best tokens whose summed `weight` reaches `target`, at least one.
    fn keep_heaviest(&mut self, logits: &[f32], target: f64, weight: impl Fn(f32) -> f64) {
        self.mass.clear();
        self.mass.resize(BUCKETS, 0.0);
        for &t in &self.kept {
            self.mass[bucket(logits[t as usize])] += weight(logits[t as usize]);
        }
        let mut reached = 0.0;
        let mut edge_bucket = 0;
        for b in (0..BUCKETS).rev() {
            if reached + self.mass[b] >= target && self.mass[b] > 0.0 {
                edge_bucket = b;
                break;
            }
            reached += self.mass[b];
        }
        self.edge.clear();
        self.edge.extend(self.kept.iter().copied().filter(|&t| bucket(logits[t as usize]) == edge_bucket));
        self.edge.sort_unstable_by(|&a, &b| key(logits[b as usize]).cmp(&key(logits[a as usize])).then(a.cmp(&b)));
        let mut last = 0;
        for (i, &t) in self.edge.iter().enumerate() {
            last = i;
            reached += weight(logits[t as usize]);
            if reached >= target {
                break;
            }
        }
        let Some(&last_token) = self.edge.get(last) else { return };
        let limit = (logits[last_token as usize], last_token);
        self.kept.retain(|&t| {
            let x = logits[t as usize];
            x > limit.0 || (x == limit.0 && t <= limit.1)
        });
    }
}

fn weight(logit: f32, max: f32) -> f64 {
    f64::from((logit - max).exp())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reference(filters: &Filters, logits: &[f32]) -> Vec<u32> {
        let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let mut order: Vec<u32> =
            (0..logits.len() as u32).filter(|&t| logits[t as usize] > f32::NEG_INFINITY).collect();
        order.sort_by(|&a, &b| key(logits[b as usize]).cmp(&key(logits[a as usize])).then(a.cmp(&b)));
        if filters.min_p > 0.0 {
            order.retain(|&t| logits[t as usize] >= max + filters.min_p.ln());
        }
        if filters.top_k > 0 {
            order.truncate(filters.top_k as usize);
        }
        if filters.top_p < 1.0 {
            let total: f64 = order.iter().map(|&t| weight(logits[t as usize], max)).sum();
            let mut sum = 0.0;
            let mut keep = 0;
            for &t in &order {
                keep += 1;
                sum += weight(logits[t as usize], max);
                if sum >= f64::from(filters.top_p) * total {
                    break;
                }
            }
            order.truncate(keep);
        }
        order.sort_unstable();
        order
    }

    #[test]
    fn filters_equal_a_sorting_reference() {
        let mut state = 7u64;
        let mut next = move || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 40) as f32 / (1 << 24) as f32
        };
        let mut filter = Filter::default();
        for round in 0..400 {
            let n = 3 + round % 300;
            // Coarse values make ties common; some tokens are masked.
            let logits: Vec<f32> = (0..n)
                .map(|_| if next() < 0.05 { f32::NEG_INFINITY } else { (next() * 40.0).round() / 2.0 - 12.0 })
                .collect();
            let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            if max == f32::NEG_INFINITY {
                continue;
            }
            let filters = Filters {
                top_k: [0, 1, 2, 5, 50, 1000][round % 6],
                top_p: [1.0, 0.9, 0.5, 0.01][round % 4],
                min_p: [0.0, 0.05, 0.0, 0.5, 1.0][round % 5],
            };
            if filter.apply(&filters, &logits, max) {
                assert_eq!(filter.kept, reference(&filters, &logits), "round {round} {filters:?}");
            }
        }
    }
}
