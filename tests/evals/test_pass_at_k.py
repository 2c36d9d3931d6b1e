import itertools
import random

import numpy as np
import pytest
import torch

from hfgpt.data.tinyworld import TinyWorld
from hfgpt.data.tokenizer import train_tokenizer
from hfgpt.evals.pass_at_k import estimate_pass_at_k, measure_pass_at_k
from hfgpt.model import GPTConfig, GPTForCausalLM
from hfgpt.training.rewards import correct_number


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TinyWorld(12, 3).documents(100), vocab_size=400)


@pytest.fixture
def model(tokenizer):
    torch.manual_seed(0)
    config = GPTConfig(
        vocab_size=len(tokenizer),
        max_position_embeddings=64,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        hidden_dropout=0.1,
        bos_token_id=tokenizer.bos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return GPTForCausalLM(config)


def row(question: str, answer: str) -> dict:
    return {"prompt": [{"role": "user", "content": question}], "answer": answer}


def taught(model, tokenizer, texts: list[str]) -> None:
    """Overfits the model on whole conversations."""
    batch = tokenizer(texts, add_special_tokens=False, padding=True, padding_side="right", return_tensors="pt")
    labels = batch.input_ids.masked_fill(batch.attention_mask == 0, -100)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    model.train()
    for _ in range(250):
        model(input_ids=batch.input_ids, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def dialogue(tokenizer, question: str, answer: str) -> str:
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return tokenizer.apply_chat_template(messages, tokenize=False)


@pytest.mark.parametrize("right", range(7))
@pytest.mark.parametrize("k", [1, 2, 3, 6])
def test_the_estimate_is_the_share_of_subsets_that_hold_a_right_answer(right, k):
    answers = [True] * right + [False] * (6 - right)
    subsets = list(itertools.combinations(answers, k))
    assert estimate_pass_at_k(6, right, k) == pytest.approx(sum(map(any, subsets)) / len(subsets), abs=1e-12)


def test_the_estimate_is_unbiased():
    """For answers right with p = 0.3 independently, the mean estimate from 10 samples is 1 - 0.7^k."""
    draws = np.random.default_rng(0).binomial(10, 0.3, size=20_000)
    for k in (1, 4, 8):
        mean = np.mean([estimate_pass_at_k(10, int(right), k) for right in draws])
        assert mean == pytest.approx(1 - 0.7**k, abs=0.005)


def test_impossible_counts_are_refused():
    for samples, right, k in [(8, 9, 1), (8, -1, 1), (8, 2, 9), (8, 2, 0), (0, 0, 1)]:
        with pytest.raises(ValueError, match=f"pass@{k} cannot be estimated"):
            estimate_pass_at_k(samples, right, k)


def test_a_question_always_answered_right_one_half_right_and_one_never_right(model, tokenizer):
    texts = [dialogue(tokenizer, "one?", "1.")] * 2 + [dialogue(tokenizer, "two?", f"{n}.") for n in (2, 3)]
    taught(model, tokenizer, texts + [dialogue(tokenizer, "four?", "5.")] * 2)
    asked = [row("one?", "1"), row("two?", "2"), row("four?", "4")]
    scores = measure_pass_at_k(
        model, tokenizer, asked, correct_number, samples=64, ks=(1, 8), max_new_tokens=6, batch_size=32
    )
    assert set(scores) == {"pass@1", "pass@1_stderr", "pass@8", "pass@8_stderr"}
    assert scores["pass@1"] == pytest.approx((1 + 0.5 + 0) / 3, abs=0.08)
    assert scores["pass@8"] == pytest.approx((1 + 1 + 0) / 3, abs=0.02)
    assert scores["pass@1_stderr"] == pytest.approx(np.std([1, 0.5, 0], ddof=1) / 3**0.5, abs=0.05)


def test_the_reward_sees_every_sample_with_the_columns_of_its_row_whatever_the_batch(model, tokenizer):
    rows = [
        row("one?", "1") | {"level": 7},
        row("a longer question?", "2") | {"level": 8},
        row("x", "3") | {"level": 9},
    ]
    for batch_size in (1, 6, 256):
        seen = []

        def reward(completions, answer, level, seen=seen):
            assert [turn["role"] for turns in completions for turn in turns] == ["assistant"] * len(completions)
            seen += zip(answer, level, strict=True)
            return [1.0 if value == "2" else 0.5 for value in answer]

        scores = measure_pass_at_k(
            model, tokenizer, rows, reward, samples=3, ks=(1, 3), max_new_tokens=3, batch_size=batch_size
        )
        assert seen == [("1", 7)] * 3 + [("2", 8)] * 3 + [("3", 9)] * 3
        assert scores["pass@1"] == scores["pass@3"] == pytest.approx(1 / 3)


def test_the_seed_decides_the_answers_and_nothing_changes_for_the_run_around_it(model, tokenizer):
    rows, drawn = [row("one?", "1")], []

    def reward(completions, answer):
        drawn.append([turns[0]["content"] for turns in completions])
        return [0.0] * len(completions)

    model.train()
    torch.manual_seed(5)
    random.seed(5)
    expected = torch.rand(3).tolist(), random.random()
    torch.manual_seed(5)
    random.seed(5)
    for seed in (1, 1, 2):
        measure_pass_at_k(model, tokenizer, rows, reward, samples=8, ks=(1,), max_new_tokens=5, seed=seed)
    assert (torch.rand(3).tolist(), random.random()) == expected
    assert model.training
    assert drawn[0] == drawn[1] != drawn[2]
    assert len(set(drawn[0])) > 4  # sampled, and from the whole distribution


def test_one_prompt_has_no_standard_error_and_none_is_refused(model, tokenizer):
    scores = measure_pass_at_k(model, tokenizer, [row("a", "1")], correct_number, samples=2, ks=(1,), max_new_tokens=2)
    assert set(scores) == {"pass@1"}
    with pytest.raises(ValueError, match="at least one prompt"):
        measure_pass_at_k(model, tokenizer, [], correct_number)
