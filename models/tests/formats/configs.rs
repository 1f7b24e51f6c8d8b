//! `config.json` of every family in the hub's styles, and values that must be refused.

use sconce_kernels::kv::CacheKind;
use sconce_models::checkpoint::Checkpoint;
use sconce_models::config::{SpecOptions, model_spec};
use sconce_models::error::ModelError;
use sconce_models::spec::{Activation, ModelSpec, RopeScaling};
use serde_json::{Value, json};

use crate::safetensors_broken::bytes;
use crate::support::assert_refused;

/// The spec of a folder with this configuration and an embedding table under `prefix`.
fn spec_under(
    prefix: &str,
    config: &Value,
    options: SpecOptions,
) -> (Result<ModelSpec, ModelError>, tempfile::TempDir) {
    let dir = tempfile::tempdir().expect("temporary folder");
    // As many tensors as the deepest model here has layers, and one.
    let entry = |i: usize| format!(r#""{i}":{{"dtype":"BF16","shape":[4],"data_offsets":[{},{}]}}"#, i * 8, i * 8 + 8);
    let rest: Vec<_> = (1..9).map(entry).collect();
    let embed = format!(r#""{prefix}embed_tokens.weight":{{"dtype":"BF16","shape":[2,2],"data_offsets":[0,8]}}"#);
    let header = format!("{{{embed},{}}}", rest.join(","));
    std::fs::write(dir.path().join("model.safetensors"), bytes(&header, 72)).expect("write");
    std::fs::write(dir.path().join("config.json"), config.to_string()).expect("write");
    let spec = Checkpoint::open(dir.path()).and_then(|c| model_spec(&c, &options));
    (spec, dir)
}

fn spec(config: &Value) -> ModelSpec {
    spec_under("model.", config, SpecOptions::default()).0.expect("sound")
}

/// `base` with keys of `change` over it.
fn with(base: &Value, change: Value) -> Value {
    let mut out = base.clone();
    let (Some(out_map), Value::Object(change)) = (out.as_object_mut(), change) else { panic!("objects") };
    out_map.extend(change);
    out
}

fn llama() -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"], "vocab_size": 100, "hidden_size": 64, "intermediate_size": 96,
        "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 1024,
        "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "hidden_act": "silu", "tie_word_embeddings": false
    })
}

fn of(architecture: &str) -> Value {
    with(&llama(), json!({ "architectures": [architecture] }))
}

const SLIDES: fn(usize) -> CacheKind = |window| CacheKind::SlidingWindow { window };

fn kinds(spec: &ModelSpec) -> Vec<CacheKind> {
    spec.layers.iter().map(|layer| layer.attention.kind).collect()
}

#[test]
fn llama_reads_every_key() {
    let spec = spec(&llama());
    let layer = &spec.layers[0];
    assert_eq!((spec.layers.len(), spec.vocab_size, spec.hidden_size, spec.max_position), (4, 100, 64, 1024));
    assert_eq!((layer.attention.num_heads, layer.attention.num_kv_heads, layer.attention.head_dim_k), (4, 2, 16));
    assert_eq!((layer.attention.scale, layer.ffn.intermediate_size), (0.25, 96));
    assert_eq!((spec.ropes.len(), spec.ropes[0].theta, spec.ropes[0].rot_dim), (1, 500_000.0, 16));
    assert!(!spec.ropes[0].interleaved && !spec.tied_embeddings && !spec.norm.one_plus);
    assert_eq!((spec.norm.eps, spec.embedding_multiplier, layer.ffn.activation), (1e-5, 1.0, Activation::Silu));
    assert!(!layer.attention.qkv_bias && !layer.ffn.bias && !layer.post_attention_norm);
    let spec = self::spec(&with(
        &llama(),
        json!({"attention_bias": true, "mlp_bias": true, "head_dim": 24, "partial_rotary_factor": 0.5,
               "tie_word_embeddings": true, "num_key_value_heads": null}),
    ));
    let layer = &spec.layers[3];
    assert!(layer.attention.qkv_bias && layer.attention.o_bias && layer.ffn.bias && spec.tied_embeddings);
    assert_eq!((layer.attention.head_dim_k, spec.ropes[0].rot_dim, layer.attention.num_kv_heads), (24, 12, 4));
}

#[test]
fn rope_styles_agree() {
    let fields = json!({"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                        "original_max_position_embeddings": 256});
    let new =
        with(&llama(), json!({"rope_parameters": with(&fields, json!({"rope_type": "llama3", "rope_theta": 5e5}))}));
    let old = with(&llama(), json!({"rope_scaling": with(&fields, json!({"rope_type": "llama3"}))}));
    let oldest = with(&llama(), json!({"rope_scaling": with(&fields, json!({"type": "llama3"}))}));
    let expected =
        RopeScaling::Llama3 { factor: 8.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_max_position: 256 };
    for config in [new, old, oldest] {
        let spec = spec(&config);
        assert_eq!((spec.ropes[0].theta, &spec.ropes[0].scaling), (500_000.0, &expected));
        assert_eq!(spec.max_position, 1024);
    }
}

#[test]
fn scaling_settles_the_context_and_the_attention_factor() {
    let linear = spec(&with(&llama(), json!({"rope_scaling": {"type": "linear", "factor": 4.0}})));
    assert_eq!((linear.max_position, &linear.ropes[0].scaling), (4096, &RopeScaling::Linear { factor: 4.0 }));
    let fields = json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024});
    let factor_of = |change: Value| {
        let spec = spec(&with(&llama(), json!({"rope_scaling": with(&fields, change)})));
        assert_eq!(spec.max_position, 4096);
        match spec.ropes[0].scaling {
            RopeScaling::Yarn { attention_factor, truncate: true, beta_fast: 32.0, beta_slow: 1.0, .. } => {
                attention_factor
            }
            ref other => panic!("{other:?}"),
        }
    };
    // 0.1 ln(4) + 1; the second as transformers 5.24.0 resolves mscale 0.707 over 1.
    assert!((factor_of(json!({})) - 1.138_629_4).abs() < 1e-6);
    assert!((factor_of(json!({"mscale": 0.707, "mscale_all_dim": 1.0})) - 0.964_327_4).abs() < 1e-6);
    assert_eq!(factor_of(json!({"attention_factor": 0.5, "beta_fast": null})), 0.5);
    // Factors of Phi-3: the ratio of lengths stands in for a missing factor.
    let list = vec![1.0; 8];
    let longrope = json!({"rope_scaling": {"type": "longrope", "short_factor": list, "long_factor": list},
                          "original_max_position_embeddings": 256});
    match spec(&with(&llama(), longrope)).ropes[0].scaling {
        RopeScaling::LongRope { attention_factor, original_max_position: 256, .. } => {
            assert!((attention_factor - 1.25f32.sqrt()).abs() < 1e-6, "sqrt(1 + ln 4 / ln 256)");
        }
        ref other => panic!("{other:?}"),
    }
}

#[test]
fn mistral_slides_everywhere_or_nowhere() {
    let config = with(&of("MistralForCausalLM"), json!({"sliding_window": 128, "head_dim": 32}));
    let sliding = spec(&config);
    assert_eq!(kinds(&sliding), [SLIDES(128); 4]);
    assert_eq!(sliding.layers[0].attention.head_dim_k, 32);
    assert_eq!(kinds(&spec(&with(&config, json!({"sliding_window": null})))), [CacheKind::Full; 4]);
    // transformers' default when the key is left out.
    assert_eq!(kinds(&spec(&of("MistralForCausalLM"))), [SLIDES(4096); 4]);
    let wrapped = json!({"architectures": ["Mistral3ForConditionalGeneration"], "text_config": config});
    let wrapped = spec_under("language_model.model.", &wrapped, SpecOptions::default()).0.expect("sound");
    assert_eq!(wrapped.architecture, "Mistral3ForConditionalGeneration");
    assert_eq!(ModelSpec { architecture: "MistralForCausalLM".to_owned(), ..wrapped }, sliding);
}

#[test]
fn qwen2_slides_from_max_window_layers_on() {
    let config = with(&of("Qwen2ForCausalLM"), json!({"sliding_window": 128, "max_window_layers": 3}));
    let off = spec(&with(&config, json!({"use_sliding_window": false})));
    assert_eq!(kinds(&off), [CacheKind::Full; 4]);
    let a = &off.layers[0].attention;
    assert!(a.qkv_bias && !a.o_bias && !a.qk_norm);
    let full = CacheKind::Full;
    let on = with(&config, json!({"use_sliding_window": true}));
    assert_eq!(kinds(&spec(&on)), [full, full, full, SLIDES(128)]);
    let types = ["sliding_attention", "full_attention", "full_attention", "full_attention"];
    assert_eq!(kinds(&spec(&with(&on, json!({"layer_types": types})))), [SLIDES(128), full, full, full]);
}

#[test]
fn qwen3_has_qk_norms_and_no_bias() {
    let spec = spec(&of("Qwen3ForCausalLM"));
    let a = &spec.layers[0].attention;
    assert!(a.qk_norm && !a.qkv_bias && !a.o_bias);
    assert_eq!(a.head_dim_k, 128, "the default isn't hidden / heads");
}

#[test]
fn smollm3_leaves_rope_out_every_fourth_layer() {
    let ropes = |spec: &ModelSpec| spec.layers.iter().map(|l| l.attention.rope).collect::<Vec<_>>();
    let config = of("SmolLM3ForCausalLM");
    assert_eq!(ropes(&spec(&config)), [Some(0), Some(0), Some(0), None]);
    let listed = spec(&with(&config, json!({"no_rope_layers": [0, 1, 1, 1]})));
    assert_eq!(ropes(&listed), [None, Some(0), Some(0), Some(0)]);
    let sliding = spec(&with(&config, json!({"use_sliding_window": true, "sliding_window": 64})));
    assert_eq!(kinds(&sliding), [CacheKind::Full, CacheKind::Full, CacheKind::Full, SLIDES(64)]);
}

#[test]
fn gemma2_alternates_and_caps() {
    let config = json!({"architectures": ["Gemma2ForCausalLM"], "hidden_act": "gelu", "num_hidden_layers": 4,
                        "query_pre_attn_scalar": 144});
    let spec = spec(&config);
    let full = CacheKind::Full;
    assert_eq!(kinds(&spec), [SLIDES(4096), full, SLIDES(4096), full]);
    let layer = &spec.layers[0];
    assert_eq!(
        (layer.attention.scale, layer.attention.softcap, spec.final_softcap),
        (1.0 / 12.0, Some(50.0), Some(30.0))
    );
    assert!(layer.post_attention_norm && layer.post_ffn_norm && spec.norm.one_plus && spec.tied_embeddings);
    assert_eq!((spec.embedding_multiplier, layer.ffn.activation), (48.0, Activation::GeluTanh));
}

#[test]
fn gemma3_styles_agree() {
    // The hub's 4B: most keys left out, inside a vision-language wrapper.
    let text = json!({"hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 7, "sliding_window": 1024,
                      "rope_scaling": {"factor": 8.0, "rope_type": "linear"}});
    let wrapped = json!({"architectures": ["Gemma3ForConditionalGeneration"], "text_config": text});
    let old = spec_under("language_model.model.", &wrapped, SpecOptions::default()).0.expect("sound");
    let full = CacheKind::Full;
    let s = SLIDES(1024);
    assert_eq!(kinds(&old), [s, s, s, s, s, full, s]);
    assert_eq!(old.layers.iter().map(|l| l.attention.rope).collect::<Vec<_>>(), [1, 1, 1, 1, 1, 0, 1].map(Some));
    assert_eq!((old.ropes[0].theta, &old.ropes[0].scaling), (1e6, &RopeScaling::Linear { factor: 8.0 }));
    assert_eq!((old.ropes[1].theta, &old.ropes[1].scaling), (1e4, &RopeScaling::None));
    assert_eq!((old.vocab_size, old.max_position), (262_208, 131_072));
    assert!(old.layers[0].attention.qk_norm && old.layers[0].attention.softcap.is_none() && old.tied_embeddings);
    let new = json!({
        "architectures": ["Gemma3ForConditionalGeneration"],
        "text_config": {
            "hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 7, "sliding_window": 1024,
            "layer_types": ["sliding_attention", "sliding_attention", "sliding_attention", "sliding_attention",
                            "sliding_attention", "full_attention", "sliding_attention"],
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1000000.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0}
            }
        }
    });
    assert_eq!(spec_under("model.language_model.", &new, SpecOptions::default()).0.expect("sound"), old);
}

#[test]
fn max_model_len_bounds_the_context() {
    let options = |len| SpecOptions { max_model_len: Some(len) };
    assert_eq!(spec_under("model.", &llama(), options(512)).0.expect("sound").max_position, 512);
    for len in [0, 1025] {
        let (spec, dir) = spec_under("model.", &llama(), options(len));
        assert_refused(spec, dir.path(), "isn't in 1..=1024");
    }
}

#[test]
fn weights_of_further_layers_are_refused() {
    let names = ["embed_tokens", "layers.0.a", "layers.1.a", "layers.2.a", "layers.3.a", "layers.4.a"];
    let entries = names.iter().enumerate().map(|(i, name)| {
        format!(r#""model.{name}.weight":{{"dtype":"BF16","shape":[2,2],"data_offsets":[{},{}]}}"#, i * 8, i * 8 + 8)
    });
    let header = format!("{{{}}}", entries.collect::<Vec<_>>().join(","));
    let dir = tempfile::tempdir().expect("temporary folder");
    std::fs::write(dir.path().join("model.safetensors"), bytes(&header, 48)).expect("write");
    for (layers, sound) in [(5, true), (4, false)] {
        let config = with(&llama(), json!({ "num_hidden_layers": layers }));
        std::fs::write(dir.path().join("config.json"), config.to_string()).expect("write");
        let spec = Checkpoint::open(dir.path()).and_then(|c| model_spec(&c, &SpecOptions::default()));
        match sound {
            true => assert_eq!(spec.expect("sound").layers.len(), 5),
            false => {
                let expected = "num_hidden_layers: 4 layers, but there is a tensor model.layers.4.a.weight";
                assert_refused(spec, &dir.path().join("config.json"), expected);
            }
        }
    }
}

#[test]
fn bad_values_are_refused() {
    let rows: &[(&str, Value)] = &[
        ("architectures: architecture BertModel", json!({"architectures": ["BertModel"]})),
        ("architectures: is missing", json!({"architectures": null})),
        ("architectures: is missing", json!({"architectures": [7]})),
        ("hidden_size: is missing", json!({"hidden_size": null})),
        ("hidden_size: -64 isn't", json!({"hidden_size": -64})),
        ("hidden_size: 0 isn't", json!({"hidden_size": 0})),
        ("hidden_size: 64.5 isn't", json!({"hidden_size": 64.5})),
        ("hidden_size: \"64\" isn't", json!({"hidden_size": "64"})),
        ("hidden_size: 1e+300 isn't", json!({"hidden_size": 1e300})),
        ("num_hidden_layers: 4294967295 layers, but only 9 tensors", json!({"num_hidden_layers": 4_294_967_295u64})),
        ("vocabulary size: 4294967295", json!({"vocab_size": 4_294_967_295u64})),
        ("head_dim: is missing", json!({"hidden_size": 65})),
        ("can't share 3", json!({"num_key_value_heads": 3})),
        ("rotated width 15 isn't even", json!({"head_dim": 15})),
        ("rms_norm_eps: 1e+300 isn't a finite", json!({"rms_norm_eps": 1e300})),
        ("norm epsilon: -1", json!({"rms_norm_eps": -1.0})),
        ("hidden_act: activation relu2; supported: silu, swish", json!({"hidden_act": "relu2"})),
        ("hidden_act: [] isn't a string", json!({"hidden_act": []})),
        ("num_local_experts: not part of", json!({"num_local_experts": 8})),
        ("use_bidirectional_attention: not part of", json!({"use_bidirectional_attention": true})),
        ("partial_rotary_factor: 2 isn't", json!({"partial_rotary_factor": 2.0})),
        ("rope_theta: [] isn't", json!({"rope_theta": []})),
        ("rope: base 0 isn't positive", json!({"rope_theta": 0})),
        ("rope_scaling: 8 isn't an object", json!({"rope_scaling": 8})),
        (
            "rope_scaling.rope_type: rope scaling dynamic; supported: default, linear",
            json!({"rope_scaling": {"type": "dynamic", "factor": 2}}),
        ),
        ("rope_scaling.rope_type: rope scaling of no name", json!({"rope_scaling": {"type": 7}})),
        ("rope_scaling.factor: is missing", json!({"rope_scaling": {"type": "linear"}})),
        ("rope: factor -2 isn't positive", json!({"rope_scaling": {"type": "linear", "factor": -2}})),
        ("rope_scaling.short_factor: isn't a list", json!({"rope_scaling": {"type": "su", "long_factor": [1]}})),
        (
            "rope: short_factor has 1 entries, expected 8",
            json!({"rope_scaling": {"type": "longrope", "short_factor": [1], "long_factor": [1]}}),
        ),
        ("rope_scaling.mrope_section", json!({"rope_scaling": {"type": "default", "mrope_section": [2, 3, 3]}})),
        ("rope_parameters: this architecture takes one", json!({"rope_parameters": {"full_attention": {}}})),
        (
            "original_max_position_embeddings: -1 isn't",
            json!({"rope_scaling": {"type": "yarn", "factor": 2, "original_max_position_embeddings": -1}}),
        ),
    ];
    for (expected, change) in rows {
        let (spec, dir) = spec_under("model.", &with(&llama(), change.clone()), SpecOptions::default());
        assert_refused(spec, dir.path(), expected);
    }
    let gemma = json!({"architectures": ["Gemma3ForCausalLM"], "num_hidden_layers": 4});
    let rows: &[(&str, Value)] = &[
        ("layer_types: has 1 entries for 4 layers", json!({"layer_types": ["full_attention"]})),
        ("layer_types: layer type \"mamba\"", json!({"layer_types": ["mamba", "mamba", "mamba", "mamba"]})),
        ("sliding_window: is missing, but", json!({"sliding_window": null})),
        ("final soft cap: -1", json!({"final_logit_softcapping": -1})),
        ("attention scale", json!({"query_pre_attn_scalar": 0})),
        ("rope_parameters: holds neither", json!({"rope_parameters": {"rope_type": "default"}})),
    ];
    for (expected, change) in rows {
        let (spec, dir) = spec_under("model.", &with(&gemma, change.clone()), SpecOptions::default());
        assert_refused(spec, dir.path(), expected);
    }
    let (spec, dir) =
        spec_under("model.", &with(&of("MistralForCausalLM"), json!({"attention_bias": true})), SpecOptions::default());
    assert_refused(spec, dir.path(), "attention_bias: this architecture has no such bias");
}
