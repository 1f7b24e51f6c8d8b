//! What a sequence asks and has said so far does to its logits: bit by bit as on the CPU, the device counting by itself.

use sconce_kernels::gpu::sample_rows::{RING, SamplePlace, SampleTable};
use sconce_kernels::gpu::verify::Random;
use sconce_kernels::gpu::verify::sampling::{Case, Rig};
use sconce_kernels::sampling::{Penalties, SampleSpec};

use super::super::emu::{EmulatedBed as Bed, emulated_bed};

/// Tokens that nearly all draws take, so that words and counts repeat.
const COMMON: usize = 5;

/// The lists that one sequence asks for.
struct Asked {
    bias: Vec<(u32, f32)>,
    words: Vec<Vec<u32>>,
    stops: [Vec<u32>; 2],
    allowed: Option<Vec<u32>>,
    penalties: Penalties,
    min_tokens: u32,
}

/// Mostly a common token, else any of the vocabulary; now and then one behind it, which the CPU passes over.
fn token(random: &mut Random, vocab: usize) -> u32 {
    let token = match random.below(12) {
        0 => vocab + random.below(3),
        1..4 => random.below(vocab),
        _ => random.below(COMMON),
    };
    token as u32
}

/// Something of everything, or of nothing.
fn asked(random: &mut Random, vocab: usize) -> Asked {
    let tokens = |random: &mut Random, len: usize| (0..len).map(|_| token(random, vocab)).collect::<Vec<_>>();
    let (biases, words, stops) = (random.below(3) * 4, random.below(3) * 6, random.below(2) * 2);
    let penalty = |random: &mut Random| [0.0, 0.7, -0.3][random.below(3)];
    Asked {
        bias: tokens(random, biases).into_iter().map(|t| (t, random.values(1)[0] * 3.0)).collect(),
        words: (0..words)
            .map(|_| {
                let len = random.below(5);
                tokens(random, len)
            })
            .collect(),
        stops: [tokens(random, stops), tokens(random, stops)],
        allowed: (random.below(3) == 0).then(|| (0..vocab.div_ceil(32)).map(|_| random.bits() as u32 | 3).collect()),
        penalties: match random.below(2) {
            0 => Penalties::default(),
            _ => Penalties {
                repetition: [1.0, 1.3, 0.8][random.below(3)],
                presence: penalty(random),
                frequency: penalty(random),
            },
        },
        min_tokens: random.below(12) as u32,
    }
}

impl Asked {
    fn spec(&self) -> SampleSpec<'_> {
        SampleSpec {
            // The CPU's logits are then left as edited.
            temperature: 0.0,
            penalties: self.penalties,
            logit_bias: &self.bias,
            bad_words: &self.words,
            min_tokens: self.min_tokens,
            stop_tokens: [&self.stops[0], &self.stops[1]],
            allowed: self.allowed.as_deref(),
            ..SampleSpec::default()
        }
    }
}

fn logits(random: &mut Random, vocab: usize) -> Vec<f32> {
    let mut logits = random.values(vocab);
    logits.iter_mut().take(COMMON).for_each(|x| *x = *x * 2.0 + 2.0);
    logits
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|x| x.to_bits()).collect()
}

/// Admits six sequences, some of them with output already, and follows them for `steps` tokens.
fn follow(bed: &mut Bed, rig: &mut Rig, random: &mut Random, steps: usize) {
    let vocab = rig.sampling.vocab;
    let asked: Vec<Asked> = (0..rig.rows - 1).map(|_| asked(random, vocab)).collect();
    let mut cases: Vec<Case<'_>> = Vec::new();
    for asked in &asked {
        let len = 1 + random.below(200);
        let tokens = (0..len).map(|_| token(random, vocab)).collect();
        let num_prompt = if random.below(2) == 0 { len } else { random.below(len) };
        cases.push(Case { tokens, num_prompt, ..Case::new(asked.spec(), Vec::new()) });
    }
    rig.admit(bed, &cases).expect("admits");
    for step in 0..steps {
        cases.iter_mut().for_each(|case| case.logits = logits(random, vocab));
        let results = rig.step(bed, &cases).expect("steps");
        let (edited, raw, stride) =
            (bed.read(&rig.logits).expect("memory"), bed.read(&rig.raw).expect("memory"), rig.sampling.logit_stride);
        for (i, case) in cases.iter_mut().enumerate() {
            let (token, want) = case.on_cpu();
            let row = &edited[rig.logit_row(i) * stride..][..stride];
            assert_eq!(bits(&row[..vocab]), bits(&want), "step {step}, row {i}");
            assert!(row[vocab..].iter().all(|x| x.is_nan()), "behind the row");
            if rig.table.rows()[i].is_edited() {
                assert_eq!(bits(&raw[i * stride..][..vocab]), bits(&case.logits), "step {step}, copy of row {i}");
            }
            assert_eq!(results[i].token, token.unwrap_or(0), "step {step}, row {i}");
            // A row with nothing left draws nothing, and counts nothing.
            case.tokens.extend(token);
        }
    }
}

#[test]
fn logits_are_those_of_the_cpu_over_many_steps() {
    emulated_bed(|bed| {
        for (vocab, steps, rounds) in [(37, 40, 4), (64, 75, 2), (9001, 8, 2)] {
            let mut random = Random(vocab as u64);
            let mut rig = Rig::new(bed, vocab, 7, 16).expect("memory");
            rig.keeps_raw = true;
            // Later rounds find slots and pool rows as the earlier ones left them.
            for _ in 0..rounds {
                follow(bed, &mut rig, &mut random, steps);
            }
        }
    });
}

#[test]
fn a_resumed_sequence_has_the_counts_it_had() {
    emulated_bed(|bed| {
        let penalties = Penalties { frequency: 0.5, ..Penalties::default() };
        let spec = SampleSpec { penalties, temperature: 0.0, ..SampleSpec::default() };
        for vocab in [20, 8200] {
            let mut random = Random(3);
            let mut case = Case { tokens: vec![1, 2, 2, 8], num_prompt: 4, ..Case::new(spec, Vec::new()) };
            let mut rig = Rig::new(bed, vocab, 1, 16).expect("memory");
            rig.admit(bed, std::slice::from_ref(&case)).expect("admits");
            for _ in 0..20 {
                case.logits = logits(&mut random, vocab);
                let token = rig.step(bed, std::slice::from_ref(&case)).expect("steps")[0].token;
                case.tokens.push(token);
            }
            let counted = bed.read(&rig.counts).expect("memory");
            assert_eq!(counted.iter().map(|&entry| usize::from(entry & 0x7fff)).sum::<usize>(), 20);
            let mut fresh = Rig::new(bed, vocab, 1, 16).expect("memory");
            fresh.admit(bed, &[case]).expect("admits");
            assert_eq!(bed.read(&fresh.counts).expect("memory"), counted);
        }
    });
}

#[test]
fn counts_saturate() {
    emulated_bed(|bed| {
        let penalties = Penalties { presence: 0.5, ..Penalties::default() };
        let spec = SampleSpec { penalties, temperature: 0.0, ..SampleSpec::default() };
        let case = Case {
            tokens: [vec![3; 40_000], vec![0; 32_766]].concat(),
            num_prompt: 0,
            ..Case::new(spec, vec![9.0, 0.0, 0.0, 0.0])
        };
        let mut rig = Rig::new(bed, 4, 1, 16).expect("memory");
        rig.admit(bed, std::slice::from_ref(&case)).expect("admits");
        assert_eq!(bed.read(&rig.counts).expect("memory"), [0xfffe, 0, 0, 0xffff, 0, 0, 0, 0]);
        for _ in 0..3 {
            assert_eq!(rig.step(bed, std::slice::from_ref(&case)).expect("steps")[0].token, 0);
            assert_eq!(bed.read(&rig.counts).expect("memory")[0], 0xffff);
        }
    });
}

#[test]
fn the_longest_bad_word_matches_and_longer_ones_are_refused() {
    let long = vec![vec![1; RING + 2]];
    let spec = SampleSpec { bad_words: &long, ..SampleSpec::default() };
    assert!(SampleTable::default().push(&spec, &SamplePlace::default(), 10).is_err());
    emulated_bed(|bed| {
        let words = vec![(0..=RING as u32).collect::<Vec<_>>()];
        let spec = SampleSpec { bad_words: &words, temperature: 0.0, ..SampleSpec::default() };
        let mut best = vec![0.0; 100];
        best[RING] = 9.0;
        // The prompt does not count: one token of output less is too short.
        for (num_prompt, want) in [(0, 0), (1, RING as u32)] {
            let tokens = (0..RING as u32).collect();
            let case = Case { tokens, num_prompt, ..Case::new(spec, best.clone()) };
            let mut rig = Rig::new(bed, 100, 1, 16).expect("memory");
            rig.admit(bed, std::slice::from_ref(&case)).expect("admits");
            assert_eq!(rig.step(bed, &[case]).expect("steps")[0].token, want);
        }
    });
}
