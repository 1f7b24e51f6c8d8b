//! Reads real checkpoints. `SCONCE_TEST_MODELS` names the folder that holds them; without it the tests say so and pass.

use std::path::PathBuf;

use sconce_models::gguf::Gguf;

fn model(file: &str) -> Option<PathBuf> {
    let path = std::env::var_os("SCONCE_TEST_MODELS").map(|folder| PathBuf::from(folder).join(file));
    let found = path.filter(|path| path.is_file());
    if found.is_none() {
        println!("skipped: SCONCE_TEST_MODELS names no folder with {file}");
    }
    found
}

#[test]
fn smollm2_gguf_opens() {
    let Some(path) = model("SmolLM2-135M-Instruct.Q4_1.gguf") else { return };
    let gguf = Gguf::open(&path).expect("opens");
    assert_eq!(gguf.tensors().len(), 272);
    assert_eq!(gguf.metadata.get_str("general.architecture"), Some("llama"));
    assert_eq!(gguf.metadata.get_u64("llama.block_count"), Some(30));
    assert_eq!(gguf.metadata.get_strings("tokenizer.ggml.tokens").map(Iterator::count), Some(49_152));
    assert_eq!(gguf.metadata.get_i32s("tokenizer.ggml.token_type").map(|v| v.len()), Some(49_152));
    let embedding = gguf.info("token_embd.weight").expect("is there");
    assert_eq!((embedding.shape.as_slice(), embedding.ty.name()), ([49_152, 576].as_slice(), "Q8_0"));
    assert_eq!(gguf.view(embedding).data.len(), 49_152 * 576 / 32 * 34);
}
