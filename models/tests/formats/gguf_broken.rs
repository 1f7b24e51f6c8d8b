//! GGUF files that contradict themselves, one test row a way to do so.

use sconce_models::checkpoint::Checkpoint;
use sconce_models::config::{SpecOptions, model_spec};
use sconce_models::error::ModelError;
use sconce_models::gguf::Gguf;
use sconce_models::spec::ModelSpec;

use crate::gguf_writer::*;
use crate::support::{assert_one_line, assert_refused, file};

/// Opens the file and describes the model.
fn spec_of(bytes: &[u8]) -> (Result<ModelSpec, ModelError>, std::path::PathBuf, tempfile::TempDir) {
    let (dir, path) = file("model.gguf", bytes);
    let spec = Checkpoint::open(&path).and_then(|c| model_spec(&c, &SpecOptions::default()));
    (spec, path, dir)
}

#[test]
fn sound_files_open() {
    for version in [2, 3] {
        for alignment in [1, 32, 64, 4096] {
            let mut w = Writer::llama();
            w.version = version;
            w.alignment = alignment;
            w.u32("general.alignment", alignment as u32);
            let (spec, ..) = spec_of(&w.bytes());
            let spec = spec.expect("sound");
            assert_eq!((spec.layers.len(), spec.vocab_size, spec.hidden_size, spec.max_position), (1, 8, 32, 64));
            assert!(spec.tied_embeddings && spec.ropes[0].interleaved);
        }
    }
}

#[test]
fn metadata_reads_back() {
    let mut w = Writer::llama();
    w.array("f", TYPE_F32, 2, &[1.5f32.to_le_bytes(), (-2.0f32).to_le_bytes()].concat());
    w.array("i", TYPE_I32, 2, &[7i32.to_le_bytes(), (-8i32).to_le_bytes()].concat());
    w.array("b", 7, 3, &[1, 0, 1]);
    w.pair("i8", 1, &[0xFF]);
    w.pair("f64", 12, &0.25f64.to_le_bytes());
    let (_dir, path) = file("model.gguf", &w.bytes());
    let gguf = Gguf::open(&path).expect("sound");
    let m = &gguf.metadata;
    assert_eq!(m.get_strings("tokenizer.ggml.tokens").expect("there").collect::<Vec<_>>(), ["a", "b", "", "d"]);
    assert_eq!(m.array_len("tokenizer.ggml.tokens"), Some(4));
    assert_eq!(m.get_f32s("f"), Some(vec![1.5, -2.0]));
    assert_eq!(m.get_i32s("i"), Some(vec![7, -8]));
    assert_eq!(m.get_bools("b"), Some(vec![true, false, true]));
    assert_eq!((m.get_u64("i8"), m.get_f32("f64")), (None, Some(0.25)));
    assert_eq!((m.get_str("llama.block_count"), m.get_u64("general.architecture")), (None, None));
    let info = gguf.info("blk.0.ffn_down.weight").expect("there");
    assert_eq!(info.shape, [32, 64]);
    assert_eq!(gguf.view(info).data, w.tensors.last().expect("last").data);
}

#[test]
fn truncated_anywhere_is_refused() {
    let bytes = Writer::llama().bytes();
    for sixteenth in 0..16 {
        let (spec, path, _dir) = spec_of(&bytes[..bytes.len() * sixteenth / 16]);
        assert_refused(spec, &path, "");
    }
    // In the header every length matters.
    let header = bytes.len() - Writer::llama().tensors.iter().map(|t| t.data.len()).sum::<usize>();
    for len in 0..header {
        let (spec, path, _dir) = spec_of(&bytes[..len]);
        assert_refused(spec, &path, "");
    }
}

/// A change to a sound file and what the message must say.
type Row = (&'static str, fn(&mut Writer));

#[test]
fn contradictions_are_refused() {
    let rows: &[Row] = &[
        ("magic: starts with \"ggml\"", |w| w.magic = *b"ggml"),
        ("GGUF version 1", |w| w.version = 1),
        ("GGUF version 4", |w| w.version = 4),
        ("big-endian", |w| w.version = 3u32.swap_bytes()),
        ("tensor count: count 18446744073709551615 can't fit", |w| w.tensor_count = Some(u64::MAX)),
        ("tensor count: count 4294967296 can't fit", |w| w.tensor_count = Some(1 << 32)),
        ("metadata pair count: count 9223372036854775807 can't fit", |w| w.pair_count = Some(i64::MAX as u64)),
        ("appears twice", |w| w.u32("llama.block_count", 1)),
        ("the name appears twice", |w| w.tensors[1].name = w.tensors[0].name.clone()),
        ("length isn't in 1..=255", |w| w.tensors[1].name = String::new()),
        ("length isn't in 1..=255", |w| w.tensors[1].name = "x".repeat(256)),
        ("length isn't in 1..=65535", |w| w.u32("", 1)),
        ("unknown metadata value type 13", |w| w.pair("k", 13, &[0; 8])),
        ("boolean holds 2", |w| w.pair("k", 7, &[2])),
        ("count 18446744073709551615 can't fit", |w| w.pair("k", TYPE_STRING, &u64::MAX.to_le_bytes())),
        ("isn't UTF-8", |w| w.pair("k", TYPE_STRING, &[1, 0, 0, 0, 0, 0, 0, 0, 0xFF])),
        ("can't fit", |w| w.array("k", TYPE_F32, 1 << 40, &[0; 16])),
        ("can't fit", |w| w.array("k", TYPE_F32, u64::MAX / 4 + 2, &[0; 16])),
        ("can't fit", |w| w.array("k", TYPE_STRING, 1 << 61, &[0; 16])),
        ("nested deeper", |w| {
            let inner = [TYPE_ARRAY.to_le_bytes().to_vec(), 1u64.to_le_bytes().to_vec()].concat();
            w.array("k", TYPE_ARRAY, 1, &inner.repeat(40));
        }),
        ("general.alignment: 0 isn't", |w| w.u32("general.alignment", 0)),
        ("general.alignment: 48 isn't", |w| w.u32("general.alignment", 48)),
        ("general.alignment", |w| w.text("general.alignment", "32")),
        ("tensor output_norm.weight: 0 dimensions", |w| w.tensors[1].dims = vec![]),
        ("tensor output_norm.weight: 5 dimensions", |w| w.tensors[1].dims = vec![1; 5]),
        ("dimension of 0", |w| w.tensors[1].dims = vec![32, 0]),
        ("tensor output_norm.weight: its data", |w| w.tensors[1].dims = vec![1 << 32, 1 << 32, 1 << 32]),
        ("tensor output_norm.weight: rows of", |w| w.tensors[1].dims = vec![1 << 62]),
        ("tensor output_norm.weight: ggml type 4", |w| w.tensors[1].ty = 4),
        ("tensor output_norm.weight: ggml type 4294967295", |w| w.tensors[1].ty = u32::MAX),
        ("rows of 33 aren't whole Q4_0 blocks of 32", |w| w.tensors[0].dims = vec![33, 8]),
        ("tensor output_norm.weight: offset 33 isn't a multiple of 32", |w| w.tensors[1].offset = Some(33)),
        ("tensor output_norm.weight: its data", |w| w.tensors[1].offset = Some(1 << 40)),
        ("tensor output_norm.weight: its data", |w| w.tensors[1].offset = Some(u64::MAX - 31)),
        ("overlaps that of", |w| w.tensors[1].offset = Some(0)),
        ("overlaps that of", |w| w.tensors[1].offset = Some(32)),
        ("the file says it is one of 2 parts, its name says 1", |w| w.u32("split.count", 2)),
        ("split.count", |w| w.f32("split.count", 2.0)),
        ("split.tensors.count: 12, the parts hold 11", |w| w.u32("split.tensors.count", 12)),
        ("architecture mamba", |w| w.replace("general.architecture", TYPE_STRING, &string("mamba"))),
        ("supported architectures: LlamaForCausalLM", |w| {
            w.replace("general.architecture", TYPE_STRING, &string("x\ny"))
        }),
        ("general.architecture: is missing", |w| w.remove("general.architecture")),
        ("block_count: 1 layers, but there is a tensor blk.1.attn_norm.weight; the file is damaged", |w| {
            w.tensor("blk.1.attn_norm.weight", &[32], F32);
        }),
        ("llama.rope.scaling.type: rope scaling su; supported: none, linear, yarn, longrope", |w| {
            w.text("llama.rope.scaling.type", "su");
        }),
        ("llama.block_count: is missing", |w| w.remove("llama.block_count")),
        ("llama.block_count: isn't a whole number", |w| {
            w.replace("llama.block_count", TYPE_I32, &(-1i32).to_le_bytes())
        }),
        ("llama.block_count: 4097 layers, but only 11 tensors", |w| {
            w.replace("llama.block_count", TYPE_U32, &4097u32.to_le_bytes())
        }),
        ("llama.attention.head_count: isn't", |w| w.replace("llama.attention.head_count", TYPE_U32, &[0; 4])),
        ("llama.attention.head_count: has 2 entries", |w| {
            w.remove("llama.attention.head_count");
            w.array("llama.attention.head_count", TYPE_I32, 2, &[1; 8]);
        }),
        ("can't share 3 key/value heads", |w| {
            w.replace("llama.attention.head_count_kv", TYPE_U32, &3u32.to_le_bytes());
        }),
        ("llama.attention.layer_norm_rms_epsilon: isn't a finite", |w| {
            w.replace("llama.attention.layer_norm_rms_epsilon", TYPE_F32, &f32::NAN.to_le_bytes());
        }),
        ("norm epsilon: -1", |w| {
            w.replace("llama.attention.layer_norm_rms_epsilon", TYPE_F32, &(-1.0f32).to_le_bytes());
        }),
        ("llama.rope.freq_base: isn't a finite", |w| w.f32("llama.rope.freq_base", f32::INFINITY)),
        ("rope: base 0 isn't positive", |w| w.f32("llama.rope.freq_base", 0.0)),
        ("rotated width 7 isn't even", |w| w.u32("llama.rope.dimension_count", 7)),
        ("rope rotates 64 of 16", |w| w.u32("llama.rope.dimension_count", 64)),
        ("rope scaling dynamic", |w| w.text("llama.rope.scaling.type", "dynamic")),
        ("rope_freqs.weight has 4 entries, expected 8", |w| w.tensor("rope_freqs.weight", &[4], F32)),
        ("llama.expert_count: not part of", |w| w.u32("llama.expert_count", 8)),
        ("llama.attention.causal: not part of", |w| w.pair("llama.attention.causal", 7, &[0])),
        ("llama.logit_scale: not part of", |w| w.f32("llama.logit_scale", 0.5)),
        ("llama.rope.dimension_sections", |w| w.array("llama.rope.dimension_sections", TYPE_I32, 1, &[8; 4])),
        ("tensor token_embd.weight is missing", |w| w.tensors[0].name = "other".to_owned()),
    ];
    for (expected, change) in rows {
        let mut w = Writer::llama();
        change(&mut w);
        let (spec, path, _dir) = spec_of(&w.bytes());
        assert_refused(spec, &path, expected);
    }
}

#[test]
fn hostile_names_stay_on_one_line() {
    let mut w = Writer::llama();
    w.tensors[1].name = "evil\r\n2026 ERROR\u{2028}\u{1b}[31m".to_owned();
    w.tensors[1].ty = 99;
    let (spec, path, _dir) = spec_of(&w.bytes());
    assert_one_line(&spec.expect_err("refused"), &path);
}

/// Three parts with one tensor each, the metadata in the first.
fn split_set(dir: &std::path::Path, change: impl Fn(usize, &mut Writer)) -> std::path::PathBuf {
    for part in 0..3u16 {
        let mut w = if part == 0 { Writer::llama() } else { Writer::empty() };
        if part > 0 {
            w.tensor(&format!("extra.{part}"), &[8], F32);
        }
        w.pair("split.no", 2, &part.to_le_bytes());
        w.pair("split.count", 2, &3u16.to_le_bytes());
        w.pair("split.tensors.count", TYPE_I32, &13i32.to_le_bytes());
        change(part.into(), &mut w);
        std::fs::write(dir.join(format!("m-{:05}-of-00003.gguf", part + 1)), w.bytes()).expect("write");
    }
    dir.join("m-00001-of-00003.gguf")
}

#[test]
fn split_sets_open_from_any_part() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let first = split_set(dir.path(), |_, _| ());
    for path in [first.clone(), dir.path().join("m-00003-of-00003.gguf"), dir.path().to_owned()] {
        let checkpoint = Checkpoint::open(&path).expect("sound");
        assert_eq!(checkpoint.tensors().len(), 13);
        assert_eq!(checkpoint.tensor("extra.2").expect("there").data.len(), 32);
        assert_eq!(checkpoint.path(), first);
        assert!(model_spec(&checkpoint, &SpecOptions::default()).is_ok());
    }
}

#[test]
fn split_sets_that_disagree_are_refused() {
    type Row = (&'static str, fn(usize, &mut Writer));
    let rows: &[Row] = &[
        ("split.no: says 0, expected 1", |part, w| {
            if part == 1 {
                w.replace("split.no", 2, &[0, 0]);
            }
        }),
        ("split.count: 4, the first part says 3", |part, w| {
            if part == 2 {
                w.replace("split.count", 2, &[4, 0]);
            }
        }),
        ("two files of the set hold it", |part, w| {
            if part > 0 {
                w.tensors[0].name = "extra".to_owned();
            }
        }),
        ("split.tensors.count: 14, the parts hold 13", |part, w| {
            if part == 0 {
                w.replace("split.tensors.count", TYPE_I32, &14i32.to_le_bytes());
            }
        }),
        ("its name says 3", |part, w| {
            if part == 0 {
                w.remove("split.count");
            }
        }),
    ];
    for (expected, change) in rows {
        let dir = tempfile::tempdir().expect("temporary folder");
        let path = split_set(dir.path(), change);
        assert_refused(Gguf::open(&path), dir.path(), expected);
    }
    let dir = tempfile::tempdir().expect("temporary folder");
    let path = split_set(dir.path(), |_, _| ());
    std::fs::remove_file(dir.path().join("m-00002-of-00003.gguf")).expect("remove");
    assert_refused(Gguf::open(&path), dir.path(), "part 2 of 3 of the split set isn't there");
}
