//! Every measurement of `gpu-check`, on shapes that take no time.

use std::time::Duration;

use sconce::check::measure::{Extent, measurements};
use sconce::check::rates::Operands;
use sconce::check::report::{Line, Outcome, Report};
use sconce::check::serving::Traffic;
use sconce::check::shapes::{Point, Shape};
use sconce::check::steps::Bounds;
use sconce::check::summary::summary;
use sconce::check::timing::Effort;
use sconce_emulator::emulated_devices;

const ONCE: Effort = Effort { runs: 1, long: Duration::ZERO };

fn tiny() -> Extent {
    let config = serde_json::json!({
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 128, "intermediate_size": 64,
        "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 64, "vocab_size": 200,
        "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": true,
    });
    let points = vec![
        Point { batch: 3, context: 40, tokens: 1 },
        Point { batch: 1, context: 0, tokens: 33 },
        Point { batch: 1, context: 0, tokens: 65 },
    ];
    Extent {
        floor_bytes: 1 << 18,
        floor_size: 64,
        bounds: Bounds { max_tokens: 64, max_seqs: 8, max_model_len: 128, effort: ONCE },
        operands: Operands {
            hidden: 256,
            inner: 256,
            vocab: 300,
            heads: (4, 2, 64),
            batches: vec![1, 9],
            contexts: vec![40],
            prompt: 33,
            region: 1 << 20,
            launches: 2,
            effort: ONCE,
        },
        traffic: Traffic { streams: [1, 2, 4], requests: 2, prompt: 24, answer: 6, max_batch_tokens: 48 },
        shapes: vec![Shape { name: "tiny", config, points }],
    }
}

#[test]
fn shapes_are_measured_beside_floors() {
    let folder = tempfile::tempdir().expect("folder");
    emulated_devices(|open| {
        let mut tell = |_: &Line| {};
        let mut report = Report::new(None, &mut tell);
        measurements(&mut report, folder.path(), &tiny(), open);
        let lines = report.lines();
        let (too_long, rest): (Vec<_>, Vec<_>) = lines.iter().partition(|line| line.name.ends_with("65 tokens"));
        assert!(!too_long.is_empty() && too_long.iter().all(|line| line.outcome == Outcome::LeftOut), "{lines:#?}");
        for line in rest {
            let figure = line.figure.unwrap_or_else(|| panic!("{line:?}"));
            assert!(figure.value > 0.0 && figure.ratio.is_none_or(|ratio| ratio > 0.0), "{line:?}");
        }
        // What a kernel must move and compute, by hand: weights, rows in and out; keys, values, queries and results.
        let work = |name: &str| {
            let line = lines.iter().find(|line| line.name == name).unwrap_or_else(|| panic!("no {name}: {lines:#?}"));
            (line.detail["bytes"].as_u64(), line.detail["flops"].as_f64())
        };
        assert_eq!(
            work("gemv qkv, 9 rows"),
            (Some(512 * 256 * 2 + 2 * 9 * (512 + 256)), Some(2.0 * 9.0 * 512.0 * 256.0))
        );
        let decode = "attention, decode, batch 9, context 40";
        assert_eq!(work(decode), (Some(9 * 40 * 512 + 9 * 4 * 64 * 4), Some(4.0 * 9.0 * 40.0 * 256.0)));
        let pairs = f64::from((1..=33).sum::<u32>());
        assert_eq!(work("attention, prefill of 33"), (Some(33 * 512 + 33 * 4 * 64 * 4), Some(4.0 * pairs * 256.0)));
        let text = summary("a card", lines);
        assert!(
            text.contains("| tiny: HTTP, 4 streams, 24 in, 6 out | ") && text.contains("- left out: tiny: "),
            "{text}"
        );
    });
}
