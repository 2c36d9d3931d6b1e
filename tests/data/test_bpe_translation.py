"""The translation of byte-level BPE into tiktoken's terms holds for any merge list, not only for trained ones."""

import json
import random
import re

import pytest
import tiktoken
from tokenizers import Regex, Tokenizer, models, pre_tokenizers

from hfgpt.data.bpe_translation import _UNIFORM_BLOCKS, NotExpressible, _code_points, byte_of_character, tiktoken_form

ALPHABET = sorted(byte_of_character())


def test_any_merge_list_gives_the_same_ids():
    """Random merges in random order: tokens with several merges, merges that never fire, ranks that do not rise."""
    rng = random.Random(11)
    unreachable = several = 0
    for _ in range(150):
        letters = "abcd"[: rng.choice([1, 2, 3, 4])]
        tokens, merges = list(letters), []
        for _ in range(rng.randrange(1, 40)):
            left, right = rng.choice(tokens), rng.choice(tokens)
            if len(left + right) <= 12 and (left, right) not in merges:
                merges.append((left, right))
                tokens.append(left + right)
        rng.shuffle(merges)
        symbols = ALPHABET + sorted(set(tokens) - set(ALPHABET))
        rng.shuffle(symbols)
        backend = Tokenizer(models.BPE({token: i for i, token in enumerate(symbols)}, merges))
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        form = tiktoken_form(backend)
        unreachable += len(symbols) > len(form.tokens)
        several += len({a + b for a, b in merges}) < len(merges)
        ranks = {token: rank for rank, token in enumerate(form.tokens)}
        encoding = tiktoken.Encoding("", pat_str=form.pattern, mergeable_ranks=ranks, special_tokens={})
        for length in (*range(1, 30), 99, 100, 101, 150, 400):  # tiktoken takes another road from 100 bytes on
            text = "".join(rng.choices(letters, k=length))
            ids = form.ids[encoding.encode_ordinary(text)].tolist()
            assert ids == backend.encode(text).ids, (merges, text)
    assert unreachable > 20 and several > 20  # the cases this test is about did occur


def test_the_byte_alphabet_is_the_one_of_tokenizers():
    assert byte_of_character().keys() == set(pre_tokenizers.ByteLevel.alphabet())
    for character, byte in byte_of_character().items():
        if byte < 128:
            ((spelled, _),) = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(
                chr(byte)
            )
            assert spelled == character


@pytest.mark.parametrize("character_class", [r"\p{L}", r"\p{N}", r"\s", r"\S", r"\P{L}", r"\p{M}", r"\p{Lo}", r"\w"])
def test_a_spelled_out_class_is_what_the_tokenizers_engine_sees(character_class):
    rng = random.Random(2)
    edges = {point + step for block in _UNIFORM_BLOCKS.items() for point in block for step in (-1, 0, 1)}
    points = sorted({*range(0x20000), *edges, *(rng.randrange(0x20000, 0x110000) for _ in range(20_000))})
    text = "".join(chr(point) for point in points if not 0xD800 <= point < 0xE000 and point < 0x110000)
    matcher = pre_tokenizers.Split(Regex(character_class), behavior="removed", invert=True)
    seen = {character for character, _ in matcher.pre_tokenize_str(text)}
    ranges = re.findall(r"\\x\{(\w+)\}-\\x\{(\w+)\}", _code_points(character_class))
    spelled = {point for first, last in ranges for point in range(int(first, 16), int(last, 16) + 1)}
    assert {character for character in text if ord(character) in spelled} == seen


def test_no_character_class_is_left_to_tiktokens_own_version_of_unicode():
    backend = Tokenizer(models.BPE({character: i for i, character in enumerate(ALPHABET)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    pattern = tiktoken_form(backend).pattern
    assert pattern.startswith("'s|'t|'re|'ve|'m|'ll|'d| ?[\\x{41}-\\x{5A}\\x{61}-\\x{7A}\\x{AA}-\\x{AA}")
    assert set(re.findall(r"\\.", pattern)) == {r"\x"}


def test_a_vocabulary_without_all_bytes_is_refused():
    backend = Tokenizer(models.BPE({"a": 0, "b": 1, "ab": 2}, [("a", "b")]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    with pytest.raises(NotExpressible, match="lacks single bytes"):
        tiktoken_form(backend)


@pytest.mark.parametrize(
    "pattern", [r"^\s+|.", r"\s+$|.", r"\d{1,3}+|.", r"(?i)a|b", r"[a-z&&[^b]]|.", r"\h|.", r"\bx|."]
)
def test_patterns_that_the_two_engines_read_differently_are_refused(pattern):
    backend = Tokenizer(models.BPE({character: i for i, character in enumerate(ALPHABET)}, []))
    bytes_alone = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    state = json.loads(backend.to_str())
    state["pre_tokenizer"] = {
        "type": "Sequence",
        "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False},
            json.loads(bytes_alone.__getstate__()),
        ],
    }
    with pytest.raises(NotExpressible, match="split pattern, at"):
        tiktoken_form(Tokenizer.from_str(json.dumps(state)))
