//! Log-probabilities of the raw distribution: what the model said before any bias, penalty, temperature or filter.

/// Stands for the logarithm of zero: JSON has no infinity.
pub(crate) const FLOOR: f32 = -9999.0;

/// Log-probabilities at one position; finite, clamped to -9999.
#[derive(Clone, Debug, PartialEq)]
pub struct LogProbs {
    /// Of the token asked for.
    pub logprob: f32,
    /// Its rank, 1 for the most likely token.
    pub rank: u32,
    /// The most likely tokens, best first.
    pub top: Vec<(u32, f32)>,
}

/// The log-probability of `token` and of the `top` most likely tokens, from raw logits `[vocab]`.
pub fn logprobs(logits: &[f32], token: u32, top: usize) -> LogProbs {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&x| f64::from((x - max).exp())).sum();
    let log_sum = max + sum.ln() as f32;
    let log = |x: f32| (x - log_sum).max(FLOOR);
    let chosen = logits.get(token as usize).copied().unwrap_or(f32::NEG_INFINITY);
    let rank = 1 + logits.iter().filter(|&&x| x > chosen).count() as u32;
    let top = best(logits, top).into_iter().map(|(token, x)| (token, log(x))).collect();
    LogProbs { logprob: log(chosen), rank, top }
}

/// The `n` largest logits, best first, ties by token id; one pass with a small ordered list.
fn best(logits: &[f32], n: usize) -> Vec<(u32, f32)> {
    let mut list: Vec<(u32, f32)> = Vec::with_capacity(n + 1);
    if n == 0 {
        return list;
    }
    for (t, &x) in logits.iter().enumerate() {
        if list.len() == n && x <= list[n - 1].1 {
            continue;
        }
        let at = list.partition_point(|&(_, y)| y >= x);
        list.insert(at, (t as u32, x));
        list.truncate(n);
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_a_softmax_by_hand() {
        let logits = [1.0f32, 3.0, 2.0, 3.0, f32::NEG_INFINITY];
        let total: f32 = logits.iter().map(|x| x.exp()).sum();
        let got = logprobs(&logits, 2, 3);
        assert!((got.logprob - (2f32.exp() / total).ln()).abs() < 1e-6);
        assert_eq!(got.rank, 3);
        assert_eq!(got.top.iter().map(|t| t.0).collect::<Vec<_>>(), [1, 3, 2]);
        assert_eq!(logprobs(&logits, 4, 0).logprob, FLOOR);
    }
}
