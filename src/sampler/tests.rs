//! The sampler against distributions and rules computed by hand.

use super::*;

fn row<'a>(params: &'a SamplingParams, tokens: &'a [u32], num_prompt: usize) -> RowContext<'a> {
    RowContext { params, choice: 0, tokens, num_prompt, allowed: None }
}

fn sample(params: &SamplingParams, tokens: &[u32], num_prompt: usize, logits: &[f32]) -> u32 {
    Sampler::default().sample(&row(params, tokens, num_prompt), &mut logits.to_vec()).unwrap().0
}

#[test]
fn greedy_takes_the_lowest_of_equals() {
    let params = SamplingParams { temperature: 0.0, ..Default::default() };
    assert_eq!(sample(&params, &[1], 1, &[0.0, 2.0, 2.0, 1.0]), 1);
}

#[test]
fn no_temperature_is_too_small_or_too_large() {
    for temperature in [0.0, 1e-45, 1e-40, 1e-10, 1e-4] {
        let params = SamplingParams { temperature, seed: 3, ..Default::default() };
        assert_eq!(sample(&params, &[1], 1, &[-3.0, 1.0, 2.0]), 2, "{temperature:e}");
    }
    let params = SamplingParams { temperature: f32::MAX, seed: 3, ..Default::default() };
    assert!(sample(&params, &[1], 1, &[-3.0, 1.0, 2.0]) < 3);
}

#[test]
fn draws_follow_the_softmax() {
    let logits = [0.0f32, 1.0, 2.0, -1.0, 0.5];
    for temperature in [0.5f32, 1.0, 1.7] {
        let weights: Vec<f64> = logits.iter().map(|x| f64::from(x / temperature).exp()).collect();
        let total: f64 = weights.iter().sum();
        let mut counts = [0f64; 5];
        let n = 40_000;
        for seed in 0..n {
            let params = SamplingParams { temperature, seed, ..Default::default() };
            counts[sample(&params, &[3, 4], 1, &logits) as usize] += 1.0;
        }
        let chi2: f64 =
            weights.iter().zip(counts).map(|(w, c)| (c - w / total * n as f64).powi(2) / (w / total * n as f64)).sum();
        assert!(chi2 < 23.5, "chi-square with 4 degrees of freedom: {chi2} {counts:?}"); // p = 1e-4
    }
}

#[test]
fn draws_depend_on_seed_choice_and_position_only() {
    let logits: Vec<f32> = (0..1000).map(|i| ((i * 37) % 101) as f32 / 20.0).collect();
    let params = SamplingParams { seed: 9, ..Default::default() };
    let a = sample(&params, &[1, 2, 3], 1, &logits);
    assert_eq!(a, sample(&params, &[7, 8, 9], 2, &logits), "history does not enter the draw");
    let differs = |f: &dyn Fn(u32) -> u32| (0..32).any(|i| f(i) != a);
    assert!(differs(&|i| sample(&params, &vec![0; 4 + i as usize], 1, &logits)));
    assert!(differs(&|i| sample(
        &SamplingParams { seed: 10 + u64::from(i), ..params.clone() },
        &[1, 2, 3],
        1,
        &logits
    )));
    assert!(differs(&|i| {
        let context = RowContext { choice: 1 + i, ..row(&params, &[1, 2, 3], 1) };
        Sampler::default().sample(&context, &mut logits.clone()).unwrap().0
    }));
}

#[test]
fn bad_words_match_the_end_of_the_output() {
    let params = SamplingParams { bad_words: vec![vec![5], vec![1, 2]], temperature: 0.0, ..Default::default() };
    let logits = [0.0, 0.0, 3.0, 1.0, 2.0, 9.0];
    assert_eq!(sample(&params, &[0, 1], 1, &logits), 4, "5 alone and 2 after 1 are forbidden");
    assert_eq!(sample(&params, &[0, 1], 2, &logits), 2, "the prompt does not count");
}

#[test]
fn min_tokens_masks_every_stop() {
    let params = SamplingParams {
        temperature: 0.0,
        min_tokens: 2,
        eos_token_ids: vec![1],
        stop_token_ids: vec![2],
        ..Default::default()
    };
    let logits = [0.0, 3.0, 2.0];
    assert_eq!(sample(&params, &[7, 0], 1, &logits), 0);
    assert_eq!(sample(&params, &[7, 0, 0], 1, &logits), 1);
}

#[test]
fn faults_are_errors() {
    let params = SamplingParams::default();
    let run = |logits: &mut [f32]| Sampler::default().sample(&row(&params, &[1], 1), logits).unwrap_err();
    assert_eq!(run(&mut [0.0, f32::NAN]), SampleError::NotFinite);
    assert_eq!(run(&mut [0.0, f32::INFINITY]), SampleError::NotFinite);
    assert_eq!(run(&mut [f32::NEG_INFINITY; 3]), SampleError::NothingLeft);
}
