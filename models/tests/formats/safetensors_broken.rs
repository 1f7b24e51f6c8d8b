//! Safetensors files and shard indices that contradict themselves.

use std::path::Path;

use sconce_models::checkpoint::Checkpoint;
use sconce_models::error::ModelError;
use sconce_models::safetensors::Safetensors;

use crate::support::assert_refused;

/// Header length, header, data.
pub(crate) fn bytes(header: &str, data_len: usize) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &vec![7; data_len]].concat()
}

/// One F32 entry `name` of two elements, at `offset`.
fn entry(name: &str, offset: usize) -> String {
    format!(r#""{name}":{{"dtype":"F32","shape":[2],"data_offsets":[{offset},{}]}}"#, offset + 8)
}

fn open(files: &[(&str, Vec<u8>)]) -> (Result<Safetensors, ModelError>, tempfile::TempDir) {
    let dir = tempfile::tempdir().expect("temporary folder");
    for (name, bytes) in files {
        std::fs::write(dir.path().join(name), bytes).expect("write");
    }
    (Safetensors::open(dir.path()), dir)
}

#[test]
fn sound_files_open() {
    let header = format!("{{{},{}}}", entry("b", 8), entry("a", 0));
    let (opened, _dir) = open(&[("model.safetensors", bytes(&header, 16))]);
    let opened = opened.expect("sound");
    assert_eq!(opened.tensors().iter().map(|t| t.name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(opened.view(opened.info("a").expect("there")).data, [7; 8]);
}

#[test]
fn contradictions_are_refused() {
    let deep = format!(r#"{{"__metadata__":{}1{}}}"#, r#"{"a":"#.repeat(500), "}".repeat(500));
    let two = format!("{{{},{}}}", entry("a", 0), entry("a", 0));
    let overlap = format!("{{{},{}}}", entry("a", 0), entry("b", 4));
    let rows: &[(&str, Vec<u8>)] = &[
        ("the file is empty", vec![]),
        ("shorter than 8 bytes", vec![1, 2, 3]),
        ("header length: 18446744073709551615 bytes", u64::MAX.to_le_bytes().to_vec()),
        ("header length: 1000 bytes", 1000u64.to_le_bytes().to_vec()),
        ("header length: 104857600 bytes", 104_857_600u64.to_le_bytes().to_vec()),
        ("safetensors header", bytes("not json", 0)),
        ("safetensors header", bytes("[]", 0)),
        ("safetensors header", bytes(&deep, 0)),
        ("a appears twice", bytes(&two, 8)),
        ("safetensors header", bytes(&overlap, 12)),
        ("safetensors header", bytes(&format!("{{{}}}", entry("a", 0)), 7)),
        ("safetensors header", bytes(&format!("{{{}}}", entry("a", 8)), 16)),
        ("safetensors header", bytes(r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}}"#, 8)),
        ("safetensors header", bytes(r#"{"a":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}}"#, 8)),
        ("safetensors header", bytes(r#"{"a":{"dtype":"F33","shape":[2],"data_offsets":[0,8]}}"#, 8)),
        (
            "safetensors header",
            bytes(r#"{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,8]}}"#, 8),
        ),
    ];
    for (expected, bytes) in rows {
        let (opened, dir) = open(&[("model.safetensors", bytes.clone())]);
        assert_refused(opened, &dir.path().join("model.safetensors"), expected);
    }
}

#[test]
fn truncated_anywhere_is_refused() {
    let whole = bytes(&format!("{{{},{}}}", entry("a", 0), entry("b", 8)), 16);
    for len in 0..whole.len() {
        let (opened, dir) = open(&[("model.safetensors", whole[..len].to_vec())]);
        assert_refused(opened, dir.path(), "");
    }
}

const INDEX: &str = "model.safetensors.index.json";

#[test]
fn shards_are_found_by_their_index() {
    let index = r#"{"metadata":{},"weight_map":{"a":"1.safetensors","b":"2.safetensors"}}"#;
    let shard = |name: &str| bytes(&format!("{{{}}}", entry(name, 0)), 8);
    let (a, b) = (("1.safetensors", shard("a")), ("2.safetensors", shard("b")));
    let json = |text: &str| (INDEX, text.as_bytes().to_vec());
    let (opened, _dir) = open(&[a.clone(), b.clone(), json(index)]);
    assert_eq!(opened.expect("sound").tensors().len(), 2);

    let (opened, dir) = open(&[a.clone(), json(index)]);
    assert_refused(opened, &dir.path().join("2.safetensors"), "named in model.safetensors.index.json but isn't there");
    let (opened, dir) = open(&[a.clone(), ("2.safetensors", shard("c")), json(index)]);
    assert_refused(opened, &dir.path().join("2.safetensors"), "tensor b: model.safetensors.index.json names it");
    let (opened, dir) = open(&[a.clone(), ("2.safetensors", shard("a")), json(index)]);
    assert_refused(opened, dir.path(), "two files of the set hold it");
    let (opened, dir) = open(&[a.clone(), b.clone()]);
    assert_refused(opened, dir.path(), "2 safetensors files but no model.safetensors.index.json");
    for evil in ["../1.safetensors", "/etc/1.safetensors", "sub/1.safetensors", "..", "", "1.bin"] {
        let text = format!(r#"{{"weight_map":{{"a":"{evil}"}}}}"#);
        let (opened, dir) = open(&[a.clone(), json(&text)]);
        assert_refused(opened, &dir.path().join(INDEX), "isn't the name of a safetensors file");
    }
    for broken in ["", "{", "[]", "{}", r#"{"weight_map":[]}"#, r#"{"weight_map":{}}"#, r#"{"weight_map":{"a":1}}"#] {
        let (opened, dir) = open(&[a.clone(), json(broken)]);
        assert_refused(opened, &dir.path().join(INDEX), "");
    }
}

#[test]
fn other_dtypes_are_refused_by_name_when_asked_for() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let header = format!(r#"{{{},"ids":{{"dtype":"I64","shape":[1],"data_offsets":[8,16]}}}}"#, entry("a", 0));
    std::fs::write(dir.path().join("model.safetensors"), bytes(&header, 16)).expect("write");
    std::fs::write(dir.path().join("config.json"), "{}").expect("write");
    let checkpoint = Checkpoint::open(dir.path()).expect("opens: the tensor may never be asked for");
    assert!(checkpoint.tensor("a").is_ok());
    let path: &Path = dir.path();
    assert_refused(checkpoint.tensor("ids"), path, "tensor ids: dtype I64; F32, F16 and BF16 are supported");
    assert_refused(checkpoint.tensor("b"), path, "tensor b is missing");
}
