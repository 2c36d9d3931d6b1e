"""Generation: the same greedy tokens whatever the cache, the padding and the batch, past the sliding window too."""

import re

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, pipeline

NEW_TOKENS = 24  # with the prompt well past the depth family's window of 6


@pytest.fixture
def prompts() -> torch.Tensor:
    return torch.randint(2, 97, (3, 10), generator=torch.Generator().manual_seed(11))


def greedy(model, input_ids: torch.Tensor, **options) -> torch.Tensor:
    mask = options.pop("attention_mask", torch.ones_like(input_ids))
    options = {"max_new_tokens": NEW_TOKENS, "do_sample": False} | options
    return model.generate(input_ids, attention_mask=mask, **options)[:, input_ids.shape[1] :]


def by_hand(model, input_ids: torch.Tensor) -> torch.Tensor:
    """Greedy decoding that runs the whole text anew for each token."""
    start = input_ids.shape[1]
    for _ in range(NEW_TOKENS):
        following = model(input_ids, use_cache=False).logits[:, -1].argmax(-1)
        input_ids = torch.cat([input_ids, following[:, None]], dim=1)
    return input_ids[:, start:]


@torch.no_grad()
@pytest.mark.parametrize(
    "options",
    [{"use_cache": False}, {"cache_implementation": "dynamic"}, {"cache_implementation": "static"}],
    ids=["no cache", "dynamic cache", "static cache"],
)
@pytest.mark.parametrize("backend", ["eager", "sdpa"])
def test_greedy_tokens_are_those_of_running_everything_anew(small_model, family, prompts, backend, options) -> None:
    model = small_model(family, attn_implementation=backend, tie_word_embeddings=False)
    expected = by_hand(model, prompts)
    assert len(set(expected.flatten().tolist())) > 10  # a model that repeats one token would pass anything
    assert torch.equal(greedy(model, prompts, **options), expected)


@torch.no_grad()
@pytest.mark.parametrize("cache", ["dynamic", "static"])
def test_left_padding_changes_nothing(small_model, family, prompts, cache) -> None:
    model = small_model(family, tie_word_embeddings=False)
    lengths = [4, 7, 10]
    padded, mask = torch.zeros_like(prompts), torch.zeros_like(prompts)
    for row, length in enumerate(lengths):
        padded[row, -length:], mask[row, -length:] = prompts[row, :length], 1
    together = greedy(model, padded, attention_mask=mask, cache_implementation=cache)
    for row, length in enumerate(lengths):
        assert torch.equal(together[row], greedy(model, prompts[row : row + 1, :length])[0])


@torch.no_grad()
def test_left_padding_changes_no_logits_where_nobody_gives_positions(small_model, family, prompts) -> None:
    """As TRL's GRPO asks for the log-probabilities of what was generated."""
    model = small_model(family, tie_word_embeddings=False)
    alone = model(prompts).logits
    padded = torch.cat([torch.zeros_like(prompts[:, :5]), prompts], dim=1)
    mask = torch.cat([torch.zeros_like(prompts[:, :5]), torch.ones_like(prompts)], dim=1)
    assert torch.allclose(model(padded, attention_mask=mask).logits[:, 5:], alone, atol=1e-5)


@torch.no_grad()
def test_beam_search_finds_the_same_with_and_without_cache(small_model, family, prompts) -> None:
    model = small_model(family, tie_word_embeddings=False)
    beams = greedy(model, prompts, num_beams=3)
    assert torch.equal(beams, greedy(model, prompts, num_beams=3, use_cache=False))
    assert not torch.equal(beams, greedy(model, prompts))

    def score(tokens: torch.Tensor) -> torch.Tensor:
        text = torch.cat([prompts, tokens], dim=1)
        log_probabilities = model(text).logits.log_softmax(-1)[:, :-1].gather(-1, text[:, 1:, None])
        return log_probabilities[:, prompts.shape[1] - 1 :].sum()

    assert score(beams) > score(greedy(model, prompts))


def test_the_text_generation_pipeline_continues_a_prompt(small_model, family) -> None:
    words = {word: number for number, word in enumerate(["<pad>", "<bos>", *(f"w{n}" for n in range(2, 97))])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<bos>")
    model = small_model(family, tie_word_embeddings=False)
    generate = pipeline("text-generation", model=model, tokenizer=fast)
    (answer,) = generate("w5 w9 w12", max_new_tokens=6, do_sample=False)
    expected = greedy(model, torch.tensor([[5, 9, 12]]), max_new_tokens=6)[0].tolist()
    assert re.findall(r"w\d+", answer["generated_text"]) == [
        "w5",
        "w9",
        "w12",
        *(f"w{number}" for number in expected if number > 1),
    ]
