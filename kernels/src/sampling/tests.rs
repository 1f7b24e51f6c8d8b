//! The parts of the sampler against rules computed by hand; the whole is tested where requests are known.

use super::*;

#[test]
fn the_skipped_logarithm_changes_nothing() {
    let logits: Vec<f32> = (0..5000).map(|i| -(((i * 7919) % 5000) as f32) / 300.0).collect();
    for position in 0..200 {
        let stream = Stream::new(77, 0, position);
        let plain = (0..5000u32)
            .map(|t| {
                let v = open_unit(stream.words(t / 4)[(t % 4) as usize]);
                (logits[t as usize].exp() / -(-v).ln_1p(), t)
            })
            .fold((-1.0f32, 0), |best, x| if x.0 > best.0 { x } else { best });
        assert_eq!(race(&stream, 0..5000, &logits), plain.1);
    }
}

#[test]
fn penalties_have_vllms_scope_and_order() {
    let penalties = Penalties { repetition: 2.0, presence: 0.5, frequency: 0.25 };
    let spec = SampleSpec { penalties, ..SampleSpec::default() };
    let mut logits = vec![4.0, -4.0, 4.0, 4.0];
    // prompt: 0 1; output: 2 2.
    let history = History { tokens: &[0, 1, 2, 2], num_prompt: 2 };
    process::Processor::default().apply(&spec, &history, &mut logits);
    assert_eq!(logits, [2.0, -8.0, 2.0 - 0.5 - 0.5, 4.0]);
}

#[test]
fn a_grammar_masks_what_it_does_not_allow() {
    let mut logits = vec![1.0; 70];
    let spec = SampleSpec { allowed: Some(&[1 << 3, 1 << 31]), ..SampleSpec::default() };
    process::Processor::default().apply(&spec, &History { tokens: &[], num_prompt: 0 }, &mut logits);
    let left: Vec<usize> = (0..70).filter(|&t| logits[t] == 1.0).collect();
    assert_eq!(left, [3, 63]);
}

#[test]
fn a_masked_token_never_wins_against_the_largest_variate() {
    // The word of the only token left is one of the 128 whose variate rounds to 1.
    assert!(Stream::new(3_892_044, 0, 3).words(0)[2] > u32::MAX - 128);
    let spec = SampleSpec { seed: 3_892_044, ..SampleSpec::default() };
    let history = History { tokens: &[7; 3], num_prompt: 1 };
    let none = f32::NEG_INFINITY;
    assert_eq!(Sampler::default().sample(&spec, &history, &mut [none, none, 1.0, none]), Ok(2));
}

#[test]
fn both_zeros_are_one_value() {
    // Scaled by such a temperature, -1e-10 underflows to -0; ties go to the lower id.
    let filters = Filters { top_k: 1, ..Filters::default() };
    let spec = SampleSpec { temperature: 1e38, filters, ..SampleSpec::default() };
    let history = History { tokens: &[], num_prompt: 0 };
    assert_eq!(Sampler::default().sample(&spec, &history, &mut [-1e-10, 0.0]), Ok(0));
}
