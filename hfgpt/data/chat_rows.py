"""Where conversations come from: `ConversationShard`, the unit of independent work, and the choice of a source by
section `data`. Nothing here tokenizes, splits or truncates."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from hfgpt.arguments import DataArguments
from hfgpt.data.conversations import COLUMN_NAMES, LeftOut, canonical
from hfgpt.data.row_formats import Row
from hfgpt.errors import UserError


class RowShard(Protocol):
    """A shard of a source whose files hold rows: a FileShard or a HubShard."""

    @property
    def name(self) -> str: ...

    def rows(self, counts: Counter) -> Iterator[tuple[str, Row]]:
        """Every row with the name of its file."""
        ...

    def fingerprint(self) -> str: ...


class ConversationShard(Protocol):
    """A piece of a source that one process can read alone: picklable, re-iterable, flat in memory.

    `name` is unique within the source and the same in every run over the same files.
    """

    @property
    def name(self) -> str: ...

    def conversations(self, counts: Counter | None = None) -> Iterator[dict]:
        """Yields canonical conversations (see conversations.py) in a fixed order. What is left out is added to
        `counts`: `empty_files`, `rows_without_turns`, `rows_with_blank_turns`, `rows_with_broken_unicode`. Raises
        UserError, naming file, row and reason, for what is no conversation."""
        ...

    def fingerprint(self) -> str:
        """A short string that changes when the conversations may have changed."""
        ...


@dataclass(frozen=True)
class FileConversations:
    """The conversations in the rows of files; `columns` is `data.columns`."""

    source: RowShard
    columns: dict[str, str]

    @property
    def name(self) -> str:
        return self.source.name

    def conversations(self, counts: Counter | None = None) -> Iterator[dict]:
        counts = Counter() if counts is None else counts
        return read_rows(self.source, lambda row: canonical(row, self.columns), counts)

    def fingerprint(self) -> str:
        return repr((self.source.fingerprint(), sorted(self.columns.items())))


def conversation_shards(data: DataArguments) -> list[ConversationShard]:
    """The shards that `data.dataset` or `data.data_path` names, in a stable order. Raises UserError."""
    if data.dataset == "tinyworld" and not data.data_path:
        from hfgpt.data import tinyworld

        return list(tinyworld.chat_shards(data))
    return [FileConversations(shard, data.columns) for shard in row_shards(data, COLUMN_NAMES)]


def row_shards(data: DataArguments, column_names: list[str]) -> list[RowShard]:
    """Local files, or those of a Hub dataset, as shards of rows; `column_names` are those that `data.columns` may
    give. Raises UserError."""
    if data.dataset and data.data_path:
        raise UserError("data.dataset and data.data_path are both set: keep one of them.")
    if not data.dataset and not data.data_path:
        raise UserError(
            "No conversations to read: set data.dataset (tinyworld or a Hub dataset id, as HuggingFaceTB/smoltalk) "
            "or data.data_path (a file, folder or glob)."
        )
    if data.dataset == "gutenberg" or data.format == "gutenberg":
        raise UserError(
            "Books of Project Gutenberg hold no conversations: set data.dataset or data.data_path to some."
        )
    if unknown := set(data.columns) - set(column_names):
        raise UserError(
            f"data.columns has the key {min(unknown)!r}, which is none of {', '.join(column_names)}: keys are these "
            "names, values the names of the columns in the data, as {messages: dialogue}."
        )
    unnamed = replace(data, columns={})
    if data.data_path:
        from hfgpt.data import local_files

        return list(local_files.local_shards(unnamed))
    from hfgpt.data import hub_files

    return list(hub_files.hub_shards(unnamed))


def read_rows(shard: RowShard, read: Callable[[Any], dict], counts: Counter) -> Iterator[dict]:
    """`read` of every row; one that is left out is counted, one that is broken raises UserError, naming it."""
    for file, row in shard.rows(counts):
        try:
            yield read(row.value)
        except LeftOut as left_out:
            counts[left_out.reason] += 1
        except ValueError as error:
            raise UserError(f"{file}: {row.where}: {error}; mend or remove the row.") from error


def download(shards: Sequence[ConversationShard]) -> None:
    """Download, in parallel, the Hub's files among `shards` that are not here yet."""
    sources = [shard.source for shard in shards if isinstance(shard, FileConversations)]
    if sources:
        from hfgpt.data.hub_files import HubShard, download_shards

        download_shards([source for source in sources if isinstance(source, HubShard)])
