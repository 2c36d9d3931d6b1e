"""The text column of a file of rows: what there is to learn from as plain text, and a count of what is left out."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from hfgpt.data.row_formats import ROW_FORMATS, Row, json_type, missing_text_column
from hfgpt.errors import UserError


def row_texts(path: Path, format: str, column: str, counts: Counter) -> Iterator[str]:
    """The text in `column` of every row. Null and blank texts are counted as `rows_without_text`, halves of surrogate
    pairs as `rows_with_broken_unicode`. Raises UserError, naming the row, for a row without text."""
    for row in ROW_FORMATS[format](path, column):
        if not isinstance(row.value, dict):
            raise UserError(
                f"{path}: {row.where} is a JSON {json_type(row.value)}, not an object with named columns; "
                f'write each document as {{"{column}": "..."}}.'
            )
        if column not in row.value:
            raise missing_text_column(path, f"{row.where} of ", list(row.value), column)
        text = _checked_text(row, path, column, counts)
        if text is not None:
            yield text


def _checked_text(row: Row, path: Path, column: str, counts: Counter) -> str | None:
    """The row's text if there is something to learn from it; None, counted, otherwise."""
    text = row.value[column]
    if text is None or text == "" or (isinstance(text, str) and text.isspace()):
        counts["rows_without_text"] += 1
        return None
    if not isinstance(text, str):
        raise UserError(
            f"{path}: {row.where} has a {json_type(text)} in column '{column}', not text; "
            "mend the row, or set data.columns to {text: NAME} with the column that holds text."
        )
    if not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:  # half of a surrogate pair, left by crawlers that cut text inside an emoji
            counts["rows_with_broken_unicode"] += 1
            return None
    return text
