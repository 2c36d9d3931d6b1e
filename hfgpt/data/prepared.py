"""A folder of prepared data: `train/` and `validation/`, which datasets.load_from_disk opens, the tokenizer that made
them, and prepared.json, which is written last and so marks the folder complete. Nothing here makes rows."""

import json
import os
import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from hfgpt.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset

FORMAT_VERSION = 1
RECORD = "prepared.json"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")


@dataclass(frozen=True)
class PreparedData:
    """Prepared rows in the folder `path`. `statistics` counts documents, bytes and tokens, in all and per split."""

    path: Path
    statistics: dict[str, Any]

    def train(self) -> "Dataset":
        """Training rows: a memory-mapped dataset with the column input_ids, rows of max_length tokens."""
        if self.train_rows is None:
            raise UserError(f"{self.path} holds validation rows only, made for data.streaming: prepare the text anew.")
        return _load(self.path / "train")

    def validation(self) -> "Dataset":
        """Validation rows, in the same form; none if data.validation_fraction was 0."""
        return _load(self.path / "validation")

    @property
    def train_rows(self) -> int | None:
        """Rows of one epoch; None where the training text is streamed."""
        return self.statistics["train"]["rows"] if "train" in self.statistics else None

    @property
    def bytes_per_token(self) -> float:
        """UTF-8 bytes of text per text token, of the training split where there is one."""
        split = self.statistics.get("train", self.statistics["validation"])
        return split["text_bytes"] / max(split["tokens"], 1)

    def summary(self) -> str:
        """What was made of the text, in a few lines: documents, tokens, and the shares dropped, added and padded."""
        return "\n".join(_summary_lines(self.statistics))

    @cached_property
    def record(self) -> dict[str, Any]:
        """prepared.json: format, key and what went into it, tokenizer, files with size and hash, statistics."""
        return json.loads((self.path / RECORD).read_text(encoding="utf-8"))


@dataclass(frozen=True)
class TokenizerIdentity:
    """What rows depend on: `digest` covers all that decides the ids of plain text, and BOS."""

    digest: str
    vocab_size: int  # the largest id + 1
    bos_token_id: int


def tokenizer_identity(folder: Path) -> TokenizerIdentity:
    """Identity of a saved tokenizer. Raises UserError if the folder is none or it has no BOS."""
    from tokenizers import Tokenizer

    folder = Path(folder)
    try:
        text = (folder / "tokenizer.json").read_text(encoding="utf-8")
        settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{folder} is no saved tokenizer ({error.filename}: {error.strerror}).") from error
    backend = Tokenizer.from_str(text)
    bos = settings.get("bos_token")
    bos_token_id = backend.token_to_id(bos["content"] if isinstance(bos, dict) else bos) if bos else None
    if bos_token_id is None:
        raise UserError(f"The tokenizer in {folder} has no BOS token: set tokenizer.add_chat_tokens to true.")
    parts = json.loads(text)
    deciding = {name: parts.get(name) for name in ("model", "added_tokens", "normalizer", "pre_tokenizer")}
    return TokenizerIdentity(
        digest=digest_of(deciding | {"bos_token_id": bos_token_id}),
        vocab_size=max(backend.get_vocab(with_added_tokens=True).values()) + 1,
        bos_token_id=bos_token_id,
    )


def digest_of(value: Any) -> str:
    """Hash of a JSON value, the same for every order of keys."""
    return blake2b(json.dumps(value, sort_keys=True).encode(), digest_size=16).hexdigest()


def open_prepared(folder: Path) -> PreparedData | None:
    """The prepared data in `folder`, or None if it is not complete: no prepared.json, another format, or a file that
    is missing or has another size than was written."""
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        if record["format_version"] != FORMAT_VERSION:
            return None
        for name, (size, _) in record["files"].items():
            if (folder / name).stat().st_size != size:
                return None
        return PreparedData(folder, record["statistics"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def damaged_files(prepared: PreparedData) -> list[str]:
    """Files whose content is not what was written; reads all of them, about 1 GB/s."""
    return [
        name for name, (_, digest) in prepared.record["files"].items() if file_digest(prepared.path / name) != digest
    ]


def check_fits(prepared: PreparedData, identity: TokenizerIdentity, max_length: int) -> None:
    """Raises UserError unless the rows were made with this tokenizer and length."""
    inputs = prepared.record["inputs"]
    if inputs["max_length"] != max_length:
        raise UserError(
            f"data.prepared: rows in {prepared.path} have {inputs['max_length']} tokens, but data.max_length is "
            f"{max_length}; set data.max_length: {inputs['max_length']} or prepare the text anew."
        )
    if inputs["tokenizer"] != identity.digest:
        raise UserError(
            f"data.prepared: {prepared.path} was made with another tokenizer; set tokenizer.name_or_path to its own, "
            f"{prepared.path / 'tokenizer'}, or prepare the text anew."
        )


def write_file(path: Path, write: Callable[[BinaryIO], object]) -> tuple[int, str]:
    """Writes `path` whole or not at all, flushed to disk; returns its size in bytes and its hash."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Unique per writer: a killed run's process may still be at work beside its successor.
    temporary = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    try:
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        size, digest = temporary.stat().st_size, file_digest(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return size, digest


def write_json(path: Path, value: Any) -> tuple[int, str]:
    return write_file(path, lambda file: file.write(json.dumps(value, indent=1).encode()))


def write_rows(path: Path, rows: np.ndarray) -> tuple[int, str]:
    """Writes (num_rows, max_length) as one record batch of an Arrow stream, the format of `datasets`."""
    import pyarrow as pa

    column = pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), rows.shape[1])
    batch = pa.RecordBatch.from_arrays([column], names=["input_ids"])

    def write(file: BinaryIO) -> None:
        with pa.ipc.new_stream(file, batch.schema) as stream:
            stream.write_batch(batch)

    return write_file(path, write)


def write_split(folder: Path, files: list[str], max_length: int, token_type: np.dtype, fingerprint: str) -> None:
    """Makes `folder`, in which `files` lie, one that datasets.load_from_disk opens; no rows are copied."""
    from datasets import DatasetInfo, Features, List, Value

    features = Features({"input_ids": List(Value(token_type.name), length=max_length)})
    DatasetInfo(features=features).write_to_directory(str(folder))
    state: dict[str, Any] = {
        "_data_files": [{"filename": name} for name in files],
        "_fingerprint": fingerprint,
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
        "_output_all_columns": False,
        "_split": folder.name,
    }
    write_json(folder / "state.json", state)


def copy_tokenizer(source: Path, folder: Path) -> None:
    """The tokenizer travels with the rows it made."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)


def file_digest(path: Path) -> str:
    digest = blake2b(digest_size=16)
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _summary_lines(statistics: dict[str, Any]) -> list[str]:
    named = {name.replace("_", " "): number for name, number in statistics["left_out"].items()}
    left_out = {"shorter than data.min_document_chars": statistics["too_short"]} | named
    reasons = ", ".join(f"{number:,} {reason}" for reason, number in left_out.items() if number)
    lines = [f"{statistics['documents']:,} documents" + (f"; left out: {reasons}" if reasons else "")]
    for split in ("train", "validation"):
        if (counts := statistics.get(split)) is None:
            continue
        row_tokens = max(counts["rows"] * statistics["max_length"], 1)
        tokens = max(counts["tokens"], 1)
        lines.append(
            f"{split}: {counts['documents']:,} documents, {counts['text_bytes'] / 1e6:,.2f} MB, "
            f"{counts['tokens']:,} tokens -> {counts['rows']:,} rows of {statistics['max_length']:,} "
            f"({counts['dropped_tokens'] / tokens:.2%} dropped, 0% padded, "
            f"{counts['bos_tokens'] / row_tokens:.2%} BOS, {counts['cut_documents']:,} documents cut to close a row, "
            f"{counts['long_documents']:,} longer than a row)"
        )
    return lines


def _load(folder: Path) -> "Dataset":
    from datasets import Dataset

    try:
        return Dataset.load_from_disk(str(folder), keep_in_memory=False)
    except (OSError, ValueError, KeyError, TypeError) as error:  # pyarrow's errors are some of these
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{folder} holds no rows that can be read ({reason}): prepare the text anew.") from error
