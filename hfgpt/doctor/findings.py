"""What a check of `hfgpt doctor` finds: one line of what is there, how bad it is, and how to mend it."""

import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from hfgpt.errors import UserError

Status = Literal["ok", "warning", "failed"]


@dataclass(frozen=True)
class Finding:
    """`remedy` says what to do, where something is not ok. "failed" is what hfgpt does not work with."""

    check: str
    status: Status
    found: str
    remedy: str = ""

    def as_text(self) -> str:
        line = f"{self.status:8} {self.check:12} {self.found}"
        return f"{line}\n{'':22}-> {self.remedy}" if self.remedy else line


def findings_of(check: str, examine: Callable[[], Iterable[Finding]], debug: bool = False) -> Iterator[Finding]:
    """What `examine` finds; and that it failed itself, where it did. `debug` prints the traceback of that."""
    try:
        yield from examine()
    except UserError as error:
        yield Finding(check, "failed", str(error))
    except Exception as error:  # whatever is wrong with this machine, the other checks shall still be made
        if debug:
            traceback.print_exc()
        reason = (str(error).strip() or "no reason given").splitlines()[0]
        yield Finding(check, "failed", f"{type(error).__name__}: {reason}", "hfgpt doctor --debug shows where")
