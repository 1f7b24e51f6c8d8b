"""64 concurrent streams for a minute: afterwards blocks, threads and descriptors are what they were, and memory is flat."""
import concurrent.futures
import json
import os
import time

import httpx

STREAMS = 64
SECONDS = float(os.environ.get("SCONCE_LOAD_SECONDS", "60"))


def one(server, model, seed):
    body = {"model": model, "prompt": f"{seed} " + "lorem ipsum dolor " * (seed % 40), "max_tokens": 8 + seed % 48, "seed": seed,
            "stream": True, "ignore_eos": True, "stream_options": {"include_usage": True}}
    with httpx.stream("POST", server.base_url + "/completions", json=body, timeout=600) as response:
        assert response.status_code == 200
        last = None
        for line in response.iter_lines():
            if line == "data: [DONE]":
                assert last["usage"]["completion_tokens"] == body["max_tokens"]
                return
            if line.startswith("data: "):
                last = json.loads(line[6:])
                assert "error" not in last, last
    raise AssertionError("a stream was cut")


def run(server, model, seconds, first_seed):
    deadline = time.monotonic() + seconds

    def worker(index):
        done = 0
        while time.monotonic() < deadline:
            one(server, model, first_seed + index + STREAMS * done)
            done += 1
        return done

    with concurrent.futures.ThreadPoolExecutor(STREAMS) as pool:
        return sum(pool.map(worker, range(STREAMS)))


def test_a_minute_of_load_leaves_nothing_behind(server):
    model = httpx.get(server.base_url + "/models").json()["data"][0]["id"]
    run(server, model, SECONDS / 4, 0)  # warms the pool: every thread, buffer and cached block there will be
    server.wait_metric("sconce_kv_cache_usage_ratio", 0)
    warm = {"fds": server.num_fds(), "threads": server.proc("Threads"), "memory": server.proc("RssAnon")}
    answered = run(server, model, SECONDS, 1_000_000)
    assert answered >= STREAMS
    server.wait_metric("sconce_requests_running", 0)
    server.wait_metric("sconce_kv_cache_usage_ratio", 0)
    # Threads that tokenise are made when all others are busy, and end after 10 idle seconds.
    deadline = time.monotonic() + 40
    while time.monotonic() < deadline and (server.num_fds() > warm["fds"] or server.proc("Threads") > warm["threads"]):
        time.sleep(0.05)
    assert server.num_fds() <= warm["fds"]
    assert server.proc("Threads") <= warm["threads"]
    grown = server.proc("RssAnon") - warm["memory"]
    assert grown < 48 * 1024, f"anonymous memory grew by {grown} KiB"
