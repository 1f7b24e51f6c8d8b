"""Makes tests/fixtures/gguf/NAME.gguf and tests/fixtures/expected/gguf-NAME.safetensors.

    ref/bin/python tests/reference/make_gguf.py [NAME ...]        (setup: make_checkpoints.py)

Pins (requirements.txt): torch 2.15.0, transformers 5.24.0, gguf 0.19.0. One file a weight type
(`llama-q4_k` ...: hidden 256, one layer) and one a family. Names, the permutation of llama's q and k
rows, gemma's norms stored as 1 + w and llama3's `rope_freqs` are those of llama.cpp's converter.
The expected logits are transformers' in float32 on what gguf-py's dequantize reads back from the file.

gguf-py writes no K-quants: their blocks are random bytes in every field (each scale, min and quant takes
all its values, which a quantiser of smooth weights does not achieve) with a sensible super-block scale.
"""

import pathlib
import sys

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as T
from transformers import CONFIG_MAPPING

import reference
from make_checkpoints import BASE, GEMMA2, GEMMA3, LLAMA3, YARN

FIXTURES = pathlib.Path(__file__).resolve().parents[1] / "fixtures"
LENGTH = 64

QUANT = dict(
    BASE, vocab_size=128, hidden_size=256, intermediate_size=256, num_hidden_layers=1, head_dim=64,
    tie_word_embeddings=False,
)
# llama.cpp derives gemma's attention scale from the head width.
GGUF_GEMMA3_ROPE = dict(
    GEMMA3["rope_parameters"], sliding_attention={"rope_type": "default", "rope_theta": 5000.0}
)
FILES = {
    **{f"llama-{t.name.lower()}": ("llama", QUANT, t) for t in (
        T.Q4_0, T.Q4_1, T.Q5_0, T.Q5_1, T.Q8_0, T.Q2_K, T.Q3_K, T.Q4_K, T.Q5_K, T.Q6_K)},
    "llama-f32": ("llama", dict(BASE, tie_word_embeddings=False), T.F32),
    "llama-f16": ("llama", dict(BASE, head_dim=24), T.F16),
    "llama-bf16": ("llama", dict(BASE, tie_word_embeddings=True), T.BF16),
    # The same weights in three files.
    "llama-split": ("llama", dict(BASE, tie_word_embeddings=True), T.BF16),
    "llama-llama3": ("llama", dict(BASE, rope_parameters=LLAMA3, tie_word_embeddings=True), T.F16),
    "llama-linear": ("llama", dict(BASE, rope_parameters={"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}), T.F16),
    "llama-yarn": ("llama", dict(BASE, max_position_embeddings=128, rope_parameters=YARN), T.F16),
    "qwen2": ("qwen2", dict(BASE, tie_word_embeddings=True), T.F16),
    # Rows of 80 are no multiple of 32: `down` falls back to F16, as llama.cpp's quantiser does.
    "qwen3": ("qwen3", dict(BASE, head_dim=32, tie_word_embeddings=True), T.Q8_0),
    "smollm3": ("smollm3", dict(BASE, num_hidden_layers=5, tie_word_embeddings=True), T.BF16),
    "gemma2": ("gemma2", dict(GEMMA2, query_pre_attn_scalar=16), T.F16),
    "gemma3": ("gemma3_text", dict(GEMMA3, query_pre_attn_scalar=16, rope_parameters=GGUF_GEMMA3_ROPE), T.BF16),
}
ARCH = {
    "llama": gguf.MODEL_ARCH.LLAMA, "qwen2": gguf.MODEL_ARCH.QWEN2, "qwen3": gguf.MODEL_ARCH.QWEN3,
    "smollm3": gguf.MODEL_ARCH.SMOLLM3, "gemma2": gguf.MODEL_ARCH.GEMMA2, "gemma3_text": gguf.MODEL_ARCH.GEMMA3,
}
PERMUTED = {"llama", "smollm3"}
PRE_TOKENIZER = {"llama": "llama-bpe", "smollm3": "smollm", "qwen2": "qwen2", "qwen3": "qwen2"}


def permute(w, heads):
    """Row order of GGUF's llama family: rotated pairs side by side instead of half a head apart."""
    return w.reshape(heads, 2, w.shape[0] // heads // 2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)


def unpermute(w, heads):
    return w.reshape(heads, w.shape[0] // heads // 2, 2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)


def convert(config, name, w, forward):
    """One tensor from transformers' form to GGUF's, or back."""
    family = config.model_type
    turn = permute if forward else unpermute
    if family in PERMUTED and "q_proj" in name:
        return turn(w, config.num_attention_heads)
    if family in PERMUTED and "k_proj" in name:
        return turn(w, config.num_key_value_heads)
    if family in reference.ONE_PLUS_FAMILIES and name.endswith("norm.weight"):
        return w + np.float32(1.0 if forward else -1.0)
    return w


def names(config):
    """transformers' name -> GGUF's, for every parameter of the model."""
    table = gguf.get_tensor_name_map(ARCH[config.model_type], config.num_hidden_layers)

    def gguf_name(name):
        found = table.get_name(name, try_suffixes=(".weight", ".bias"))
        assert found, name
        return found

    return gguf_name


def random_blocks(kind, rows, cols, std, rng):
    """[rows, row bytes] of random K-quant blocks whose values have about zero mean and deviation `std`."""
    n = rows * cols // 256
    size = gguf.GGML_QUANT_SIZES[kind][1]
    # Where the halves d (and dmin) lie, and dmin / d that centres the values.
    d_at, dmin_at, ratio = {
        T.Q2_K: (80, 82, 1.5), T.Q3_K: (108, None, 0), T.Q4_K: (0, 2, 7.5), T.Q5_K: (0, 2, 15.5), T.Q6_K: (208, None, 0),
    }[kind]
    blocks = rng.integers(0, 256, (n, size), dtype=np.uint8)
    spread = rng.uniform(0.5, 1.5, (n, 1))

    def set_scale(d):
        blocks[:, d_at : d_at + 2] = (d * spread).astype(np.float16).view(np.uint8)
        if dmin_at is not None:
            blocks[:, dmin_at : dmin_at + 2] = (d * ratio * spread).astype(np.float16).view(np.uint8)

    set_scale(1.0)
    set_scale(std / gguf.quants.dequantize(blocks, kind).std())
    return blocks.reshape(rows, -1)


def encode(w, kind, rng):
    """The tensor's bytes and their type; 1-D tensors stay F32."""
    if w.ndim == 1 or kind == T.F32:
        return w.astype(np.float32), T.F32
    if kind == T.F16:
        return w.astype(np.float16), T.F16
    if w.shape[1] % gguf.GGML_QUANT_SIZES[kind][0] != 0:
        return w.astype(np.float16), T.F16
    if kind in (T.Q2_K, T.Q3_K, T.Q4_K, T.Q5_K, T.Q6_K):
        return random_blocks(kind, *w.shape, w.std(), rng), kind
    return gguf.quants.quantize(w, kind), kind


def llama3_factors(config):
    """The divisor of each frequency, as llama.cpp's converter stores it."""
    rope, dim = config.rope_parameters, config.head_dim
    old = rope["original_max_position_embeddings"]
    low, high, factor = rope["low_freq_factor"], rope["high_freq_factor"], rope["factor"]
    wavelength = 2 * np.pi * rope["rope_theta"] ** (np.arange(0, dim, 2) / dim)
    smooth = (old / wavelength - low) / (high - low)
    ramp = 1.0 / ((1 - smooth) / factor + smooth)
    return np.where(wavelength < old / high, 1.0, np.where(wavelength > old / low, factor, ramp)).astype(np.float32)


def add_rope(writer, config):
    rope = config.rope_parameters
    if config.model_type == "gemma3_text":
        writer.add_rope_freq_base_swa(rope["sliding_attention"]["rope_theta"])
        rope = rope["full_attention"]
    writer.add_rope_freq_base(rope["rope_theta"])
    if rope["rope_type"] in ("linear", "yarn"):
        writer.add_rope_scaling_type(gguf.RopeScalingType(rope["rope_type"]))
        writer.add_rope_scaling_factor(rope["factor"])
    if rope["rope_type"] == "yarn":
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
    if rope["rope_type"] == "llama3":
        writer.add_tensor("rope_freqs.weight", llama3_factors(config))


def add_metadata(writer, config, kind):
    """What llama.cpp's converter writes for the family."""
    writer.add_name("tiny random checkpoint")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    if head_dim * config.num_attention_heads != config.hidden_size or config.model_type in ("qwen3", "gemma2", "gemma3_text"):
        writer.add_key_length(head_dim)
        writer.add_value_length(head_dim)
    if config.model_type in PERMUTED:
        writer.add_vocab_size(config.vocab_size)
        writer.add_rope_dimension_count(head_dim)
    if config.model_type in reference.ONE_PLUS_FAMILIES:
        writer.add_sliding_window(config.sliding_window)
    if config.model_type == "gemma2":
        writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
        writer.add_final_logit_softcapping(config.final_logit_softcapping)
    add_rope(writer, config)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32 if kind == T.F32 else gguf.LlamaFileType.MOSTLY_F16)


def add_tokenizer(writer, config):
    """The smallest byte-level BPE that readers accept: three specials, bytes, one merge."""
    printable = list(range(33, 127)) + list(range(161, 173)) + list(range(174, 256))
    others = [b for b in range(256) if b not in printable]
    letters = [chr(b) for b in printable] + [chr(256 + i) for i in range(len(others))]
    letters = ["\u0120", "\u010a"] + [c for c in letters if c not in "\u0120\u010a"]
    tokens = ["<unk>", "<s>", "</s>"] + letters[: config.vocab_size - 4] + ["he"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(PRE_TOKENIZER.get(config.model_type, "gpt-2"))
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.CONTROL] * 3 + [gguf.TokenType.NORMAL] * (len(tokens) - 3))
    writer.add_token_merges(["h e"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_add_bos_token(False)


def write(path, config, model, kind, seed):
    split = 14 if path.stem.endswith("split") else 0
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[ARCH[config.model_type]], split_max_tensors=split)
    add_metadata(writer, config, kind)
    add_tokenizer(writer, config)
    gguf_name, rng = names(config), np.random.default_rng(seed)
    for name, p in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        data, stored = encode(convert(config, name, p.numpy(), forward=True), kind, rng)
        writer.add_tensor(gguf_name(name), np.ascontiguousarray(data), raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def read_back(path, config):
    """A float32 model with the weights that gguf-py reads from the file."""
    files = sorted(path.parent.glob(f"{path.stem}-0*.gguf")) or [path]
    stored = {
        t.name: gguf.quants.dequantize(t.data, t.tensor_type).astype(np.float32)
        for file in files for t in gguf.GGUFReader(file).tensors
    }
    model, gguf_name, state = reference.build(config), names(config), {}
    for name, p in model.state_dict().items():
        source = "token_embd.weight" if name == "lm_head.weight" and config.tie_word_embeddings else gguf_name(name)
        w = convert(config, name, stored[source].reshape(p.shape), forward=False)
        state[name] = torch.from_numpy(np.ascontiguousarray(w))
    model.load_state_dict(state)
    return model


def main():
    (FIXTURES / "gguf").mkdir(parents=True, exist_ok=True)
    for name in sys.argv[1:] or FILES:
        family, settings, kind = FILES[name]
        config = CONFIG_MAPPING[family](**settings)
        seed = 500 + list(FILES).index(name.replace("-split", "-bf16"))
        path = FIXTURES / "gguf" / f"{name}.gguf"
        write(path, config, reference.randomise(reference.build(config), seed), kind, seed)
        model = read_back(path, config)
        ids = reference.token_ids(config.vocab_size, LENGTH, seed=11)
        print(f"{name:14}", reference.expected(FIXTURES / "expected" / f"gguf-{name}.safetensors", model, ids), flush=True)


if __name__ == "__main__":
    main()
