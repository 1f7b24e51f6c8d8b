//! Reads real models. `SCONCE_TEST_MODELS` names the folder that holds them; without it the tests say so and pass.

use std::path::PathBuf;

use sconce_kernels::kv::CacheKind;
use sconce_models::spec::Activation;

use crate::fixtures::{assert_accounts_for_all, open};

fn model(file: &str) -> Option<PathBuf> {
    let folder = std::env::var_os("SCONCE_TEST_MODELS");
    if folder.is_none() {
        println!("skipped: SCONCE_TEST_MODELS names no folder with {file}");
    }
    folder.map(|folder| PathBuf::from(folder).join(file))
}

#[test]
fn smollm2() {
    let Some(path) = model("SmolLM2-135M-Instruct.Q4_1.gguf") else { return };
    let (checkpoint, spec) = open(&path);
    assert_accounts_for_all(&checkpoint, &spec);
    let gguf = checkpoint.gguf().expect("GGUF");
    assert_eq!(gguf.metadata.get_strings("tokenizer.ggml.tokens").map(Iterator::count), Some(49_152));
    assert_eq!(gguf.metadata.get_i32s("tokenizer.ggml.token_type").map(|v| v.len()), Some(49_152));
    let embedding = checkpoint.tensor("token_embd.weight").expect("there");
    assert_eq!((embedding.shape, embedding.ty.name()), ([49_152, 576].as_slice(), "Q8_0"));
    assert_eq!((spec.layers.len(), spec.max_position, spec.ropes[0].theta), (30, 8192, 100_000.0));
    let a = &spec.layers[0].attention;
    assert_eq!((a.num_heads, a.num_kv_heads, a.head_dim_k, a.scale), (9, 3, 64, 0.125));
    assert!(spec.tied_embeddings && spec.ropes[0].interleaved);
}

#[test]
fn gemma3_270m() {
    let Some(path) = model("gemma-3-270m-q4_k_m.gguf") else { return };
    let (checkpoint, spec) = open(&path);
    assert_accounts_for_all(&checkpoint, &spec);
    let full: Vec<usize> =
        (0..spec.layers.len()).filter(|&i| spec.layers[i].attention.kind == CacheKind::Full).collect();
    assert_eq!(full, [5, 11, 17]);
    assert_eq!(spec.layers[0].attention.kind, CacheKind::SlidingWindow { window: 512 });
    assert_eq!((spec.ropes[0].theta, spec.ropes[1].theta), (1e6, 1e4));
    assert_eq!((spec.vocab_size, spec.layers[0].attention.scale), (262_144, 0.0625));
    assert_eq!(spec.layers[0].ffn.activation, Activation::GeluTanh);
    assert!(!spec.norm.one_plus && spec.tied_embeddings && spec.layers[0].attention.qk_norm);
}
