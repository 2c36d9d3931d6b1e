"""Prepared data pushed to the Hub and loaded from it, over real HTTP against the stand-in."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hub_server import HubServer
from huggingface_hub import HfApi

from hfgpt.arguments import DataArguments
from hfgpt.data.preparation import prepare_data
from hfgpt.data.prepared import PreparedData, damaged_files, open_prepared
from hfgpt.data.prepared_hub import load_prepared_from_hub, push_prepared
from hfgpt.data.tokenizer import train_tokenizer
from hfgpt.errors import UserError
from hfgpt.hub_client import Retries

QUICK = Retries(attempts=3, base_seconds=0.01)
DOCUMENTS = [f"In the year {1000 + n} the river rose {n * n} feet above house number {n % 17}." for n in range(1500)]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> PreparedData:
    """Rows of 64 tokens in several Arrow files, with the tokenizer that made them."""
    folder = tmp_path_factory.mktemp("prepared")
    train_tokenizer(DOCUMENTS, 512).save_pretrained(folder / "tokenizer")
    (folder / "text.txt").write_text("\n".join(DOCUMENTS))
    data = DataArguments(
        data_path=str(folder / "text.txt"),
        document_separator="line",
        max_length=64,
        shard_size=10_000,
        validation_fraction=0.1,
        num_proc=1,
    )
    return prepare_data(data, folder / "tokenizer", folder / "data")


@pytest.fixture
def api(hub_server) -> HfApi:
    return HfApi(endpoint=hub_server.url, token=hub_server.token)


def rows(prepared: PreparedData, split: str) -> np.ndarray:
    dataset = prepared.train() if split == "train" else prepared.validation()
    return np.array(dataset[:]["input_ids"])


def test_pushed_rows_come_back_equal_with_their_tokenizer(hub_server, api, prepared, tmp_path):
    url = push_prepared(prepared.path, "tester/rows", api=api, retries=QUICK)
    assert url == f"{hub_server.url}/datasets/tester/rows"
    assert hub_server.store.repos[("dataset", "tester/rows")].private
    loaded = open_prepared(load_prepared_from_hub("tester/rows", cache_dir=tmp_path, api=api, retries=QUICK))
    assert loaded.statistics == prepared.statistics and damaged_files(loaded) == []
    assert len(list((loaded.path / "train").glob("*.arrow"))) > 1
    for split in ("train", "validation"):
        assert np.array_equal(rows(loaded, split), rows(prepared, split)) and len(rows(loaded, split)) > 10
    tokenizer = (prepared.path / "tokenizer" / "tokenizer.json").read_bytes()
    assert (loaded.path / "tokenizer" / "tokenizer.json").read_bytes() == tokenizer
    pushed = {path.split("/")[0] for path in hub_server.files("tester/rows")}
    assert pushed == {".gitattributes", "README.md", "prepared.json", "train", "validation", "tokenizer"}


def test_a_second_push_sends_nothing_again_and_a_new_one_replaces_all(hub_server, api, prepared, tmp_path):
    push_prepared(prepared.path, "tester/rows", api=api, retries=QUICK)
    uploads = hub_server.count("PUT", "/storage/")
    push_prepared(prepared.path, "tester/rows", api=api, retries=QUICK)
    assert hub_server.count("PUT", "/storage/") == uploads > 1
    old = hub_server.files("tester/rows")
    # Fewer rows: files of the first push that the second has not must be gone.
    source = prepared.path.parents[1]
    data = DataArguments(
        data_path=str(source / "text.txt"),
        document_separator="line",
        max_length=64,
        validation_fraction=0.1,
        num_proc=1,
    )
    other = prepare_data(data, source / "tokenizer", tmp_path / "data")
    push_prepared(other.path, "tester/rows", api=api, retries=QUICK)
    new = hub_server.files("tester/rows")
    assert {path for path in new if path.startswith("train/")} < {path for path in old if path.startswith("train/")}
    loaded = open_prepared(load_prepared_from_hub("tester/rows", cache_dir=tmp_path, api=api, retries=QUICK))
    assert np.array_equal(rows(loaded, "train"), rows(other, "train"))


def test_a_push_that_breaks_off_leaves_nothing_that_looks_complete_and_goes_on(hub_server, api, prepared, tmp_path):
    hub_server.faults.add(method="POST", path="/commit/", status=500, times=1)
    push_prepared(prepared.path, "tester/retried", api=api, retries=QUICK)
    assert "prepared.json" in hub_server.files("tester/retried")
    hub_server.faults.add(method="POST", path="/commit/", status=500, times=-1)
    with pytest.raises(UserError, match="tester/broken: the Hub answered 500 again and again"):
        push_prepared(prepared.path, "tester/broken", api=api, retries=QUICK)
    hub_server.faults.clear()
    with pytest.raises(UserError, match="tester/broken holds no prepared data"):
        load_prepared_from_hub("tester/broken", cache_dir=tmp_path, api=api, retries=QUICK)
    uploads = hub_server.count("PUT", "/storage/")
    push_prepared(prepared.path, "tester/broken", api=api, retries=QUICK)
    assert hub_server.count("PUT", "/storage/") == uploads
    assert load_prepared_from_hub("tester/broken", cache_dir=tmp_path, api=api, retries=QUICK).is_dir()


def test_a_branch_holds_rows_of_its_own(hub_server, api, prepared, tmp_path):
    url = push_prepared(prepared.path, "tester/rows", private=False, revision="v2", api=api, retries=QUICK)
    assert url.endswith("/datasets/tester/rows/tree/v2")
    assert "prepared.json" not in hub_server.files("tester/rows")
    loaded = load_prepared_from_hub("tester/rows", "v2", cache_dir=tmp_path, api=api, retries=QUICK)
    assert open_prepared(loaded) is not None
    with pytest.raises(UserError, match="no revision 'v3'"):
        load_prepared_from_hub("tester/rows", "v3", cache_dir=tmp_path, api=api, retries=QUICK)


def test_what_is_not_whole_is_not_pushed(hub_server, api, prepared, tmp_path):
    with pytest.raises(UserError, match="holds no complete prepared data"):
        push_prepared(tmp_path, "tester/rows", api=api)
    damaged = tmp_path / "damaged"
    shutil.copytree(prepared.path, damaged)
    victim = next((damaged / "train").glob("*.arrow"))
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    victim.write_bytes(content)
    with pytest.raises(UserError, match=f"train/{victim.name} is damaged"):
        push_prepared(damaged, "tester/rows", api=api)
    assert hub_server.requests == []


def test_a_token_that_may_not_write_is_a_sentence(hub_server, prepared):
    stranger = HfApi(endpoint=hub_server.url, token="hf_expired")
    with pytest.raises(UserError, match="refused the token for tester/rows"):
        push_prepared(prepared.path, "tester/rows", api=stranger, retries=QUICK)


def python(hub: HubServer, tmp_path: Path, code: str, **env: str) -> dict:
    result = subprocess.run(
        [sys.executable, "-c", code],
        env=hub.env(tmp_path, **env),
        capture_output=True,
        text=True,
        timeout=120,
        cwd=tmp_path,
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


@pytest.mark.slow
def test_a_recipe_takes_prepared_rows_by_repo_id_and_datasets_loads_them_plainly(hub_server, api, prepared, tmp_path):
    push_prepared(prepared.path, "tester/rows", api=api, retries=QUICK)
    code = f"""
import json
from pathlib import Path
from hfgpt.arguments import DataArguments
from hfgpt.data.preparation import prepare_data
data = DataArguments(prepared="tester/rows", max_length=64)
prepared = prepare_data(data, Path({str(prepared.path / "tokenizer")!r}), Path("unused"))
print(json.dumps([len(prepared.train()), prepared.train()[0]["input_ids"]]))
"""
    first = rows(prepared, "train")[0].tolist()
    assert python(hub_server, tmp_path, code) == [prepared.train_rows, first]
    assert python(hub_server, tmp_path, code, HF_HUB_OFFLINE="1") == [prepared.train_rows, first]
    code = """
import json
from datasets import load_dataset
rows = load_dataset("tester/rows")
print(json.dumps([rows.num_rows, rows["train"][0]["input_ids"]]))
"""
    num_rows = {"train": prepared.train_rows, "validation": len(prepared.validation())}
    assert python(hub_server, tmp_path, code) == [num_rows, first]
