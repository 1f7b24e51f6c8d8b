"""The command line in a real terminal: the chat of `sconce run`, and a hub that never answers."""
import os
import re
import socket
import subprocess
import time

import pexpect

from conftest import BIN, SMOLLM2

PROMPT = ">>> "


class Chat:
    """`sconce run MODEL` in a pseudo-terminal; what it prints is read as plain text."""

    def __init__(self, home, *args):
        env = {**os.environ, "HOME": str(home), "XDG_CACHE_HOME": str(home / "cache"), "TERM": "xterm", "COLUMNS": "200"}
        command = ["run", str(SMOLLM2), "--temperature", "0", *args]
        self.child = pexpect.spawn(BIN, command, env=env, encoding="utf-8", timeout=60, dimensions=(50, 200))
        self.ready()

    def until(self, done):
        """Reads until `done(text)`; returns that text, without escape sequences."""
        printed = ""
        while not done(plain(printed)):
            printed += self.child.read_nonblocking(4096, timeout=60)
        return plain(printed)

    def ready(self):
        """Waits until a line can be typed; returns what was printed until then."""
        return self.until(lambda text: text.endswith(PROMPT)).removesuffix(PROMPT).strip()

    def ask(self, line):
        """Types a line; returns what was printed between it and the next prompt."""
        self.child.send(line)
        self.until(lambda text: line in text)
        self.child.send("\r")
        return self.ready()


def plain(text):
    """Without the escape sequences of the line editor."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\r", "", text)


def test_chat_remembers_until_cleared(tmp_path):
    chat = Chat(tmp_path, "--max-tokens", "20")
    question = "What is the capital of France?"
    first = chat.ask(question)
    assert len(first) > 3
    again = chat.ask(question)
    assert again != first, "the second answer had the first before it"
    assert "no such command" in chat.ask("/claer")
    chat.ask("/clear")
    assert chat.ask(question) == first, "the conversation begins anew"
    chat.child.close(force=True)


def test_ctrl_c_stops_the_answer_but_not_the_program(tmp_path):
    chat = Chat(tmp_path, "--max-tokens", "4000")
    for question in ("Write a story about a ship, as long as you can.", "And one about a train."):
        chat.child.send(question)
        chat.until(lambda text: question in text)
        chat.child.send("\r")
        printed = chat.until(lambda text: len(text) > 60)
        assert PROMPT not in printed, "the answer streams while it is made"
        chat.child.sendintr()
        chat.ready()
    # At the prompt Ctrl-C drops the line, Ctrl-D ends the program.
    chat.child.send("half a li")
    chat.child.sendintr()
    chat.ready()
    chat.child.sendeof()
    chat.child.expect(pexpect.EOF)
    chat.child.close()
    assert chat.child.exitstatus == 0
    history = next(tmp_path.rglob("history.txt")).read_text()
    assert "Write a story about a ship" in history and "half a li" not in history


def test_a_silent_hub_is_given_up(tmp_path):
    """It accepts connections and never answers. No other source is left: a clear error, and soon."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        env = {"HOME": str(tmp_path), "PATH": str(tmp_path), "HF_ENDPOINT": endpoint}
        begin = time.monotonic()
        done = subprocess.run([BIN, "pull"], env=env, capture_output=True, text=True, timeout=60)
        assert done.returncode != 0
        assert f"{endpoint} can't be reached: no answer within 4.5 s" in done.stderr, done.stderr
        assert time.monotonic() - begin < 20, "one wait, not several"
