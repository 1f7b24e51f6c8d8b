//! Frequencies of rotary embeddings: a `RopeSpec` becomes numbers, in the float32 arithmetic of transformers'
//! `modeling_rope_utils`.

use std::f32::consts::TAU;

use crate::spec::{RopeScaling, RopeSpec};

/// `rot_dim / 2` inverse frequencies and the factor on cos and sin, for a model that serves contexts up to
/// `max_position` tokens. LongRoPE's list is chosen by that length, once.
pub fn frequencies(rope: &RopeSpec, max_position: usize) -> (Vec<f32>, f32) {
    // theta^(2i / rot_dim), the reciprocal of the unscaled frequency.
    let period = |pair: usize| {
        let exponent = (2 * pair) as f32 / rope.rot_dim as f32;
        f64::from(rope.theta).powf(f64::from(exponent)) as f32
    };
    let pairs = rope.rot_dim / 2;
    let periods: Vec<f32> = (0..pairs).map(period).collect();
    let divided =
        |factors: &[f32]| periods.iter().zip(factors).map(|(period, factor)| 1.0 / (factor * period)).collect();
    match &rope.scaling {
        RopeScaling::None => (periods.iter().map(|period| 1.0 / period).collect(), 1.0),
        RopeScaling::Linear { factor } => (periods.iter().map(|period| 1.0 / period / factor).collect(), 1.0),
        RopeScaling::Factors { factors } => (divided(factors), 1.0),
        RopeScaling::Llama3 { .. } => (periods.iter().map(|period| llama3(1.0 / period, &rope.scaling)).collect(), 1.0),
        RopeScaling::LongRope { short_factor, long_factor, attention_factor, original_max_position } => {
            let factors = if max_position > *original_max_position { long_factor } else { short_factor };
            (divided(factors), *attention_factor)
        }
        RopeScaling::Yarn { factor, attention_factor, .. } => {
            let (low, high) = yarn_range(rope);
            let blend = |(pair, period): (usize, &f32)| {
                let ramp = ((pair as f32 - low) / (high - low)).clamp(0.0, 1.0);
                // As the reference rounds it: the weight of extrapolation first.
                let keep = 1.0 - ramp;
                1.0 / (factor * period) * (1.0 - keep) + 1.0 / period * keep
            };
            (periods.iter().enumerate().map(blend).collect(), *attention_factor)
        }
    }
}

/// Llama 3.1: long wavelengths are stretched, short ones kept, a ramp between.
fn llama3(frequency: f32, scaling: &RopeScaling) -> f32 {
    let RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position } = *scaling else {
        return frequency;
    };
    let original = original_max_position as f32;
    let wavelength = TAU / frequency;
    if wavelength > original / low_freq_factor {
        frequency / factor
    } else if wavelength < original / high_freq_factor {
        frequency
    } else {
        let smooth = (original / wavelength - low_freq_factor) / (high_freq_factor - low_freq_factor);
        (1.0 - smooth) * frequency / factor + smooth * frequency
    }
}

/// First and last pair of YaRN's ramp (arXiv:2309.00071, section 3.2), as pair numbers.
fn yarn_range(rope: &RopeSpec) -> (f32, f32) {
    let RopeScaling::Yarn { beta_fast, beta_slow, original_max_position, truncate, .. } = rope.scaling else {
        return (0.0, 1.0);
    };
    let (dim, original) = (rope.rot_dim as f64, original_max_position as f64);
    // The pair that turns `rotations` times within the original context.
    let pair = |rotations: f32| {
        dim * (original / (f64::from(rotations) * std::f64::consts::TAU)).ln() / (2.0 * f64::from(rope.theta).ln())
    };
    let (mut low, mut high) = (pair(beta_fast), pair(beta_slow));
    if truncate {
        (low, high) = (low.floor(), high.ceil());
    }
    (low, high) = (low.max(0.0), high.min(dim - 1.0));
    if low == high {
        high += 0.001;
    }
    (low as f32, high as f32)
}
