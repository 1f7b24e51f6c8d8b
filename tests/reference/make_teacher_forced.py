"""Makes tests/fixtures/teacher_forced/MODEL.safetensors from the two real models of the test suite.

    ref/bin/python tests/reference/make_teacher_forced.py FOLDER_WITH_THE_GGUF_FILES

Pins (requirements.txt): torch 2.15.0, transformers 5.24.0, gguf 0.19.0. The weights are what gguf-py dequantises,
in float32, and are checked to be exactly those that transformers' own GGUF loader makes of the file. Each prompt is
continued greedily; a second, uncached pass over the whole sequence gives the recorded logits. Sequences are flat:
sequence s is tokens[offsets[s]..offsets[s + 1]], its prompt the first prompt_lens[s] of them.

    tokens      I32 [total]      prompt, then 64 greedy tokens
    offsets     I32 [n + 1]
    prompt_lens I32 [n]
    top_ids     I32 [n, 64, 10]  best ten after prompt_lens[s] + p tokens; [s, p, 0] is the token that follows
    top_logits  F32 [n, 64, 10]
"""

import pathlib
import sys

import gguf
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import make_gguf
import reference
from prompts import PROMPTS

FIXTURES = pathlib.Path(__file__).resolve().parents[1] / "fixtures"
MODELS = {
    "smollm2-135m-q4_1": "SmolLM2-135M-Instruct.Q4_1.gguf",
    "gemma-3-270m-q4_k_m": "gemma-3-270m-q4_k_m.gguf",
}
STEPS = 64
TOP = 10
BATCH = 6
# Longer than Gemma's window of 512.
LONG = 600


def load(folder, file):
    """transformers' model of the file, its weights checked against gguf-py's."""
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=torch.float32, attn_implementation="eager").eval()
    ours = make_gguf.read_back(pathlib.Path(folder) / file, model.config).state_dict()
    for name, p in model.state_dict().items():
        if not torch.equal(p, ours[name]):
            raise SystemExit(f"{file}: {name} differs by {(p - ours[name]).abs().max()}")
    return model


def batches(tokenizer, bos):
    """Prompts of equal length in batches, so that nothing is padded; the last one is long."""
    ids = [([bos] if bos is not None else []) + tokenizer(p, add_special_tokens=False).input_ids for p in PROMPTS]
    long = tokenizer("\n\n".join(PROMPTS), add_special_tokens=False).input_ids
    long = (([bos] if bos is not None else []) + long + long)[:LONG]
    assert len(long) == LONG
    ids.sort(key=len)
    out = []
    for i in range(0, len(ids), BATCH):
        group = ids[i : i + BATCH]
        out.append(torch.tensor([seq[: len(group[0])] for seq in group]))
    return out + [torch.tensor([long])]


def continue_greedily(model, ids):
    """The prompts with STEPS greedy tokens each."""
    with torch.no_grad():
        out = model(input_ids=ids, use_cache=True, logits_to_keep=1)
        for step in range(STEPS):
            ids = torch.cat([ids, out.logits[:, -1].argmax(-1, keepdim=True)], dim=1)
            if step + 1 < STEPS:
                out = model(input_ids=ids[:, -1:], cache=out.cache, use_cache=True)
    return ids


def record(model, ids):
    """Best TOP ids and logits at the STEPS positions that predict the continuation, from one uncached pass."""
    with torch.no_grad():
        logits = torch.stack([
            model(input_ids=row[None, :-1], use_cache=False, logits_to_keep=STEPS).logits[0].float() for row in ids
        ])
    best = logits.topk(TOP, dim=-1)
    return best.indices.to(torch.int32), best.values


def main():
    folder = sys.argv[1]
    (FIXTURES / "teacher_forced").mkdir(parents=True, exist_ok=True)
    for name, file in MODELS.items():
        model = load(folder, file)
        tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file)
        fields = gguf.GGUFReader(pathlib.Path(folder) / file).fields
        bos = fields["tokenizer.ggml.bos_token_id"].contents() if fields["tokenizer.ggml.add_bos_token"].contents() else None
        tokens, offsets, prompt_lens, tops = [], [0], [], []
        for batch in batches(tokenizer, bos):
            full = continue_greedily(model, batch)
            tops.append(record(model, full))
            for row in full:
                tokens += row.tolist()
                offsets.append(len(tokens))
                prompt_lens.append(batch.shape[1])
            print(name, batch.shape, repr(tokenizer.decode(full[0, batch.shape[1]:]))[:90], flush=True)
        top_ids, top_logits = (torch.cat(part) for part in zip(*tops))
        rows = torch.stack([torch.tensor(tokens[e - STEPS : e]) for e in offsets[1:]])
        changed = (rows != top_ids[:, :, 0]).sum().item()
        print(name, f"{changed} greedy tokens of the cached run are not the uncached pass's best")
        save_file(
            {
                "tokens": torch.tensor(tokens, dtype=torch.int32), "offsets": torch.tensor(offsets, dtype=torch.int32),
                "prompt_lens": torch.tensor(prompt_lens, dtype=torch.int32),
                "top_ids": top_ids.contiguous(), "top_logits": top_logits.contiguous(),
            },
            FIXTURES / "teacher_forced" / f"{name}.safetensors",
        )


if __name__ == "__main__":
    main()
