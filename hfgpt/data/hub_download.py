"""Files of a Hub dataset onto this machine: in parallel, resumed where they stopped, checked by size and hash.

Plain HTTP with ranges rather than Xet, whose partial files end with the process: what a killed download has fetched
stays, and the next one goes on from there. Files land in the Hub's own cache, where every HF tool finds them.
"""

import hashlib
import os
import shutil
import threading
from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

import httpx2  # the HTTP client of huggingface_hub
from filelock import FileLock
from huggingface_hub import HfApi, constants, hf_hub_url, is_offline_mode
from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled
from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status
from tqdm import tqdm

from hfgpt.errors import UserError
from hfgpt.hub_client import DamagedFileError, Retries, hub_errors, may_pass, with_retries

HASHED_BYTES = 1 << 20


@dataclass(frozen=True)
class HubFile:
    """One file of a Hub dataset at one commit; `etag` is the sha256 of an LFS file, git's blob hash of any other."""

    dataset: str
    commit: str
    path: str
    num_bytes: int
    etag: str


def download_files(
    files: Sequence[HubFile],
    *,
    num_workers: int = 4,
    output_dir: Path | None = None,
    retries: Retries | None = None,
    progress: bool = True,
    api: HfApi | None = None,
    cache_dir: Path | None = None,
) -> list[Path]:
    """The local paths of `files`, in their order, downloading those that are missing, `num_workers` at a time.

    They go to the Hub's cache, or as plain files below `output_dir`, where a file of the right size counts as there.
    Ctrl-C stops within seconds and keeps what has come. Raises UserError for what the user can mend: access,
    network, offline mode, free disk.
    """
    api, retries = api or HfApi(), retries or Retries()
    cache = Path(cache_dir or constants.HF_HUB_CACHE)
    targets = [_Target(file, cache, output_dir) for file in files]
    missing = [target for target in targets if not target.is_there()]
    if missing:
        repo = missing[0].file.dataset
        with hub_errors(repo):
            if is_offline_mode():
                raise OfflineModeIsEnabled(repo)
            _check_free_disk(missing, output_dir or cache)
            _download_all(missing, api, retries, num_workers, progress)
    return [target.path for target in targets]


def bytes_to_download(files: Sequence[HubFile], output_dir: Path | None = None) -> int:
    """Bytes of `files` that are not on this machine yet, those of half-downloaded files included."""
    targets = [_Target(file, Path(constants.HF_HUB_CACHE), output_dir) for file in files]
    return sum(target.bytes_to_come() for target in targets if not target.is_there())


def is_cached(file: HubFile, cache_dir: Path | None = None) -> bool:
    """Whether the whole file lies in the Hub's cache."""
    return _Target(file, Path(cache_dir or constants.HF_HUB_CACHE), None).is_there()


class _Target:
    """Where one file lies once it is there, and where it grows until then."""

    def __init__(self, file: HubFile, cache: Path, output_dir: Path | None):
        self.file, self.cache, self.output_dir = file, cache, output_dir
        folder = f"datasets--{file.dataset.replace('/', '--')}"
        if output_dir is None:
            self.whole = cache / folder / "blobs" / file.etag
            self.lock = cache / ".locks" / folder / f"{file.etag}.lock"
        else:
            self.whole = output_dir / file.path
            self.lock = output_dir / ".locks" / f"{file.etag}.lock"
        self.partial = self.whole.with_name(f"{self.whole.name}.partial")

    @property
    def path(self) -> Path:
        """Where users find the file: in the cache, the link of this commit to the blob."""
        if self.output_dir is not None:
            return self.whole
        return self.whole.parents[1] / "snapshots" / self.file.commit / self.file.path

    def is_there(self) -> bool:
        """Whether the finished file is there, with the size that the Hub gives."""
        return self.path.is_file() and self.path.stat().st_size == self.file.num_bytes

    def bytes_to_come(self) -> int:
        have = next((path.stat().st_size for path in (self.whole, self.partial) if path.is_file()), 0)
        return max(0, self.file.num_bytes - have)


def _check_free_disk(missing: Sequence[_Target], folder: Path) -> None:
    needed = sum(target.bytes_to_come() for target in missing)
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(there).free
    if needed > free:
        raise UserError(
            f"{len(missing)} files of {missing[0].file.dataset} need {needed / 1e6:,.1f} MB more, but only "
            f"{free / 1e6:,.1f} MB are free at {there}: make room, take fewer files, or set HF_HOME to a larger disk."
        )


def _download_all(missing: Sequence[_Target], api: HfApi, retries: Retries, num_workers: int, progress: bool) -> None:
    total = sum(target.file.num_bytes for target in missing)
    start = total - sum(target.bytes_to_come() for target in missing)
    name = missing[0].file.dataset
    stop = threading.Event()
    bar = tqdm(total=total, initial=start, unit="B", unit_scale=True, desc=name, disable=None if progress else True)
    with bar, ThreadPoolExecutor(max_workers=max(1, num_workers)) as pool:
        fetches = [pool.submit(_Fetch(target, api, retries, bar, stop)) for target in missing]
        try:
            done, _ = wait(fetches, return_when=FIRST_EXCEPTION)
        finally:  # also after Ctrl-C: threads look at `stop` between chunks and while they wait
            stop.set()
            pool.shutdown(cancel_futures=True)
        for fetch in done:
            fetch.result()


class _Fetch:
    """One file's download, as a call for a thread."""

    def __init__(self, target: _Target, api: HfApi, retries: Retries, bar: tqdm, stop: threading.Event):
        self.target, self.api, self.retries, self.bar, self.stop = target, api, retries, bar, stop
        self.file, self.partial = target.file, target.partial
        self.url = hf_hub_url(
            self.file.dataset,
            self.file.path,
            repo_type="dataset",
            revision=self.file.commit,
            endpoint=api.endpoint,
        )

    def __call__(self) -> None:
        self.partial.parent.mkdir(parents=True, exist_ok=True)
        self.target.lock.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(self.target.lock):  # two processes (ranks) wait for one download
            if not self.target.is_there() and not self._whole_is_right():
                self._download()
        if self.target.output_dir is None and not self.target.is_there():
            self.target.path.unlink(missing_ok=True)
            # The library links the blob into its cache; it downloads nothing, as the blob is there.
            with_retries(self._link, self.retries)

    def _link(self) -> None:
        try:
            self.api.hf_hub_download(
                self.file.dataset,
                self.file.path,
                repo_type="dataset",
                revision=self.file.commit,
                cache_dir=self.target.cache,
            )
        except LocalEntryNotFoundError as error:  # what the library makes of a connection that failed
            if is_offline_mode():
                raise
            raise httpx2.ConnectError(str(error)) from error

    def _whole_is_right(self) -> bool:
        whole = self.target.whole
        if whole.is_file() and whole.stat().st_size == self.file.num_bytes:
            return True
        whole.unlink(missing_ok=True)
        return False

    def _download(self) -> None:
        failures = 0
        while True:
            before = self._have()
            try:
                self._fetch_rest(before)
                self._check_whole()
                os.replace(self.partial, self.target.whole)
                return
            except (httpx2.HTTPError, OSError) as error:
                if not may_pass(error) or self.stop.is_set():
                    raise
                failures = 1 if self._have() > before else failures + 1
                if failures >= self.retries.attempts:
                    raise
                self.retries.wait(failures, error, self.stop)
                if self.stop.is_set():
                    raise

    def _have(self) -> int:
        return self.partial.stat().st_size if self.partial.exists() else 0

    def _fetch_rest(self, have: int) -> None:
        """Appends what is missing to the partial file; raises what the connection raises."""
        if have >= self.file.num_bytes:
            return
        headers = build_hf_headers(token=self.api.token) | {"Accept-Encoding": "identity"}
        if have:
            headers["Range"] = f"bytes={have}-"
        timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT
        with get_session().stream("GET", self.url, headers=headers, timeout=timeout) as response:
            if response.status_code == 416:
                self._throw_away(f"{self.file.path}: the server has fewer bytes than the {have} here")
            hf_raise_for_status(response)
            if have and response.status_code != 206:  # the server sends the whole file
                self.bar.update(-have)
                have = 0
            with self.partial.open("ab" if have else "wb") as partial:
                for chunk in response.iter_bytes():
                    partial.write(chunk)
                    self.bar.update(len(chunk))
                    if self.stop.is_set():
                        raise InterruptedError(f"the download of {self.file.path} was stopped")

    def _check_whole(self) -> None:
        """Keeps only what is the file that the Hub lists; a wrong one is removed, to be fetched anew."""
        have = self._have()
        if have != self.file.num_bytes:
            self._throw_away(f"{self.file.path}: {have} bytes came, but the Hub lists {self.file.num_bytes}")
        if _content_hash(self.partial, self.file) != self.file.etag:
            self._throw_away(f"{self.file.path}: what came has another hash than the Hub lists")

    def _throw_away(self, why: str) -> None:
        self.bar.update(-self._have())
        self.partial.unlink(missing_ok=True)
        raise DamagedFileError(why)


def _content_hash(path: Path, file: HubFile) -> str:
    is_lfs = len(file.etag) == 64
    digest = hashlib.sha256() if is_lfs else hashlib.sha1(b"blob %d\0" % file.num_bytes)
    with path.open("rb") as content:
        while chunk := content.read(HASHED_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
