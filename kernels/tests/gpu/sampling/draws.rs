//! Which token is drawn: the CPU's, but for near ties; the distribution; faults; the same whoever else is in the step.

use sconce_kernels::gpu::sample_rows::{DRAWN, NOT_FINITE, NOTHING_LEFT, RING, SampleResult};
use sconce_kernels::gpu::verify::Random;
use sconce_kernels::gpu::verify::draws::{cases, check, count_differing};
use sconce_kernels::gpu::verify::sampling::{Case, Rig};
use sconce_kernels::sampling::{Filters, Penalties, SampleError, SampleSpec};

use super::super::emu::emulated_bed;

#[test]
fn tokens_are_those_of_the_cpu() {
    emulated_bed(|bed| {
        // Down to one token; around a warp's and a thread's share; odd and even strides.
        let sizes = [(1, 20, 2), (2, 40, 5), (3, 60, 5), (17, 60, 10), (31, 60, 10), (255, 60, 12), (1000, 60, 20)];
        let found = sizes.map(|(vocab, rows, steps)| check(bed, vocab, rows, steps).expect("ties"));
        let (rows, differing) = found.iter().fold((0, 0), |sum, found| (sum.0 + found.0, sum.1 + found.1));
        assert!(differing * 1000 <= rows, "{differing} of {rows} rows differ");
    });
}

#[test]
fn filters_that_meet_are_applied_in_the_order_of_the_cpu() {
    emulated_bed(|bed| {
        let (vocab, rows) = (500, 100);
        let mut random = Random(6);
        // top-k wants more than min-p leaves, or less; top-p has what both leave to divide.
        for (top_k, top_p) in [(450, 1.0), (450, 0.9), (60, 0.9), (0, 0.9)] {
            let filters = Filters { top_k, top_p, min_p: 0.3 };
            let case = |_| {
                let spec = SampleSpec { filters, seed: random.bits(), ..SampleSpec::default() };
                Case::new(spec, random.values(vocab))
            };
            let cases: Vec<Case<'_>> = (0..rows).map(case).collect();
            for list_capacity in [7, 4096] {
                let results =
                    Rig::new(bed, vocab, rows, list_capacity).expect("memory").step(bed, &cases).expect("steps");
                assert!(count_differing(&cases, &results).expect("ties") <= 1);
            }
        }
    });
}

#[test]
fn tokens_are_those_of_the_cpu_where_a_row_has_several_blocks() {
    emulated_bed(|bed| {
        // One chunk; one over; a partial last one.
        let found = [(8192, 12, 3), (8193, 8, 3), (30_000, 12, 3)]
            .map(|(v, rows, steps)| check(bed, v, rows, steps).expect("ties"));
        let (rows, differing) = found.iter().fold((0, 0), |sum, found| (sum.0 + found.0, sum.1 + found.1));
        assert!(differing * 50 <= rows, "{differing} of {rows} rows differ");
    });
}

#[test]
fn the_largest_vocabulary_fits() {
    emulated_bed(|bed| {
        let vocab = 1 << 18;
        let mut random = Random(18);
        let filters = [(0, 1.0), (40, 0.9), (0, 0.9), (200_000, 1.0)];
        let mut cases: Vec<Case<'_>> = filters
            .map(|(top_k, top_p)| {
                let filters = Filters { top_k, top_p, min_p: 0.0 };
                let spec = SampleSpec { filters, seed: random.bits(), ..SampleSpec::default() };
                Case::new(spec, (0..vocab).map(|_| random.values(4).iter().sum::<f32>() * 6.0).collect())
            })
            .into();
        // All equal: every token is in one bucket, the mass is 2^18 exactly, ids alone decide.
        let filters = Filters { top_k: 0, top_p: 0.5, min_p: 0.0 };
        cases.push(Case::new(SampleSpec { filters, ..SampleSpec::default() }, vec![3.0; vocab]));
        let mut last = vec![f32::NEG_INFINITY; vocab];
        last[vocab - 1] = -1e30;
        cases.push(Case::new(SampleSpec { filters, ..SampleSpec::default() }, last));
        let results = Rig::new(bed, vocab, cases.len(), 4096).expect("memory").step(bed, &cases).expect("steps");
        assert!(count_differing(&cases, &results).expect("ties") <= 1);
        assert_eq!(results[5].token as usize, vocab - 1);
    });
}

#[test]
fn draws_follow_the_filtered_softmax() {
    emulated_bed(|bed| {
        let logits = [0.0f32, 1.0, 2.0, -1.0, 0.5, f32::NEG_INFINITY, 1.5, 0.25];
        let temperature = 1.3;
        let weights: Vec<f64> = logits.iter().map(|x| f64::from(x / temperature).exp()).collect();
        // top-k drops -1; the others lie in front of the mass of top-p.
        let filters = [Filters::default(), Filters { top_k: 6, top_p: 0.9999, min_p: 0.0 }];
        for (filters, kept) in filters.into_iter().zip([vec![0, 1, 2, 3, 4, 6, 7], vec![0, 1, 2, 4, 6, 7]]) {
            let (rows, steps) = (500, 24);
            let mut rig = Rig::new(bed, logits.len(), rows, 64).expect("memory");
            let mut counts = [0f64; 8];
            for step in 0..steps {
                let spec =
                    |seed: usize| SampleSpec { temperature, filters, seed: seed as u64, ..SampleSpec::default() };
                let case = |row| Case::new(spec(step * rows + row), logits.to_vec());
                for result in rig.step(bed, &(0..rows).map(case).collect::<Vec<_>>()).expect("steps") {
                    counts[result.token as usize] += 1.0;
                }
            }
            let (n, total) = ((rows * steps) as f64, kept.iter().map(|&t| weights[t]).sum::<f64>());
            let chi2: f64 =
                kept.iter().map(|&t| (counts[t] - weights[t] / total * n).powi(2) / (weights[t] / total * n)).sum();
            assert_eq!(kept.iter().map(|&t| counts[t]).sum::<f64>(), n, "{counts:?}");
            // p = 1e-4 with 6 degrees of freedom.
            assert!(chi2 < 27.9, "chi-square {chi2}: {counts:?}");
        }
    });
}

#[test]
fn faults_concern_their_row_alone() {
    emulated_bed(|bed| {
        for vocab in [5, 20_000] {
            let filters = Filters { top_k: 3, top_p: 0.9, min_p: 0.0 };
            let penalties = Penalties { presence: 1e-3, ..Penalties::default() };
            let spec = SampleSpec { filters, penalties, ..SampleSpec::default() };
            let specs = [0.0, 1.0].map(|temperature| SampleSpec { temperature, ..spec });
            let mut cases = Vec::new();
            for spec in specs {
                cases.push(Case::new(spec, vec![f32::NEG_INFINITY; vocab]));
                for bad in [f32::NAN, f32::INFINITY, -f32::NAN] {
                    let mut logits = vec![1.0; vocab];
                    logits[vocab - 1] = bad;
                    cases.push(Case::new(spec, logits));
                }
                cases.push(Case::new(spec, vec![1.0; vocab]));
            }
            let mut rig = Rig::new(bed, vocab, cases.len() + 1, 16).expect("memory");
            for step in 0..2 {
                rig.admit(bed, &cases).expect("admits");
                let (mut counts, rings) =
                    (bed.read(&rig.counts).expect("memory"), bed.read(&rig.rings).expect("memory"));
                for (i, (case, result)) in cases.iter().zip(rig.step(bed, &cases).expect("steps")).enumerate() {
                    let status = match case.on_cpu().0 {
                        Ok(_) => DRAWN,
                        Err(SampleError::NotFinite) => NOT_FINITE,
                        Err(SampleError::NothingLeft) => NOTHING_LEFT,
                    };
                    assert_eq!(result, SampleResult { token: case.on_cpu().0.unwrap_or(0), status });
                    let entry = i * rig.sampling.count_stride + result.token as usize;
                    // Only what was drawn is kept.
                    if status == DRAWN {
                        counts[entry] = 0x8000 | ((counts[entry] & 0x7fff) + 1);
                    } else {
                        let ring = rig.slot(i) * RING + case.tokens.len();
                        assert_eq!(bed.read(&rig.rings).expect("memory")[ring], rings[ring], "step {step}, row {i}");
                    }
                }
                assert_eq!(bed.read(&rig.counts).expect("memory"), counts, "step {step}");
            }
        }
    });
}

#[test]
fn both_zeros_are_one_value() {
    emulated_bed(|bed| {
        // The best of these, and what temperature makes of -1e-10, are zeros of either sign: the lower id is first.
        let filters = Filters { top_k: 1, ..Filters::default() };
        let spec = SampleSpec { temperature: 1e38, filters, ..SampleSpec::default() };
        let greedy = SampleSpec { temperature: 0.0, ..spec };
        let cases = [Case::new(greedy, vec![-1.0, -0.0, 0.0]), Case::new(spec, vec![-1e-10, 0.0, -1e-9])];
        let tokens = Rig::new(bed, 3, 2, 16)
            .expect("memory")
            .step(bed, &cases)
            .expect("steps")
            .into_iter()
            .map(|result| result.token);
        assert_eq!(tokens.collect::<Vec<_>>(), [1, 0]);
    });
}

#[test]
fn a_row_does_not_depend_on_the_others_or_on_the_order_of_blocks() {
    emulated_bed(|bed| {
        for vocab in [700, 20_000] {
            let mut random = Random(vocab as u64);
            let many = cases(&mut random, vocab, 24);
            let together = Rig::new(bed, vocab, many.len(), 4096).expect("memory").step(bed, &many).expect("steps");
            for (case, want) in many.iter().zip(together) {
                bed.device().skip_orders(100);
                assert_eq!(
                    Rig::new(bed, vocab, 1, 4096)
                        .expect("memory")
                        .step(bed, std::slice::from_ref(case))
                        .expect("steps"),
                    [want]
                );
            }
        }
    });
}
