//! A second, independent reference: candle-transformers, in f32 on the CPU, on the same tiny checkpoints.
//!
//! Both sides read one folder, whose config.json is rewritten where candle implements less than the family allows:
//! it knows rope parameters only at the top level, scales Gemma's queries by the head size alone, has no linear rope
//! scaling there and doesn't round its embedding multiplier (hence checkpoints in f32). Checkpoints that need what
//! candle lacks altogether (SmolLM3; linear, YaRN and LongRoPE scaling and projection biases of Llama; windows on some
//! layers of Qwen 2) are compared with transformers alone.

use std::path::Path;

use candle_core::{DType, Device, Result, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::{gemma2, gemma3, llama, mistral, qwen2, qwen3};
use serde_json::{Value, json};

use crate::support::{Reference, Session, Setup, fixtures, relative_error};

/// Of the logits, relative to the largest one.
const BOUND: f32 = 1e-4;
/// Prefixes compared: candle tells the logits of the last position only.
const LENGTHS: [usize; 6] = [1, 2, 7, 16, 33, 48];

/// Logits of the last of these tokens.
type Candle = Box<dyn Fn(&Tensor) -> Result<Tensor>>;

/// Compares on prefixes of up to `longest` tokens. `edit` changes the configuration that both sides read, `build` makes
/// candle's model of it.
fn compare(name: &str, longest: usize, edit: fn(&mut Value), build: fn(Value, VarBuilder<'static>) -> Result<Candle>) {
    let source = fixtures().join("checkpoints").join(name);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let weights = folder.path().join("model.safetensors");
    std::fs::copy(source.join("model.safetensors"), &weights).expect("weights");
    let mut config = read_json(&source.join("config.json"));
    lift_rope_parameters(&mut config);
    edit(&mut config);
    std::fs::write(folder.path().join("config.json"), config.to_string()).expect("config.json");

    let tokens =
        Reference::open(&fixtures().join("expected").join(name).with_extension("safetensors")).ids("token_ids");
    let mut session = Session::open(folder.path(), Setup::reference(), tokens.len());
    let ours = session.step(0, &tokens);
    let bytes = std::fs::read(&weights).expect("weights");
    let vb = VarBuilder::from_buffered_safetensors(bytes, DType::F32, &Device::Cpu).expect("safetensors");
    let candle = build(config, vb).unwrap_or_else(|e| panic!("{name}: {e}"));
    let lengths: Vec<usize> = LENGTHS.into_iter().filter(|&n| n <= longest.min(tokens.len())).collect();
    for &len in &lengths {
        let input = Tensor::new(&tokens[..len], &Device::Cpu).and_then(|t| t.unsqueeze(0)).expect("input");
        let theirs = candle(&input).and_then(|t| t.flatten_all()?.to_vec1::<f32>());
        let theirs = theirs.unwrap_or_else(|e| panic!("{name}: {e}"));
        let vocab = session.vocab();
        let error = relative_error(&ours[(len - 1) * vocab..len * vocab], &theirs);
        assert!(error < BOUND, "{name}, prefix of {len}: {error:e}");
    }
    assert!(lengths.len() >= 4);
}

fn read_json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).expect("config.json")).expect("JSON")
}

/// The layout of transformers 5 to that of 4, which candle reads.
fn lift_rope_parameters(config: &mut Value) {
    let Some(mut rope) = config.as_object_mut().and_then(|c| c.remove("rope_parameters")) else { return };
    config["rope_theta"] = rope["rope_theta"].take();
    config["rope_scaling"] = if rope["rope_type"] == "default" { Value::Null } else { rope };
}

fn parse<T: serde::de::DeserializeOwned>(config: Value) -> T {
    serde_json::from_value(config).expect("a configuration that candle reads")
}

/// Candle masks keys more than `sliding_window` before the query; the family's windows count the query too.
fn candle_window(config: &mut Value) {
    config["sliding_window"] = json!(config["sliding_window"].as_u64().expect("a window") - 1);
}

fn build_llama(config: Value, vb: VarBuilder<'static>) -> Result<Candle> {
    let config = parse::<llama::LlamaConfig>(config).into_config(false);
    let model = llama::Llama::load(vb, &config)?;
    Ok(Box::new(move |input| {
        model.forward(input, 0, &mut llama::Cache::new(false, DType::F32, &config, &Device::Cpu)?)
    }))
}

#[test]
fn llama() {
    for name in ["llama", "llama-llama3", "llama-llama3-old"] {
        compare(name, usize::MAX, |_| {}, build_llama);
    }
}

#[test]
fn mistral_with_a_window() {
    compare(
        "mistral",
        usize::MAX,
        |_| {},
        |mut config, vb| {
            candle_window(&mut config);
            let model = mistral::Model::new(&parse(config), vb)?;
            Ok(Box::new(move |input| model.clone().forward(input, 0)))
        },
    );
}

#[test]
fn qwen2() {
    compare(
        "qwen2",
        usize::MAX,
        |_| {},
        |mut config, vb| {
            // Candle wants a number here and applies it.
            config["sliding_window"] = config["max_position_embeddings"].clone();
            let model = qwen2::ModelForCausalLM::new(&parse(config), vb)?;
            Ok(Box::new(move |input| model.clone().forward(input, 0)))
        },
    );
}

#[test]
fn qwen3() {
    compare(
        "qwen3",
        usize::MAX,
        |_| {},
        |config, vb| {
            let model = qwen3::ModelForCausalLM::new(&parse(config), vb)?;
            Ok(Box::new(move |input| model.clone().forward(input, 0)))
        },
    );
}

/// Candle's Gemma 2 has the window on every layer, so prefixes end within it.
#[test]
fn gemma2() {
    let edit = |config: &mut Value| config["query_pre_attn_scalar"] = config["head_dim"].clone();
    compare("gemma2", 16, edit, |config, vb| {
        let model = gemma2::Model::new(false, &parse(config), vb)?;
        Ok(Box::new(move |input| model.clone().forward(input, 0)))
    });
}

/// Token by token: candle's cache refuses longer inputs (of values that aren't contiguous). The window works that way.
#[test]
fn gemma3_with_windows_on_five_layers_of_six() {
    let edit = |config: &mut Value| {
        config["query_pre_attn_scalar"] = config["head_dim"].clone();
        let rope = config["rope_scaling"].take();
        config["rope_theta"] = rope["full_attention"]["rope_theta"].clone();
        config["rope_local_base_freq"] = rope["sliding_attention"]["rope_theta"].clone();
        config["sliding_window_pattern"] = json!(6);
    };
    compare("gemma3", usize::MAX, edit, |config, vb| {
        let model = gemma3::Model::new(false, &parse(config), vb)?;
        Ok(Box::new(move |input| {
            let mut model = model.clone();
            let steps = 0..input.dim(1)?;
            let logits = steps.map(|i| model.forward(&input.narrow(1, i, 1)?, i)).collect::<Result<Vec<_>>>()?;
            Tensor::cat(&logits[logits.len() - 1..], 0)
        }))
    });
}
