#!/usr/bin/env python3
"""transformers with PyTorch on this card: decode steps and a prefill of the shapes that `sconce gpu-check` measures.

Random bf16 weights, a static cache of the context's length, the median of several steps. One JSON line a point.
"""
import json
import statistics
import time

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, StaticCache

SHAPES = {
    "Llama-3.1-8B": dict(hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32,
                         num_key_value_heads=8, head_dim=128, tie_word_embeddings=False),
    "Llama-3.2-1B": dict(hidden_size=2048, intermediate_size=8192, num_hidden_layers=16, num_attention_heads=32,
                         num_key_value_heads=8, head_dim=64, tie_word_embeddings=True),
}
# Sequences, tokens in the cache, tokens computed a sequence.
POINTS = [(1, 1024, 1), (64, 1024, 1), (1, 0, 8192), (256, 1024, 1)]
STEPS = 12


def timed(step):
    step()
    torch.cuda.synchronize()
    times = []
    for _ in range(STEPS):
        begin = time.perf_counter()
        step()
        torch.cuda.synchronize()
        times.append((time.perf_counter() - begin) * 1e3)
    return statistics.median(times), min(times), max(times)


def measure(model, config, batch, context, tokens):
    cache = StaticCache(config=config, max_cache_len=context + tokens)
    ids = torch.randint(0, 1000, (batch, tokens), device="cuda")
    position = torch.arange(context, context + tokens, device="cuda")

    def step():
        with torch.inference_mode():
            model(ids, past_key_values=cache, cache_position=position, logits_to_keep=1)

    return timed(step)


def main():
    card = torch.cuda.get_device_name(0)
    for name, sizes in SHAPES.items():
        config = LlamaConfig(vocab_size=128256, max_position_embeddings=131072, rope_theta=500000.0, **sizes)
        torch.set_default_device("cuda")
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()
        torch.set_default_device("cpu")
        for batch, context, tokens in POINTS:
            line = {"peer": "transformers", "card": card, "shape": name, "batch": batch, "context": context, "tokens": tokens}
            try:
                line["ms"], line["ms_fastest"], line["ms_slowest"] = measure(model, config, batch, context, tokens)
            except Exception as error:  # a point that doesn't fit is a line, not the end
                line["error"] = str(error)[:200]
            print(json.dumps(line), flush=True)
        del model
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
