"""Pushes over a line that breaks: tried again, gone on with, or one sentence, and never half a model on the Hub."""

import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from commands import REPOSITORY, succeed
from huggingface_hub import get_session

from hfgpt.errors import UserError
from hfgpt.hub.collection import gather
from hfgpt.hub.upload import Destination, push_files
from hfgpt.hub_client import Retries, limit_waiting

QUICK = Retries(attempts=3, base_seconds=0.01)
WEIGHTS = bytes(i * i % 251 for i in range(200_000))
MODEL = {"config.json": b"{}", "model.safetensors": WEIGHTS, "README.md": b"# new"}


@pytest.fixture
def sent(hub):
    """Push MODEL to tester/tiny, which holds an older model; a line on which nothing moves is given up after 0.5 s."""
    hub.add_model("tester/tiny", {"config.json": b"old", "model.safetensors": b"old", "README.md": b"# old"})
    limit_waiting(0.5)
    get_session()  # of the stand-in's address only from now on

    def push(**where) -> str:
        return push_files(MODEL, Destination("tester/tiny", **where), message="new", retries=QUICK)

    yield push
    limit_waiting()


def there(hub) -> dict[str, bytes]:
    return {name: data for name, data in hub.files("tester/tiny", "model").items() if name != ".gitattributes"}


@pytest.mark.parametrize(
    "fault",
    [
        {"method": "POST", "path": "repos/create", "status": 500},
        {"method": "POST", "path": "repos/create", "status": 429, "headers": {"Retry-After": "0"}},
        {"method": "POST", "path": "repos/create", "delay_seconds": 1.0},
        {"method": "GET", "path": "/tree/", "status": 503},
        {"method": "POST", "path": "/preupload/", "status": 429, "headers": {"Retry-After": "0"}},
        {"method": "POST", "path": "/lfs/objects/batch", "status": 502},
        {"method": "PUT", "path": "/storage/", "drop_after_bytes": 50_000},
        {"method": "PUT", "path": "/storage/", "status": 500},
        {"method": "PUT", "path": "/storage/", "bytes_per_second": 1_000_000},
        {"method": "PUT", "path": "/storage/", "delay_seconds": 1.0},
        {"method": "POST", "path": "/commit/", "status": 504},
        {"method": "POST", "path": "/commit/", "delay_seconds": 1.0},
    ],
    ids=lambda fault: f"{fault['path'].strip('/')}-{list(fault)[-1]}",
)
def test_one_failure_is_passed_over(hub, sent, fault):
    waiting = hub.faults.add(**fault)
    assert sent() == f"{hub.url}/tester/tiny"
    assert there(hub) == MODEL and waiting.times == 0


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ({"path": "/commit/", "status": 500}, "tester/tiny: the Hub answered 500 again and again"),
        ({"path": "/commit/", "status": 429, "headers": {"Retry-After": "0"}}, "the Hub answered 429 again and again"),
        ({"path": "/commit/", "status": 413}, "the Hub answered 413"),
        ({"path": "/commit/", "delay_seconds": 5.0}, "no whole answer from .* check the network and run the same"),
    ],
)
def test_what_does_not_pass_is_one_sentence_and_the_old_model_stays_until_the_same_call_goes_on(
    hub, sent, fault, sentence
):
    hub.faults.add(method="POST", times=-1, **fault)
    with pytest.raises(UserError, match=sentence) as raised:
        sent()
    assert "\n" not in str(raised.value)
    assert there(hub)["model.safetensors"] == b"old" and there(hub)["README.md"] == b"# old"
    hub.faults.clear()
    uploads = hub.count("PUT", "/storage/")
    sent()
    assert there(hub) == MODEL and hub.count("PUT", "/storage/") == (uploads or 1)


def test_a_token_that_expires_on_the_way_is_one_sentence_and_a_new_one_goes_on(hub, sent, monkeypatch):
    fault = hub.faults.add(method="POST", path="/commit/", status=500)
    monkeypatch.setattr(Retries, "wait", lambda *_: hub.store.tokens.clear())  # expires before the second try
    with pytest.raises(UserError, match="refused the token for tester/tiny: it is wrong or expired"):
        sent()
    assert fault.times == 0 and there(hub)["model.safetensors"] == b"old"
    hub.store.tokens["hf_new"] = "tester"
    monkeypatch.setenv("HF_TOKEN", "hf_new")
    sent()
    assert there(hub) == MODEL and hub.count("PUT", "/storage/") == 1


def test_a_server_that_is_gone_is_one_sentence(hub, sent, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UserError, match="no whole answer from http://127.0.0.1:9 .* check the network"):
        sent()


def test_a_commit_that_arrived_while_its_answer_was_lost_is_not_made_twice(hub, sent):
    repo = hub.store.repos[("model", "tester/tiny")]
    hub.faults.add(method="POST", path="/commit/", delay_seconds=1.0)  # the stand-in commits all the same, later
    sent()
    time.sleep(1.2)
    assert hub.count("POST", "/commit/") == 2  # the first came after the second, and on a head that was no longer
    assert there(hub) == MODEL and [commit.title for commit in repo.commits.values()].count("new") == 1


def test_a_commit_of_somebody_else_in_the_meantime_is_built_upon(hub, sent):
    repo = hub.store.repos[("model", "tester/tiny")]
    waiting = hub.faults.add(method="POST", path="/commit/", delay_seconds=0.3)
    pushing = threading.Thread(target=sent)
    pushing.start()
    while waiting.times:
        time.sleep(0.01)
    hub.store.add_files(repo, {"notes.md": b"of somebody else"})
    pushing.join()
    assert there(hub) == {**MODEL, "notes.md": b"of somebody else"} and hub.count("POST", "/commit/") == 2


@pytest.mark.parametrize("fault", [{"status": 504}, {"delay_seconds": 1.0}], ids=["gateway", "silence"])
def test_a_pull_request_whose_answer_was_lost_is_not_opened_twice(hub, sent, fault):
    hub.faults.add(method="POST", path="/commit/", **fault)
    with pytest.raises(UserError, match="may be open all the same: look at .*/tester/tiny/discussions before") as said:
        sent(create_pr=True)
    time.sleep(1.2 if "delay_seconds" in fault else 0)
    assert "\n" not in str(said.value) and hub.count("POST", "/commit/") == 1
    assert len(hub.store.repos[("model", "tester/tiny")].pull_requests) == ("delay_seconds" in fault)


@pytest.mark.parametrize("fault", [{"path": "/commit/", "status": 429}, {"path": "/preupload/", "status": 503}])
def test_a_pull_request_that_was_certainly_not_opened_is_tried_again(hub, sent, fault):
    hub.faults.add(method="POST", headers={"Retry-After": "0"}, **fault)
    assert sent(create_pr=True) == f"{hub.url}/tester/tiny/discussions/1"
    assert hub.store.repos[("model", "tester/tiny")].pull_requests == ["new"]


def test_a_collection_is_gathered_over_a_bad_line(hub, sent):
    hub.add_model("tester/other", {"config.json": b"{}"})
    for path in ("api/collections", "/items"):
        hub.faults.add(method="POST", path=path, status=500)
    gather("Mine", {"tester/tiny": "one", "tester/other": "two"}, retries=QUICK)
    ((_, collection),) = hub.store.collections.items()
    assert [repo_id for _, repo_id, _ in collection.items] == ["tester/tiny", "tester/other"]


@pytest.mark.slow
def test_a_push_that_was_killed_goes_on_where_it_stopped(hub_server, run_folder, tmp_path):
    folder = tmp_path / "shards"
    shutil.copytree(run_folder / "sft", folder, ignore=shutil.ignore_patterns("*.jsonl", "checkpoint-*"))
    second = folder / "second.safetensors"
    shutil.copyfile(folder / "model.safetensors", second)
    with second.open("r+b") as file:
        file.seek(-4, 2)
        file.write(b"\1\1\1\1")
    environment = hub_server.env(tmp_path)
    hub_server.faults.add(method="POST", path="/commit/", delay_seconds=60.0)
    program = str(Path(sys.executable).with_name("hfgpt"))
    process = subprocess.Popen([program, "push", folder, "tester/tiny"], env=environment, cwd=REPOSITORY)
    deadline = time.monotonic() + 120
    while hub_server.count("POST", "/commit/") == 0 and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert set(hub_server.files("tester/tiny", "model")) == {".gitattributes"}
    uploads = hub_server.count("PUT", "/storage/")
    assert uploads == 2
    hub_server.faults.clear()
    succeed("hfgpt", "push", folder, "tester/tiny", **environment)
    assert hub_server.count("PUT", "/storage/") == uploads
    assert hub_server.files("tester/tiny", "model")["second.safetensors"] == second.read_bytes()
