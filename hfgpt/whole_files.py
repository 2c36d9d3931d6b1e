"""Small files that are there whole or not at all, whenever the process or the machine may end."""

import json
import os
from pathlib import Path
from typing import Any

from hfgpt.errors import UserError


def write_whole(path: Path, text: str) -> None:
    """Write `text` as UTF-8 beside `path`, see it on the disk, then let it take the place of what was there."""
    aside = path.with_name(f"{path.name}.tmp")
    with aside.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in `path`. Raises UserError where there is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing: name the folder of a stage that a run left.") from error
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise UserError(f"{path} is damaged, it holds no JSON object: put a whole copy in its place.")
    return found
