//! What steps cost with the vocabularies of real models. Run by hand:
//! `SCONCE_TEST_MODELS=... cargo test --release --lib -- grammar::tests::costs --ignored --nocapture`.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand::rngs::StdRng;

use super::walk::choose;
use super::*;

const CASES: [(&str, &str); 5] = [
    (
        "person",
        r#"{"type":"object","properties":{"name":{"type":"string"},"age":{"type":"integer","minimum":0,"maximum":150},"email":{"type":"string","format":"email"},"tags":{"type":"array","items":{"enum":["red","green","blue"]},"maxItems":5}},"required":["name","age","email","tags"],"additionalProperties":false}"#,
    ),
    ("any object", r#"{"type":"object"}"#),
    (
        "open object",
        r#"{"type":"object","properties":{"id":{"type":"integer"},"note":{"type":"string","maxLength":200}},"required":["id"]}"#,
    ),
    (
        "tree",
        r##"{"$ref":"#/$defs/t","$defs":{"t":{"type":"object","properties":{"label":{"type":"string"},"kids":{"type":"array","items":{"$ref":"#/$defs/t"}}},"required":["label","kids"],"additionalProperties":false}}}"##,
    ),
    (
        "bounded text",
        r#"{"type":"object","properties":{"text":{"type":"string","minLength":20,"maxLength":400},"when":{"type":"string","format":"date-time"}},"required":["text","when"],"additionalProperties":false}"#,
    ),
];

#[test]
#[ignore = "measures; run by hand"]
fn steps_with_real_vocabularies() {
    let root = PathBuf::from(std::env::var_os("SCONCE_TEST_MODELS").expect("SCONCE_TEST_MODELS"));
    for file in ["SmolLM2-135M-Instruct.Q4_1.gguf", "gemma-3-270m-q4_k_m.gguf"] {
        let bench = Bench::new(tokenizer_at(&root.join(file)));
        let start = Instant::now();
        bench.compiler.warm_up().unwrap();
        println!("{file}: {} tokens, vocabulary built in {:.0} ms", bench.tokenizer.vocab_size(), ms(start.elapsed()));
        for (name, text) in CASES {
            measure(&bench, name, &schema(text));
        }
    }
}

fn measure(bench: &Bench, name: &str, spec: &GrammarSpec) {
    let start = Instant::now();
    let compiled = bench.compiler.compile(spec).unwrap();
    let compile = start.elapsed();
    let start = Instant::now();
    let first = compiled.matcher();
    let made = start.elapsed();
    drop(first);
    for (label, runs) in [("first request", 1), ("later requests", 20)] {
        let (mut masks, mut accepts, mut forced) = (Vec::new(), Vec::new(), Vec::new());
        for run in 0..runs {
            let mut rng = StdRng::seed_from_u64(run + runs);
            let mut matcher = compiled.matcher();
            let mut words = vec![0; bench.tokenizer.vocab_size().div_ceil(32)];
            for step in 0..200 {
                masks.push(timed(|| matcher.allowed(&mut words).unwrap()));
                if is_set(&words, bench.end) {
                    break;
                }
                forced.push(timed(|| drop(matcher.forced().unwrap())));
                let token = choose(bench, &words, &mut rng, step > 60);
                accepts.push(timed(|| matcher.accept(token).unwrap()));
            }
        }
        println!(
            "  {name:13} {label:14} compiled in {:5.1} ms, matcher in {:4.0} us; allowed {}; accept {}; forced {}",
            ms(compile),
            ms(made) * 1e3,
            spread(masks),
            spread(accepts),
            spread(forced)
        );
    }
}

fn timed(work: impl FnOnce()) -> Duration {
    let start = Instant::now();
    work();
    start.elapsed()
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// Median, 99th percentile and maximum in microseconds.
fn spread(mut times: Vec<Duration>) -> String {
    times.sort();
    let at = |q: f64| times[((times.len() - 1) as f64 * q) as usize].as_secs_f64() * 1e6;
    format!("{:.0} / {:.0} / {:.0} us", at(0.5), at(0.99), at(1.0))
}
