//! Log-probabilities against [`crate::sampling`].

use super::super::device::GpuDevice;
use super::super::launch::DevicePtr;
use super::super::logprobs::{Logprobs, ScoreRecord, ScoreRow};
use super::{Array, Bed, Checked, Random, ensure};
use crate::sampling::{LogProbs, logprobs};

/// A device that scores up to `max_rows` rows.
pub struct Scorer {
    /// Where everything lies.
    pub logprobs: Logprobs,
    records: Array<ScoreRecord>,
}

impl Scorer {
    /// Memory for so many rows.
    ///
    /// # Errors
    /// When memory runs out.
    pub fn new<D: GpuDevice>(bed: &mut Bed<D>, vocab: usize, max_rows: usize) -> Checked<Self> {
        let workspace = bed.upload(&vec![0u8; Logprobs::workspace_bytes(max_rows, vocab)])?;
        let records = bed.alloc(max_rows)?;
        let logprobs = Logprobs {
            logits: DevicePtr::NULL,
            logit_stride: vocab,
            vocab,
            raw: DevicePtr::NULL,
            rows: DevicePtr::NULL,
            results: DevicePtr::NULL,
            records: records.ptr(),
            workspace: workspace.ptr(),
            max_rows,
        };
        Ok(Self { logprobs, records })
    }

    /// What is known of the rows.
    ///
    /// # Errors
    /// When the device fails.
    pub fn score<D: GpuDevice>(&mut self, bed: &mut Bed<D>, rows: &[ScoreRow]) -> Checked<Vec<ScoreRecord>> {
        let rows_at = bed.upload(rows)?;
        bed.launch(&Logprobs { rows: rows_at.ptr(), ..self.logprobs }.launch(rows.len()))?;
        Ok(bed.read(&self.records)?)
    }
}

/// Sums differ by the roundings of f32: 2^-23 times the square root of the terms added in a row, of values near 10.
///
/// # Errors
/// When that isn't so.
pub fn same(got: &ScoreRecord, token: u32, want: &LogProbs) -> Checked {
    let close = |a: f32, b: f32| (a - b).abs() <= 4e-6 * b.abs().max(1.0);
    let found = got.log_probs();
    let tokens = |list: &LogProbs| list.top.iter().map(|entry| entry.0).collect::<Vec<_>>();
    let equal = (got.token, found.rank, tokens(&found)) == (token, want.rank, tokens(want));
    let near = close(found.logprob, want.logprob) && found.top.iter().zip(&want.top).all(|(a, b)| close(a.1, b.1));
    ensure(equal && near, || format!("token {}: {found:?}, not token {token}: {want:?}", got.token))
}

/// Logits with ties and masked tokens.
pub fn random_logits(random: &mut Random, vocab: usize) -> Vec<f32> {
    let coarse = random.below(2) == 0;
    let value = |x: f32| if coarse { (x * 8.0).round() } else { x * 12.0 };
    let mut logits: Vec<f32> = random.values(vocab).into_iter().map(value).collect();
    for _ in 0..vocab / 3 {
        logits[random.below(vocab)] = f32::NEG_INFINITY;
    }
    logits[random.below(vocab)] = 1.0;
    logits
}

/// Scores prompt tokens by random logits, an absent row among them; then the last row alone.
///
/// # Errors
/// When a score is not the CPU's.
pub fn check<D: GpuDevice>(bed: &mut Bed<D>, vocab: usize, rows: usize) -> Checked {
    let mut random = Random(vocab as u64);
    let mut scorer = Scorer::new(bed, vocab, rows + 1)?;
    let logits: Vec<Vec<f32>> = (0..rows).map(|_| random_logits(&mut random, vocab)).collect();
    scorer.logprobs.logits = bed.upload(&logits.concat())?.ptr();
    // A token beyond the vocabulary has no probability; it is none of the device's business why it was asked for.
    let tokens: Vec<u32> = (0..rows).map(|_| random.below(vocab + 1) as u32).collect();
    let tops: Vec<usize> = (0..rows).map(|_| [0, 1, 5, 20][random.below(4)]).collect();
    let mut score: Vec<ScoreRow> = (0..rows).map(|i| ScoreRow::prompt(i as u32, tokens[i], tops[i] as u32)).collect();
    score.insert(1, ScoreRow::ABSENT);
    let records = scorer.score(bed, &score)?;
    ensure(records[1].token == u32::MAX, || "an absent row was written".to_owned())?;
    for i in 0..rows {
        let want = logprobs(&logits[i], tokens[i], tops[i]);
        same(&records[if i == 0 { 0 } else { i + 1 }], tokens[i], &want)
            .map_err(|fault| fault.of(format!("row {i} of {vocab} logits")))?;
    }
    // The same bits alone, in another order of threads and blocks.
    let alone = scorer.score(bed, &score[rows..])?;
    ensure(alone[0].log_probs() == records[rows].log_probs(), || "other bits alone".to_owned())
}
