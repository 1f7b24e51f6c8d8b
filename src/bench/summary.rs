//! Rates and percentiles of many answers.

use serde::Serialize;

use super::client::Timeline;

/// Of durations, in milliseconds; 0 where there are none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Percentiles {
    /// Half are shorter.
    pub p50: f64,
    /// 99 of 100 are shorter.
    pub p99: f64,
    /// The longest.
    pub max: f64,
}

/// What a load found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// Requests open at once.
    pub streams: usize,
    /// Requests answered.
    pub answered: usize,
    /// Requests that failed.
    pub failed: usize,
    /// Seconds from the first request to the last answer.
    pub wall_seconds: f64,
    /// Tokens of prompts.
    pub prompt_tokens: usize,
    /// Tokens generated.
    pub generated_tokens: usize,
    /// Tokens generated a second.
    pub generated_per_second: f64,
    /// Tokens of prompts and answers a second.
    pub total_per_second: f64,
    /// From a request to its first piece.
    pub ttft_ms: Percentiles,
    /// Between the pieces of an answer.
    pub itl_ms: Percentiles,
}

impl Percentiles {
    /// Of these, in any order.
    pub fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let at = |share: f64| {
            let index = (share * values.len() as f64) as usize;
            values.get(index.min(values.len().saturating_sub(1))).copied().unwrap_or(0.0)
        };
        Self { p50: at(0.5), p99: at(0.99), max: at(1.0) }
    }
}

impl Summary {
    /// Of answers that came within `wall_seconds`.
    pub fn new(streams: usize, answers: &[Timeline], failed: usize, wall_seconds: f64) -> Self {
        let ms = |from: std::time::Instant, to: std::time::Instant| (to - from).as_secs_f64() * 1e3;
        let first = answers.iter().filter_map(|answer| Some(ms(answer.sent, *answer.pieces.first()?)));
        let gaps = answers.iter().flat_map(|answer| answer.pieces.windows(2).map(|pair| ms(pair[0], pair[1])));
        let prompt_tokens: usize = answers.iter().map(|answer| answer.prompt_tokens).sum();
        let generated_tokens: usize = answers.iter().map(|answer| answer.tokens).sum();
        Self {
            streams,
            answered: answers.len(),
            failed,
            wall_seconds,
            prompt_tokens,
            generated_tokens,
            generated_per_second: generated_tokens as f64 / wall_seconds,
            total_per_second: (prompt_tokens + generated_tokens) as f64 / wall_seconds,
            ttft_ms: Percentiles::of(first.collect()),
            itl_ms: Percentiles::of(gaps.collect()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn waits_and_gaps_are_told_apart() {
        let sent = Instant::now();
        let pieces = [30, 40, 60].map(|ms| sent + Duration::from_millis(ms)).to_vec();
        let answer = Timeline { sent, pieces, prompt_tokens: 10, tokens: 3 };
        let summary = Summary::new(1, &[answer.clone(), answer], 1, 2.0);
        assert_eq!((summary.answered, summary.failed, summary.generated_tokens), (2, 1, 6));
        assert_eq!((summary.generated_per_second, summary.total_per_second), (3.0, 13.0));
        assert_eq!(
            (summary.ttft_ms.p50.round(), summary.itl_ms.p50.round(), summary.itl_ms.max.round()),
            (30.0, 20.0, 20.0)
        );
    }

    #[test]
    fn percentiles_of_nothing_and_of_a_hundred() {
        assert_eq!(Percentiles::of(vec![]), Percentiles::default());
        let all = Percentiles::of((1..=100).rev().map(f64::from).collect());
        assert_eq!((all.p50, all.p99, all.max), (51.0, 100.0, 100.0));
    }
}
