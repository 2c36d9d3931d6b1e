"""What the Hub stand-in holds: repos with commits, branches, tags and pull requests, their files, and the faults
that a test asks for. Everything lives in memory; hub_server.py speaks HTTP over it."""

import hashlib
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import PurePosixPath

LFS_SUFFIXES = {".arrow", ".bin", ".gz", ".npy", ".parquet", ".pt", ".safetensors", ".zip", ".zst"}
LFS_MIN_BYTES = 10_000_000


@dataclass(frozen=True)
class Blob:
    """One version of one file. The Hub keeps large and binary files in LFS, named by the sha256 of their content."""

    data: bytes
    is_lfs: bool

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @cached_property
    def oid(self) -> str:
        """Git's name of the file: the hash of its content, or of the pointer that stands for it in LFS."""
        content = self.pointer if self.is_lfs else self.data
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()

    @property
    def pointer(self) -> bytes:
        lines = f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(self.data)}\n"
        return lines.encode()

    @property
    def etag(self) -> str:
        return self.sha256 if self.is_lfs else self.oid


@dataclass(frozen=True)
class Commit:
    sha: str
    title: str
    parent: str | None
    files: dict[str, Blob]


@dataclass
class Repo:
    """One repo: `refs` maps branches (heads/main), tags (tags/v1) and pull requests (pr/1) to commits."""

    repo_type: str
    repo_id: str
    private: bool = False
    gated: bool = False
    sdk: str | None = None
    commits: dict[str, Commit] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    pull_requests: list[str] = field(default_factory=list)

    def commit(self, ref: str, title: str, changes: dict[str, Blob], deleted: Iterable[str] = ()) -> Commit:
        """Adds a commit on top of `ref`; `deleted` names files, or folders with a trailing slash."""
        parent = self.refs.get(ref)
        files = dict(self.commits[parent].files) if parent else {}
        for gone in deleted:
            files = {path: blob for path, blob in files.items() if path != gone.rstrip("/") and not _under(path, gone)}
        files.update(changes)
        tree = "".join(f"{path} {blob.oid}\n" for path, blob in sorted(files.items()))
        sha = hashlib.sha1(f"{len(self.commits)} {parent} {title}\n{tree}".encode()).hexdigest()
        self.commits[sha] = Commit(sha, title, parent, files)
        self.refs[ref] = sha
        return self.commits[sha]

    def resolve(self, revision: str) -> Commit | None:
        """The commit of a branch, tag, pull request (refs/pr/1), or of its own sha; None if there is none."""
        names = (f"heads/{revision}", f"tags/{revision}", revision.removeprefix("refs/"))
        sha = next((self.refs[name] for name in names if name in self.refs), revision)
        return self.commits.get(sha)

    def open_pull_request(self, title: str) -> int:
        self.pull_requests.append(title)
        number = len(self.pull_requests)
        self.refs[f"pr/{number}"] = self.refs["heads/main"]
        return number


def _under(path: str, folder: str) -> bool:
    return folder.endswith("/") and path.startswith(folder)


@dataclass
class Fault:
    """Something that goes wrong for requests whose path (with query) contains `path`, `times` times (-1: always).

    `status` (with `headers`) answers instead of the real answer and `delay_seconds` waits before it. The others
    touch the body of a file. On its way down or up: `drop_after_bytes` cuts the connection there and
    `bytes_per_second` is a slow line; only on its way down: `truncate_to_bytes` serves a shorter file as if it were
    whole and `flip_byte_at` damages one byte.
    """

    path: str = ""
    method: str | None = None
    times: int = 1
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    delay_seconds: float = 0.0
    drop_after_bytes: int | None = None
    truncate_to_bytes: int | None = None
    flip_byte_at: int | None = None
    bytes_per_second: float | None = None

    @property
    def touches_body(self) -> bool:
        body_settings = (self.drop_after_bytes, self.truncate_to_bytes, self.flip_byte_at, self.bytes_per_second)
        return any(setting is not None for setting in body_settings)


class Faults:
    """The faults still to come; a test adds them, the server takes the first that fits a request."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []
        self._lock = threading.Lock()

    def add(self, **settings) -> Fault:
        fault = Fault(**settings)
        with self._lock:
            self._faults.append(fault)
        return fault

    def clear(self) -> None:
        with self._lock:
            self._faults.clear()

    def take(self, method: str, path: str, body: bool) -> Fault | None:
        """The first fault that fits, used up by one; `body` asks for those that touch a file's bytes."""
        with self._lock:
            for fault in self._faults:
                fits = fault.path in path and fault.method in (None, method) and fault.touches_body == body
                if fits and fault.times != 0:
                    fault.times -= 1
                    return fault
        return None


@dataclass
class Collection:
    """A named list of repos; `items` holds (repo type, repo id, note)."""

    title: str
    owner: str
    private: bool
    items: list[tuple[str, str, str | None]] = field(default_factory=list)


class HubStore:
    """All repos and collections of the stand-in, the LFS objects uploaded so far, and who may come in (token -> user
    name)."""

    def __init__(self) -> None:
        self.repos: dict[tuple[str, str], Repo] = {}
        self.collections: dict[str, Collection] = {}
        self.lfs_objects: dict[str, bytes] = {}
        self.tokens = {"hf_stand_in_token": "tester"}
        self.lock = threading.RLock()

    def create_repo(self, repo_type: str, repo_id: str, private: bool = False, gated: bool = False) -> Repo:
        repo = Repo(repo_type, repo_id, private=private, gated=gated)
        repo.commit("heads/main", "initial commit", {".gitattributes": Blob(b"*.parquet filter=lfs\n", False)})
        self.repos[(repo_type, repo_id)] = repo
        return repo

    def add_files(self, repo: Repo, files: dict[str, bytes], title: str = "add files") -> Commit:
        """Commits `files` to main, each in LFS or not as the Hub would choose."""
        blobs = {path: Blob(data, self.is_lfs(path, len(data))) for path, data in files.items()}
        for blob in blobs.values():
            if blob.is_lfs:
                self.lfs_objects[blob.sha256] = blob.data
        return repo.commit("heads/main", title, blobs)

    @staticmethod
    def is_lfs(path: str, num_bytes: int) -> bool:
        return num_bytes > 0 and (PurePosixPath(path).suffix in LFS_SUFFIXES or num_bytes >= LFS_MIN_BYTES)
