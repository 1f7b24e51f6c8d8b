"""Makes tests/fixtures/checkpoints/NAME (tiny random checkpoints) and tests/fixtures/expected/NAME.safetensors.

    python3 -m venv ref && ref/bin/pip install -r tests/reference/requirements.txt
    ref/bin/python tests/reference/make_checkpoints.py [NAME ...]

Pins (requirements.txt): torch 2.15.0, transformers 5.24.0. One variant a family and rope scaling, spread
over dtypes, sharding and the hub's old and new configuration styles. The expected logits come from
`from_pretrained` on the written folder, so they are of the files as committed. Each expected file holds

    token_ids     I32 [96]       longer than every window and every original rope context below
    logits        F32 [96, 256]  one uncached pass
    decode_logits F32 [8, 256]   the last 8 positions, one token at a time from the cache
"""

import json
import pathlib
import shutil
import sys
import tempfile

import torch
from safetensors.torch import save_file
from transformers import CONFIG_MAPPING

import reference

FIXTURES = pathlib.Path(__file__).resolve().parents[1] / "fixtures"
LENGTH = 96
SHORT_LENGTH = 48
BASE = dict(
    vocab_size=256, hidden_size=64, intermediate_size=80, num_hidden_layers=4, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=256, rms_norm_eps=1e-3,
    pad_token_id=0, bos_token_id=1, eos_token_id=2,
)
DEFAULT_ROPE = {"rope_type": "default", "rope_theta": 10000.0}
# Hidden 48: sqrt(48) is not exact, so a wrong embedding multiplier shows.
GEMMA = dict(BASE, hidden_size=48, head_dim=16, query_pre_attn_scalar=24, sliding_window=16)
GEMMA2 = dict(GEMMA, num_hidden_layers=4, attn_logit_softcapping=4.0, final_logit_softcapping=6.0)
GEMMA3 = dict(
    GEMMA, num_hidden_layers=7,
    rope_parameters={
        "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1000000.0},
    },
)
LLAMA3 = dict(
    rope_type="llama3", rope_theta=500.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
    original_max_position_embeddings=32,
)
YARN = dict(rope_type="yarn", rope_theta=500.0, factor=4.0, original_max_position_embeddings=32)
LONGROPE = dict(
    rope_type="longrope", rope_theta=10000.0, original_max_position_embeddings=64, factor=4.0,
    short_factor=[1.0, 1.1, 1.2, 1.5, 1.7, 2.0, 2.2, 2.5], long_factor=[1.0, 1.5, 2.0, 4.0, 6.0, 8.0, 12.0, 16.0],
)


def variant(model_type, config, dtype="F32", style="new", shards=1, wrap=None, knobs=(), short=False):
    """One checkpoint: what to build, how to store it, which settings must be visible in its logits."""
    return dict(
        model_type=model_type, config=config, dtype=dtype, style=style, shards=shards, wrap=wrap, knobs=knobs,
        short=short,
    )


NO_ROPE_SCALING = {"rope_parameters": DEFAULT_ROPE}
VARIANTS = {
    "llama": variant("llama", dict(BASE, tie_word_embeddings=False), knobs=[{"rms_norm_eps": 1e-6}]),
    "llama-bias-head-dim": variant(
        "llama", dict(BASE, head_dim=24, attention_bias=True, mlp_bias=True, tie_word_embeddings=True), dtype="BF16",
        shards=3,
    ),
    "llama-linear": variant(
        "llama", dict(BASE, rope_parameters={"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}),
        dtype="F16", style="old", knobs=[NO_ROPE_SCALING],
    ),
    "llama-llama3": variant(
        "llama", dict(BASE, rope_parameters=LLAMA3, tie_word_embeddings=True), dtype="BF16",
        knobs=[{"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}}],
    ),
    "llama-llama3-old": variant(
        "llama", dict(BASE, rope_parameters=LLAMA3, tie_word_embeddings=True), dtype="BF16", style="old",
    ),
    "llama-yarn": variant(
        "llama", dict(BASE, max_position_embeddings=128, rope_parameters=YARN), dtype="BF16",
        knobs=[{"rope_parameters": dict(DEFAULT_ROPE, rope_theta=500.0)}, {"rope_parameters": dict(YARN, attention_factor=1.0)}],
    ),
    "llama-yarn-options": variant(
        "llama",
        dict(BASE, max_position_embeddings=128, rope_parameters=dict(YARN, beta_fast=4.0, beta_slow=0.4, attention_factor=1.3, truncate=False)),
        dtype="F16", style="old",
        knobs=[
            {"rope_parameters": dict(YARN, attention_factor=1.3)},
            {"rope_parameters": dict(YARN, beta_fast=4.0, beta_slow=0.4, attention_factor=1.3)},
        ],
    ),
    "llama-longrope": variant(
        "llama", dict(BASE, rope_parameters=LONGROPE), dtype="BF16", short=True,
        knobs=[NO_ROPE_SCALING, {"rope_parameters": dict(LONGROPE, long_factor=LONGROPE["short_factor"])}],
    ),
    "mistral": variant(
        "mistral", dict(BASE, sliding_window=16, head_dim=16), style="old", knobs=[{"sliding_window": None}, {"sliding_window": 17}],
    ),
    "qwen2": variant("qwen2", dict(BASE, tie_word_embeddings=True), dtype="BF16", style="old"),
    "qwen2-window": variant(
        "qwen2", dict(BASE, use_sliding_window=True, sliding_window=16, max_window_layers=2, tie_word_embeddings=False),
        dtype="BF16", knobs=[{"layer_types": ["full_attention"] * 4}, {"layer_types": ["sliding_attention"] * 4}],
    ),
    "qwen3": variant("qwen3", dict(BASE, head_dim=32, tie_word_embeddings=True)),
    "smollm3": variant(
        "smollm3", dict(BASE, num_hidden_layers=5, tie_word_embeddings=True), dtype="BF16",
        knobs=[{"no_rope_layers": [1] * 5}],
    ),
    "smollm3-old": variant(
        "smollm3", dict(BASE, num_hidden_layers=5, tie_word_embeddings=True), dtype="BF16", style="old",
    ),
    "gemma2": variant(
        "gemma2", GEMMA2,
        knobs=[
            {"attn_logit_softcapping": None}, {"final_logit_softcapping": None}, {"query_pre_attn_scalar": 16},
            {"layer_types": ["full_attention"] * 4}, {"layer_types": ["full_attention", "sliding_attention"] * 2},
        ],
    ),
    "gemma2-old": variant("gemma2", GEMMA2, dtype="BF16", style="old"),
    "gemma3": variant(
        "gemma3_text", GEMMA3,
        knobs=[
            {"query_pre_attn_scalar": 16}, {"layer_types": ["sliding_attention"] * 7},
            {"rope_parameters": dict(GEMMA3["rope_parameters"], full_attention={"rope_type": "default", "rope_theta": 1000000.0})},
            {"rope_parameters": dict(GEMMA3["rope_parameters"], sliding_attention={"rope_type": "default", "rope_theta": 1000000.0})},
        ],
    ),
    "gemma3-old": variant("gemma3_text", GEMMA3, dtype="BF16", style="old"),
    "gemma3-wrapped": variant("gemma3_text", GEMMA3, dtype="BF16", style="old", wrap="model.language_model."),
    "gemma3-wrapped-old": variant("gemma3_text", GEMMA3, dtype="BF16", style="old", wrap="language_model.model."),
}
SEEDS = {name.removesuffix("-old").removesuffix("-wrapped"): 100 + i for i, name in enumerate(VARIANTS)}


NOISE = {
    "transformers_version", "id2label", "label2id", "output_attentions", "output_hidden_states", "problem_type", "return_dict",
    "chunk_size_feed_forward", "is_encoder_decoder", "pretraining_tp",
}


def seed_of(name):
    """Variants that differ only in how they are stored share their weights."""
    for base in ("gemma3", "gemma2", "smollm3", "llama-llama3"):
        if name.startswith(base):
            return SEEDS[base]
    return SEEDS[name]


def old_style(config, model_type):
    """`config.json` as hub checkpoints of 2023 to 2025 wrote it: `rope_theta`, `rope_scaling`, `torch_dtype`."""
    config = dict(config)
    config["torch_dtype"] = config.pop("dtype")
    rope = config.pop("rope_parameters")
    layer_types = config.pop("layer_types", None)
    if model_type == "gemma3_text":
        config["rope_local_base_freq"] = rope["sliding_attention"]["rope_theta"]
        config["sliding_window_pattern"] = 6
        rope = dict(rope["full_attention"])
        assert layer_types == [("full" if i % 6 == 5 else "sliding") + "_attention" for i in range(len(layer_types))]
    rope = dict(rope)
    config["rope_theta"] = rope.pop("rope_theta")
    if rope["rope_type"] == "default":
        config["rope_scaling"] = None
    elif rope["rope_type"] == "linear" and model_type == "llama":
        # The oldest spelling of the key.
        config["rope_scaling"] = {"type": "linear", "factor": rope["factor"]}
    else:
        config["rope_scaling"] = rope
    config.pop("head_dim", None) if model_type == "llama" else None
    if model_type == "smollm3":
        # Derived from the interval.
        config.pop("no_rope_layers")
        config["no_rope_layer_interval"] = 4
    return config


def wrapped(config):
    """The same text model inside a vision-language configuration, which leaves defaults out."""
    for key in ("rope_theta", "rope_local_base_freq", "sliding_window_pattern", "hidden_activation", "tie_word_embeddings"):
        config.pop(key)
    return {
        "architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3", "torch_dtype": config["torch_dtype"],
        "image_token_index": 255, "text_config": {k: v for k, v in config.items() if k != "architectures"},
        "vision_config": {"model_type": "siglip_vision_model", "hidden_size": 16, "num_hidden_layers": 1},
    }


def write_weights(folder, tensors, shards):
    """One file, or shards with the index that transformers writes."""
    if shards == 1:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return
    names = list(tensors)
    weight_map = {}
    for i in range(shards):
        part = names[i::shards]
        file = f"model-{i + 1:05}-of-{shards:05}.safetensors"
        save_file({n: tensors[n] for n in part}, folder / file, metadata={"format": "pt"})
        weight_map.update({n: file for n in part})
    total = sum(t.numel() * t.element_size() for t in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n")


def load_text_part(text_config, tensors):
    """The text model of a wrapped checkpoint, read from a temporary text-only folder."""
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        config = dict(text_config, architectures=["Gemma3ForCausalLM"])
        (folder / "config.json").write_text(json.dumps(config))
        write_weights(folder, tensors, shards=1)
        return reference.load(folder)


def write_checkpoint(name, v):
    """Writes the folder; returns the model that transformers reads from it."""
    folder = FIXTURES / "checkpoints" / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    torch_dtype = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}[v["dtype"]]
    config = CONFIG_MAPPING[v["model_type"]](**v["config"])
    model = reference.randomise(reference.build(config), seed_of(name))
    tied = config.tie_word_embeddings
    tensors = {
        n: p.detach().to(torch_dtype).contiguous()
        for n, p in model.state_dict().items() if not (tied and n == "lm_head.weight")
    }
    written = config.to_dict()
    written["architectures"] = [type(model).__name__]
    written["dtype"] = str(torch_dtype).removeprefix("torch.")
    for key in list(written):
        if key.startswith("_") or key in NOISE:
            written.pop(key)
    if v["style"] == "old":
        written = old_style(written, v["model_type"])
    if v["wrap"]:
        # The loader reads the text part alone: the same weights under their text-only names.
        inner = wrapped(written)
        loaded = load_text_part(inner["text_config"], tensors)
        tensors = {v["wrap"] + n.removeprefix("model."): t for n, t in tensors.items()}
        tensors["vision_tower.vision_model.post_layernorm.weight"] = torch.ones(16, dtype=torch_dtype)
        written = inner
    (folder / "config.json").write_text(json.dumps(written, indent=1, sort_keys=True) + "\n")
    write_weights(folder, tensors, v["shards"])
    loaded = loaded if v["wrap"] else reference.load(folder)
    if hasattr(loaded.model.embed_tokens, "embed_scale"):
        # transformers multiplies embeddings by a factor of their own dtype; loading in float32 must not lose that.
        with torch.no_grad():
            scale = loaded.model.embed_tokens.embed_scale
            scale.copy_(scale.to(torch_dtype))
    return loaded


def main():
    names = sys.argv[1:] or list(VARIANTS)
    for name in names:
        v = VARIANTS[name]
        model = write_checkpoint(name, v)
        ids = reference.token_ids(256, LENGTH, seed=7)
        path = FIXTURES / "expected" / f"{name}.safetensors"
        print(f"{name:22}", reference.expected(path, model, ids, v["knobs"]), flush=True)
        if v["short"]:
            # Within the original context the short factors apply.
            path = FIXTURES / "expected" / f"{name}.short.safetensors"
            print(f"{name:22}", reference.expected(path, model, ids[:, :SHORT_LENGTH]), flush=True)


if __name__ == "__main__":
    main()
