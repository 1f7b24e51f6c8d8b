"""2,000 hostile requests beside eight good streams: none of the good ones is lost or changed."""
import concurrent.futures
import json
import random
import socket
import struct
import urllib.parse

import httpx

NUM_HOSTILE = 2000
NUM_GOOD = 8


def good(server, model, seed):
    body = {"model": model, "prompt": f"Story number {seed}: once upon a time", "max_tokens": 400, "seed": seed,
            "temperature": 0.9, "stream": True, "ignore_eos": True}
    text = []
    with httpx.stream("POST", server.base_url + "/completions", json=body, timeout=600) as response:
        assert response.status_code == 200
        for line in response.iter_lines():
            if line == "data: [DONE]":
                return "".join(text)
            if line.startswith("data: "):
                text.append(json.loads(line[6:])["choices"][0]["text"])
    raise AssertionError("a good stream was cut")


BAD_BODIES = [
    b"", b"{", b"null", b"[]", b"[1,2", b'"x"', b"\xff\xfe", b"{}" * 3, b"[" * 5000, b'{"a":' * 3000,
    b'{"model":1}', b'{"messages":"x"}', b'{"messages":[{}]}', b'{"messages":[{"role":"user"}]}',
    b'{"messages":[{"role":"user","content":5}]}', b'{"messages":[{"role":"king","content":"x"}]}',
]
BAD_FIELDS = [
    ("temperature", float("nan")), ("temperature", float("inf")), ("temperature", 1e308), ("temperature", "hot"), ("temperature", -1),
    ("top_p", 0), ("top_p", 2), ("top_k", -5), ("top_k", 1e30), ("min_p", 7), ("max_tokens", -1), ("max_tokens", 2**70), ("max_tokens", 1.5),
    ("n", 10**9), ("n", -1), ("seed", "x"), ("seed", 2**80), ("stop", [""] * 9), ("stop", {"a": 1}), ("stop", 7), ("logprobs", 10**6),
    ("logit_bias", {"abc": 1}), ("logit_bias", {"99999999": 5}), ("logit_bias", {"1": 1e9}), ("logit_bias", [1]), ("bad_words", [5]),
    ("stop_token_ids", [-1]), ("stop_token_ids", [2**40]), ("prompt", [2**31]), ("prompt", [-4]), ("prompt", [[1], "x"]), ("prompt", {}),
    ("prompt", []), ("stream", "yes"), ("stream_options", {"include_usage": True}), ("best_of", 20), ("suffix", "x"), ("model", None),
    ("presence_penalty", 99), ("frequency_penalty", float("-inf")), ("repetition_penalty", 0), ("repetition_penalty", -3),
    ("min_tokens", 10**9), ("prompt_logprobs", 10**9), ("response_format", {"type": "json_schema"}), ("guided_regex", "(a+)+$"),
]


def hostile(server, model, rng):
    """One hostile request; returns its status, or 0 where the connection was cut on purpose."""
    kind = rng.random()
    host = urllib.parse.urlsplit(server.url)
    if kind < 0.25:
        body = rng.choice(BAD_BODIES)
    elif kind < 0.75:
        fields = {"model": model, "prompt": "hello", "max_tokens": 4, "messages": [{"role": "user", "content": "hi"}]}
        name, value = rng.choice(BAD_FIELDS)
        fields[name] = value
        body = json.dumps(fields).encode()
    else:
        return cut(host, model, rng)
    path = rng.choice(["/v1/completions", "/v1/chat/completions", "/tokenize", "/detokenize", "/v1/nothing"])
    response = httpx.post(server.url + path, content=body, headers={"content-type": "application/json"}, timeout=600)
    assert response.status_code < 500, (response.status_code, path, body[:200], response.text[:300])
    if response.status_code >= 400:
        error = response.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}, error
    return response.status_code


def cut(host, model, rng):
    """A request whose connection ends in the middle: of the head, of the body, or of the answer."""
    body = json.dumps({"model": model, "prompt": "x " * rng.randint(1, 300), "max_tokens": 500, "ignore_eos": True,
                       "stream": rng.random() < 0.5}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    message = head.encode() + body
    with socket.create_connection((host.hostname, host.port), timeout=60) as connection:
        if rng.random() < 0.5:
            # Reset instead of an orderly end.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        where = rng.random()
        if where < 0.3:
            connection.sendall(message[: rng.randint(1, len(message) - 1)])
        elif where < 0.4:
            connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + rng.randbytes(64))
        else:
            connection.sendall(message)
            if where < 0.7:
                connection.settimeout(0.3)
                try:
                    connection.recv(rng.randint(1, 400))
                except TimeoutError:
                    pass
    return 0


def test_good_streams_survive(server):
    model = httpx.get(server.base_url + "/models").json()["data"][0]["id"]
    with concurrent.futures.ThreadPoolExecutor(NUM_GOOD) as pool:
        expected = list(pool.map(lambda s: good(server, model, s), range(NUM_GOOD)))
    assert len(set(expected)) == NUM_GOOD
    rngs = [random.Random(seed) for seed in range(NUM_HOSTILE)]
    with concurrent.futures.ThreadPoolExecutor(NUM_GOOD) as streams, concurrent.futures.ThreadPoolExecutor(16) as attackers:
        attacks = [attackers.submit(hostile, server, model, rng) for rng in rngs]
        rounds = 0
        while rounds == 0 or not all(a.done() for a in attacks):
            assert list(streams.map(lambda s: good(server, model, s), range(NUM_GOOD))) == expected
            rounds += 1
        statuses = [a.result() for a in attacks]
    assert sum(s == 400 for s in statuses) > NUM_HOSTILE // 3
    # Whatever was abandoned has been freed.
    server.wait_metric("sconce_requests_running", 0)
    server.wait_metric("sconce_requests_waiting", 0)
    server.wait_metric("sconce_kv_cache_usage_ratio", 0)
    assert httpx.get(server.url + "/health").status_code == 200
