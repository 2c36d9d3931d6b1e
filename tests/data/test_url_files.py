"""A file named by its URL is fetched once over real HTTP, and what goes wrong is one sentence."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from hfgpt.arguments import DataArguments
from hfgpt.data.chat_rows import conversation_shards
from hfgpt.data.url_files import local_copy
from hfgpt.errors import UserError
from hfgpt.hub_client import Retries

QUICKLY = Retries(attempts=3, base_seconds=0.01)
ROWS = b'[{"instruction": "Say hello.", "input": "", "output": "Hello."}]'


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A web server with one file at /data/rows.json; it fails as often as `server.failures` says, with 503 or by
    hanging up in the middle."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path))

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self):
            server.requests.append(self.path)
            failure = server.failures.pop(0) if server.failures else None
            if self.path != "/data/rows.json":
                self.send_error(404)
                return
            self.send_response(503 if failure == "busy" else 200)
            self.send_header("Content-Length", str(len(ROWS)))
            self.end_headers()
            self.wfile.write(ROWS[:10] if failure == "hang up" else ROWS)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    server.requests, server.failures = [], []
    server.url = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_it_is_downloaded_once_and_read_by_its_name(server):
    data = DataArguments(data_path=f"{server.url}/data/rows.json")
    for _ in range(2):
        (shard,) = conversation_shards(data)
        (conversation,) = shard.conversations()
        assert [message["content"] for message in conversation["messages"]] == ["Say hello.", "Hello."]
    assert server.requests == ["/data/rows.json"]


@pytest.mark.parametrize("failure", ["busy", "hang up"])
def test_a_failure_that_may_pass_is_tried_again(server, failure):
    server.failures = [failure, failure]
    assert local_copy(f"{server.url}/data/rows.json", QUICKLY).read_bytes() == ROWS
    assert len(server.requests) == 3


def test_failures_without_end_and_wrong_addresses_are_one_sentence(server, tmp_path):
    server.failures = ["hang up"] * 3
    with pytest.raises(UserError, match="could not be fetched.*check the network"):
        local_copy(f"{server.url}/data/rows.json", QUICKLY)
    with pytest.raises(UserError, match="answered 404; check the address"):
        local_copy(f"{server.url}/data/other.json", QUICKLY)
    with pytest.raises(UserError, match="names no file"):
        local_copy(server.url, QUICKLY)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]  # nothing half is left


def test_offline_a_copy_is_used_and_its_absence_is_said(server, monkeypatch):
    url = f"{server.url}/data/rows.json"
    copy = local_copy(url, QUICKLY)
    monkeypatch.setattr("hfgpt.data.url_files.is_offline_mode", lambda: True)
    assert local_copy(url) == copy
    with pytest.raises(UserError, match="HF_HUB_OFFLINE"):
        local_copy(f"{server.url}/data/other.json")
