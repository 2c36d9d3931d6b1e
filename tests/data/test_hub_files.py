"""Listing and downloading from the Hub, over real HTTP against the stand-in, through the real huggingface_hub."""

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import HfApi

from hfgpt.data.hub_download import download_files
from hfgpt.data.hub_files import list_data_files, make_room
from hfgpt.errors import UserError
from hfgpt.hub_client import Retries

QUICK = Retries(attempts=4, base_seconds=0.01)
CARD = b"""---
configs:
- config_name: default
  data_files:
  - split: train
    path: data/*/*
- config_name: sample-10BT
  data_files:
  - split: train
    path: sample/10BT/*
---
# A card
"""


def parquet(texts: list[str]) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table({"text": texts, "id": list(range(len(texts)))}), buffer)
    return buffer.getvalue()


def noise(num_bytes: int, seed: int = 0) -> bytes:
    return bytes((seed * 7919 + i * i * 31 + (i >> 7)) % 256 for i in range(num_bytes))


@pytest.fixture
def api(hub_server) -> HfApi:
    return HfApi(endpoint=hub_server.url, token=hub_server.token)


@pytest.fixture
def shards(hub_server, api, tmp_path):
    """Three files of 300 kB, listed; and a function that downloads them with quick retries."""
    contents = {f"shard_{n:05d}.parquet": noise(300_000, n) for n in range(3)}
    hub_server.add_dataset("org/shards", contents)
    files = list_data_files("org/shards", api=api, cache_dir=tmp_path)

    def download(**options) -> list[bytes]:
        options = {"retries": QUICK, "progress": False, "api": api, "cache_dir": tmp_path} | options
        return [path.read_bytes() for path in download_files(files, **options)]

    return namedtuple("Shards", "files contents download")(files, list(contents.values()), download)


def run(hub_server, tmp_path: Path, code: str, **env: str) -> subprocess.CompletedProcess:
    """A fresh process whose Hub is the stand-in."""
    return subprocess.run(
        [sys.executable, "-c", code],
        env=hub_server.env(tmp_path, **env),
        capture_output=True,
        text=True,
        timeout=120,
        cwd=tmp_path,
    )


def command(hub_server, tmp_path: Path, *args: str, **env: str) -> subprocess.CompletedProcess:
    return run(hub_server, tmp_path, f"from hfgpt.dataset import main; raise SystemExit(main({list(args)!r}))", **env)


# Listing


def test_a_config_of_the_card_is_a_list_of_its_files_in_natural_order(hub_server, api, tmp_path):
    files = {f"sample/10BT/{n}.parquet": noise(50, n) for n in (10, 2, 1)} | {"sample/100BT/1.parquet": noise(9)}
    hub_server.add_dataset("org/edu", {"README.md": CARD, "data/CC-1/0.parquet": noise(70), **files})
    listed = list_data_files("org/edu", "sample-10BT", api=api, cache_dir=tmp_path)
    assert [file.path for file in listed] == [f"sample/10BT/{n}.parquet" for n in (1, 2, 10)]
    assert [file.num_bytes for file in listed] == [50, 50, 50]
    default = list_data_files("org/edu", api=api, cache_dir=tmp_path)
    assert [file.path for file in default] == ["data/CC-1/0.parquet"]
    # Only the config's own folder was listed.
    assert hub_server.count("GET", "/tree/") == 2 == hub_server.count("GET", "sample%2F10BT") + 1


def test_a_config_may_be_a_folder_and_an_unknown_one_names_those_that_exist(hub_server, api, tmp_path):
    files = {f"{config}/train-00000-of-00001.parquet": noise(20) for config in ("cosmopedia-v2", "python-edu")}
    hub_server.add_dataset("org/smollm", files)
    listed = list_data_files("org/smollm", "cosmopedia-v2", api=api, cache_dir=tmp_path)
    assert [file.path for file in listed] == ["cosmopedia-v2/train-00000-of-00001.parquet"]
    with pytest.raises(UserError, match="no config 'cosmo'.*there are: cosmopedia-v2, python-edu"):
        list_data_files("org/smollm", "cosmo", api=api, cache_dir=tmp_path)


def test_several_configs_without_a_default_ask_for_one(hub_server, api, tmp_path):
    card = CARD.replace(b"config_name: default", b"config_name: full")
    hub_server.add_dataset("org/edu", {"README.md": card, "data/a/0.parquet": noise(9)})
    with pytest.raises(UserError, match="several configs.*full, sample-10BT"):
        list_data_files("org/edu", api=api, cache_dir=tmp_path)


def test_splits_are_told_by_names_and_a_missing_one_names_those_there(hub_server, api, tmp_path):
    names = [
        "data/train-00000-of-00002.parquet",
        "data/train-00001-of-00002.parquet",
        "data/test_sft-00000-of-00001.parquet",
    ]
    hub_server.add_dataset("org/chat", {name: noise(30) for name in names})
    assert [f.path for f in list_data_files("org/chat", api=api, cache_dir=tmp_path)] == names[:2]
    assert [f.path for f in list_data_files("org/chat", split="test_sft", api=api, cache_dir=tmp_path)] == names[2:]
    with pytest.raises(UserError, match="no split 'validation'.*there are: test_sft, train"):
        list_data_files("org/chat", split="validation", api=api, cache_dir=tmp_path)
    hub_server.add_dataset("org/words", {"dev.jsonl.zst": noise(9), "train.jsonl.zst": noise(9)})
    dev = list_data_files("org/words", split="validation", api=api, cache_dir=tmp_path)
    assert [file.path for file in dev] == ["dev.jsonl.zst"]


def test_parquet_is_preferred_and_no_data_files_is_a_sentence(hub_server, api, tmp_path):
    hub_server.add_dataset("org/mixed", {"a.csv": b"text\nx\n", "b.parquet": noise(9), "c.txt": b"c"})
    assert [f.path for f in list_data_files("org/mixed", api=api, cache_dir=tmp_path)] == ["b.parquet"]
    hub_server.add_dataset("org/images", {"cat.png": noise(9), "dataset_infos.json": b"{}"})
    with pytest.raises(UserError, match="no data files for split 'train'.*there are: .*png"):
        list_data_files("org/images", api=api, cache_dir=tmp_path)


def test_unknown_private_and_wrong_revision_are_sentences(hub_server, api, tmp_path):
    with pytest.raises(UserError, match="no org/nothing on .*check its spelling"):
        list_data_files("org/nothing", api=api, cache_dir=tmp_path)
    hub_server.add_dataset("org/secret", {"a.txt": b"a"}, private=True)
    with pytest.raises(UserError, match="or it is private.*hf auth login"):
        list_data_files("org/secret", api=api, cache_dir=tmp_path)
    hub_server.add_dataset("org/open", {"a.txt": b"a"})
    with pytest.raises(UserError, match="no revision 'v9'"):
        list_data_files("org/open", revision="v9", api=api, cache_dir=tmp_path)
    with pytest.raises(UserError, match="'a/b/c' is no Hub id"):
        list_data_files("a/b/c", api=api, cache_dir=tmp_path)


def test_gated_data_and_an_expired_token_say_how_to_log_in(hub_server, api, tmp_path):
    hub_server.add_dataset("org/gated", {"a.parquet": noise(9)}, gated=True)
    files = list_data_files("org/gated", api=api, cache_dir=tmp_path)
    for token in (hub_server.token, False):  # 403 and 401
        stranger = HfApi(endpoint=hub_server.url, token=token)
        with pytest.raises(UserError, match="org/gated is gated: accept its terms.*hf auth login"):
            download_files(files, api=stranger, cache_dir=tmp_path, retries=QUICK, progress=False)
    expired = HfApi(endpoint=hub_server.url, token="hf_expired")
    with pytest.raises(UserError, match="refused the token.*expired"):
        list_data_files("org/gated", api=expired, cache_dir=tmp_path)


def test_a_listing_is_kept_for_when_the_hub_is_down(hub_server, api, tmp_path, shards):
    hub_server.faults.add(path="/api/datasets/org/shards", status=503, times=-1)
    again = list_data_files("org/shards", api=api, cache_dir=tmp_path, retries=QUICK)
    assert again == shards.files
    with pytest.raises(UserError, match="answered 503 again and again"):
        list_data_files("org/shards", split="test", api=api, cache_dir=tmp_path, retries=QUICK)


def test_a_listing_is_asked_for_again_after_a_failure_that_may_pass(hub_server, api, tmp_path):
    hub_server.add_dataset("org/one", {"a.txt": b"a"})
    hub_server.faults.add(path="/api/datasets/org/one", status=429, headers={"Retry-After": "0"})
    hub_server.faults.add(path="/api/datasets/org/one", status=500)
    files = list_data_files("org/one", api=api, cache_dir=tmp_path, retries=QUICK)
    assert [file.path for file in files] == ["a.txt"]
    assert hub_server.count("GET", "/api/datasets/org/one") == 4


def test_a_listing_of_many_pages_is_whole(hub_server, api, tmp_path):
    hub_server.page_size = 7
    hub_server.add_dataset("org/pages", {f"shard_{n}.parquet": noise(5, n) for n in range(40)})
    files = list_data_files("org/pages", api=api, cache_dir=tmp_path)
    assert [file.path for file in files] == [f"shard_{n}.parquet" for n in range(40)]


LAYOUTS = {
    "org/card": {"README.md": CARD, "data/a/1.parquet": "", "sample/10BT/1.parquet": "", "sample/10BT/2.parquet": ""},
    "org/numbered": {f"data/{split}-0000{n}-of-00002.parquet": "" for split in ("train", "test_gen") for n in (0, 1)},
    "org/words": {"train.jsonl": "", "dev.jsonl": "", "README.md": b"no card"},
    "org/dirs": {"train/a.jsonl": "", "train/b.jsonl": "", "test/x/c.jsonl": ""},
    "org/plain": {"shard_00000.parquet": "", "shard_00001.parquet": "", "constraints.json": b"{}"},
    "org/training": {"data/training_1.csv": "", "data/validation_1.csv": "", "data/eval.csv": ""},
    "org/folders": {"en/train.jsonl": "", "de/train.jsonl": "", "retrain.jsonl": ""},
}
SAMPLES = {".parquet": lambda: parquet(["x"]), ".jsonl": lambda: b'{"text": "x"}\n', ".csv": lambda: b"text\nx\n"}


@pytest.mark.slow
def test_configs_and_splits_are_those_of_load_dataset(hub_server, api, tmp_path):
    for repo, files in LAYOUTS.items():
        hub_server.add_dataset(repo, {name: data or SAMPLES[Path(name).suffix]() for name, data in files.items()})
    code = f"""
import json
from datasets import load_dataset_builder
for repo in {list(LAYOUTS)}:
    splits = load_dataset_builder(repo).config.data_files.items()
    print(json.dumps({{str(s): [path.split("@")[1].split("/", 1)[1] for path in paths] for s, paths in splits}}))
"""
    for repo, line in zip(LAYOUTS, run(hub_server, tmp_path, code).stdout.splitlines(), strict=True):
        theirs = json.loads(line)
        ours = {s: list_data_files(repo, split=s, api=api, cache_dir=tmp_path) for s in theirs}
        assert {split: sorted(file.path for file in files) for split, files in ours.items()} == theirs, repo


# Downloading


def test_files_land_in_the_hubs_own_cache_where_its_tools_find_them(hub_server, api, tmp_path, shards):
    assert shards.download() == shards.contents
    before = len(hub_server.requests)
    found = api.snapshot_download(
        "org/shards", repo_type="dataset", revision=shards.files[0].commit, cache_dir=tmp_path
    )
    assert Path(found, "shard_00002.parquet").read_bytes() == shards.contents[2]
    assert not any("/storage/" in request.path for request in hub_server.requests[before:])
    assert shards.download() == shards.contents
    assert hub_server.count("GET", "/storage/") == 3
    # The token never goes to the storage host.
    stored = [request for request in hub_server.requests if "/storage/" in request.path]
    assert not any("Authorization" in request.headers for request in stored)


def test_a_dropped_connection_resumes_where_it_broke(hub_server, shards):
    hub_server.faults.add(path="shard_00001", drop_after_bytes=200_000, times=1)
    assert shards.download(num_workers=1) == shards.contents
    ranges = [r.headers.get("Range") for r in hub_server.requests if "/storage/" in r.path and "shard_00001" in r.path]
    assert len(ranges) == 2 and ranges[0] is None
    assert re.fullmatch(r"bytes=[1-9]\d+-", ranges[1])


def test_drops_that_each_bring_bytes_never_use_up_the_retries(hub_server, shards):
    hub_server.faults.add(path="shard_00000", drop_after_bytes=70_000, times=4)
    assert shards.download(retries=Retries(attempts=2, base_seconds=0.01)) == shards.contents


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_or_broken_server_is_asked_again(hub_server, shards, status):
    hub_server.faults.add(path="/resolve/", status=status, headers={"Retry-After": "0"}, times=3, method="GET")
    assert shards.download(num_workers=1) == shards.contents


def test_retry_after_is_honoured(hub_server, shards):
    hub_server.faults.add(path="shard_00000", status=429, headers={"Retry-After": "1"}, method="GET")
    start = time.monotonic()
    assert shards.download() == shards.contents
    assert time.monotonic() - start >= 1.0


def test_a_server_that_stays_broken_is_a_sentence(hub_server, shards):
    hub_server.faults.add(path="/storage/", status=500, times=-1)
    with pytest.raises(UserError, match="org/shards: the Hub answered 500 again and again"):
        shards.download()


@pytest.mark.parametrize("fault", [{"truncate_to_bytes": 123_456}, {"flip_byte_at": 150_000}])
def test_a_wrong_file_is_thrown_away_and_fetched_anew(hub_server, shards, fault):
    hub_server.faults.add(path="shard_00001", **fault)
    assert shards.download() == shards.contents
    fetched = [
        r.headers.get("Range") for r in hub_server.requests if "/storage/" in r.path and "shard_00001" in r.path
    ]
    assert fetched == [None, None]


def test_a_file_that_stays_wrong_is_a_sentence_and_is_not_left_behind(hub_server, shards, tmp_path):
    hub_server.faults.add(path="shard_00001", truncate_to_bytes=1000, times=-1)
    with pytest.raises(UserError, match="shard_00001.parquet: 1000 bytes came, but the Hub lists 300000"):
        shards.download(output_dir=tmp_path / "out")
    assert not list((tmp_path / "out").glob("shard_00001*"))


def test_a_damaged_file_in_the_cache_is_replaced(shards, tmp_path):
    shards.download()
    blob = tmp_path / "datasets--org--shards" / "blobs" / shards.files[1].etag
    blob.write_bytes(blob.read_bytes()[:1000])
    assert shards.download() == shards.contents


def test_output_dir_gets_plain_files_once(hub_server, shards, tmp_path):
    out = tmp_path / "out"
    assert shards.download(output_dir=out) == shards.contents
    assert not (out / "shard_00000.parquet").is_symlink()
    assert sorted(path.name for path in out.iterdir()) == [".locks"] + [file.path for file in shards.files]
    assert shards.download(output_dir=out) == shards.contents
    assert hub_server.count("GET", "/storage/") == 3


def test_small_files_outside_lfs_and_twins_download_too(hub_server, api, tmp_path):
    contents = {"a.txt": "Grüße".encode(), "b.txt": b"second\n", "c.txt": b"second\n"}
    hub_server.add_dataset("org/plain", contents)
    files = list_data_files("org/plain", api=api, cache_dir=tmp_path)
    paths = download_files(files, api=api, cache_dir=tmp_path, retries=QUICK, progress=False)
    assert [path.read_bytes() for path in paths] == list(contents.values())


def test_too_little_disk_is_told_before_anything_is_fetched(hub_server, shards, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**6, 10**6 - 500_000, 500_000))
    with pytest.raises(UserError, match="3 files of org/shards need 0.9 MB more, but only 0.5 MB are free"):
        shards.download()
    assert hub_server.count("GET", "/storage/") == 0


def test_room_is_made_by_giving_up_the_files_unread_for_longest(tmp_path, monkeypatch):
    for age, name in enumerate(["new", "middle", "old"]):
        (tmp_path / name).write_bytes(b"x" * 100)
        os.utime(tmp_path / name, (time.time() - age * 100,) * 2)
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(1000 - 100 * len(list(tmp_path.iterdir()))))
    (tmp_path / "under-way.partial").write_bytes(b"x")
    make_room(tmp_path, 0, keep=2)
    assert {path.name for path in tmp_path.iterdir()} == {"new", "middle", "under-way.partial"}
    make_room(tmp_path, 800, keep=2)
    assert {path.name for path in tmp_path.iterdir()} == {"new", "under-way.partial"}


# As processes


SHARDS_OF = """
import json, pickle
from collections import Counter
from hfgpt.arguments import DataArguments
from hfgpt.data import hub_files
from hfgpt.data.documents import source_shards
hub_files.SHARD_BYTES = {shard_bytes}
data = DataArguments(**json.loads({arguments!r}))
shards = pickle.loads(pickle.dumps(source_shards(data)))
counts = Counter()
print(json.dumps([[s.name, s.fingerprint(), list(s.documents(counts))] for s in shards]))
"""


def shards_code(arguments: dict, shard_bytes: int = 0) -> str:
    """Code that prints the shards; with `shard_bytes` 0 every file is a shard of its own, as large files are."""
    return SHARDS_OF.format(arguments=json.dumps(arguments), shard_bytes=shard_bytes)


def shards_of(hub_server, tmp_path: Path, env: dict[str, str] | None = None, **arguments) -> list:
    result = run(hub_server, tmp_path, shards_code(arguments), **(env or {}))
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def test_hub_shards_are_the_first_files_read_as_documents_and_need_no_network_again(hub_server, tmp_path):
    texts = {f"shard_{n}.parquet": [f"document {n}.{i}" for i in range(3)] for n in range(12)}
    hub_server.add_dataset("org/docs", {name: parquet(rows) for name, rows in texts.items()})
    shards = shards_of(hub_server, tmp_path, dataset="org/docs", num_shards=3)
    assert [name for name, _, _ in shards] == ["shard_0.parquet", "shard_1.parquet", "shard_2.parquet"]
    assert [documents for _, _, documents in shards] == [texts[f"shard_{n}.parquet"] for n in range(3)]
    assert len({fingerprint for _, fingerprint, _ in shards}) == 3
    asked = len(hub_server.requests)
    offline = shards_of(hub_server, tmp_path, {"HF_HUB_OFFLINE": "1"}, dataset="org/docs", num_shards=3)
    assert offline == shards and len(hub_server.requests) == asked
    # What is not in the cache is named, and one changed file changes its own fingerprint alone.
    code = shards_code({"dataset": "org/docs", "num_shards": 4})
    assert "org/docs is not complete in the cache" in run(hub_server, tmp_path, code, HF_HUB_OFFLINE="1").stderr
    hub_server.add_dataset("org/docs", {"shard_1.parquet": parquet(["changed"])})
    changed = shards_of(hub_server, tmp_path, dataset="org/docs", num_shards=3)
    assert [old[1] == new[1] for old, new in zip(shards, changed, strict=True)] == [True, False, True]


def test_small_files_of_a_hub_dataset_are_one_shard(hub_server, tmp_path):
    files = {f"{n}.jsonl": b'{"text": "document %d"}\n' % n for n in range(5)}
    hub_server.add_dataset("org/pages", files)
    two = 2 * len(files["0.jsonl"])
    result = run(hub_server, tmp_path, shards_code({"dataset": "org/pages"}, shard_bytes=two))
    shards = json.loads(result.stdout)
    assert [name for name, _, _ in shards] == ["0.jsonl", "2.jsonl", "4.jsonl"]
    assert [documents for _, _, documents in shards] == [
        ["document 0", "document 1"],
        ["document 2", "document 3"],
        ["document 4"],
    ]


def test_rows_that_are_prepared_need_no_file_of_the_hub_again(hub_server, tmp_path):
    texts = [f"This is document {n} of a handful, and it is long enough to fill a row or two. " * 3 for n in range(60)]
    hub_server.add_dataset("org/docs", {f"shard_{n}.parquet": parquet(texts[n * 20 : n * 20 + 20]) for n in range(3)})
    recipe = tmp_path / "small.yaml"
    recipe.write_text(
        "tokenizer: {vocab_size: 300}\n"
        "data: {dataset: org/docs, max_length: 64, validation_fraction: 0.2, num_proc: 1}\n"
    )
    words = ["data", "prepare", str(recipe), "--output_root", str(tmp_path / "runs")]
    code = f"from hfgpt.cli import main; raise SystemExit(main({words!r}))"
    first = run(hub_server, tmp_path, code)
    assert first.returncode == 0, first.stderr
    shutil.rmtree(Path(hub_server.env(tmp_path)["HF_HOME"]) / "hub")
    hub_server.requests.clear()
    again = run(hub_server, tmp_path, code)
    assert again.returncode == 0 and again.stdout == first.stdout
    assert not [request for request in hub_server.requests if "/resolve/" in request.path]


def test_a_stream_downloads_a_file_only_when_it_is_read(hub_server, tmp_path):
    hub_server.add_dataset("org/docs", {f"{n}.jsonl": b'{"text": "document %d"}\n' % n for n in range(5)})
    code = shards_code({"dataset": "org/docs", "streaming": True}).replace("in shards]", "in shards[:2]]")
    result = run(hub_server, tmp_path, code)
    assert [documents for _, _, documents in json.loads(result.stdout)] == [["document 0"], ["document 1"]]
    fetched = {request.path.split("/")[-1] for request in hub_server.requests if "/resolve/" in request.path}
    assert fetched == {"0.jsonl", "1.jsonl"}


def test_the_command_downloads_the_first_files_and_says_where_they_lie(hub_server, tmp_path):
    contents = {f"shard_{n:05d}.parquet": noise(20_000, n) for n in range(5)}
    hub_server.add_dataset("org/shards", contents)
    out = tmp_path / "out"
    result = command(hub_server, tmp_path, "-n", "2", "--dataset", "org/shards", "--output_dir", str(out))
    assert result.returncode == 0, result.stderr
    assert "2 of 5 files" in result.stdout and f"2 files, 40,000 bytes in {out}" in result.stdout
    assert re.search(r"40,000 bytes downloaded in [\d.]+ s, [\d.]+ MB/s", result.stdout)
    assert sorted(path.name for path in out.glob("*.parquet")) == ["shard_00000.parquet", "shard_00001.parquet"]
    everything = command(hub_server, tmp_path, "-n", "-1", "--dataset", "org/shards", "--output_dir", str(out))
    assert everything.returncode == 0 and "60,000 bytes downloaded" in everything.stdout
    assert all((out / name).read_bytes() == data for name, data in contents.items())


def test_the_commands_mistakes_are_exit_code_2_and_one_sentence(hub_server, tmp_path):
    mistakes = [(["--dataset", "org/none"], "There is no org/none"), (["-n", "0"], "-n 0")]
    for args, sentence in mistakes:
        result = command(hub_server, tmp_path, *args)
        assert result.returncode == 2 and sentence in result.stderr and "Traceback" not in result.stderr
        assert len(result.stderr.strip().splitlines()) == 1
    offline = command(hub_server, tmp_path, "--dataset", "org/none", HF_HUB_OFFLINE="1")
    assert offline.returncode == 2 and "HF_HUB_OFFLINE is set" in offline.stderr


def test_a_server_that_falls_silent_is_given_up_and_asked_again(hub_server, tmp_path):
    hub_server.add_dataset("org/silent", {"a.parquet": noise(1000)})
    hub_server.faults.add(path="/storage/", delay_seconds=60)
    start = time.monotonic()
    result = command(hub_server, tmp_path, "--dataset", "org/silent", HF_HUB_DOWNLOAD_TIMEOUT="1")
    assert result.returncode == 0 and "timed out; trying again" in result.stderr
    assert time.monotonic() - start < 30


def test_two_processes_share_one_download(hub_server, tmp_path):
    hub_server.add_dataset("org/large", {"large.parquet": noise(1_000_000)})
    hub_server.faults.add(path="large.parquet", bytes_per_second=1_000_000)
    code = "from hfgpt.dataset import main; raise SystemExit(main(['--dataset', 'org/large']))"
    both = [subprocess.Popen([sys.executable, "-c", code], env=hub_server.env(tmp_path)) for _ in range(2)]
    assert [process.wait(timeout=60) for process in both] == [0, 0]
    assert hub_server.count("GET", "/storage/") == 1


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_stopped_download_goes_on_where_it_stopped(hub_server, tmp_path, how):
    data = noise(3_000_000)
    hub_server.add_dataset("org/large", {"large.parquet": data})
    fault = hub_server.faults.add(path="large.parquet", bytes_per_second=2_000_000)
    code = "from hfgpt.dataset import main; raise SystemExit(main(['--dataset', 'org/large']))"
    process = subprocess.Popen([sys.executable, "-c", code], env=hub_server.env(tmp_path), stderr=subprocess.PIPE)
    blobs = tmp_path / "hf_home" / "hub" / "datasets--org--large" / "blobs"
    deadline = time.monotonic() + 60
    while not any(path.stat().st_size > 500_000 for path in blobs.glob("*.partial")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(how)
    stderr = process.communicate(timeout=30)[1].decode()
    assert fault.times == 0
    if how == signal.SIGINT:
        assert process.returncode == 130 and "the same command goes on from here" in stderr
    have = next(blobs.glob("*.partial")).stat().st_size
    assert 500_000 < have < len(data)
    again = command(hub_server, tmp_path, "--dataset", "org/large")
    assert again.returncode == 0 and f"{len(data) - have:,} bytes downloaded" in again.stdout
    assert any(request.headers.get("Range") == f"bytes={have}-" for request in hub_server.requests)
