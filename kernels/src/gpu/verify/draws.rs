//! Which token is drawn: the CPU's, but for near ties.

use super::super::device::GpuDevice;
use super::super::sample_rows::{DRAWN, SampleResult};
use super::sampling::{Case, Rig};
use super::{Bed, Checked, Fault, Random, ensure};
use crate::sampling::{Filters, SampleSpec, Stream, open_unit};

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

/// Random rows of every kind.
pub fn cases(random: &mut Random, vocab: usize, rows: usize) -> Vec<Case<'static>> {
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
    kept.sort_by(|a, b| b.0.partial_cmp(&a.0).unwrap_or(std::cmp::Ordering::Equal).then(a.1.cmp(&b.1)));
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

/// Rows that differ from the CPU's.
///
/// # Errors
/// When one is not a near tie.
pub fn count_differing(cases: &[Case<'_>], results: &[SampleResult]) -> Checked<usize> {
    let mut differing = 0;
    for (i, (case, result)) in cases.iter().zip(results).enumerate() {
        let want = case.on_cpu().0.map_err(|error| Fault::Wrong(format!("row {i}: no token on the CPU: {error:?}")))?;
        ensure(result.status == DRAWN, || format!("row {i}: {result:?}"))?;
        if result.token != want {
            let tied = (result.token as usize) < case.logits.len() && is_near_tie(case, result.token);
            ensure(tied, || format!("row {i}: {result:?}, not {want}: {:?}", case.spec))?;
            differing += 1;
        }
    }
    Ok(differing)
}

/// Steps of random rows; how many rows there were, and how many of them differ from the CPU's.
///
/// # Errors
/// When a token is not the CPU's, but for near ties.
pub fn check<D: GpuDevice>(bed: &mut Bed<D>, vocab: usize, rows: usize, steps: usize) -> Checked<(usize, usize)> {
    let mut random = Random((vocab * rows) as u64);
    let mut differing = 0;
    let mut short = Rig::new(bed, vocab, rows + 2, 7)?;
    let mut long = Rig::new(bed, vocab, rows + 2, 4096)?;
    for _ in 0..steps {
        let cases = cases(&mut random, vocab, rows);
        let (from_row, from_list) = (short.step(bed, &cases)?, long.step(bed, &cases)?);
        ensure(from_row == from_list, || "other tokens from the row than from the list".to_owned())?;
        differing += count_differing(&cases, &from_list)?;
    }
    Ok((rows * steps, differing))
}
