//! Which token is drawn: the CPU's, but for near ties; the distribution; faults; the same whoever else is in the step.

use sconce_kernels::gpu::sample_rows::{DRAWN, NOT_FINITE, NOTHING_LEFT, RING, SampleResult};
use sconce_kernels::sampling::{Filters, Penalties, SampleError, SampleSpec, Stream, open_unit};

use super::super::emu::{Emulator, emulated};
use super::super::testing::Random;
use super::{Case, Rig};

const TEMPERATURES: [f32; 10] = [0.0, 9.9e-6, 1e-5, 1e-4, 0.3, 1.0, 1.0, 1.7, 1e30, f32::MAX];
const TOP_PS: [f32; 8] = [1.0, 1.0, 0.9, 0.5, 0.95, 0.01, 0.9999, f32::MIN_POSITIVE];
const MIN_PS: [f32; 6] = [0.0, 0.0, 0.0, 0.05, 0.5, 1.0];

/// Logits of several kinds: bell-shaped, coarse (many ties), mostly masked, flat, far apart.
fn logits(random: &mut Random, vocab: usize) -> Vec<f32> {
    let kind = random.below(6);
    let masked = [0.0, 0.05, 0.95][random.below(3)];
    let mut unit = || random.values(1)[0];
    let mut logits: Vec<f32> = (0..vocab)
        .map(|_| {
            let bell = (unit() + unit() + unit()) * 6.0;
            match kind {
                0 | 1 => bell,
                2 => (bell * 2.0).round() / 2.0,
                3 => unit() * 0.01,
                4 => 1.25,
                _ => unit() * 3e38,
            }
        })
        .collect();
    for x in &mut logits {
        if unit().abs() < masked {
            *x = f32::NEG_INFINITY;
        }
    }
    logits[random.below(vocab)] = 2.0;
    logits
}

fn spec(random: &mut Random, vocab: usize) -> SampleSpec<'static> {
    let top_ks = [0, 0, 1, 2, 5, 50, 1000, vocab - vocab.min(1), vocab, vocab + 1];
    SampleSpec {
        temperature: TEMPERATURES[random.below(TEMPERATURES.len())],
        filters: Filters {
            top_k: top_ks[random.below(top_ks.len())] as u32,
            top_p: TOP_PS[random.below(TOP_PS.len())],
            min_p: MIN_PS[random.below(MIN_PS.len())],
        },
        seed: random.bits(),
        choice: random.below(3) as u32,
        ..SampleSpec::default()
    }
}

fn cases(random: &mut Random, vocab: usize, rows: usize) -> Vec<Case<'static>> {
    let case = |_| {
        let mut case = Case::new(spec(random, vocab), logits(random, vocab));
        case.tokens = vec![0; 1 + random.below(2000)];
        case
    };
    (0..rows).map(case).collect()
}

/// Whether rounding alone may make `token` the winner, by f64 arithmetic on the scaled logits: it is among those kept
/// when top-p's mass is a millionth larger, and scores within 1e-5 of the best kept when it is a millionth smaller.
fn is_near_tie(case: &Case<'_>, token: u32) -> bool {
    let max = case.logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let filters = &case.spec.filters;
    let mut kept: Vec<(f32, u32)> =
        case.logits.iter().zip(0..).map(|(&x, t)| ((x - max) * (1.0 / case.spec.temperature), t)).collect();
    kept.retain(|&(y, _)| y > f32::NEG_INFINITY && (filters.min_p <= 0.0 || y >= filters.min_p.ln()));
    kept.sort_by(|a, b| b.0.partial_cmp(&a.0).expect("no NaN").then(a.1.cmp(&b.1)));
    if filters.top_k > 0 {
        kept.truncate(filters.top_k as usize);
    }
    let total: f64 = kept.iter().map(|&(y, _)| f64::from(y).exp()).sum();
    let reach = |slack: f64| {
        let (mut sum, target) = (0.0, f64::from(filters.top_p) * total * slack);
        let reached = kept.iter().position(|&(y, _)| {
            sum += f64::from(y).exp();
            sum >= target
        });
        if filters.top_p < 1.0 { reached.map_or(kept.len(), |last| last + 1) } else { kept.len() }
    };
    let stream = Stream::new(case.spec.seed, case.spec.choice, case.tokens.len() as u32);
    let score = |&(y, t): &(f32, u32)| {
        let v = f64::from(open_unit(stream.words(t / 4)[(t % 4) as usize]));
        f64::from(y).exp() / -(-v).ln_1p()
    };
    let best = kept[..reach(1.0 - 1e-6)].iter().map(score).fold(0.0, f64::max);
    kept[..reach(1.0 + 1e-6)].iter().any(|entry| entry.1 == token && score(entry) >= best * (1.0 - 1e-5))
}

/// Rows that differ from the CPU's; each must be a near tie.
fn count_differing(cases: &[Case<'_>], results: &[SampleResult]) -> usize {
    let mut differing = 0;
    for (i, (case, result)) in cases.iter().zip(results).enumerate() {
        let want = case.on_cpu().0.expect("a token");
        assert_eq!(result.status, DRAWN, "row {i}");
        if result.token != want {
            let found = (case.logits[result.token as usize], case.logits[want as usize]);
            assert!(is_near_tie(case, result.token), "row {i}: {result:?}, not {want}: {found:?}, {:?}", case.spec);
            differing += 1;
        }
    }
    differing
}

fn check(emu: &mut Emulator, vocab: usize, rows: usize, steps: usize) -> (usize, usize) {
    let mut random = Random((vocab * rows) as u64);
    let mut differing = 0;
    let mut rigs = [7, 4096].map(|list_capacity| Rig::new(emu, vocab, rows + 2, list_capacity));
    for _ in 0..steps {
        let cases = cases(&mut random, vocab, rows);
        let [short, long] = rigs.each_mut().map(|rig| rig.step(emu, &cases));
        assert_eq!(short, long, "resolved from the row, and from the list");
        differing += count_differing(&cases, &long);
    }
    (rows * steps, differing)
}

#[test]
fn tokens_are_those_of_the_cpu() {
    emulated(|emu| {
        // Down to one token; around a warp's and a thread's share; odd and even strides.
        let sizes = [(1, 20, 2), (2, 40, 5), (3, 60, 5), (17, 60, 10), (31, 60, 10), (255, 60, 12), (1000, 60, 20)];
        let found = sizes.map(|(vocab, rows, steps)| check(emu, vocab, rows, steps));
        let (rows, differing) = found.iter().fold((0, 0), |sum, found| (sum.0 + found.0, sum.1 + found.1));
        assert!(differing * 1000 <= rows, "{differing} of {rows} rows differ");
    });
}

#[test]
fn filters_that_meet_are_applied_in_the_order_of_the_cpu() {
    emulated(|emu| {
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
                let results = Rig::new(emu, vocab, rows, list_capacity).step(emu, &cases);
                assert!(count_differing(&cases, &results) <= 1);
            }
        }
    });
}

#[test]
fn tokens_are_those_of_the_cpu_where_a_row_has_several_blocks() {
    emulated(|emu| {
        // One chunk; one over; a partial last one.
        let found = [(8192, 12, 3), (8193, 8, 3), (30_000, 12, 3)].map(|(v, rows, steps)| check(emu, v, rows, steps));
        let (rows, differing) = found.iter().fold((0, 0), |sum, found| (sum.0 + found.0, sum.1 + found.1));
        assert!(differing * 50 <= rows, "{differing} of {rows} rows differ");
    });
}

#[test]
fn the_largest_vocabulary_fits() {
    emulated(|emu| {
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
        let results = Rig::new(emu, vocab, cases.len(), 4096).step(emu, &cases);
        assert!(count_differing(&cases, &results) <= 1);
        assert_eq!(results[5].token as usize, vocab - 1);
    });
}

#[test]
fn draws_follow_the_filtered_softmax() {
    emulated(|emu| {
        let logits = [0.0f32, 1.0, 2.0, -1.0, 0.5, f32::NEG_INFINITY, 1.5, 0.25];
        let temperature = 1.3;
        let weights: Vec<f64> = logits.iter().map(|x| f64::from(x / temperature).exp()).collect();
        // top-k drops -1; the others lie in front of the mass of top-p.
        let filters = [Filters::default(), Filters { top_k: 6, top_p: 0.9999, min_p: 0.0 }];
        for (filters, kept) in filters.into_iter().zip([vec![0, 1, 2, 3, 4, 6, 7], vec![0, 1, 2, 4, 6, 7]]) {
            let (rows, steps) = (500, 24);
            let mut rig = Rig::new(emu, logits.len(), rows, 64);
            let mut counts = [0f64; 8];
            for step in 0..steps {
                let spec =
                    |seed: usize| SampleSpec { temperature, filters, seed: seed as u64, ..SampleSpec::default() };
                let case = |row| Case::new(spec(step * rows + row), logits.to_vec());
                for result in rig.step(emu, &(0..rows).map(case).collect::<Vec<_>>()) {
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
    emulated(|emu| {
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
            let mut rig = Rig::new(emu, vocab, cases.len() + 1, 16);
            for step in 0..2 {
                rig.admit(emu, &cases);
                let (mut counts, rings) = (rig.counts.read(), rig.rings.read());
                for (i, (case, result)) in cases.iter().zip(rig.step(emu, &cases)).enumerate() {
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
                        assert_eq!(rig.rings.read()[ring], rings[ring], "step {step}, row {i}");
                    }
                }
                assert_eq!(rig.counts.read(), counts, "step {step}");
            }
        }
    });
}

#[test]
fn both_zeros_are_one_value() {
    emulated(|emu| {
        // The best of these, and what temperature makes of -1e-10, are zeros of either sign: the lower id is first.
        let filters = Filters { top_k: 1, ..Filters::default() };
        let spec = SampleSpec { temperature: 1e38, filters, ..SampleSpec::default() };
        let greedy = SampleSpec { temperature: 0.0, ..spec };
        let cases = [Case::new(greedy, vec![-1.0, -0.0, 0.0]), Case::new(spec, vec![-1e-10, 0.0, -1e-9])];
        let tokens = Rig::new(emu, 3, 2, 16).step(emu, &cases).into_iter().map(|result| result.token);
        assert_eq!(tokens.collect::<Vec<_>>(), [1, 0]);
    });
}

#[test]
fn a_row_does_not_depend_on_the_others_or_on_the_order_of_blocks() {
    emulated(|emu| {
        for vocab in [700, 20_000] {
            let mut random = Random(vocab as u64);
            let many = cases(&mut random, vocab, 24);
            let together = Rig::new(emu, vocab, many.len(), 4096).step(emu, &many);
            for (case, want) in many.iter().zip(together) {
                emu.seed += 100;
                assert_eq!(Rig::new(emu, vocab, 1, 4096).step(emu, std::slice::from_ref(case)), [want]);
            }
        }
    });
}
