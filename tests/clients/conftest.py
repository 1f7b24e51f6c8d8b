"""Starts the release binary on a real model and hands tests its address. Environment: SCONCE_BIN, SCONCE_TEST_MODELS."""
import os
import pathlib
import re
import signal
import subprocess
import time

import httpx
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BIN = os.environ.get("SCONCE_BIN", str(ROOT / "target/release/sconce"))
MODELS = pathlib.Path(os.environ.get("SCONCE_TEST_MODELS", str(ROOT / ".cache/models")))
SMOLLM2 = MODELS / "SmolLM2-135M-Instruct.Q4_1.gguf"
GEMMA3 = MODELS / "gemma-3-270m-q4_k_m.gguf"


class Server:
    """One server process on a free port of the loopback address."""

    def __init__(self, model, *args):
        self.log = open(os.environ.get("SCONCE_TEST_LOG", os.devnull), "ab")
        command = [BIN, "serve", str(model), "--host", "127.0.0.1", "--port", "0", *args]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self.log, text=True)
        self.url = self._address()
        self.base_url = self.url + "/v1"
        self._wait_ready()

    def _address(self):
        deadline = time.monotonic() + 120
        for line in self.process.stdout:
            found = re.search(r"http://127\.0\.0\.1:\d+", line)
            if found:
                return found.group(0)
            assert time.monotonic() < deadline, "no address printed"
        raise AssertionError(f"the server ended with {self.process.wait()}")

    def _wait_ready(self):
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            try:
                if httpx.get(self.url + "/health", timeout=5).status_code == 200:
                    return
            except httpx.HTTPError:
                pass
            time.sleep(0.05)
        raise AssertionError("not ready in 120 s")

    def metric(self, name):
        """The sum of a metric's samples, whatever its labels."""
        total, seen = 0.0, False
        for line in httpx.get(self.url + "/metrics", timeout=10).text.splitlines():
            if line.split("{")[0].split(" ")[0] == name:
                total, seen = total + float(line.rsplit(" ", 1)[1]), True
        assert seen, f"{name} is not exported"
        return total

    def wait_metric(self, name, value, timeout=20):
        deadline = time.monotonic() + timeout
        while self.metric(name) != value:
            assert time.monotonic() < deadline, f"{name} is {self.metric(name)}, not {value}"
            time.sleep(0.02)

    def proc(self, field):
        for line in pathlib.Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith(field + ":"):
                return int(line.split()[1])
        raise KeyError(field)

    def num_fds(self):
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise


@pytest.fixture(scope="session")
def server():
    running = Server(SMOLLM2, "--max-num-seqs", "64", "--max-model-len", "2048", "--kv-cache-memory", "400MiB")
    yield running
    assert running.stop() == 0


@pytest.fixture(scope="session")
def client(server):
    import openai

    return openai.OpenAI(base_url=server.base_url, api_key="none", _strict_response_validation=True, max_retries=0)


@pytest.fixture(scope="session")
def lenient(client):
    """For two shapes that the client's own types refuse although the API document and OpenAI's servers have them: a null
    first entry of `token_logprobs`, and a null `finish_reason` in the chunks of streamed completions."""
    import openai

    return openai.OpenAI(base_url=client.base_url, api_key="none", max_retries=0)
