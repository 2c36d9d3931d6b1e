"""pass@k: how often at least one of k sampled answers to a prompt is right, by a reward that a program checks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch

from hfgpt.evals.harness import unchanged

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

RIGHT = 1.0  # the reward from which an answer counts as right


def estimate_pass_at_k(samples: int, right: int, k: int) -> float:
    """The chance that k of `samples` answers drawn without replacement, `right` of them right, hold a right one:
    1 - C(samples - right, k) / C(samples, k), an unbiased estimate of pass@k (Chen et al. 2021, arXiv:2107.03374).

    Raises ValueError unless 0 <= right <= samples and 1 <= k <= samples.
    """
    if not (0 <= right <= samples and 1 <= k <= samples):
        raise ValueError(f"pass@{k} cannot be estimated from {right} right ones among {samples} samples.")
    return 1.0 - math.comb(samples - right, k) / math.comb(samples, k)


def measure_pass_at_k(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Iterable[dict[str, Any]],
    reward: Callable[..., list[float]],
    *,
    samples: int = 8,
    ks: Sequence[int] = (1, 8),
    temperature: float = 1.0,
    max_new_tokens: int = 256,
    batch_size: int = 256,
    seed: int = 0,
) -> dict[str, float]:
    """`{"pass@1": ..., "pass@1_stderr": ..., ...}`, means over the prompts with their standard errors.

    A row holds `prompt` (a list of messages) and the columns that `reward` wants, which is called as TRL calls it:
    `reward(completions=..., **columns)`, one row repeated for each of its `samples`; an answer of reward 1 is right.
    Answers are drawn from the model's whole distribution at `temperature`, `batch_size` at a time (always whole
    prompts). The mode of every module and all random states are afterwards what they were; the same `seed` draws the
    same answers. Every process that calls this measures all of it.
    """
    rows = list(rows)
    if not rows:
        raise ValueError("pass@k needs at least one prompt.")
    most_prompts = max(1, batch_size // samples)
    right: list[int] = []
    with unchanged(model):
        model.eval()
        torch.manual_seed(seed)
        for start in range(0, len(rows), most_prompts):
            asked = [row for row in rows[start : start + most_prompts] for _ in range(samples)]
            texts = _answers(model, tokenizer, [row["prompt"] for row in asked], temperature, max_new_tokens)
            completions = [[{"role": "assistant", "content": text}] for text in texts]
            columns = {name: [row[name] for row in asked] for name in asked[0] if name != "prompt"}
            passed = [value >= RIGHT for value in reward(completions=completions, **columns)]
            right += [sum(passed[i : i + samples]) for i in range(0, len(passed), samples)]
    scores = {}
    for k in ks:
        estimates = torch.tensor([estimate_pass_at_k(samples, count, k) for count in right], dtype=torch.float64)
        scores[f"pass@{k}"] = estimates.mean().item()
        if len(right) > 1:  # one prompt has no standard error
            scores[f"pass@{k}_stderr"] = (estimates.std() / math.sqrt(len(right))).item()
    return scores


def _answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[list[dict]],
    temperature: float,
    max_new_tokens: int,
) -> list[str]:
    """One sampled answer per prompt, up to the end of its turn."""
    texts = tokenizer.apply_chat_template(prompts, add_generation_prompt=True, tokenize=False)
    batch = tokenizer(texts, add_special_tokens=False, padding=True, padding_side="left", return_tensors="pt")
    batch = batch.to(model.device)
    rows = model.generate(  # type: ignore[operator]
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        do_sample=True,
        temperature=temperature,
        top_k=0,  # generate cuts to the 50 likeliest tokens unless told otherwise
        max_new_tokens=max_new_tokens,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        use_cache=True,
    )
    return tokenizer.batch_decode(rows[:, batch.input_ids.shape[1] :], skip_special_tokens=True)
