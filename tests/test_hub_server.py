"""The Hub's stand-in behaves as the Hub does towards the real clients: huggingface_hub, datasets, transformers."""

import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hub_server import HubServer
from huggingface_hub import HfApi
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.utils import get_session

DATA = bytes(i * i % 251 for i in range(120_001))


@pytest.fixture
def hub():
    """Small pages and LFS parts, so that both are gone through."""
    with HubServer(page_size=3, multipart_bytes=50_000) as server:
        yield server


@pytest.fixture
def api(hub) -> HfApi:
    return HfApi(endpoint=hub.url, token=hub.token)


@pytest.fixture
def folder(tmp_path) -> Path:
    """A model folder: seven small files, one in LFS, a card."""
    (tmp_path / "folder" / "sub").mkdir(parents=True)
    for n in range(7):
        (tmp_path / "folder" / "sub" / f"{n}.txt").write_text("x" * n)
    (tmp_path / "folder" / "model.safetensors").write_bytes(DATA)
    (tmp_path / "folder" / "README.md").write_text("---\nlicense: mit\n---\nhello")
    return tmp_path / "folder"


def python(hub: HubServer, tmp_path: Path, code: str, **env: str) -> str:
    """Standard output of a fresh process whose Hub is the stand-in."""
    result = subprocess.run(
        [sys.executable, "-c", code],
        env=hub.env(tmp_path, **env),
        capture_output=True,
        text=True,
        timeout=120,
        cwd=tmp_path,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.parametrize("repo_type", ["model", "dataset"])
def test_a_pushed_folder_comes_back_byte_for_byte(hub, api, folder, tmp_path, repo_type):
    assert api.whoami()["name"] == "tester"
    assert api.create_repo("tester/repo", repo_type=repo_type, private=True).repo_id == "tester/repo"
    assert api.create_repo("tester/repo", repo_type=repo_type, exist_ok=True).repo_id == "tester/repo"
    pushed = api.upload_folder(repo_id="tester/repo", folder_path=folder, repo_type=repo_type)
    back = Path(api.snapshot_download("tester/repo", repo_type=repo_type, cache_dir=tmp_path / "cache"))
    assert back.name == pushed.oid
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len(files) == 9
    assert all((back / path.relative_to(folder)).read_bytes() == path.read_bytes() for path in files)
    tree = list(api.list_repo_tree("tester/repo", recursive=True, repo_type=repo_type))
    assert len(tree) == 11  # the nine, .gitattributes and the folder, over four pages
    lfs = next(entry for entry in tree if entry.path == "model.safetensors").lfs
    assert lfs.size == len(DATA) == api.get_paths_info("tester/repo", "model.safetensors", repo_type=repo_type)[0].size
    info = api.repo_info("tester/repo", repo_type=repo_type, files_metadata=True)
    assert info.private and info.card_data.license == "mit" and info.siblings[2].size == len(DATA)
    assert hub.count("PUT", "/storage/") == 3
    # What is there is not sent again.
    again = api.upload_folder(repo_id="tester/repo", folder_path=folder, repo_type=repo_type)
    assert again.oid == pushed.oid and hub.count("PUT", "/storage/") == 3
    api.delete_repo("tester/repo", repo_type=repo_type)
    assert not api.repo_exists("tester/repo", repo_type=repo_type)


def test_branches_tags_and_pull_requests_hold_their_own_commits(hub, api, folder, tmp_path):
    api.create_repo("tester/repo")
    first = api.upload_folder(repo_id="tester/repo", folder_path=folder)
    api.create_tag("tester/repo", tag="v1")
    api.create_branch("tester/repo", branch="dev/next")
    (folder / "README.md").write_text("changed")
    api.upload_folder(repo_id="tester/repo", folder_path=folder, revision="dev/next")
    request = api.upload_folder(repo_id="tester/repo", folder_path=folder, create_pr=True)
    assert request.pr_revision == "refs/pr/1"
    assert api.get_discussion_details("tester/repo", 1).is_pull_request

    def card(revision: str) -> str:
        path = api.hf_hub_download("tester/repo", "README.md", revision=revision, cache_dir=tmp_path / "cache")
        return Path(path).read_text()

    assert card("v1") == card(first.oid) == card("main") == "---\nlicense: mit\n---\nhello"
    assert card("dev/next") == card("refs/pr/1") == "changed"
    refs = api.list_repo_refs("tester/repo", include_pull_requests=True)
    assert [ref.name for ref in refs.branches] == ["main", "dev/next"] and refs.tags[0].target_commit == first.oid
    assert len(api.list_repo_commits("tester/repo", revision="dev/next")) == 3
    api.delete_folder("sub", "tester/repo")
    assert api.list_repo_files("tester/repo") == [".gitattributes", "README.md", "model.safetensors"]
    api.delete_branch("tester/repo", branch="dev/next")
    with pytest.raises(RevisionNotFoundError):
        card("dev/next")


def test_who_may_not_see_a_repo_gets_the_hubs_own_errors(hub, api, tmp_path):
    hub.add_model("other/private", {"a.txt": b"a"}, private=True)
    hub.add_model("other/gated", {"a.txt": b"a"}, gated=True)
    nobody = HfApi(endpoint=hub.url, token=False)
    for client in (api, nobody):
        with pytest.raises(RepositoryNotFoundError):
            client.model_info("other/private")
        with pytest.raises(GatedRepoError):
            client.hf_hub_download("other/gated", "a.txt", cache_dir=tmp_path)
    with pytest.raises(HfHubHTTPError, match="401"):
        nobody.create_repo("tester/mine")
    with pytest.raises(HfHubHTTPError, match="403"):
        api.create_repo("other/mine")
    with pytest.raises(HfHubHTTPError, match="403"):
        api.upload_file(path_or_fileobj=b"b", path_in_repo="b.txt", repo_id="other/gated")
    hub.store.tokens.clear()  # every token has expired
    with pytest.raises(HfHubHTTPError, match="Invalid credentials"):
        api.model_info("other/gated")


def test_an_interrupted_upload_is_tried_again_by_the_client(hub, api, folder):
    api.create_repo("tester/repo")
    hub.faults.add(method="PUT", path="/storage/", drop_after_bytes=20_000)
    hub.faults.add(method="PUT", path="/storage/", status=500)
    api.upload_folder(repo_id="tester/repo", folder_path=folder)
    assert hub.files("tester/repo", "model")["model.safetensors"] == DATA
    assert hub.count("PUT", "/storage/") == 5


def test_ranges_and_a_slow_line(hub, api):
    hub.add_dataset("org/data", {"a.parquet": DATA})
    url = f"{hub.url}/datasets/org/data/resolve/main/a.parquet"
    part = get_session().get(url, headers={"Range": "bytes=100-199"})
    assert part.status_code == 206 and part.content == DATA[100:200]
    assert part.headers["Content-Range"] == f"bytes 100-199/{len(DATA)}"
    assert get_session().get(url, headers={"Range": "bytes=-5"}).content == DATA[-5:]
    assert get_session().get(url, headers={"Range": f"bytes={len(DATA)}-"}).status_code == 416
    fault = hub.faults.add(path="a.parquet", bytes_per_second=500_000)
    slow = get_session().get(url)
    assert slow.content == DATA and slow.elapsed.total_seconds() > 0.2 and fault.times == 0


@pytest.mark.slow
def test_datasets_loads_and_streams_from_it(hub, tmp_path):
    for n in range(2):
        pq.write_table(pa.table({"text": [f"row {n}.{i}" for i in range(50)]}), tmp_path / f"{n}.parquet")
    files = {f"data/train-{n:05d}-of-00002.parquet": (tmp_path / f"{n}.parquet").read_bytes() for n in range(2)}
    hub.add_dataset("org/rows", files)
    code = """
from datasets import load_dataset
rows = load_dataset("org/rows", split="train")
streamed = list(load_dataset("org/rows", split="train", streaming=True))
assert streamed == rows.to_list(), streamed[:3]
print(len(rows), rows[99]["text"])
"""
    assert python(hub, tmp_path, code).split("\n")[0] == "100 row 1.49"


@pytest.mark.slow
def test_transformers_loads_a_pushed_model_from_it(hub, tmp_path):
    code = """
import torch
from transformers import AutoConfig, AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel
model = GPT2LMHeadModel(GPT2Config(vocab_size=64, n_positions=16, n_embd=16, n_layer=1, n_head=2))
model.push_to_hub("tester/tiny-gpt2")
loaded = AutoModelForCausalLM.from_pretrained("tester/tiny-gpt2")
ids = torch.arange(8)[None]
print(torch.equal(model.eval()(ids).logits, loaded(ids).logits))
"""
    assert python(hub, tmp_path, code).strip() == "True"
    assert json.loads(hub.files("tester/tiny-gpt2", "model")["config.json"])["n_embd"] == 16
