"""The tokenizer of a run: trained once on the recipe's own text, or taken by name, and never silently reused for other
settings."""

import dataclasses
import json
from itertools import chain
from pathlib import Path

from filelock import FileLock
from transformers import PreTrainedTokenizerFast

from hfgpt.arguments import DataArguments, TokenizerArguments
from hfgpt.data.documents import source_shards
from hfgpt.data.preparation import prepared_folder
from hfgpt.data.splitting import is_validation
from hfgpt.data.tokenizer import load_tokenizer, texts_for_training, train_tokenizer
from hfgpt.errors import UserError

SETTINGS_FILE = "hfgpt_tokenizer.json"
# What in `data` decides the text that a tokenizer is trained on.
DATA_KEYS = (
    *("dataset", "data_path", "format", "dataset_config", "dataset_split", "dataset_revision", "num_shards"),
    *("gutenberg_books", "columns", "document_separator", "validation_fraction"),
    *("tinyworld_people", "tinyworld_documents", "seed"),
)


def ensure_tokenizer(tokenizer: TokenizerArguments, data: DataArguments, folder: Path) -> PreTrainedTokenizerFast:
    """The tokenizer in `folder`, made there first if it is missing.

    Raises UserError when the folder holds a tokenizer made with other settings. Several processes may call this
    at once: one makes it, the others wait.
    """
    settings = _settings(tokenizer, data)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(str(folder) + ".lock"):
        if folder.exists():
            _check_settings(folder, settings)
        else:
            made = make_tokenizer(tokenizer, data)
            aside = folder.with_name(folder.name + ".being-written")
            made.save_pretrained(aside)
            (aside / SETTINGS_FILE).write_text(json.dumps(settings, indent=1), encoding="utf-8")
            aside.rename(folder)
    return PreTrainedTokenizerFast.from_pretrained(folder)


def make_tokenizer(tokenizer: TokenizerArguments, data: DataArguments) -> PreTrainedTokenizerFast:
    """Train on the training documents of `data`, never the held-out ones, or load the one that is named.

    Rows that are prepared already bring the tokenizer that made them.
    """
    if data.prepared and not tokenizer.name_or_path:
        return load_tokenizer(prepared_folder(data) / "tokenizer", add_chat_tokens=False)
    if tokenizer.name_or_path:
        return load_tokenizer(tokenizer.name_or_path, tokenizer.add_chat_tokens)
    documents = (text for shard in source_shards(data) for text in shard.documents())
    training = (text for text in documents if not is_validation(text, data.validation_fraction))
    first = next(training, None)
    if first is None:
        raise UserError(
            f"{data.data_path or data.dataset} has no document to train on: each is empty, null, or held out by "
            f"data.validation_fraction {data.validation_fraction}."
        )
    texts = texts_for_training(chain([first], training), tokenizer.max_train_bytes, tokenizer.max_bytes_per_document)
    return train_tokenizer(texts, tokenizer.vocab_size)


def _settings(tokenizer: TokenizerArguments, data: DataArguments) -> dict:
    if tokenizer.name_or_path:
        named = {"name_or_path": tokenizer.name_or_path, "add_chat_tokens": tokenizer.add_chat_tokens}
        return {"tokenizer": named}
    if data.prepared:
        return {"data": {"prepared": data.prepared}}
    trained = {"tokenizer": dataclasses.asdict(tokenizer)}
    return trained | {"data": {key: getattr(data, key) for key in DATA_KEYS}}


def _check_settings(folder: Path, wanted: dict) -> None:
    path = folder / SETTINGS_FILE
    if not path.is_file():
        return  # put there by hand: the user's own choice
    found = json.loads(path.read_text(encoding="utf-8"))
    for section in sorted(wanted.keys() | found.keys()):
        a, b = found.get(section, {}), wanted.get(section, {})
        for key in sorted(a.keys() | b.keys()):
            if a.get(key) != b.get(key):
                raise UserError(
                    f"the tokenizer in {folder} was made with {section}.{key} {a.get(key)!r}, not {b.get(key)!r}: "
                    "remove that folder to make a new one, or choose another --output_root."
                )
