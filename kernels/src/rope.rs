//! Rotary position embedding (Su et al., arXiv:2104.09864): pairs of a head's first `rot_dim`
//! values are rotated by `position * inv_freq`.
//!
//! Angles are the f32 product, as transformers computes them. A step computes the cosines and
//! sines of its rows once and every layer reads them.

/// Frequencies of one kind of layer, scaling already applied.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeTable {
    /// Radians a position, one a pair: `rot_dim / 2` entries.
    pub inv_freq: Vec<f32>,
    /// Multiplies cosines and sines (YaRN, LongRoPE); 1 otherwise.
    pub attention_factor: f32,
    /// Rotated width of a head; the rest passes through. Even.
    pub rot_dim: usize,
    /// Pairs are (2i, 2i + 1) instead of (i, i + rot_dim / 2).
    pub interleaved: bool,
}

/// Cosines and sines of one step's rows, for one table. Buffers are reused between steps.
#[derive(Clone, Debug, Default)]
pub struct RopeRows {
    /// `[row][pair]`
    cos: Vec<f32>,
    sin: Vec<f32>,
    pairs: usize,
    interleaved: bool,
}

impl RopeTable {
    /// Fills `out` for rows at the given positions.
    ///
    /// # Panics
    /// If `inv_freq` does not hold `rot_dim / 2` entries.
    pub fn rows(&self, positions: &[u32], out: &mut RopeRows) {
        assert!(
            self.inv_freq.len() * 2 == self.rot_dim,
            "rope: {} frequencies of width {}",
            self.inv_freq.len(),
            self.rot_dim
        );
        out.pairs = self.inv_freq.len();
        out.interleaved = self.interleaved;
        out.cos.clear();
        out.sin.clear();
        for &position in positions {
            for &frequency in &self.inv_freq {
                let (sin, cos) = (position as f32 * frequency).sin_cos();
                out.cos.push(cos * self.attention_factor);
                out.sin.push(sin * self.attention_factor);
            }
        }
    }
}

impl RopeRows {
    /// Rotated width of a head.
    pub(crate) fn rot_dim(&self) -> usize {
        2 * self.pairs
    }

    /// Rows filled.
    pub(crate) fn len(&self) -> usize {
        self.cos.len() / self.pairs.max(1)
    }

    /// Rotates one head of row `row` in place. Inlined, so that it takes its caller's instruction set.
    #[inline(always)]
    pub(crate) fn rotate(&self, row: usize, head: &mut [f32]) {
        let range = row * self.pairs..(row + 1) * self.pairs;
        let (cos, sin) = (&self.cos[range.clone()], &self.sin[range]);
        let head = &mut head[..2 * self.pairs];
        if self.interleaved {
            for ((pair, cos), sin) in head.chunks_exact_mut(2).zip(cos).zip(sin) {
                (pair[0], pair[1]) = (pair[0] * cos - pair[1] * sin, pair[1] * cos + pair[0] * sin);
            }
        } else {
            let (low, high) = head.split_at_mut(self.pairs);
            for (((a, b), cos), sin) in low.iter_mut().zip(high).zip(cos).zip(sin) {
                (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::random;

    #[test]
    fn both_pair_orders_rotate_by_position_and_leave_the_rest() {
        let (dim, rot_dim) = (10, 6);
        let inv_freq = vec![1.0, 0.1, 0.01];
        for interleaved in [false, true] {
            let table = RopeTable { inv_freq: inv_freq.clone(), attention_factor: 1.5, rot_dim, interleaved };
            let mut rows = RopeRows::default();
            table.rows(&[0, 131_071, 7], &mut rows);
            assert_eq!((rows.len(), rows.rot_dim()), (3, 6));
            for (row, position) in [(0, 0.0f32), (1, 131_071.0), (2, 7.0)] {
                let head = random(dim, 5);
                let mut rotated = head.clone();
                rows.rotate(row, &mut rotated);
                for (i, frequency) in inv_freq.iter().enumerate() {
                    let (a, b) = if interleaved { (2 * i, 2 * i + 1) } else { (i, i + 3) };
                    let (sin, cos) = f64::from(position * frequency).sin_cos();
                    let (x, y) = (f64::from(head[a]), f64::from(head[b]));
                    assert!((f64::from(rotated[a]) - 1.5 * (x * cos - y * sin)).abs() < 1e-6);
                    assert!((f64::from(rotated[b]) - 1.5 * (y * cos + x * sin)).abs() < 1e-6);
                }
                assert_eq!(rotated[rot_dim..], head[rot_dim..]);
            }
        }
    }
}
