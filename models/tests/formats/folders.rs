//! What a path may be: which folders are checkpoints, and what the others are told.

use sconce_models::checkpoint::Checkpoint;

use crate::gguf_writer::Writer;
use crate::safetensors_broken::bytes;
use crate::support::{assert_refused, file};

fn folder(files: &[(&str, &[u8])]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("temporary folder");
    for (name, bytes) in files {
        std::fs::write(dir.path().join(name), bytes).expect("write");
    }
    dir
}

#[test]
fn folders_that_are_checkpoints() {
    let gguf = Writer::llama().bytes();
    let weights = bytes(r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#, 8);

    let dir = folder(&[("x.gguf", &gguf), ("mmproj-x.gguf", b"GGUF"), ("README.md", b"")]);
    let checkpoint = Checkpoint::open(dir.path()).expect("one model");
    assert_eq!((checkpoint.dir(), checkpoint.path()), (Some(dir.path()), dir.path().join("x.gguf").as_path()));
    assert!(checkpoint.gguf().is_some() && checkpoint.config().is_none());
    let alone = Checkpoint::open(&dir.path().join("x.gguf")).expect("a file");
    assert_eq!(alone.dir(), None, "files beside a GGUF file may belong to another model");
    let total: usize = Writer::llama().tensors.iter().map(|t| t.data.len()).sum();
    assert_eq!(alone.weight_bytes(), total);

    let dir = folder(&[("config.json", br#"{"a":1}"#), ("any.safetensors", &weights), ("x.gguf", &gguf)]);
    let checkpoint = Checkpoint::open(dir.path()).expect("safetensors win");
    assert!(checkpoint.gguf().is_none() && checkpoint.has("a") && !checkpoint.has("b"));
    assert_eq!(checkpoint.config().and_then(|c| c.get("a")).and_then(|v| v.as_u64()), Some(1));
}

#[test]
fn folders_that_are_not() {
    let weights = bytes(r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#, 8);
    let gguf = Writer::llama().bytes();
    type Row<'a> = (&'a str, &'a [(&'a str, &'a [u8])]);
    let deep = "[".repeat(100_000);
    let rows: &[Row<'_>] = &[
        ("no weights in this folder", &[]),
        ("no weights in this folder", &[("config.json", b"{}"), ("tokenizer.json", b"{}")]),
        ("convert them to safetensors", &[("config.json", b"{}"), ("pytorch_model.bin", b"PK")]),
        ("convert them to safetensors", &[("consolidated.00.pth", b"PK")]),
        ("safetensors without config.json", &[("model.safetensors", &weights)]),
        ("2 GGUF models: a.gguf, b.gguf; name one of the files", &[("a.gguf", &gguf), ("b.gguf", &gguf)]),
        ("part 1 of the set", &[("m-00002-of-00002.gguf", &gguf)]),
        ("config.json: JSON: EOF", &[("config.json", b"{"), ("model.safetensors", &weights)]),
        ("config.json: JSON: ", &[("config.json", br#"{"rms_norm_eps":NaN}"#), ("model.safetensors", &weights)]),
        ("recursion limit", &[("config.json", deep.as_bytes()), ("model.safetensors", &weights)]),
        (
            "quantization_config: weights quantised by method awq",
            &[("config.json", br#"{"quantization_config":{"quant_method":"awq"}}"#), ("model.safetensors", &weights)],
        ),
        (
            "quantised by method fp8",
            &[
                ("config.json", br#"{"text_config":{"quantization_config":{"quant_method":"fp8"}}}"#),
                ("model.safetensors", &weights),
            ],
        ),
    ];
    for (expected, files) in rows {
        let dir = folder(files);
        let opened = Checkpoint::open(dir.path());
        let expected = if *expected == "part 1 of the set" { "m-00001-of-00002.gguf: can't open" } else { expected };
        assert_refused(opened, dir.path(), expected);
    }
}

#[test]
fn files_that_are_not_models() {
    for (name, expected) in [
        ("model.safetensors", "name the folder that holds it"),
        ("model.bin", "convert them to safetensors"),
        ("model.txt", "this isn't a GGUF file"),
    ] {
        let (_dir, path) = file(name, b"hello, world");
        assert_refused(Checkpoint::open(&path), &path, expected);
    }
    let (dir, _) = file("x", b"");
    let nowhere = dir.path().join("nowhere.gguf");
    assert_refused(Checkpoint::open(&nowhere), &nowhere, "can't open the checkpoint");
}
