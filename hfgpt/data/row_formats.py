"""The rows of JSON lines, JSON, CSV and Parquet files, one generator a format, each flat in memory. What cannot be
read is a UserError that names file and row."""

import csv
import json
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from hfgpt.data.unpacking import PACKINGS, byte_blocks, text_blocks, text_lines
from hfgpt.errors import UserError

if TYPE_CHECKING:
    import pyarrow as pa

MAX_CSV_FIELD_CHARS = 1 << 28  # an unclosed quote ends here instead of swallowing the file
PARQUET_BATCH_ROWS = 256

_DATA_LIST = re.compile(r'\{\s*"data"\s*:\s*\[')


class Row(NamedTuple):
    """A row of a file: an object with named columns, but in JSON, which may hold anything. `where` is `line 3` of its
    file, or `row 3`."""

    unit: str
    number: int
    value: Any

    @property
    def where(self) -> str:
        return f"{self.unit} {self.number}"


def jsonl_rows(path: Path, text_column: str | None = None) -> Iterator[Row]:
    """The values of JSON lines; blank lines are no rows."""
    for number, line in enumerate(text_lines(path), start=1):
        if line and not line.isspace():
            try:
                yield Row("line", number, json.loads(line))
            except (ValueError, RecursionError) as error:
                what = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
                raise UserError(f"{path}: line {number} is not valid JSON ({what}); mend or remove it.") from error


def json_rows(path: Path, text_column: str | None = None) -> Iterator[Row]:
    """The values of a list, of {"data": [...]}, or of values one after the other."""
    for number, value in enumerate(_json_values(path), start=1):
        yield Row("row", number, value)


def _json_values(path: Path) -> Iterator[object]:
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


def csv_rows(path: Path, text_column: str | None = None) -> Iterator[Row]:
    """The rows of a comma-separated file whose first row names the columns; quotes as in RFC 4180. Raises UserError
    where there is no `text_column`."""
    csv.field_size_limit(MAX_CSV_FIELD_CHARS)
    reader = csv.reader((line + "\n" for line in text_lines(path)), strict=True)
    try:
        header = next(reader, [])
        if text_column is not None and text_column not in header:
            raise missing_text_column(path, "", header, text_column)
        for row in reader:
            if not row:
                continue
            if len(row) != len(header):
                raise UserError(
                    f"{path}: the row that ends at line {reader.line_num} has {len(row)} fields, but the header "
                    f"names {len(header)} columns; mend or remove it."
                )
            yield Row("line", reader.line_num, dict(zip(header, row, strict=True)))
    except csv.Error as error:
        raise UserError(f"{path}: line {reader.line_num} is not valid CSV ({error}); mend the file.") from error


def parquet_rows(path: Path, text_column: str | None = None) -> Iterator[Row]:
    """The rows of a Parquet file, read in batches, or of them `text_column` alone, which must hold text. A file inside
    .gz or .zst is unpacked to a temporary one first, because Parquet is read from its end."""
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
            columns = None
            if text_column is not None:
                _check_text_column(path, file.schema_arrow, text_column)
                columns = [text_column]
            for batch in file.iter_batches(batch_size=PARQUET_BATCH_ROWS, columns=columns, use_threads=False):
                for value in batch.to_pylist():
                    rows_read += 1
                    yield Row("row", rows_read, {name: _without_nulls(cell) for name, cell in value.items()})
        except UnicodeDecodeError as error:
            rows = f"{rows_read + 1} to {rows_read + PARQUET_BATCH_ROWS}"
            raise UserError(f"{path}: a text among rows {rows} is not valid UTF-8 ({error.reason}).") from error
        except (pa.ArrowException, OSError) as error:
            what = str(error).splitlines()[0].rstrip(".")
            raise UserError(f"{path} is no readable Parquet file ({what}); fetch or write it again.") from error


def _check_text_column(path: Path, schema: "pa.Schema", column: str) -> None:
    import pyarrow as pa

    if column not in schema.names:
        raise missing_text_column(path, "", schema.names, column)
    kind = schema.field(column).type
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind)):
        raise UserError(
            f"{path}: column '{column}' holds {kind} from row 1 on, not text; "
            "set data.columns to {text: NAME} with the column that holds text."
        )


def _without_nulls(cell: Any) -> Any:
    """A cell without the nulls of nested objects: Parquet gives each object of a column the keys of all of them."""
    if isinstance(cell, dict):
        return {key: _without_nulls(value) for key, value in cell.items() if value is not None}
    if isinstance(cell, list):
        return [_without_nulls(value) for value in cell]
    return cell


def json_type(value: Any) -> str:
    """What JSON calls the type of `value`."""
    names: list[tuple[type, str]] = [(bool, "boolean"), (int, "number"), (float, "number"), (str, "string")]
    names += [(list, "list"), (dict, "object")]
    return next((name for kind, name in names if isinstance(value, kind)), "null")


def missing_text_column(path: Path, where: str, columns: list[str], column: str) -> UserError:
    """The error for a row, or with an empty `where` a file, that lacks the column of text."""
    present = ", ".join(f"'{name}'" for name in columns) or "none"
    return UserError(
        f"{where}{path} has no column '{column}' (columns there: {present}); "
        "set data.columns to {text: NAME} with the column that holds text."
    )


ROW_FORMATS: dict[str, Callable[[Path, str | None], Iterator[Row]]] = {
    "jsonl": jsonl_rows,
    "json": json_rows,
    "csv": csv_rows,
    "parquet": parquet_rows,
}
