"""The text of the learning benchmark: a folder's books and corpora as distinct pieces of 1,200 characters, held out by
a hash of their content in two sets, one to judge by and one to tune by."""

import json
import random
from collections.abc import Iterator
from pathlib import Path

from hfgpt.data.gutenberg import clean_book
from hfgpt.data.splitting import is_validation

PIECE_CHARACTERS = 1200
JUDGE_FRACTION = 0.03  # of the pieces judge a finished run, and no formula was ever chosen by them
TUNE_FRACTION = 0.03  # further pieces, by which rates and switches were chosen
SHINGLE_WORDS = 8


def distinct_pieces(folder: Path) -> list[str]:
    """Every .txt and .jsonl file below `folder` in shuffled pieces, without repeats.

    A piece goes when half of its runs of eight words were seen before: other editions of a book wrap their lines
    elsewhere, so whole pieces are never equal.
    """
    seen: set[int] = set()
    kept = []
    for text in _texts(folder):
        for start in range(0, len(text), PIECE_CHARACTERS):
            piece = text[start : start + PIECE_CHARACTERS]
            words = piece.lower().split()
            shingles = {hash(tuple(words[i : i + SHINGLE_WORDS])) for i in range(len(words) - SHINGLE_WORDS + 1)}
            if len(words) > SHINGLE_WORDS and len(shingles & seen) < len(shingles) / 2:
                kept.append(piece)
            seen |= shingles
    random.Random(0).shuffle(kept)
    return kept


def write_pieces(folder: Path, path: Path, tune: bool) -> float:
    """Write the pieces as JSON lines, without those that the other held-out set owns; returns the
    `validation_fraction` that then holds out the pieces to judge by, or with `tune` the pieces to tune by.

    A file that holds them already stays as it is: its date is part of what names the prepared data.
    """
    both = JUDGE_FRACTION + TUNE_FRACTION
    lines = []
    for piece in distinct_pieces(folder):
        to_judge, to_tune = is_validation(piece, JUDGE_FRACTION), is_validation(piece, both)
        if not (to_judge if tune else to_tune and not to_judge):
            lines.append(json.dumps({"text": piece}) + "\n")
    text = "".join(lines)
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")
    return both if tune else JUDGE_FRACTION


def _texts(folder: Path) -> Iterator[str]:
    for path in sorted(folder.rglob("*")):
        if path.suffix == ".txt":
            yield clean_book(path.read_bytes())
        elif path.suffix == ".jsonl":
            with path.open(encoding="utf-8") as file:
                yield "\n\n".join(json.loads(line)["text"] for line in file)
