"""Clients of the served API that do not read what they are sent."""

import copy
import json
import re
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import pytest

pytest.importorskip("openai")
pytest.importorskip("fastapi")

from reciting_model import save_reciting_model
from server_process import ServerProcess, server_process

CONTEXT = 32_768  # tokens
WORDS = "ha" * 20_000, "ho" * 20_000  # one token each: a hundred fill what the system holds for a connection
SEND_SECONDS = 2
PROGRAM = f"import sys; from hfgpt.chat.serve import main; sys.exit(main(sys.argv[1:], send_seconds={SEND_SECONDS}))"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, chat_tokenizer: Any) -> Iterator[ServerProcess]:
    """Two answers are generated at a time."""
    tokenizer = copy.deepcopy(chat_tokenizer)
    tokenizer.add_tokens(list(WORDS))
    folder = save_reciting_model(tmp_path_factory.mktemp("laughing"), tokenizer, "".join(WORDS), positions=CONTEXT)
    program = (sys.executable, "-c", PROGRAM)
    with server_process(folder, "--temperature", "0", "--max_active", "2", program=program) as running:
        yield running


def load(server: ServerProcess) -> dict[str, int]:
    return httpx.get(server.url.replace("/v1", "/load"), timeout=60).json()


def asking(server: ServerProcess, max_tokens: int) -> socket.socket:
    """A connection over which a stream has been asked for, with little room for what comes."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.settimeout(60)
    connection.connect(("127.0.0.1", httpx.URL(server.url).port))
    content = json.dumps({"prompt": "ha", "stream": True, "max_tokens": max_tokens}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(content)}\r\n"
    connection.sendall(f"{head}Content-Type: application/json\r\n\r\n".encode() + content)
    return connection


def test_clients_that_read_nothing_are_cut_and_give_their_places_to_others(server):
    with ExitStack() as open_ones:
        stalled = [open_ones.enter_context(asking(server, CONTEXT - 100)) for _ in range(3)]
        while load(server)["generating"] < 2:
            time.sleep(0.02)
        response = httpx.post(f"{server.url}/completions", json={"prompt": "ha", "max_tokens": 2}, timeout=120)
        assert response.json()["choices"][0]["text"] == "".join(WORDS)
        while load(server)["generating"] or load(server)["waiting"]:
            time.sleep(0.05)
        assert load(server)["generated_tokens"] < CONTEXT
        for connection in stalled:  # the server has hung up: there is an end to what can be read, and it is no mark
            assert b"[DONE]" not in connection.makefile("rb").read()[-100:]
    assert "Traceback" not in server.output


def test_a_client_that_reads_slowly_gets_the_whole_answer(server):
    """At a megabyte a second, so that the server waits for it longer than for one that reads nothing."""
    began, received = time.perf_counter(), bytearray()
    with asking(server, 160) as connection:
        while not received.endswith(b"\r\n0\r\n\r\n"):
            received += connection.recv(1 << 16)
            time.sleep(max(0.0, began + len(received) / 1e6 - time.perf_counter()))
    assert time.perf_counter() - began > 3 * SEND_SECONDS
    whole = re.sub(rb"\r\n[0-9a-f]+\r\n", b"", received)  # without the lengths of the chunks it came in
    assert [whole.count(word.encode()) for word in WORDS] == [80, 80] and b"[DONE]" in whole[-100:]
