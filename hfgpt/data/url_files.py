"""Files named by their URL: downloaded once into the cache, and looked at again only if they are not there."""

import os
import threading
from hashlib import blake2b
from pathlib import Path
from urllib.parse import unquote, urlsplit

import httpx2
from huggingface_hub import constants, is_offline_mode

from hfgpt.errors import UserError
from hfgpt.hub_client import RETRIED_STATUSES, Retries

TIMEOUT_SECONDS = 30.0


def is_url(name: str) -> bool:
    return name.startswith(("https://", "http://"))


def local_copy(url: str, retries: Retries | None = None, key: str = "data.data_path") -> Path:
    """The file at `url` in HF's cache (`HF_HOME`), under its own name; downloaded first if it is not there.

    To fetch a newer version remove the copy. Raises UserError, which names the `key` that the URL was given by, for an
    address that gives no file, in offline mode, and where the network fails again and again.
    """
    name = Path(unquote(urlsplit(url).path)).name
    if not name:
        raise UserError(f"{key}: {url} names no file.")
    folder = Path(constants.HF_HOME) / "hfgpt-files" / blake2b(url.encode(), digest_size=8).hexdigest()
    path = folder / name
    if path.is_file():
        return path
    if is_offline_mode():
        raise UserError(f"{key}: {url} is not in the cache and HF_HUB_OFFLINE is set: unset it.")
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f"{name}.{os.getpid()}.partial"
    retries = retries or Retries()
    try:
        for failures in range(1, retries.attempts + 1):
            try:
                _download(url, partial, key)
                break
            except (httpx2.TransportError, _PassingStatus) as error:
                if failures == retries.attempts:
                    raise UserError(
                        f"{key}: {url} could not be fetched ({error}); check the network and run the same "
                        "command again."
                    ) from error
                retries.wait(failures, error, threading.Event())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path


class _PassingStatus(OSError):
    """An answer that may be another one later, as 503."""


def _download(url: str, partial: Path, key: str) -> None:
    plain = {"Accept-Encoding": "identity"}
    with httpx2.stream("GET", url, headers=plain, follow_redirects=True, timeout=TIMEOUT_SECONDS) as answer:
        if answer.status_code in RETRIED_STATUSES:
            raise _PassingStatus(f"the server answered {answer.status_code}")
        if answer.status_code != 200:
            raise UserError(f"{key}: {url} answered {answer.status_code}; check the address.")
        with partial.open("wb") as file:
            for chunk in answer.iter_raw():  # what is cut short raises a TransportError
                file.write(chunk)
