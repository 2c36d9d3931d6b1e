"""Loading from the Hub over a line that breaks: again where that may help, else one sentence. transformers does not
try again after an answer of 500 or 429, and hides what happened behind advice of its own."""

import threading
from collections.abc import Callable
from typing import TypeVar

import httpx2  # the HTTP client of huggingface_hub
from huggingface_hub import constants
from huggingface_hub.errors import HfHubHTTPError

from hfgpt.errors import UserError
from hfgpt.hub_client import Retries, may_pass, reason

T = TypeVar("T")
# Few: the client has tried most requests six times by then. What has come is kept from one try to the next.
RETRIES = Retries(attempts=2)


def over_a_bad_line(name: str, load: Callable[[], T]) -> T:
    """`load()`, which reads the model or tokenizer `name`. Raises UserError where the line stays broken, and what
    `load` raises for any other reason."""
    for failures in range(1, RETRIES.attempts + 1):
        try:
            return load()
        except Exception as error:
            broken = _of_the_line(error)
            if broken is None:
                raise
            if failures == RETRIES.attempts or isinstance(broken, httpx2.ConnectError):  # nobody there
                raise UserError(
                    f"{name} could not be downloaded from {constants.ENDPOINT} ({reason(broken)}); check the network "
                    "and run the same command again, it goes on from where it stopped."
                ) from error
            RETRIES.wait(failures, broken, threading.Event())
    raise AssertionError("the last try returns or raises")


def _of_the_line(error: BaseException) -> Exception | None:
    """The error of the connection, or of a file of the wrong size, that led to `error`."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, httpx2.HTTPError) and may_pass(cause):
            return cause
        if isinstance(cause, OSError) and str(cause).startswith("Consistency check failed"):
            return cause
        cause = None if isinstance(cause, HfHubHTTPError) else cause.__cause__ or cause.__context__
    return None
