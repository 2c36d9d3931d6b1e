"""The tokenizer: training, special tokens, the chat format, existing tokenizers, statistics."""

import json
import logging
import random
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import jinja2
import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from hfgpt.data.tokenizer import (
    CHAT_TEMPLATE,
    SPECIAL_TOKENS,
    chat_template_for,
    compare_tokenizers,
    load_tokenizer,
    texts_for_training,
    token_byte_lengths,
    tokenizer_statistics,
    train_tokenizer,
)
from hfgpt.errors import UserError

CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": [{"type": "text", "text": " two\n"}, {"type": "text", "text": "parts "}]},
    {"role": "assistant", "content": "\n kept as is \n"},
    {"role": "tool", "content": "42"},
    {"role": "assistant", "content": "It is 42."},
]
RENDERED = (
    "<|bos|><|system|>Be brief.<|end|><|user|> two\nparts <|end|><|assistant|>\n kept as is \n<|end|>"
    "<|tool|>42<|end|><|assistant|>It is 42.<|end|>"
)


def in_fresh_process(folder: Path, expression: str):
    """The value of `expression` over `tokenizer`, loaded from `folder` where hfgpt cannot be imported."""
    script = (
        "import sys, json; sys.modules['hfgpt'] = None; from transformers import AutoTokenizer; "
        f"tokenizer = AutoTokenizer.from_pretrained({str(folder)!r}); print(json.dumps({expression}))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_vocabulary_is_the_size_asked_for_and_holds_all_bytes_and_special_tokens(tokenizer):
    assert len(tokenizer) == tokenizer.vocab_size == 700
    assert sorted(tokenizer.get_vocab().values()) == list(range(700))
    assert set(SPECIAL_TOKENS) == set(tokenizer.all_special_tokens) and len(SPECIAL_TOKENS) == 9
    text = "".join(map(chr, [*range(0x800), 0x4E16, 0x1F600, 0x10FFFF]))
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids) == text


def test_bos_comes_once_and_bos_pad_end_are_three_tokens(tokenizer):
    assert (tokenizer.bos_token, tokenizer.pad_token, tokenizer.eos_token) == ("<|bos|>", "<|pad|>", "<|end|>")
    assert len({tokenizer.bos_token_id, tokenizer.pad_token_id, tokenizer.eos_token_id}) == 3
    for text in ("", "some text"):
        ids = tokenizer(text)["input_ids"]
        assert ids[0] == tokenizer.bos_token_id and ids.count(tokenizer.bos_token_id) == 1
    pair = tokenizer("first", "second")["input_ids"]
    assert pair.count(tokenizer.bos_token_id) == 1
    assert tokenizer.num_special_tokens_to_add() == 1


def test_length_is_not_limited(tokenizer):
    ids = tokenizer("word " * 5000, truncation=True)["input_ids"]
    assert len(ids) > 5000
    assert tokenizer.decode(ids[1:]) == "word " * 5000


def test_split_pattern_keeps_contractions_and_cuts_digits_in_twos(tokenizer):
    split = tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str
    text = "They'LL pay 12345€ in 2024!\n\n  Don't"
    spans = [text[start:end] for _, (start, end) in split(text)]
    assert spans == [
        *["They", "'LL", " pay", " ", "12", "34", "5", "€", " in", " ", "20", "24", "!\n\n", " ", " Don", "'t"],
    ]


def test_training_twice_gives_the_same_tokenizer_in_any_process(tokenizer, texts, tmp_path):
    again = train_tokenizer(iter(texts), 700)
    assert again.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()
    (tmp_path / "texts.json").write_text(json.dumps(texts))
    script = (
        "import json, sys; from hfgpt.data.tokenizer import train_tokenizer; "
        "texts = json.load(open(sys.argv[1])); print(train_tokenizer(texts, 700).backend_tokenizer.to_str())"
    )
    environment = {"PYTHONHASHSEED": "77", "RAYON_NUM_THREADS": "3", "PATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "texts.json")],
        capture_output=True,
        text=True,
        timeout=120,
        env=environment,
    )
    assert done.stdout.strip() == tokenizer.backend_tokenizer.to_str(), done.stderr


def test_a_vocabulary_that_cannot_hold_the_bytes_is_refused():
    with pytest.raises(UserError, match="vocab_size is 264, .* need 265: set it to at least 265"):
        train_tokenizer(["text"], 264)
    assert len(train_tokenizer(["text"], 265)) == 265


@pytest.mark.parametrize("nothing", [[], ["", ""]])
def test_training_on_no_text_is_refused(nothing):
    with pytest.raises(UserError, match="no text to train on"):
        train_tokenizer(nothing, 300)


def test_text_too_small_for_the_vocabulary_gives_a_smaller_one_and_says_so(caplog):
    with caplog.at_level(logging.WARNING, logger="hfgpt"):
        small = train_tokenizer(["abab abab"], 1000)
    # ab, abab, and nothing else occurs twice
    assert len(small) == small.vocab_size == max(small.get_vocab().values()) + 1 == 256 + 9 + 2
    assert "vocab_size is 1000" in caplog.text and "267" in caplog.text


def test_lone_surrogates_train_as_replacement_characters():
    assert train_tokenizer(["a\ud800b"] * 3, 300).get_vocab() == train_tokenizer(["a\ufffdb"] * 3, 300).get_vocab()


def test_texts_for_training_stops_at_both_limits_and_between_characters():
    def documents():
        yield "é" * 10
        yield "abc"
        yield "0123456789"
        raise AssertionError("read on after the limit")

    texts = list(texts_for_training(documents(), max_train_bytes=10, max_bytes_per_document=5))
    assert texts == ["éé", "abc", "01"]


def test_saved_folder_reloads_without_hfgpt(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    text = "it's 1999 <|user|> <|bos|>"
    found = in_fresh_process(
        tmp_path,
        f"[tokenizer({text!r})['input_ids'], len(tokenizer), tokenizer.bos_token_id, tokenizer.pad_token_id, "
        f"tokenizer.eos_token_id, tokenizer.apply_chat_template({CHAT!r}, tokenize=False), "
        f"tokenizer.apply_chat_template({CHAT!r})['input_ids'], sorted(tokenizer.all_special_ids)]",
    )
    assert found == [
        tokenizer(text)["input_ids"],
        700,
        tokenizer.bos_token_id,
        tokenizer.pad_token_id,
        tokenizer.eos_token_id,
        RENDERED,
        tokenizer(RENDERED, add_special_tokens=False)["input_ids"],
        sorted(tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS))),
    ]
    again = load_tokenizer(tmp_path)
    assert again.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()
    assert again.get_vocab() == tokenizer.get_vocab() and again.chat_template == CHAT_TEMPLATE


def test_chat_renders_as_designed_with_one_bos(tokenizer):
    assert tokenizer.apply_chat_template(CHAT, tokenize=False) == RENDERED
    prompt = tokenizer.apply_chat_template(CHAT[:2], tokenize=False, add_generation_prompt=True)
    assert prompt == RENDERED[: RENDERED.index("<|assistant|>")] + "<|assistant|>"
    ids = tokenizer.apply_chat_template(CHAT)["input_ids"]
    assert ids[0] == tokenizer.bos_token_id and ids.count(tokenizer.bos_token_id) == 1
    assert tokenizer.decode(ids) == RENDERED


def test_assistant_mask_is_what_the_assistant_says_and_its_end(tokenizer):
    encoded = tokenizer.apply_chat_template(CHAT, return_dict=True, return_assistant_tokens_mask=True)
    said = [tokenizer.decode(i) for i, m in zip(encoded["input_ids"], encoded["assistant_masks"], strict=True) if m]
    assert "".join(said) == "\n kept as is \n<|end|>It is 42.<|end|>"
    assert said.count("<|end|>") == 2


def test_a_started_answer_can_be_continued(tokenizer):
    chat = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "well,"}]
    text = tokenizer.apply_chat_template(chat, tokenize=False, continue_final_message=True)
    assert text == "<|bos|><|user|>hi<|end|><|assistant|>well,"


@pytest.mark.parametrize(
    ("message", "complaint"),
    [
        ({"role": "critic", "content": "x"}, "Unknown role critic"),
        ({"role": "user", "content": [{"type": "image", "url": "x"}]}, "a part that is not text: image"),
        ({"role": "assistant", "content": None}, "assistant's message has no content"),
        ({"role": "user"}, "user's message has no content"),
        ({"role": "user", "content": {"text": "x"}}, "user's message has no content"),
    ],
)
def test_messages_that_the_format_cannot_hold_are_refused(tokenizer, message, complaint):
    with pytest.raises(jinja2.TemplateError, match=complaint):
        tokenizer.apply_chat_template([message], tokenize=False)


def test_gpt2_folder_gets_the_chat_tokens_and_keeps_its_own_ids(gpt2_folder, tmp_path):
    plain = load_tokenizer(gpt2_folder, add_chat_tokens=False)
    tokenizer = load_tokenizer(gpt2_folder)
    assert len(plain) == 601 and len(tokenizer) == 610
    assert tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS)) == list(range(601, 610))
    assert tokenizer.convert_tokens_to_ids("<|endoftext|>") == 600
    text = "they're here, it's 1234.\n\n  <|endoftext|>"
    ids = plain(text)["input_ids"]
    assert ids[-1] == 600
    assert tokenizer(text)["input_ids"] == [tokenizer.bos_token_id, *ids]
    assert len({tokenizer.bos_token_id, tokenizer.pad_token_id, tokenizer.eos_token_id}) == 3
    assert tokenizer.apply_chat_template(CHAT, tokenize=False) == RENDERED

    tokenizer.save_pretrained(tmp_path)
    found = in_fresh_process(
        tmp_path,
        f"[tokenizer({text!r})['input_ids'], len(tokenizer), tokenizer.apply_chat_template({CHAT!r}, tokenize=False)]",
    )
    assert found == [[tokenizer.bos_token_id, *ids], 610, RENDERED]


def test_without_chat_tokens_an_existing_tokenizer_stays_as_it_is(gpt2_folder, tmp_path):
    theirs = load_tokenizer(gpt2_folder, add_chat_tokens=False)
    theirs.chat_template = "{{ messages[0].content }}!"
    theirs.model_max_length = 1024
    theirs.save_pretrained(tmp_path)
    loaded = load_tokenizer(tmp_path, add_chat_tokens=False)
    reference = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded.backend_tokenizer.to_str() == reference.backend_tokenizer.to_str()
    assert loaded.special_tokens_map == reference.special_tokens_map
    assert loaded.bos_token == loaded.eos_token == "<|endoftext|>" and loaded.pad_token is None
    assert loaded.model_max_length == 1024
    assert loaded.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False) == "hi!"
    assert load_tokenizer(tmp_path).chat_template == chat_template_for(["<|endoftext|>"])


@pytest.mark.parametrize("tokenizer_class", ["TokenizersBackend", "PreTrainedTokenizerFast"])
def test_a_model_folder_with_code_of_its_own_gives_its_tokenizer(tokenizer, tmp_path, tokenizer_class):
    tokenizer.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text()) | {"tokenizer_class": tokenizer_class}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    model = {"model_type": "unheard_of", "auto_map": {"AutoConfig": "configuration_x.XConfig"}}
    (tmp_path / "config.json").write_text(json.dumps(model))
    for add_chat_tokens in (True, False):
        loaded = load_tokenizer(tmp_path, add_chat_tokens)
        assert loaded.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()
        assert loaded.apply_chat_template(CHAT, tokenize=False) == RENDERED


def test_adding_chat_tokens_twice_changes_nothing(gpt2_folder, tmp_path):
    once = load_tokenizer(gpt2_folder)
    once.save_pretrained(tmp_path)
    assert load_tokenizer(tmp_path).backend_tokenizer.to_str() == once.backend_tokenizer.to_str()


def test_a_tokenizer_that_is_not_there_is_one_sentence(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="there is no folder .*missing"):
        load_tokenizer(tmp_path / "missing")
    with pytest.raises(UserError, match="holds no tokenizer"):
        load_tokenizer(tmp_path)
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    (tmp_path / "vocab.json").write_text('{"a": ')
    with pytest.raises(UserError, match="could not be loaded"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"model": ')
    with pytest.raises(UserError, match="could not be loaded"):
        load_tokenizer(tmp_path)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="nobody/nothing could not be loaded") as raised:
        load_tokenizer("nobody/nothing")
    assert "\n" not in str(raised.value)


def test_statistics_are_those_of_the_text(tokenizer, texts):
    bytes_alone = train_tokenizer(["x"], 265)
    documents = ["it's", "naïve <|end|>\n", "a\ud800"]
    assert tokenizer_statistics(bytes_alone, documents) == {
        "vocab_size": 265,
        "documents": 3,
        "bytes": 4 + 15 + 4,
        "tokens": 4 + 15 + 4,
        "bytes_per_token": 1.0,
        "round_trip_exact": 1.0,
        "vocabulary_used": len(set("".join(documents[:2]).encode() + "a\ufffd".encode())) / 265,
    }
    assert tokenizer_statistics(tokenizer, texts)["bytes_per_token"] > 2
    with pytest.raises(UserError, match="no text to measure"):
        tokenizer_statistics(tokenizer, [""])


def test_comparison_has_a_row_a_tokenizer_relative_to_the_first(tokenizer, texts):
    small = train_tokenizer(texts, 300)
    lossy = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    lossy.pre_tokenizer = pre_tokenizers.Whitespace()
    names = {"ours": tokenizer, "small": small, "lossy": PreTrainedTokenizerFast(tokenizer_object=lossy)}
    ours, other, words = compare_tokenizers(names, texts)
    assert [ours["tokenizer"], other["tokenizer"], words["tokenizer"]] == ["ours", "small", "lossy"]
    assert ours["relative_tokens"] == 1.0 and other["relative_tokens"] == other["tokens"] / ours["tokens"] > 1.2
    assert ours["bytes"] == other["bytes"] == sum(len(text) for text in texts)
    assert (ours["round_trip_exact"], words["round_trip_exact"]) == (1.0, 0.0)


def test_byte_lengths_of_the_ids_add_up_to_the_text(tokenizer, gpt2_folder):
    rng = random.Random(1)
    text = "".join(
        chr(rng.choice([rng.randrange(128), rng.randrange(0x800), rng.randrange(0xE000, 0x110000)]))
        for _ in range(3000)
    )
    for one in (tokenizer, load_tokenizer(gpt2_folder)):
        lengths = token_byte_lengths(one)
        assert lengths.shape == (len(one),) and lengths.dtype == np.int64
        assert lengths[one(text)["input_ids"]].sum() == len(text.encode())
        assert lengths[one.all_special_ids].tolist() == [0] * len(one.all_special_ids)
        assert np.count_nonzero(lengths == 0) == sum(
            token.special for token in one.backend_tokenizer.get_added_tokens_decoder().values()
        )


def test_byte_lengths_of_sentencepiece_tokens():
    vocab = {
        "<unk>": 0,
        **{f"<0x{byte:02X}>": byte + 1 for byte in range(256)},
        "▁": 257,
        "a": 258,
        "▁a": 259,
        "é": 260,
    }
    backend = Tokenizer(models.BPE(vocab, [("▁", "a")], unk_token="<unk>", byte_fallback=True))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never", split=False)
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    backend.add_special_tokens(["<unk>"])
    backend.add_tokens(["éé"])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")
    text = "a aé 世 éé"
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert token_byte_lengths(tokenizer)[ids].sum() == len(text.encode()) == 14
    assert token_byte_lengths(tokenizer)[0] == 0


def test_byte_lengths_need_tokens_that_are_pieces_of_the_text():
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0}, unk_token="a")))
    with pytest.raises(UserError, match="bits per byte cannot be counted"):
        token_byte_lengths(tokenizer)
