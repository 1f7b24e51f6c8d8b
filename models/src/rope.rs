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

#[cfg(test)]
mod tests {
    use super::*;

    /// Head width 16. The expected numbers are `ROPE_INIT_FUNCTIONS[rope_type](config, seq_len=...)` of transformers
    /// 5.24.0 for `LlamaConfig(hidden_size=64, num_attention_heads=4, rope_parameters=...)`, printed with `%.9g`.
    fn check(theta: f32, scaling: RopeScaling, max_position: usize, expected: ([f64; 8], f32)) {
        let rope = RopeSpec { theta, rot_dim: 16, interleaved: false, scaling };
        let (frequencies, factor) = frequencies(&rope, max_position);
        assert_eq!(frequencies.len(), 8);
        for (ours, theirs) in frequencies.iter().zip(expected.0) {
            assert!((f64::from(*ours) / theirs - 1.0).abs() < 5e-7, "{ours} {theirs} in {rope:?}");
        }
        assert!((factor - expected.1).abs() < 1e-7);
    }

    #[test]
    fn linear_as_transformers() {
        let expected = [
            0.125,
            0.0395284705,
            0.0125000002,
            0.00395284733,
            0.00124999997,
            0.000395284733,
            0.000125000006,
            3.95284733e-05,
        ];
        check(10_000.0, RopeScaling::Linear { factor: 8.0 }, 4096, (expected, 1.0));
    }

    #[test]
    fn factors_divide() {
        let factors = vec![8.0; 8];
        let expected = [
            0.125,
            0.0395284705,
            0.0125000002,
            0.00395284733,
            0.00124999997,
            0.000395284733,
            0.000125000006,
            3.95284733e-05,
        ];
        check(10_000.0, RopeScaling::Factors { factors }, 4096, (expected, 1.0));
    }

    #[test]
    fn llama3_as_transformers() {
        let scaling = RopeScaling::Llama3 {
            factor: 32.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position: 8192,
        };
        let expected = [
            1.0,
            0.193922758,
            0.0376060307,
            0.00729266508,
            0.000429556705,
            8.57025589e-06,
            1.66196742e-06,
            3.22293289e-07,
        ];
        check(500_000.0, scaling, 131_072, (expected, 1.0));
    }

    #[test]
    fn yarn_as_transformers() {
        let scaling = |factor, attention_factor, original_max_position, truncate| RopeScaling::Yarn {
            factor,
            beta_fast: 32.0,
            beta_slow: 1.0,
            attention_factor,
            original_max_position,
            truncate,
        };
        let expected = [
            1.0,
            0.177827939,
            0.0316227786,
            0.00421755994,
            0.000500000024,
            4.44569851e-05,
            7.90569356e-06,
            1.40585337e-06,
        ];
        check(1_000_000.0, scaling(4.0, 1.138_629_4, 32_768, true), 131_072, (expected, 1.138_629_4));
        let expected = [
            1.0,
            0.225418001,
            0.0508132726,
            0.00679495931,
            0.000456483918,
            1.8188337e-05,
            4.09997847e-06,
            9.24208962e-07,
        ];
        check(150_000.0, scaling(32.0, 1.346_573_6, 4096, false), 131_072, (expected, 1.346_573_6));
    }

    #[test]
    fn longrope_chooses_its_list_by_the_configured_length() {
        let scaling = RopeScaling::LongRope {
            short_factor: vec![1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7],
            long_factor: vec![1.0, 1.5, 2.0, 4.0, 8.0, 16.0, 24.0, 32.0],
            attention_factor: 1.095_445_1,
            original_max_position: 1024,
        };
        let short = [
            1.0,
            0.287479758,
            0.0833333358,
            0.0243252143,
            0.00714285718,
            0.00210818532,
            0.000624999986,
            0.000186016332,
        ];
        let long = [
            1.0,
            0.210818499,
            0.0500000007,
            0.00790569466,
            0.00124999997,
            0.000197642366,
            4.16666662e-05,
            9.88211832e-06,
        ];
        check(10_000.0, scaling.clone(), 1024, (short, 1.095_445_1));
        check(10_000.0, scaling, 1025, (long, 1.095_445_1));
    }
}
