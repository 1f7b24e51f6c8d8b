//! Log-probabilities: of drawn tokens, edited or not, and of prompt tokens, against `sconce_kernels::sampling`.

use sconce_kernels::gpu::launch::DevicePtr;
use sconce_kernels::gpu::logprobs::{Logprobs, ScoreRecord, ScoreRow};
use sconce_kernels::sampling::{LogProbs, SampleSpec, logprobs};

use super::emu::{Buffer, Emulator, emulated};
use super::sampling::{Case, Rig};
use super::testing::Random;

/// A device that scores up to `max_rows` rows.
struct Scorer {
    logprobs: Logprobs,
    records: Buffer<ScoreRecord>,
    _workspace: Buffer<u8>,
}

impl Scorer {
    fn new(emu: &Emulator, vocab: usize, max_rows: usize) -> Self {
        let workspace = emu.upload(&vec![0u8; Logprobs::workspace_bytes(max_rows, vocab)]);
        let records = emu.alloc(max_rows);
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
        Self { logprobs, records, _workspace: workspace }
    }

    fn score(&mut self, emu: &mut Emulator, rows: &[ScoreRow]) -> Vec<ScoreRecord> {
        let rows_at = emu.upload(rows);
        emu.launch(&Logprobs { rows: rows_at.ptr(), ..self.logprobs }.launch(rows.len()));
        self.records.read()
    }
}

/// Sums differ by the roundings of f32: 2^-23 times the square root of the terms added in a row, of values near 10.
#[track_caller]
fn assert_same(got: &ScoreRecord, token: u32, want: &LogProbs) {
    let close = |a: f32, b: f32| (a - b).abs() <= 4e-6 * b.abs().max(1.0);
    let found = got.log_probs();
    assert_eq!((got.token, found.rank), (token, want.rank));
    assert!(close(found.logprob, want.logprob), "{} {}", found.logprob, want.logprob);
    let tokens = |list: &LogProbs| list.top.iter().map(|entry| entry.0).collect::<Vec<_>>();
    assert_eq!(tokens(&found), tokens(want));
    assert!(found.top.iter().zip(&want.top).all(|(a, b)| close(a.1, b.1)), "{found:?} {want:?}");
}

fn random_logits(random: &mut Random, vocab: usize) -> Vec<f32> {
    let coarse = random.below(2) == 0;
    let value = |x: f32| if coarse { (x * 8.0).round() } else { x * 12.0 };
    let mut logits: Vec<f32> = random.values(vocab).into_iter().map(value).collect();
    for _ in 0..vocab / 3 {
        logits[random.below(vocab)] = f32::NEG_INFINITY;
    }
    logits[random.below(vocab)] = 1.0;
    logits
}

#[test]
fn prompt_tokens_are_scored_as_on_the_cpu() {
    emulated(|emu| {
        for (vocab, rows) in [(1, 3), (7, 20), (33, 20), (1000, 20), (8192, 6), (8193, 6), (40_001, 6)] {
            let mut random = Random(vocab as u64);
            let mut scorer = Scorer::new(emu, vocab, rows + 1);
            let logits: Vec<Vec<f32>> = (0..rows).map(|_| random_logits(&mut random, vocab)).collect();
            let logits_at = emu.upload(&logits.concat());
            scorer.logprobs.logits = logits_at.ptr();
            // A token beyond the vocabulary has no probability; it is none of the device's business why it was asked for.
            let tokens: Vec<u32> = (0..rows).map(|_| random.below(vocab + 1) as u32).collect();
            let tops: Vec<usize> = (0..rows).map(|_| [0, 1, 5, 20][random.below(4)]).collect();
            let mut score: Vec<ScoreRow> =
                (0..rows).map(|i| ScoreRow::prompt(i as u32, tokens[i], tops[i] as u32)).collect();
            score.insert(1, ScoreRow::ABSENT);
            let records = scorer.score(emu, &score);
            assert_eq!(records[1].token, u32::MAX, "an absent row");
            for i in 0..rows {
                let want = logprobs(&logits[i], tokens[i], tops[i]);
                assert_same(&records[if i == 0 { 0 } else { i + 1 }], tokens[i], &want);
            }
            // The same bits alone, in another order of threads and blocks.
            let alone = scorer.score(emu, &score[rows..]);
            assert_eq!(alone[0].log_probs(), records[rows].log_probs());
        }
    });
}

#[test]
fn what_is_not_finite_has_the_lowest_logprob() {
    emulated(|emu| {
        for bad in [[f32::NAN, 0.0], [f32::INFINITY, 0.0], [f32::NEG_INFINITY, f32::NEG_INFINITY]] {
            let mut scorer = Scorer::new(emu, 2, 1);
            let logits = emu.upload(&bad);
            scorer.logprobs.logits = logits.ptr();
            let records = scorer.score(emu, &[ScoreRow::prompt(0, 1, 2)]);
            assert_eq!(records[0].logprob, -9999.0);
            assert_eq!(logprobs(&bad, 1, 2).logprob, -9999.0);
            assert!(records[0].log_probs().top.iter().all(|entry| entry.1 == -9999.0));
        }
    });
}

#[test]
fn drawn_tokens_are_scored_by_what_the_model_said() {
    emulated(|emu| {
        for vocab in [50, 9000] {
            let mut random = Random(4);
            let bias: Vec<(u32, f32)> = vec![(3, 30.0), (vocab as u32 - 1, 29.0)];
            let edited = SampleSpec { logit_bias: &bias, ..SampleSpec::default() };
            let specs = [SampleSpec::default(), edited, SampleSpec { temperature: 0.0, ..edited }];
            let cases: Vec<Case<'_>> =
                specs.into_iter().map(|spec| Case::new(spec, random_logits(&mut random, vocab))).collect();
            let mut rig = Rig::new(emu, vocab, 4, 64);
            rig.keeps_raw = true;
            let results = rig.step(emu, &cases);
            let mut scorer = Scorer::new(emu, vocab, 3);
            scorer.logprobs.logit_stride = rig.sampling.logit_stride;
            scorer.logprobs.logits = rig.logits.ptr();
            scorer.logprobs.raw = rig.raw.ptr();
            scorer.logprobs.results = rig.results.ptr();
            let rows: Vec<ScoreRow> =
                rig.table.rows()[..3].iter().enumerate().map(|(i, row)| ScoreRow::drawn(i, row, 4)).collect();
            let records = scorer.score(emu, &rows);
            for i in 0..3 {
                assert_same(&records[i], results[i].token, &logprobs(&cases[i].logits, results[i].token, 4));
            }
            // Row 0 was not edited, so it was not copied.
            assert!(rig.raw.read()[..rig.sampling.logit_stride].iter().all(|x| x.is_nan()));
        }
    });
}
