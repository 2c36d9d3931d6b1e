"""How every room talks to the Hub: which failures are tried again, and what the others mean for the user."""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import httpx2  # the HTTP client of huggingface_hub
from huggingface_hub import constants, set_client_factory
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils._http import default_client_factory

from hfgpt.errors import UserError

logger = logging.getLogger(__name__)

# 412: somebody else's commit came first, and the next try builds on it.
RETRIED_STATUSES = (408, 412, 429, 500, 502, 503, 504)
# Without a byte for so long a line is dead, however slow it is otherwise; the Hub's own gateway gives up after 60 s.
SILENT_SECONDS = 60.0
T = TypeVar("T")


@dataclass(frozen=True)
class Retries:
    """How often a request may fail in a row, bytes that came in between starting the count anew, and how long to
    wait: `base_seconds`, doubled each time up to `max_seconds`, or what the server's Retry-After says."""

    attempts: int = 6
    base_seconds: float = 1.0
    max_seconds: float = 60.0

    def wait(self, failures: int, error: Exception, stop: threading.Event) -> None:
        seconds = min(self.max_seconds, self.base_seconds * 2 ** (failures - 1))
        if isinstance(error, HfHubHTTPError) and (asked := error.response.headers.get("Retry-After", "")).isdigit():
            seconds = min(self.max_seconds, max(seconds, float(asked)))
        logger.warning("%s; trying again in %.0f s (%d of %d)", reason(error), seconds, failures, self.attempts - 1)
        stop.wait(seconds)


def limit_waiting(seconds: float = SILENT_SECONDS) -> None:
    """Let every request of this process to the Hub fail, and be tried again, when nothing comes or goes for `seconds`:
    huggingface_hub itself would wait for ever for the answer to an upload. Call it before there are threads: it closes
    the connections that are open."""

    def client() -> httpx2.Client:
        made = default_client_factory()
        made.timeout = httpx2.Timeout(seconds)
        return made

    set_client_factory(client)


class DamagedFileError(OSError):
    """A download came to its end, but it is not the file that the Hub lists."""


def reason(error: BaseException) -> str:
    """What went wrong in a few words, without the addresses and hints that the client adds."""
    if isinstance(error, HfHubHTTPError):
        return f"the Hub answered {error.response.status_code}"
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def may_pass(error: Exception) -> bool:
    """Whether the same request may succeed later."""
    if isinstance(error, HfHubHTTPError):
        return error.response.status_code in RETRIED_STATUSES
    return isinstance(error, httpx2.TransportError | DamagedFileError)


def with_retries(call: Callable[[], T], retries: Retries) -> T:
    """`call()`, again after failures that may pass; the last one is raised."""
    for failures in range(1, retries.attempts):
        try:
            return call()
        except (httpx2.HTTPError, OSError) as error:
            if not may_pass(error):
                raise
            retries.wait(failures, error, threading.Event())
    return call()


@contextmanager
def hub_errors(repo: str, revision: str | None = None) -> Iterator[None]:
    """Turns what the Hub's client raises about `repo` into a UserError that says what to do."""
    try:
        yield
    except GatedRepoError as error:
        raise UserError(
            f"{repo} is gated: accept its terms on its page and log in with `hf auth login` (or set HF_TOKEN)."
        ) from error
    except RevisionNotFoundError as error:
        raise UserError(f"{repo} has no revision '{revision}': name one of its branches, tags or commits.") from error
    except RepositoryNotFoundError as error:
        raise UserError(
            f"There is no {repo} on {constants.ENDPOINT}, or it is private: check its spelling, or log in "
            "with `hf auth login` (or set HF_TOKEN)."
        ) from error
    except HFValidationError as error:
        raise UserError(f"'{repo}' is no Hub id: write it as owner/name.") from error
    except OfflineModeIsEnabled as error:
        raise UserError(
            f"{repo} is not complete in the cache ({constants.HF_HUB_CACHE}) and HF_HUB_OFFLINE is set: unset it, or "
            "download on a machine that is online."
        ) from error
    except HfHubHTTPError as error:
        if error.response.status_code in (401, 403):
            raise UserError(
                f"The Hub refused the token for {repo}: it is wrong or expired, or may not do this; log in "
                "again with `hf auth login` (or set HF_TOKEN)."
            ) from error
        if may_pass(error):
            raise UserError(f"{repo}: {reason(error)} again and again; run the same command later.") from error
        raise UserError(f"{repo}: {reason(error)} ({error.server_message or 'without a reason'}).") from error
    except (httpx2.TransportError, DamagedFileError, LocalEntryNotFoundError) as error:
        raise UserError(
            f"{repo}: no whole answer from {constants.ENDPOINT} ({reason(error)}); check the network and run the "
            "same command again, it goes on from where it stopped."
        ) from error
    except OSError as error:
        raise UserError(f"{repo}: {reason(error)}; mend that and run the same command again.") from error
