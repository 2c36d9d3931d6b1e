"""The tokenizer of a run: trained once on the recipe's own text, or taken by name, and never silently reused for other
settings."""

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
)
TINY_WORLD_KEYS = ("tinyworld_people", "tinyworld_documents", "seed")


def ensure_tokenizer(tokenizer: TokenizerArguments, data: DataArguments, folder: Path) -> PreTrainedTokenizerFast:
    """The tokenizer in `folder`, made there first if it is missing.

    Raises UserError when the folder holds a tokenizer made with other settings. Several processes may call this
    at once: one makes it, the others wait.
    """
    settings = tokenizer_settings(tokenizer, data)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(str(folder) + ".lock"):
        if folder.exists():
            if not data.prepared:  # rows that are prepared say themselves which tokenizer they need
                _check_settings(folder, settings)
        else:
            made = make_tokenizer(tokenizer, data)
            aside = folder.with_name(folder.name + ".being-written")
            made.save_pretrained(aside)
            (aside / SETTINGS_FILE).write_text(json.dumps(settings, indent=1), encoding="utf-8")
            aside.rename(folder)
    try:
        return PreTrainedTokenizerFast.from_pretrained(folder)
    except Exception as error:  # tokenizers raises bare Exception for a broken file
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"the tokenizer in {folder} cannot be loaded ({reason}): remove that folder to make a new one."
        ) from error


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


def tokenizer_settings(tokenizer: TokenizerArguments, data: DataArguments) -> dict:
    """What makes the tokenizer: `origin` says how, in words, and the rest is what that depends on."""
    if tokenizer.name_or_path:
        return {"origin": f"taken from {tokenizer.name_or_path}", "add_chat_tokens": tokenizer.add_chat_tokens}
    keys = DATA_KEYS + (TINY_WORLD_KEYS if data.dataset == "tinyworld" else ())
    limits = ("vocab_size", "max_train_bytes", "max_bytes_per_document")
    return (
        {"origin": "trained on the recipe's text"}
        | {f"tokenizer.{key}": getattr(tokenizer, key) for key in limits}
        | {f"data.{key}": getattr(data, key) for key in keys}
    )


def _check_settings(folder: Path, wanted: dict) -> None:
    path = folder / SETTINGS_FILE
    if not path.is_file():
        return  # put there by hand: the user's own choice
    try:
        found = dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{path} cannot be read ({error}): remove {folder} to make a new tokenizer.") from error
    for key, value in wanted.items():
        if found.get(key) != value:
            what = "was" if key == "origin" else f"was made with {key}"
            raise UserError(
                f"the tokenizer in {folder} {what} {found.get(key)}, not {value}: remove that folder to make a new "
                "one, or choose another --output_root."
            )
