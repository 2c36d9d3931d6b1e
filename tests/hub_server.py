"""A stand-in of the Hub's HTTP API, good enough for the real `huggingface_hub`, `datasets` and `transformers`.

    with HubServer() as hub:
        hub.add_dataset("org/name", {"data/train-00000.parquet": data})
        hub.faults.add(path="train-00000", drop_after_bytes=1000)
        subprocess.run([...], env=hub.env(tmp_path))     # or HfApi(endpoint=hub.url, token=hub.token)

Models, datasets and spaces; create, info, tree with pages, resolve with ranges, preupload, LFS (one part or many),
commits, branches, tags, pull requests, collections. As on the Hub, large files are served from a storage host of their
own, by a redirect that carries their size and hash. Not there: Xet (switched off by `env`), search.
"""

import os
import threading
from http.server import ThreadingHTTPServer
from pathlib import Path

from hub_api import HubApi
from hub_http import Request
from hub_store import Faults, HubStore, Repo


class HubServer:
    """The stand-in: `url` is the API's address, `store` what it holds, `faults` what shall go wrong."""

    def __init__(self, page_size: int = 1000, multipart_bytes: int | None = None):
        """`page_size` is entries a page of a listing, `multipart_bytes` the part size of LFS uploads (None: one)."""
        self.page_size, self.multipart_bytes = page_size, multipart_bytes
        self.store, self.faults = HubStore(), Faults()
        self.requests: list[Request] = []
        handler = type("Handler", (HubApi,), {"hub": self})
        self._servers = [ThreadingHTTPServer(("127.0.0.1", 0), handler) for _ in range(2)]
        self.url, self.storage_url = (f"http://127.0.0.1:{server.server_address[1]}" for server in self._servers)
        self.token = next(iter(self.store.tokens))

    def __enter__(self) -> "HubServer":
        for server in self._servers:
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *exception) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()

    def env(self, home: Path, **more: str) -> dict[str, str]:
        """The environment of a process whose Hub is this one, with its own empty cache under `home`."""
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
        switches = ("HF_HUB_DISABLE_XET", "HF_HUB_DISABLE_TELEMETRY", "HF_HUB_DISABLE_UPDATE_CHECK")
        ours = {"HF_ENDPOINT": self.url, "HF_HOME": str(home / "hf_home"), "HF_TOKEN": self.token}
        return {**clean, **ours, **dict.fromkeys(switches, "1"), **more}

    def add_dataset(self, repo_id: str, files: dict[str, bytes], **options: bool) -> Repo:
        return self._add("dataset", repo_id, files, **options)

    def add_model(self, repo_id: str, files: dict[str, bytes], **options: bool) -> Repo:
        return self._add("model", repo_id, files, **options)

    def _add(self, repo_type: str, repo_id: str, files: dict[str, bytes], **options: bool) -> Repo:
        repo = self.store.repos.get((repo_type, repo_id)) or self.store.create_repo(repo_type, repo_id, **options)
        self.store.add_files(repo, files)
        return repo

    def files(self, repo_id: str, repo_type: str = "dataset", revision: str = "main") -> dict[str, bytes]:
        """What the repo holds now, {path: content}."""
        commit = self.store.repos[(repo_type, repo_id)].resolve(revision)
        assert commit is not None, f"{repo_id} has no revision {revision}"
        return {path: blob.data for path, blob in commit.files.items()}

    def count(self, method: str, part: str) -> int:
        """How many requests came so far with this method and `part` in their path."""
        return sum(request.method == method and part in request.path for request in self.requests)
