"""A look at prepared data: what was counted while it was made, whether its files are as they were written, and a few
packed rows as text with the documents' boundaries visible."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from hfgpt.data.prepared import PreparedData, damaged_files, open_prepared
from hfgpt.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

_LINES = {
    "documents": "documents",
    "text_bytes": "text, UTF-8 bytes",
    "tokens": "text tokens",
    "rows": "rows",
    "bos_tokens": "BOS tokens added",
    "dropped_tokens": "tokens dropped (last, incomplete row of a block)",
    "beyond_tokens": "tokens beyond the wanted number",
    "empty_documents": "documents without a token",
    "long_documents": "documents longer than a row",
    "cut_documents": "documents cut to close a row",
}


def inspect_prepared(path: Path, tokenizer: "PreTrainedTokenizerBase", num_rows: int = 3) -> RenderableType:
    """Statistics of the prepared data in `path` and the first `num_rows` rows of each split, for rich's print, once
    the hashes of all its files are found right. Raises UserError if the folder is not complete or damaged."""
    prepared = open_prepared(Path(path))
    if prepared is None:
        raise UserError(f"{path} holds no complete prepared data: run `hfgpt data prepare` (again).")
    if damaged := damaged_files(prepared):
        raise UserError(
            f"{path}: {', '.join(damaged)} changed after being written; delete the folder and prepare the text anew."
        )
    parts: list[RenderableType] = [_statistics_table(prepared)]
    splits = {"validation": prepared.validation()}
    if prepared.train_rows is not None:
        splits = {"train": prepared.train()} | splits
    for split, rows in splits.items():
        parts += [_row_panel(split, number, rows, tokenizer) for number in range(min(num_rows, len(rows)))]
    return Group(*parts)


def _statistics_table(prepared: PreparedData) -> Table:
    statistics = prepared.statistics
    splits = [split for split in ("train", "validation") if split in statistics]
    table = Table(title=f"{prepared.path}", title_justify="left")
    table.add_column(f"rows of {statistics['max_length']:,} tokens, no padding")
    for split in splits:
        table.add_column(split, justify="right")
    for name, line in _LINES.items():
        table.add_row(line, *(_number(name, statistics[split], statistics["max_length"]) for split in splits))
    table.add_row(
        "bytes per token",
        *(f"{statistics[split]['text_bytes'] / max(statistics[split]['tokens'], 1):.3f}" for split in splits),
    )
    for name, number in {
        "shorter than data.min_document_chars": statistics["too_short"],
        **statistics["left_out"],
    }.items():
        if number:
            table.add_row(f"left out: {name.replace('_', ' ') if '.' not in name else name}", f"{number:,}")
    return table


def _number(name: str, counts: dict[str, int], max_length: int) -> str:
    """A count, with its share of the row tokens (BOS) or of the text tokens."""
    shares = {"bos_tokens": counts["rows"] * max_length, "dropped_tokens": counts["tokens"]}
    if not shares.get(name):
        return f"{counts[name]:,}"
    return f"{counts[name]:,} ({counts[name] / shares[name]:.2%})"


def _row_panel(split: str, number: int, rows: "Dataset", tokenizer: "PreTrainedTokenizerBase") -> Panel:
    row = np.array(rows[number]["input_ids"])
    starts = np.flatnonzero(row == tokenizer.bos_token_id)
    text = Text()
    for piece, (start, end) in enumerate(zip(starts, [*starts[1:], len(row)], strict=True)):
        text.append(f"{tokenizer.bos_token} {end - start} tokens ", style="bold reverse")
        text.append("\n")
        text.append(str(tokenizer.decode(row[start + 1 : end])), style="" if piece % 2 else "cyan")
        text.append("\n")
    return Panel(text, title=f"{split}, row {number}: {len(starts)} pieces in {len(row)} tokens", title_align="left")
