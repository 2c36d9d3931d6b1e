"""A tokenizer that is broken, or does not fit, is refused before anything is made with it."""

import shutil

import pytest
from damage import cut, edit

# What is done to a copy of a good tokenizer's folder, and what the sentence must name beside it.
BROKEN = {
    "nothing in it": (lambda folder: [path.unlink() for path in folder.iterdir()], ("tokenizer.json",)),
    "no tokenizer.json": (lambda folder: (folder / "tokenizer.json").unlink(), ()),
    "half of tokenizer.json": (lambda folder: cut(folder / "tokenizer.json"), ()),
    "an empty tokenizer.json": (lambda folder: (folder / "tokenizer.json").write_text(""), ()),
    "tokenizer.json that is a list": (lambda folder: (folder / "tokenizer.json").write_text("[]"), ()),
    "tokenizer.json that is binary": (
        lambda folder: (folder / "tokenizer.json").write_bytes(b"\xff\xfe\x00" * 99),
        (),
    ),
    "no model": (lambda folder: edit(folder / "tokenizer.json", lambda t: t.pop("model")), ()),
    "an unknown kind of model": (
        lambda folder: edit(folder / "tokenizer.json", lambda t: t["model"].update(type="Magic")),
        (),
    ),
    "a merge of pieces that are not there": (
        lambda folder: edit(folder / "tokenizer.json", lambda t: t["model"]["merges"].append(["qqq", "zzz"])),
        (),
    ),
    "ids that are text": (
        lambda folder: edit(folder / "tokenizer.json", lambda t: t["model"]["vocab"].update(a="first")),
        (),
    ),
    "half of tokenizer_config.json": (lambda folder: cut(folder / "tokenizer_config.json"), ()),
    "tokenizer_config.json that is a list": (lambda folder: (folder / "tokenizer_config.json").write_text("[]"), ()),
    "code of its own": (
        lambda folder: edit(
            folder / "tokenizer_config.json",
            lambda c: c.update(tokenizer_class="Own", auto_map={"AutoTokenizer": ["own.Own", None]}),
        ),
        (),
    ),
    "SentencePiece that is none": (
        lambda folder: (
            [path.unlink() for path in folder.iterdir()],
            (folder / "tokenizer.model").write_bytes(b"\x00" * 64),
        ),
        (),
    ),
    "merges.txt without vocab.json": (
        lambda folder: (
            [path.unlink() for path in folder.iterdir()],
            (folder / "merges.txt").write_text("#version: 0.2\n"),
        ),
        ("vocab.json",),
    ),
    "a broken vocab.json": (
        lambda folder: (
            [path.unlink() for path in folder.iterdir()],
            (folder / "merges.txt").write_text("#version: 0.2\n"),
            (folder / "vocab.json").write_text("{"),
        ),
        (),
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_tokenizer_is_refused_by_name(refused, here, pretrained, case):
    breaks, culprits = BROKEN[case]
    shutil.copytree(pretrained / "tokenizer", here / "mine")
    breaks(here / "mine")
    refused("tokenizer train small.yaml --name_or_path ./mine", "mine", *culprits)


def test_a_tokenizer_without_bos_makes_no_rows(refused, here, pretrained):
    shutil.copytree(pretrained / "tokenizer", here / "mine")
    edit(here / "mine" / "tokenizer_config.json", lambda config: config.pop("bos_token"))
    words = "data prepare small.yaml --name_or_path ./mine --tokenizer.add_chat_tokens false --num_proc 1"
    refused(words, "BOS", "add_chat_tokens")


# What is done to the run's own tokenizer after it was made.
HARMED = {
    "half of tokenizer.json": lambda folder: cut(folder / "tokenizer.json"),
    "no tokenizer.json": lambda folder: (folder / "tokenizer.json").unlink(),
    "half of hfgpt_tokenizer.json": lambda folder: cut(folder / "hfgpt_tokenizer.json"),
    "hfgpt_tokenizer.json that is a list": lambda folder: (folder / "hfgpt_tokenizer.json").write_text("[]"),
    "a file in place of the folder": lambda folder: (shutil.rmtree(folder), folder.write_text("no folder")),
}


@pytest.mark.parametrize("case", HARMED)
def test_a_runs_own_tokenizer_that_was_harmed_is_named(refused, run_folder, case):
    HARMED[case](run_folder / "tokenizer")
    refused("data prepare small.yaml --num_proc 1", "tokenizer")


def test_a_runs_tokenizer_is_not_taken_for_other_settings(refused, run_folder):
    refused("data prepare small.yaml --vocab_size 310 --num_proc 1", "vocab_size 300, not 310")
    refused("pretrain small.yaml --overwrite --data.seed 7", "seed 42, not 7")
