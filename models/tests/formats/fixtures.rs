//! The committed checkpoints: each gives a spec, and spec and names together account for every tensor in the file.

use std::collections::BTreeMap;
use std::path::PathBuf;

use sconce_models::checkpoint::Checkpoint;
use sconce_models::config::{SpecOptions, model_spec};
use sconce_models::names::TensorNames;
use sconce_models::spec::{LayerSpec, ModelSpec};

fn fixtures(folder: &str) -> Vec<PathBuf> {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures").join(folder);
    let mut paths: Vec<PathBuf> =
        std::fs::read_dir(&dir).expect("fixtures").map(|entry| entry.expect("entry").path()).collect();
    paths.retain(|path| path.is_dir() || path.extension().is_some_and(|e| e == "gguf"));
    paths.sort();
    assert!(!paths.is_empty());
    paths
}

pub(crate) fn open(path: &std::path::Path) -> (Checkpoint, ModelSpec) {
    let checkpoint = Checkpoint::open(path).unwrap_or_else(|e| panic!("{e}"));
    let spec = model_spec(&checkpoint, &SpecOptions::default()).unwrap_or_else(|e| panic!("{e}"));
    (checkpoint, spec)
}

/// Name to shape of all that a graph of `spec` loads.
pub(crate) fn wanted(checkpoint: &Checkpoint, spec: &ModelSpec) -> BTreeMap<String, Vec<usize>> {
    let names = TensorNames::of(checkpoint).unwrap_or_else(|e| panic!("{e}"));
    let (hidden, vocab) = (spec.hidden_size, spec.vocab_size);
    let mut out =
        BTreeMap::from([(names.embed.clone(), vec![vocab, hidden]), (names.final_norm.clone(), vec![hidden])]);
    if !spec.tied_embeddings {
        out.insert(names.lm_head.clone(), vec![vocab, hidden]);
    }
    for (index, LayerSpec { attention: a, ffn, post_attention_norm, post_ffn_norm }) in spec.layers.iter().enumerate() {
        let n = names.layer(index);
        let (q, k, v) = (a.num_heads * a.head_dim_k, a.num_kv_heads * a.head_dim_k, a.num_kv_heads * a.head_dim_v);
        let inner = ffn.intermediate_size;
        let mut want = |when: bool, name: String, shape: &[usize]| {
            if when {
                assert!(out.insert(name, shape.to_vec()).is_none(), "two roles for one tensor");
            }
        };
        want(true, n.attn_norm, &[hidden]);
        want(true, n.ffn_norm, &[hidden]);
        want(*post_attention_norm, n.post_attn_norm, &[hidden]);
        want(*post_ffn_norm, n.post_ffn_norm, &[hidden]);
        want(true, n.q, &[q, hidden]);
        want(true, n.k, &[k, hidden]);
        want(true, n.v, &[v, hidden]);
        want(true, n.o, &[hidden, a.num_heads * a.head_dim_v]);
        want(a.qkv_bias, n.q_bias, &[q]);
        want(a.qkv_bias, n.k_bias, &[k]);
        want(a.qkv_bias, n.v_bias, &[v]);
        want(a.o_bias, n.o_bias, &[hidden]);
        want(a.qk_norm, n.q_norm, &[a.head_dim_k]);
        want(a.qk_norm, n.k_norm, &[a.head_dim_k]);
        want(true, n.gate, &[inner, hidden]);
        want(true, n.up, &[inner, hidden]);
        want(true, n.down, &[hidden, inner]);
        want(ffn.bias, n.gate_bias, &[inner]);
        want(ffn.bias, n.up_bias, &[inner]);
        want(ffn.bias, n.down_bias, &[hidden]);
    }
    out
}

pub(crate) fn assert_accounts_for_all(checkpoint: &Checkpoint, spec: &ModelSpec) {
    let mut found: BTreeMap<String, Vec<usize>> =
        checkpoint.tensors().iter().map(|t| (t.name.clone(), t.shape.clone())).collect();
    // The spec's rope tables hold this one; towers and projectors of images belong to no text model.
    found.retain(|name, _| name != "rope_freqs.weight" && !name.contains("vision") && !name.contains("multi_modal"));
    assert_eq!(found, wanted(checkpoint, spec), "{}", checkpoint.path().display());
}

#[test]
fn every_fixture_is_accounted_for() {
    for path in fixtures("checkpoints").into_iter().chain(fixtures("gguf")) {
        let (checkpoint, spec) = open(&path);
        assert_accounts_for_all(&checkpoint, &spec);
    }
}

#[test]
fn styles_of_one_model_give_one_spec() {
    let specs: BTreeMap<String, ModelSpec> = fixtures("checkpoints")
        .iter()
        .map(|path| (path.file_name().expect("name").to_string_lossy().into_owned(), open(path).1))
        .collect();
    for [a, b] in [
        ["gemma2", "gemma2-old"],
        ["gemma3", "gemma3-old"],
        ["gemma3", "gemma3-wrapped"],
        ["gemma3", "gemma3-wrapped-old"],
        ["llama-llama3", "llama-llama3-old"],
        ["smollm3", "smollm3-old"],
    ] {
        // The names differ by design, the multiplier by the dtype of the weights.
        let strip =
            |name: &str| ModelSpec { architecture: String::new(), embedding_multiplier: 1.0, ..specs[name].clone() };
        assert_eq!(strip(a), strip(b), "{a} and {b}");
    }
}

#[test]
fn fields_that_differ_between_families() {
    let spec = |name: &str| {
        let all = fixtures("gguf").into_iter().chain(fixtures("checkpoints"));
        let path = all.into_iter().find(|path| path.ends_with(name)).unwrap_or_else(|| panic!("{name}"));
        open(&path).1
    };
    for name in ["llama-f32.gguf", "smollm3.gguf"] {
        assert!(spec(name).ropes[0].interleaved, "{name}");
    }
    for name in ["qwen2.gguf", "qwen3.gguf", "gemma2.gguf", "gemma3.gguf", "llama", "smollm3", "gemma3"] {
        assert!(!spec(name).ropes[0].interleaved, "{name}");
    }
    for name in ["gemma2.gguf", "gemma3.gguf"] {
        assert!(!spec(name).norm.one_plus, "GGUF norms hold 1 + w");
        assert_eq!(spec(name).embedding_multiplier, (spec(name).hidden_size as f32).sqrt());
    }
    // sqrt(48), in f32 and in bf16.
    assert_eq!((spec("gemma2").embedding_multiplier, spec("gemma2-old").embedding_multiplier), (6.928_203, 6.9375));
    assert!(spec("gemma2").norm.one_plus && spec("gemma3").norm.one_plus);
    assert!(spec("qwen2.gguf").layers[0].attention.qkv_bias);
    assert!(spec("smollm3.gguf").layers[3].attention.rope.is_none());
    assert_eq!(spec("gemma3.gguf").ropes.len(), 2);
}
