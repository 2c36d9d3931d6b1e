"""Which models a page offers, by the names that its visitors pick from; a model is loaded when it is first asked."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from hfgpt.chat.arguments import complete_stages, model_name
from hfgpt.errors import UserError
from hfgpt.recipe import STAGES

if TYPE_CHECKING:
    from hfgpt.chat.engine import Engine


def offered_models(names: list[str]) -> dict[str, str]:
    """What to load (a folder or a Hub id) by the name that the page shows, in the order given.

    A run's folder stands for all its complete stages, earliest first. Raises UserError for a folder that is missing
    or is neither a model nor a run.
    """
    folders = [_named(name) for name in names]
    several = len(folders) > 1
    offered: dict[str, str] = {}
    for shown, stages in folders:
        for stage, location in stages.items():
            label = f"{shown}/{stage}" if several and stage else stage or shown
            offered.setdefault(label if label not in offered else location, location)
    return offered


def short_name(name: str) -> str:
    """What people call it: a Hub id as it is, a folder's own name, a stage's after its run's (tiny/sft)."""
    if not Path(name).expanduser().is_dir():
        return name
    folder = Path(os.path.abspath(Path(name).expanduser()))  # of "." too, and links as they are named
    return f"{folder.parent.name}/{folder.name}" if folder.name in STAGES else folder.name


def _named(name: str) -> tuple[str, dict[str, str]]:
    """How a model or run is called, and what to load by stage ("" for a model that is no run's)."""
    folder = Path(name).expanduser()
    location = model_name(name)
    if not folder.is_dir():
        return name, {"": name}
    if location == str(folder):
        return short_name(name), {"": location}
    return short_name(name), {stage.name: str(stage) for stage in complete_stages(folder)}


class Models:
    """The models of a page, of which the `kept` used last stay in memory."""

    def __init__(self, offered: dict[str, str], load: Callable[[str], Engine], kept: int = 2) -> None:
        self.offered = offered
        self.kept = kept
        self._load = load
        self._engines: OrderedDict[str, Engine] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def names(self) -> list[str]:
        return list(self.offered)

    def __getitem__(self, name: str) -> Engine:
        """The engine called `name`, loaded if need be. Raises UserError where there is none or it does not load."""
        if name not in self.offered:
            raise UserError(f"there is no model {name} here: choose one of {', '.join(self.names)}.")
        with self._lock:
            if name not in self._engines:
                while len(self._engines) >= self.kept:
                    self._engines.popitem(last=False)
                engine = self._load(self.offered[name])
                engine.name = name  # in what it says to visitors, who need not know of folders
                self._engines[name] = engine
            self._engines.move_to_end(name)
            return self._engines[name]
