"""Shared by the fixture makers: random parameters, reference logits, sensitivity checks.

Every parameter and buffer gets random values (default initialisation leaves norms at one and biases
at zero, so a forgotten bias or a forgotten `1 + w` would pass). Reference logits are computed by
transformers in float32, from the weights as they lie in the file.
"""

import copy
import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_VERBOSITY"] = "error"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"

import torch
from safetensors.torch import save_file
import transformers
from transformers import AutoModelForCausalLM

transformers.utils.logging.disable_progress_bar()
torch.set_num_threads(int(os.environ.get("REFERENCE_THREADS", "1")))
torch.use_deterministic_algorithms(True)

NUM_DECODE = 8
# A norm whose weight is stored zero-centred.
ONE_PLUS_FAMILIES = {"gemma2", "gemma3", "gemma3_text"}


def randomise(model, seed):
    """Overwrites every parameter with seeded values that keep logits of order 1 to 10."""
    gen = torch.Generator().manual_seed(seed)
    one_plus = model.config.model_type in ONE_PLUS_FAMILIES
    tied = model.config.tie_word_embeddings
    hidden = model.config.hidden_size
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=gen)
            if "norm" in name:
                p.copy_(0.3 * noise + (0.0 if one_plus else 1.0))
            elif name.endswith("bias"):
                p.copy_(0.4 * noise)
            elif "embed_tokens" in name:
                p.copy_(noise * ((3.0 / hidden**0.5) if tied else 0.5))
            elif "lm_head" in name:
                p.copy_(noise * (3.0 / hidden**0.5))
            else:
                gain = 1.4 if ("q_proj" in name or "k_proj" in name) else 1.0
                p.copy_(noise * (gain / p.shape[1] ** 0.5))
    return model


def token_ids(vocab_size, length, seed):
    """Seeded ids that avoid the special tokens 0, 1 and 2."""
    gen = torch.Generator().manual_seed(seed)
    return torch.randint(3, vocab_size, (1, length), generator=gen)


def forward(model, ids):
    """Logits [length, vocab] of one uncached pass."""
    with torch.no_grad():
        return model(input_ids=ids, use_cache=False).logits[0].float()


def decode(model, ids, steps):
    """Logits [steps, vocab] of the last positions, each computed from the cache one token at a time."""
    split = ids.shape[1] - steps
    rows = []
    with torch.no_grad():
        out = model(input_ids=ids[:, :split], use_cache=True)
        for i in range(split, ids.shape[1]):
            out = model(input_ids=ids[:, i : i + 1], cache=out.cache, use_cache=True)
            rows.append(out.logits[0, -1].float())
    return torch.stack(rows)


def build(config):
    """A float32 model with the reference's plain attention."""
    config = copy.deepcopy(config)
    return AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()


def load(folder):
    """The model in a folder, weights upcast to float32."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    return model.eval()


def check_sensitivity(model, ids, logits, knobs):
    """Fails if some parameter or configuration knob has no visible effect: a test on it could not fail."""
    dead = []
    for name, p in model.named_parameters():
        saved = p.detach().clone()
        with torch.no_grad():
            # Rolled, so that also a constant offset or a permutation within the tensor would be seen.
            p.copy_(saved.roll(1, dims=0))
        if (forward(model, ids) - logits).abs().max() < 0.05:
            dead.append(name)
        with torch.no_grad():
            p.copy_(saved)
    state = model.state_dict()
    for knob in knobs:
        config = copy.deepcopy(model.config)
        for key, value in knob.items():
            setattr(config, key, value)
        other = build(config)
        other.load_state_dict(state)
        if (forward(other, ids) - logits).abs().max() < 0.02:
            dead.append(str(knob))
    if dead:
        raise SystemExit(f"no visible effect on the logits: {dead}")


def expected(path, model, ids, knobs=()):
    """Writes token ids, logits at every position and cached decode logits of the last ones; checks them."""
    logits = forward(model, ids)
    cached = decode(model, ids, NUM_DECODE)
    drift = (cached - logits[-NUM_DECODE:]).abs().max().item()
    spread = logits.std(dim=-1).mean().item()
    if drift > 1e-4:
        raise SystemExit(f"{path.name}: cached decode differs from the full pass by {drift}")
    if not (0.5 < spread < 10.0) or not torch.isfinite(logits).all():
        raise SystemExit(f"{path.name}: degenerate logits, spread {spread}")
    check_sensitivity(model, ids, logits, knobs)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(
        {
            "token_ids": ids[0].to(torch.int32).contiguous(),
            "logits": logits.contiguous(),
            "decode_logits": cached.contiguous(),
        },
        path,
    )
    return {"drift": drift, "spread": spread, "max": logits.abs().max().item()}
