"""An eval bundle is read where it lies, downloaded once, and what is wrong with one is a sentence that names it."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from eval_bundle import BASELINES, TASKS, rows_of, write_bundle, zipped

from hfgpt.errors import UserError
from hfgpt.evals.core.bundle import Bundle, open_bundle

CORE = Path(__file__).parents[2] / "hfgpt" / "evals" / "core"


@pytest.fixture
def folder(tmp_path) -> Path:
    return write_bundle(tmp_path / "eval_bundle")


def contents(bundle: Bundle) -> dict:
    return {label: bundle.rows(label) for label in bundle.tasks if label not in bundle.missing}


def test_a_folder_and_a_zip_hold_the_same_and_name_what_they_lack(folder):
    bundle = open_bundle(folder)
    assert list(bundle.tasks) == [task["label"] for task in TASKS]
    assert bundle.missing == ["squad"]
    assert bundle.tasks["piqa"].baseline == 0.25 and bundle.tasks["piqa"].delimiter == "\nAnswer: "
    assert bundle.tasks["jeopardy"].num_fewshot == 2 and bundle.tasks["copa"].delimiter == " "
    assert contents(bundle) == {
        task["label"]: rows_of(task["icl_task_type"]) for task in TASKS if task["label"] != "squad"
    }
    for other in (open_bundle(zipped(folder)), open_bundle(folder.parent)):
        assert other.tasks == bundle.tasks and other.missing == ["squad"] and contents(other) == contents(bundle)


def test_every_task_of_a_real_bundle_can_be_asked_for_by_its_name(shared_data):
    bundle = open_bundle(shared_data / "evals" / "core")
    assert len(bundle.tasks) == 22 and len(bundle.missing) == 14
    assert {path.stem for path in CORE.glob("core_*.yaml")} == {f"core_{label}" for label in bundle.tasks}
    assert len(bundle.rows("arc_easy")) == 2376 and bundle.tasks["arc_easy"].baseline == 0.25


def test_a_row_ends_where_its_line_does(folder):
    row = {"context": "one\u2028two\x85three", "continuation": "four"}
    (folder / "eval_data/all/jeopardy.jsonl").write_text(f"{json.dumps(row, ensure_ascii=False)}\r\n")
    assert open_bundle(folder).rows("jeopardy") == [row]


def test_a_flipped_byte_in_a_zip_is_found_when_its_task_is_read(folder):
    path = zipped(folder)
    content = bytearray(path.read_bytes())
    content[content.find(b"copa.jsonl") + 40] ^= 255
    path.write_bytes(content)
    bundle = open_bundle(path)
    assert len(bundle.rows("piqa")) == 12
    with pytest.raises(UserError, match=r"copa\.jsonl cannot be read .*: put a whole copy in its place"):
        bundle.rows("copa")


@pytest.mark.parametrize(
    ("file", "old", "new", "sentence"),
    [
        ("core.yaml", "icl_tasks", "tasks", "is not a list of CORE's tasks"),
        ("core.yaml", "label: copa", "label: [copa", "is not a list of CORE's tasks"),
        ("core.yaml", "- 3", "- three", "is not a list of CORE's tasks"),
        ("core.yaml", "schema", "scheme", r"winograd is of type scheme, not multiple_choice, schema"),
        ("eval_meta_data.csv", "copa,", "coca,", "has no row for copa"),
        ("eval_meta_data.csv", ",25,", ",a quarter,", "is not the table of baselines"),
        ("eval_meta_data.csv", "Random baseline", "Baseline", "is not the table of baselines"),
        ("eval_data/all/copa.jsonl", '"gold": 1', '"gold": 7', "line 2: gold is 7, but there are 3 options"),
        ("eval_data/all/copa.jsonl", '"gold"', '"golden"', "line 1: a multiple_choice question needs gold"),
        ("eval_data/all/jeopardy.jsonl", '"red"}', '"red"', r"jeopardy\.jsonl, line 1 is not JSON"),
        ("eval_data/all/winograd.jsonl", None, "", "winograd.jsonl is empty"),
        ("eval_data/all/winograd.jsonl", None, "[1]\n", "line 1: a schema question needs context_options, of type"),
    ],
)
def test_what_is_wrong_in_a_bundle_is_named(folder, file, old, new, sentence):
    path = folder / file
    text = path.read_text(encoding="utf-8")
    assert old is None or old in text
    path.write_text(new if old is None else text.replace(old, new), encoding="utf-8")
    with pytest.raises(UserError, match=sentence) as error:
        contents(open_bundle(folder))
    assert str(path.name) in str(error.value)


def test_what_is_no_bundle_is_refused(folder, tmp_path):
    with pytest.raises(UserError, match="nowhere does not exist: give a folder or zip"):
        open_bundle(tmp_path / "nowhere")
    (tmp_path / "page.zip").write_text("<html>not found</html>")
    with pytest.raises(UserError, match="page.zip cannot be read"):
        open_bundle(tmp_path / "page.zip")
    with pytest.raises(UserError, match="eval_data has no core.yaml"):
        open_bundle(folder / "eval_data")
    (folder / "eval_meta_data.csv").unlink()
    with pytest.raises(UserError, match="eval_meta_data.csv is missing"):
        open_bundle(folder)


@pytest.fixture
def server(folder, tmp_path, monkeypatch):
    """A web server that answers every request with `server.content`, a zipped bundle."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path / "hf_home"))

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self):
            server.requests.append(self.path)
            self.send_response(200)
            self.send_header("Content-Length", str(len(server.content)))
            self.end_headers()
            self.wfile.write(server.content)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    server.requests, server.content = [], zipped(folder).read_bytes()
    server.address = f"http://127.0.0.1:{server.server_address[1]}/eval_bundle.zip"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_it_is_downloaded_once_by_all_who_ask_at_once(server, folder):
    with ThreadPoolExecutor(4) as pool:
        bundles = list(pool.map(open_bundle, [server.address] * 4))
    assert server.requests == ["/eval_bundle.zip"]
    assert all(contents(bundle) == contents(open_bundle(folder)) for bundle in bundles)


def test_a_download_that_is_no_bundle_does_not_stay(server):
    whole = server.content
    server.content = b"<html>Please log in</html>"
    with pytest.raises(UserError, match="is no eval bundle and was removed"):
        open_bundle(server.address)
    server.content = whole
    assert open_bundle(server.address).tasks["copa"].baseline == BASELINES["copa"] / 100
    assert len(server.requests) == 2
