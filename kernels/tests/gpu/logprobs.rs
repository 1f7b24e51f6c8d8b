//! Log-probabilities: of drawn tokens, edited or not, and of prompt tokens, against `sconce_kernels::sampling`.

use sconce_kernels::gpu::logprobs::ScoreRow;
use sconce_kernels::gpu::verify::Random;
use sconce_kernels::gpu::verify::logprobs::{Scorer, check, random_logits, same};
use sconce_kernels::gpu::verify::sampling::{Case, Rig};
use sconce_kernels::sampling::{SampleSpec, logprobs};

use super::emu::emulated_bed;
use super::testing::upload;

#[test]
fn prompt_tokens_are_scored_as_on_the_cpu() {
    emulated_bed(|bed| {
        for (vocab, rows) in [(1, 3), (7, 20), (33, 20), (1000, 20), (8192, 6), (8193, 6), (40_001, 6)] {
            check(bed, vocab, rows).expect("matches");
        }
    });
}

#[test]
fn what_is_not_finite_has_the_lowest_logprob() {
    emulated_bed(|bed| {
        for bad in [[f32::NAN, 0.0], [f32::INFINITY, 0.0], [f32::NEG_INFINITY, f32::NEG_INFINITY]] {
            let mut scorer = Scorer::new(bed, 2, 1).expect("memory");
            let logits = upload(bed, &bad);
            scorer.logprobs.logits = logits.ptr();
            let records = scorer.score(bed, &[ScoreRow::prompt(0, 1, 2)]).expect("scores");
            assert_eq!(records[0].logprob, -9999.0);
            assert_eq!(logprobs(&bad, 1, 2).logprob, -9999.0);
            assert!(records[0].log_probs().top.iter().all(|entry| entry.1 == -9999.0));
        }
    });
}

#[test]
fn drawn_tokens_are_scored_by_what_the_model_said() {
    emulated_bed(|bed| {
        for vocab in [50, 9000] {
            let mut random = Random(4);
            let bias: Vec<(u32, f32)> = vec![(3, 30.0), (vocab as u32 - 1, 29.0)];
            let edited = SampleSpec { logit_bias: &bias, ..SampleSpec::default() };
            let specs = [SampleSpec::default(), edited, SampleSpec { temperature: 0.0, ..edited }];
            let cases: Vec<Case<'_>> =
                specs.into_iter().map(|spec| Case::new(spec, random_logits(&mut random, vocab))).collect();
            let mut rig = Rig::new(bed, vocab, 4, 64).expect("memory");
            rig.keeps_raw = true;
            let results = rig.step(bed, &cases).expect("steps");
            let mut scorer = Scorer::new(bed, vocab, 3).expect("memory");
            scorer.logprobs.logit_stride = rig.sampling.logit_stride;
            scorer.logprobs.logits = rig.logits.ptr();
            scorer.logprobs.raw = rig.raw.ptr();
            scorer.logprobs.results = rig.results.ptr();
            let rows: Vec<ScoreRow> =
                rig.table.rows()[..3].iter().enumerate().map(|(i, row)| ScoreRow::drawn(i, row, 4)).collect();
            let records = scorer.score(bed, &rows).expect("scores");
            for i in 0..3 {
                let want = logprobs(&cases[i].logits, results[i].token, 4);
                same(&records[i], results[i].token, &want).expect("matches");
            }
            // Row 0 was not edited, so it was not copied.
            assert!(bed.read(&rig.raw).expect("memory")[..rig.sampling.logit_stride].iter().all(|x| x.is_nan()));
        }
    });
}
