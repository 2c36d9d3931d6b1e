"""Where documents come from: `SourceShard`, the unit of independent work, and the choice of a source by section
`data`. Nothing here tokenizes, splits or filters."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from hfgpt.arguments import DataArguments
from hfgpt.errors import UserError


@dataclass(frozen=True)
class SourceShard(ABC):
    """A piece of a source that one process can read alone: picklable, re-iterable, flat in memory.

    `name` is unique within the source and the same in every run over the same files.
    """

    name: str

    @abstractmethod
    def documents(self, counts: Counter | None = None) -> Iterator[str]:
        """Yields the documents' text in a fixed order. What is left out is added to `counts`: `empty_files`,
        `rows_without_text` (null or blank), `rows_with_broken_unicode`, `blank_documents`,
        `books_without_markers` (kept whole). Raises UserError, naming file and row, for what cannot be read."""

    @abstractmethod
    def fingerprint(self) -> str:
        """A short string that changes when the documents may have changed."""


def source_shards(data: DataArguments) -> list[SourceShard]:
    """The shards that `data.dataset` or `data.data_path` names, in a stable order. Raises UserError."""
    if data.dataset and data.data_path:
        raise UserError("data.dataset and data.data_path are both set: keep one of them.")
    if data.data_path:
        from hfgpt.data import local_files

        return list(local_files.local_shards(data))
    if not data.dataset:
        raise UserError(
            "No text to read: set data.dataset (tinyworld, gutenberg or a Hub dataset id) "
            "or data.data_path (a file, folder or glob)."
        )
    if data.format == "gutenberg" or (data.gutenberg_books and data.dataset != "gutenberg"):
        raise UserError(
            f"data.dataset is {data.dataset}, but data.format: gutenberg goes with data.data_path "
            "and data.gutenberg_books with data.dataset: gutenberg; change one of them."
        )
    if data.dataset == "tinyworld":
        from hfgpt.data import tinyworld

        return list(tinyworld.tinyworld_shards(data))
    if data.dataset == "gutenberg":
        from hfgpt.data import gutenberg_books

        return list(gutenberg_books.gutenberg_book_shards(data.gutenberg_books))
    from hfgpt.data import hub_files

    return list(hub_files.hub_shards(data))
