"""The text column of JSON lines, JSON, CSV and Parquet files, one generator a format, each flat in memory. What cannot
be read is a UserError that names file and row; what is left out is counted."""

import csv
import json
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

from hfgpt.data.unpacking import PACKINGS, byte_blocks, text_blocks, text_lines
from hfgpt.errors import UserError

MAX_CSV_FIELD_CHARS = 1 << 28  # an unclosed quote ends here instead of swallowing the file
PARQUET_BATCH_ROWS = 256

_DATA_LIST = re.compile(r'\{\s*"data"\s*:\s*\[')


def jsonl_documents(path: Path, column: str, counts: Counter) -> Iterator[str]:
    """The text column of JSON lines."""

    def rows() -> Iterator[tuple[int, object]]:
        for number, line in enumerate(text_lines(path), start=1):
            if line and not line.isspace():
                try:
                    yield number, json.loads(line)
                except (ValueError, RecursionError) as error:
                    what = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
                    raise UserError(f"{path}: line {number} is not valid JSON ({what}); mend or remove it.") from error

    return _object_texts(rows(), path, "line", column, counts)


def json_documents(path: Path, column: str, counts: Counter) -> Iterator[str]:
    """The text column of a list of objects, of {"data": [...]}, or of objects one after the other."""
    return _object_texts(enumerate(_json_rows(path), start=1), path, "row", column, counts)


def _json_rows(path: Path) -> Iterator[object]:
    text = _JsonText(path)
    first = text.peek()
    if data_list := _DATA_LIST.match(text.text, text.position):
        text.position = data_list.end() - 1
        yield from text.list_items()
        text.push_back('{"data": 0')
        text.value()  # what follows the list must close the object
    elif first == "[":
        yield from text.list_items()
    elif first:
        row = text.value()
        if not text.peek() and isinstance(row, dict) and isinstance(row.get("data"), list):
            yield from row["data"]
        else:
            yield row
            while text.peek():
                yield text.value()
    if text.peek():
        raise text.error("text after the end of the data")


class _JsonText:
    """A JSON file read value by value, holding little more than one value at a time."""

    def __init__(self, path: Path):
        self.path, self.blocks = path, text_blocks(path)
        self.text, self.position, self.line, self.ended = "", 0, 1, False
        self.decoder = json.JSONDecoder()

    def fill(self, chars: int = 1) -> None:
        """Drops what has been read and appends at least `chars` characters, if so many are left."""
        self.line += self.text.count("\n", 0, self.position)
        pieces, wanted = [self.text[self.position :]], chars
        while wanted > 0 and not self.ended:
            block = next(self.blocks, "")
            self.ended = not block
            pieces.append(block)
            wanted -= len(block)
        self.text, self.position = "".join(pieces), 0

    def push_back(self, text: str) -> None:
        """Puts `text` before what has not been read yet."""
        self.fill(0)
        self.text = text + self.text

    def peek(self) -> str:
        """The next character that is not white space; empty at the end of the file."""
        while True:
            while self.position < len(self.text):
                if (character := self.text[self.position]) not in " \t\r\n":
                    return character
                self.position += 1
            if self.ended:
                return ""
            self.fill()

    def value(self) -> object:
        self.peek()
        while True:
            try:
                value, self.position = self.decoder.raw_decode(self.text, self.position)
                return value
            except json.JSONDecodeError as error:
                # Cut off by the end of the buffer, or broken? Only an open string fails far from the end.
                cut_off = error.msg.startswith("Unterminated string") or error.pos > len(self.text) - 16
                if self.ended or not cut_off:
                    raise self.error(error.msg, error.pos) from error
                self.fill(len(self.text) - self.position)
            except (ValueError, RecursionError) as error:
                raise self.error(str(error)) from error

    def list_items(self) -> Iterator[object]:
        self.position += 1
        if self.peek() != "]":
            yield self.value()
            while self.peek() == ",":
                self.position += 1
                yield self.value()
        if self.peek() != "]":
            raise self.error("Expecting ',' or ']'" if self.peek() else "the file ends inside the list")
        self.position += 1

    def error(self, what: str, position: int | None = None) -> UserError:
        line = self.line + self.text.count("\n", 0, self.position if position is None else position)
        return UserError(f"{self.path}: line {line} is not valid JSON ({what}); mend the file.")


def csv_documents(path: Path, column: str, counts: Counter) -> Iterator[str]:
    """The text column of a comma-separated file whose first row names the columns; quotes as in RFC 4180."""
    csv.field_size_limit(MAX_CSV_FIELD_CHARS)
    reader = csv.reader((line + "\n" for line in text_lines(path)), strict=True)
    try:
        header = next(reader, [])
        if column not in header:
            raise _missing_column(path, "", header, column)
        index = header.index(column)
        for row in reader:
            if not row:
                continue
            if len(row) != len(header):
                raise UserError(
                    f"{path}: the row that ends at line {reader.line_num} has {len(row)} fields, but the header "
                    f"names {len(header)} columns; mend or remove it."
                )
            text = _checked_text(row[index], path, "line", reader.line_num, column, counts)
            if text is not None:
                yield text
    except csv.Error as error:
        raise UserError(f"{path}: line {reader.line_num} is not valid CSV ({error}); mend the file.") from error


def parquet_documents(path: Path, column: str, counts: Counter) -> Iterator[str]:
    """The text column of a Parquet file, read in batches of rows; one inside .gz or .zst is unpacked to a temporary
    file first, because Parquet is read from its end."""
    import pyarrow as pa
    from pyarrow import parquet

    rows_read = 0
    with ExitStack() as stack:
        try:
            source: BinaryIO
            if path.suffix.lower() not in PACKINGS:
                source = stack.enter_context(path.open("rb"))
            else:
                source = stack.enter_context(tempfile.TemporaryFile())
                for block in byte_blocks(path):
                    source.write(block)
            # Without pre_buffer, and with a buffer, a column chunk is read piece by piece.
            file = stack.enter_context(parquet.ParquetFile(source, pre_buffer=False, buffer_size=1 << 20))
            schema = file.schema_arrow
            if column not in schema.names:
                raise _missing_column(path, "", schema.names, column)
            kind = schema.field(column).type
            kind = kind.value_type if pa.types.is_dictionary(kind) else kind
            if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind)):
                raise UserError(
                    f"{path}: column '{column}' holds {kind} from row 1 on, not text; "
                    "set data.columns to {text: NAME} with the column that holds text."
                )
            for batch in file.iter_batches(batch_size=PARQUET_BATCH_ROWS, columns=[column], use_threads=False):
                for value in batch.column(0).to_pylist():
                    rows_read += 1
                    text = _checked_text(value, path, "row", rows_read, column, counts)
                    if text is not None:
                        yield text
        except UnicodeDecodeError as error:
            rows = f"{rows_read + 1} to {rows_read + PARQUET_BATCH_ROWS}"
            raise UserError(f"{path}: a text among rows {rows} is not valid UTF-8 ({error.reason}).") from error
        except (pa.ArrowException, OSError) as error:
            what = str(error).splitlines()[0].rstrip(".")
            raise UserError(f"{path} is no readable Parquet file ({what}); fetch or write it again.") from error


def _object_texts(
    rows: Iterator[tuple[int, object]], path: Path, unit: str, column: str, counts: Counter
) -> Iterator[str]:
    for number, row in rows:
        if not isinstance(row, dict):
            raise UserError(
                f"{path}: {unit} {number} is a JSON {_json_type(row)}, not an object with named columns; "
                f'write each document as {{"{column}": "..."}}.'
            )
        if column not in row:
            raise _missing_column(path, f"{unit} {number} of ", list(row), column)
        text = _checked_text(row[column], path, unit, number, column, counts)
        if text is not None:
            yield text


def _checked_text(value: object, path: Path, unit: str, number: int, column: str, counts: Counter) -> str | None:
    """The value if it is text to learn from; None, counted, if it is null, blank or not valid Unicode."""
    if value is None or value == "" or (isinstance(value, str) and value.isspace()):
        counts["rows_without_text"] += 1
        return None
    if not isinstance(value, str):
        raise UserError(
            f"{path}: {unit} {number} has a {_json_type(value)} in column '{column}', not text; "
            "mend the row, or set data.columns to {text: NAME} with the column that holds text."
        )
    if not value.isascii():
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:  # half of a surrogate pair, left by crawlers that cut text inside an emoji
            counts["rows_with_broken_unicode"] += 1
            return None
    return value


def _json_type(value: object) -> str:
    names: list[tuple[type, str]] = [(bool, "boolean"), (int, "number"), (float, "number"), (str, "string")]
    names += [(list, "list"), (dict, "object")]
    return next((name for kind, name in names if isinstance(value, kind)), "null")


def _missing_column(path: Path, where: str, columns: list[str], column: str) -> UserError:
    present = ", ".join(f"'{name}'" for name in columns) or "none"
    return UserError(
        f"{where}{path} has no column '{column}' (columns there: {present}); "
        "set data.columns to {text: NAME} with the column that holds text."
    )


ROW_FORMATS: dict[str, Callable[[Path, str, Counter], Iterator[str]]] = {
    "jsonl": jsonl_documents,
    "json": json_documents,
    "csv": csv_documents,
    "parquet": parquet_documents,
}
