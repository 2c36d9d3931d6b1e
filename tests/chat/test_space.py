"""A Space that was written: its files, and the app itself, run where hfgpt cannot be imported."""

import importlib.metadata
import os
import shutil
import subprocess
import sys
import threading
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from commands import run, sentence_of_failure, succeed
from reciting_model import save_reciting_model

pytestmark = pytest.mark.skipif(find_spec("gradio") is None, reason="gradio is not installed")

# Runs app.py as `python app.py` does, where hfgpt is not installed.
WITHOUT_HFGPT = """
import runpy, sys
sys.modules["hfgpt"] = None
runpy.run_path(sys.argv[1], run_name="__main__")
"""


def write_space(tmp_path: Path, model: Path, *flags: str) -> Path:
    space = tmp_path / "space"
    succeed("hfgpt", "space", model, "--output_dir", space, *flags)
    return space


def header_of(space: Path) -> dict:
    _, front, _ = (space / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    return yaml.safe_load(front)


class RunningSpace:
    """The app of a Space in a process of its own, on a free port, offline; `url` once it answers."""

    def __init__(self, space: Path, home: Path) -> None:
        quiet = {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1", "HF_HOME": str(home)}
        self.process = subprocess.Popen(
            [sys.executable, "-c", WITHOUT_HFGPT, str(space / "app.py")],
            env={**os.environ, **quiet, "PYTHONUNBUFFERED": "1"},
            cwd=home,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.lines: list[str] = []
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        self.lines.extend(self.process.stdout)

    @property
    def url(self) -> str:
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline and self.process.poll() is None:
            for line in list(self.lines):
                if "Running on local URL" in line:
                    return line.split()[-1]
            time.sleep(0.1)
        raise AssertionError("".join(self.lines)[-3000:])

    def __enter__(self) -> "RunningSpace":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()


def texts(conversation: list[dict]) -> list[str]:
    return [message["content"][0]["text"] for message in conversation]


@pytest.mark.slow
def test_the_app_answers_streams_and_stops_where_hfgpt_is_not_installed(tmp_path, chat_model):
    from gradio_client import Client

    space = write_space(tmp_path, chat_model)
    with RunningSpace(space, tmp_path) as running:
        client = Client(running.url, verbose=False)
        conversation, emptied = client.predict("What is your name?", temperature=0, api_name="/chat")
        assert texts(conversation) == ["What is your name?", "My name is Tiny."]  # and no word after <|end|>
        assert emptied == ""
        job = client.submit("Count to ten.", temperature=0, api_name="/chat")
        conversation, _ = job.result(timeout=30)
        assert texts(conversation)[3] == "one two three four five six seven eight nine ten"
        lengths = [len("".join(texts(update)[3:])) for update, _ in job.outputs()]
        assert lengths == sorted(lengths) and len(set(lengths)) > 5
        with pytest.raises(Exception, match="5,000 characters; at most 4,000"):
            client.predict("x" * 5000, api_name="/chat")
        with pytest.raises(Exception, match="tokens; at most"):
            client.predict("7 " * 200, api_name="/chat")
        with pytest.raises(Exception, match="temperature must be 0 or from 0.001 on, not 1e-40"):
            client.predict("Count to ten.", temperature=1e-40, api_name="/chat")


@pytest.mark.slow
def test_a_base_model_and_html_in_its_answers_work_in_the_app(tmp_path, base_model, chat_tokenizer):
    from gradio_client import Client

    text = "<img src=x onerror=alert(1)> & **bold**"
    reciting = save_reciting_model(tmp_path / "reciting", chat_tokenizer, text, question="Show me.")
    with RunningSpace(write_space(tmp_path, reciting), tmp_path) as running:
        conversation, _ = Client(running.url, verbose=False).predict("Show me.", api_name="/chat")
        assert texts(conversation)[1] == "&lt;img src=x onerror=alert(1)&gt; &amp; **bold**"
    space = write_space(tmp_path, base_model, "--overwrite")
    with RunningSpace(space, tmp_path) as running:
        client = Client(running.url, verbose=False)
        conversation, _ = client.predict("one two", max_new_tokens=5, temperature=0, api_name="/chat")
        assert texts(conversation)[0] == "one two" and len(conversation) == 2


def test_it_is_complete_and_names_the_versions_it_was_tried_with(tmp_path, chat_model):
    model = shutil.copytree(chat_model, tmp_path / "sft")
    for left in ("training_args.bin", "final_metrics.json", "recipe.yaml", "checkpoint-2/model.safetensors"):
        (model / left).parent.mkdir(exist_ok=True)
        (model / left).write_bytes(b"of the training")
    space = write_space(tmp_path, model, "--title", "Tiny: 'hello'", "--license", "mit")
    header = header_of(space)
    assert header["sdk"] == "gradio" and header["sdk_version"] == importlib.metadata.version("gradio")
    assert header["title"] == "Tiny: 'hello'" and header["license"] == "mit" and "models" not in header
    assert (space / header["app_file"]).is_file()
    pins = dict(line.split("==") for line in (space / "requirements.txt").read_text().split())
    assert pins.keys() == {"torch", "transformers"}
    assert pins["transformers"] == importlib.metadata.version("transformers")
    copied = {path.name for path in (space / "model").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "modeling_gpt.py"} <= copied
    assert not copied & {"training_args.bin", "final_metrics.json", "recipe.yaml", "checkpoint-2"}
    app = (space / "app.py").read_text(encoding="utf-8")
    compile(app, "app.py", "exec")
    assert "\nTITLE = \"Tiny: 'hello'\"\n" in app and "import hfgpt" not in app and "from hfgpt" not in app


def test_with_a_model_of_the_hub_nothing_is_copied(tmp_path, chat_model):
    space = write_space(tmp_path, chat_model, "--model_repo", "you/tiny")
    assert header_of(space)["models"] == ["you/tiny"]
    assert not (space / "model").exists()
    assert "\nMODEL = 'you/tiny'\n" in (space / "app.py").read_text(encoding="utf-8")


def test_the_licence_is_that_of_the_model_card_and_never_made_up(tmp_path, chat_model):
    model = shutil.copytree(chat_model, tmp_path / "sft")
    assert "license" not in header_of(write_space(tmp_path, model))
    (model / "README.md").write_text("---\nlicense: cc-by-4.0\n---\n# Tiny\n", encoding="utf-8")
    assert header_of(write_space(tmp_path, model, "--overwrite"))["license"] == "cc-by-4.0"


def test_a_folder_with_files_in_it_is_written_only_by_overwrite(tmp_path, chat_model):
    space = tmp_path / "space"
    (space / "model").mkdir(parents=True)
    (space / "notes.txt").write_text("mine")
    (space / "model" / "model-00002-of-00002.safetensors").write_bytes(b"of an earlier model")
    assert "is not empty" in sentence_of_failure("hfgpt", "space", chat_model, "--output_dir", space)
    assert not (space / "app.py").exists()
    done = run("hfgpt", "space", chat_model, "--output_dir", space, "--overwrite")
    assert done.returncode == 0 and "MB, copied inside" in done.stdout
    assert (space / "notes.txt").read_text() == "mine"
    assert [path.name for path in (space / "model").glob("*.safetensors")] == ["model.safetensors"]


def test_what_cannot_be_a_space_is_one_sentence(tmp_path, chat_model):
    out = ("--output_dir", tmp_path / "space")
    assert "--model_repo must be" in sentence_of_failure("hfgpt", "space", chat_model, *out, "--model_repo", "a/b/c")
    assert "there is no folder" in sentence_of_failure("hfgpt", "space", tmp_path / "missing", *out)
    assert "own folder" in sentence_of_failure(
        *("hfgpt", "space", chat_model, "--output_dir", chat_model, "--overwrite")
    )
    assert "--output_dir" in sentence_of_failure("hfgpt", "space", chat_model)
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "config.json").write_text("{}")
    assert "no weights (*.safetensors)" in sentence_of_failure("hfgpt", "space", empty, *out)
    assert not (tmp_path / "space").exists()
