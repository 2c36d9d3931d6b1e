"""Prepared data as a reader sees it."""

import io

import pytest
from rich.console import Console

from hfgpt.arguments import DataArguments
from hfgpt.data.inspection import inspect_prepared
from hfgpt.data.preparation import prepare_data
from hfgpt.data.tinyworld import TinyWorld
from hfgpt.data.tokenizer import load_tokenizer, train_tokenizer
from hfgpt.errors import UserError


def test_inspection_shows_statistics_and_rows_with_their_boundaries_and_finds_damage(tmp_path):
    texts = list(TinyWorld(num_people=50, seed=1).documents(400))
    train_tokenizer(texts, vocab_size=600).save_pretrained(tmp_path / "tokenizer")
    tokenizer = load_tokenizer(tmp_path / "tokenizer")
    (tmp_path / "text.txt").write_text("\n\n".join(text.replace("\n", " ") for text in texts))
    data = DataArguments(
        data_path=str(tmp_path / "text.txt"), document_separator="blank_line", max_length=256, validation_fraction=0.1
    )
    prepared = prepare_data(data, tmp_path / "tokenizer", tmp_path / "out")

    console = Console(width=2000, file=io.StringIO())
    console.print(inspect_prepared(prepared.path, tokenizer, num_rows=1))
    shown = console.file.getvalue()
    counts = prepared.statistics["train"]
    for number in (counts["documents"], counts["tokens"], counts["rows"], counts["text_bytes"]):
        assert f"{number:,}" in shown
    row = prepared.train()[0]["input_ids"]
    assert f"train, row 0: {row.count(tokenizer.bos_token_id)} pieces in 256 tokens" in shown
    assert shown.count("<|bos|>") == sum(
        rows[0]["input_ids"].count(tokenizer.bos_token_id) for rows in (prepared.train(), prepared.validation())
    )
    second = row.index(tokenizer.bos_token_id, 1)
    assert tokenizer.decode(row[1:second])[:100] in shown

    file = prepared.path / "train/00000-00000.arrow"
    damaged = bytearray(file.read_bytes())
    damaged[-1000] ^= 1
    file.write_bytes(damaged)
    with pytest.raises(UserError, match="train/00000-00000.arrow changed after being written"):
        inspect_prepared(prepared.path, tokenizer)
    (prepared.path / "prepared.json").unlink()
    with pytest.raises(UserError, match="no complete prepared data"):
        inspect_prepared(prepared.path, tokenizer)
