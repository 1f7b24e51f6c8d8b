#!/usr/bin/env python3
"""sconce beside llama-server on one machine: the same load, the same models, one run.

    benches/compare.py --load LOAD.py --llama LLAMA_SERVER --sconce SCONCE MODEL.gguf [MODEL.gguf ...] > raw.jsonl

Servers run one at a time with two threads each; every (server, concurrency) is measured `--rounds` times in alternation, with
a new seed each time so that no prefix cache answers. One JSON line a measurement; a table of ratios on stderr.
"""
import argparse
import json
import pathlib
import re
import socket
import statistics
import subprocess
import sys
import time
import urllib.request

THREADS = "2"
REQUESTS = {1: 4, 8: 16, 32: 64}


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def start(args, server, model, port):
    if server == "sconce":
        command = [args.sconce, "serve", model, "--port", str(port), "--threads", THREADS]
    else:
        command = [args.llama, "-m", model, "--port", str(port), "-t", THREADS, "-c", "16384", "-np", "32", "-kvu"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2) as answer:
                if answer.status == 200:
                    return process
        except OSError:
            time.sleep(0.05)
    process.kill()
    raise SystemExit(f"{server} did not start")


def measure(args, port, streams, seed):
    command = [sys.executable, args.load, "--port", str(port), "--seed", str(seed), "-c", str(streams)]
    command += ["-n", str(REQUESTS[streams]), "-p", "256", "-g", "64"]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def memory(process):
    status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+)", status).group(1))


def run(args, server, model, round_, seeds):
    port = free_port()
    process = start(args, server, model, port)
    try:
        for streams in REQUESTS:
            result = measure(args, port, streams, next(seeds))
            name = pathlib.Path(model).name
            row = dict(server=server, model=name, round=round_, peak_kib=memory(process), **result)
            print(json.dumps(row), flush=True)
            yield row
    finally:
        process.terminate()
        process.wait()


def summarise(rows):
    for name in dict.fromkeys(row["model"] for row in rows):
        for streams in REQUESTS:
            speeds = {}
            for row in rows:
                if (row["model"], row["c"]) == (name, streams):
                    speeds.setdefault(row["server"], []).append(row["total_tok_s"])
            ours, theirs = speeds["sconce"], speeds["llama-server"]
            ratios = [a / b for a, b in zip(ours, theirs)]
            print(f"{name} c={streams}: {statistics.median(ours):.0f} against {statistics.median(theirs):.0f} tok/s, "
                  f"ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})", file=sys.stderr)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("models", nargs="+")
    parser.add_argument("--load", required=True)
    parser.add_argument("--llama", required=True)
    parser.add_argument("--sconce", required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    args = parser.parse_args()
    seeds = iter(range(args.seed, args.seed + 10_000))
    rows = [row for model in args.models for round_ in range(args.rounds) for server in ("sconce", "llama-server")
            for row in run(args, server, model, round_, seeds)]
    summarise(rows)


main()
