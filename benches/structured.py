#!/usr/bin/env python3
"""What structured output costs: free and constrained answers of equal length, in turns on one server.

    benches/structured.py SCONCE MODEL.gguf [--streams 32] [--tokens 96] [--rounds 5]

Prints one JSON line a round and kind (tokens a second over all streams; for mixed rounds the median and 99th percentile of
the gaps between tokens that the free half saw, next to those of a round without constrained neighbours), then the ratios.
Needs httpx.
"""
import argparse
import asyncio
import json
import re
import statistics
import subprocess
import time

import httpx

WORDS = {"type": "array", "items": {"type": "string"}, "minItems": 200}
RECORDS = {
    "type": "array",
    "minItems": 200,
    "items": {
        "type": "object",
        "properties": {"name": {"type": "string"}, "size": {"type": "integer"}, "kind": {"enum": ["small", "large"]}},
        "required": ["name", "size", "kind"],
        "additionalProperties": False,
    },
}
KINDS = {
    "free": {},
    "words": {"response_format": {"type": "json_schema", "json_schema": {"name": "words", "schema": WORDS}}},
    "records": {"response_format": {"type": "json_schema", "json_schema": {"name": "records", "schema": RECORDS}}},
    "regex": {"guided_regex": "([a-z]{1,9} ){400}"},
}


async def answer(client, kind, seed, tokens):
    """Tokens and the times at which pieces came."""
    body = {"prompt": f"Text number {seed}:", "max_tokens": tokens, "temperature": 1.0, "seed": seed, "stream": True,
            "ignore_eos": True, "stream_options": {"include_usage": True}, **KINDS[kind]}
    times, count = [], 0
    async with client.stream("POST", "/v1/completions", json=body) as response:
        assert response.status_code == 200, await response.aread()
        async for line in response.aiter_lines():
            if not line.startswith("data: {"):
                continue
            event = json.loads(line[6:])
            if event["choices"] and event["choices"][0]["text"]:
                times.append(time.perf_counter())
            count = (event.get("usage") or {}).get("completion_tokens", count)
    return count, times


async def load(client, kinds, seed, tokens):
    begin = time.perf_counter()
    results = await asyncio.gather(*(answer(client, kind, seed + i, tokens) for i, kind in enumerate(kinds)))
    elapsed = time.perf_counter() - begin
    free = [times for kind, (_, times) in zip(kinds, results) if kind == "free"]
    gaps = sorted(b - a for times in free for a, b in zip(times, times[1:]))
    gap = {"p50_ms": 1e3 * statistics.median(gaps), "p99_ms": 1e3 * gaps[int(0.99 * (len(gaps) - 1))]} if gaps else {}
    return {"tokens_per_s": sum(count for count, _ in results) / elapsed, **gap}


async def measure(url, args):
    rounds = {}
    async with httpx.AsyncClient(base_url=url, timeout=600) as client:
        for kind in KINDS:
            await load(client, [kind] * 4, 0, 8)
        for round_ in range(args.rounds):
            mixes = {kind: [kind] * args.streams for kind in KINDS}
            mixes["free beside free"] = ["free"] * args.streams
            mixes["free beside records"] = ["free", "records"] * (args.streams // 2)
            for name, kinds in mixes.items():
                result = await load(client, kinds, 1000 * round_, args.tokens)
                rounds.setdefault(name, []).append(result)
                print(json.dumps({"round": round_, "kind": name, **result}), flush=True)
    for name, results in rounds.items():
        base = rounds["free beside free" if "beside" in name else "free"]
        for what in results[0]:
            if what in base[0]:
                ratios = sorted(r[what] / b[what] for r, b in zip(results, base))
                print(json.dumps({"ratio": name, "of": what, "median": round(statistics.median(ratios), 3),
                                  "spread": [round(ratios[0], 3), round(ratios[-1], 3)]}))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sconce")
    parser.add_argument("model")
    parser.add_argument("--streams", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    command = [args.sconce, "serve", args.model, "--port", "0", "--max-num-seqs", str(args.streams)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        for line in server.stdout:
            found = re.search(r"served at (http://\S+)", line)
            if found:
                break
        asyncio.run(measure(found.group(1), args))
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    main()
