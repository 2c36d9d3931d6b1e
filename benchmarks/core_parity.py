"""CORE by hfgpt's lm-eval tasks beside nanochat's own evaluator: the same models, question by question.

    python benchmarks/core_parity.py --nanochat NANOCHAT --bundle BUNDLE --text TEXT [--limit 100]

NANOCHAT is nanochat's repository, imported from where it lies; BUNDLE a folder in the layout of its eval bundle, in
which tasks may be missing; TEXT text files that the trained model learns from, beside the answers to a few questions,
so that it gets some right. Writes benchmarks/core_parity.md.
"""

import argparse
import json
import logging
import math
import os
import random
import sys
import tempfile
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
import yaml
from lm_eval.evaluator import evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from lm_eval.tasks.manager import TaskDict
from machine import describe_machine
from torch.nn.utils.rnn import pad_sequence
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel, PreTrainedTokenizerFast

from hfgpt import evals
from hfgpt.data.tokenizer import train_tokenizer
from hfgpt.evals.core.bundle import Bundle, open_bundle
from hfgpt.evals.core.scored_tokens import ScoredTokens
from hfgpt.model import GPTConfig, GPTForCausalLM

REPORT = Path(__file__).parent / "core_parity.md"
CONTEXT = 512  # shorter than many a prompt, so that cropping is compared too
VOCABULARY = 2048
TIE = 1e-5  # nats; options closer than this may change places by rounding


@dataclass
class Question:
    """What one evaluator made of one question."""

    options: list[list[int]] = field(default_factory=list)  # tokens, cropped
    starts: list[int] = field(default_factory=list)  # first scored token of each
    losses: list[float] = field(default_factory=list)  # mean of each, nats per token
    cropped: int = 0  # options
    right: bool = False


Answers = dict[str, list[Question]]  # by label


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--nanochat", type=Path, required=True, help="nanochat's repository.")
    parser.add_argument("--bundle", type=Path, required=True, help="Folder in the layout of nanochat's eval_bundle.")
    parser.add_argument("--text", type=Path, nargs="+", required=True, help="Text files to train on.")
    parser.add_argument("--limit", type=int, default=100, help="Questions a task, 0 for all.")
    parser.add_argument("--steps", type=int, default=400, help="Training steps of the trained model.")
    return parser.parse_args()


def ask_nanochat(
    checkout: Path, bundle: Bundle, model: PreTrainedModel | None, tokenizer: PreTrainedTokenizerFast, limit: int
) -> tuple[dict, Answers]:
    """`evaluate_core` of its scripts/base_eval.py: what it returns, and each question as it went by. Without a model
    the questions are written and cut, and every loss is 0."""
    sys.path.insert(0, str(checkout))
    sys.modules.setdefault("rustbpe", types.ModuleType("rustbpe"))  # trains tokenizers; nothing here does
    from nanochat import core_eval
    from scripts import base_eval

    class Model:
        max_seq_len = CONTEXT

        def __call__(self, input_ids: torch.Tensor) -> torch.Tensor:
            return model(input_ids).logits

    class Tokenizer:
        def get_bos_token_id(self) -> int:
            return tokenizer.bos_token_id

        def __call__(self, texts: list[str], prepend: int) -> list[list[int]]:
            return [[prepend, *ids] for ids in tokenizer(texts, add_special_tokens=False).input_ids]

    questions: list[Question] = []
    by_label: Answers = {}
    own = {name: getattr(core_eval, name) for name in ("evaluate_example", "evaluate_task", "forward_model")}
    own_batches = {kind: getattr(core_eval, f"batch_sequences_{kind}") for kind in ("mc", "schema", "lm")}

    def recording_batches(batch_sequences: Callable) -> Callable:
        def recording(*arguments):
            tokens, starts, ends = batch_sequences(*arguments)
            assert ends == [len(ids) for ids in tokens]
            cuts = [max(0, len(ids) - CONTEXT) for ids in tokens]
            questions[-1].options = [ids[cut:] for ids, cut in zip(tokens, cuts, strict=True)]
            questions[-1].starts = [start - cut for start, cut in zip(starts, cuts, strict=True)]
            questions[-1].cropped = sum(cut > 0 for cut in cuts)
            return tokens, starts, ends

        return recording

    def forward_model(shim, input_ids):
        if model is None:
            return torch.zeros(input_ids.shape), torch.zeros_like(input_ids)
        losses, predictions = own["forward_model"](shim, input_ids)
        question = questions[-1]
        for row, ids, start in zip(losses, question.options, question.starts, strict=True):
            question.losses.append(row[start - 1 : len(ids) - 1].mean().item())
        return losses, predictions

    def evaluate_example(*arguments):
        questions.append(Question())
        questions[-1].right = own["evaluate_example"](*arguments)
        return questions[-1].right

    def evaluate_task(*arguments):
        questions.clear()
        accuracy = own["evaluate_task"](*arguments)
        by_label[list(bundle_without_missing)[len(by_label)]] = list(questions)
        return accuracy

    bundle_without_missing = [label for label in bundle.tasks if label not in bundle.missing]
    for kind, batch_sequences in own_batches.items():
        setattr(core_eval, f"batch_sequences_{kind}", recording_batches(batch_sequences))
    core_eval.forward_model, core_eval.evaluate_example = forward_model, evaluate_example
    base_eval.evaluate_task = evaluate_task
    try:
        returned = base_eval.evaluate_core(Model(), Tokenizer(), torch.device("cpu"), limit or -1)
    finally:
        for name in ("evaluate_example", "forward_model"):
            setattr(core_eval, name, own[name])
        for kind, batch_sequences in own_batches.items():
            setattr(core_eval, f"batch_sequences_{kind}", batch_sequences)
    return returned, by_label


def load_tasks(bundle: Path, tokenizer: PreTrainedTokenizerFast, limit: int) -> TaskDict:
    metadata = {"core_bundle": str(bundle), "core_limit": limit, "tokenizer": tokenizer, "max_length": CONTEXT}
    manager = TaskManager(include_path=list(evals.__path__), include_defaults=False, metadata=metadata)
    return manager.load(["core"])


def same_prompts(theirs: Answers, bundle: Path, tokenizer: PreTrainedTokenizerFast) -> int:
    """How many options all questions of the bundle have; raises where one has other tokens or another cut."""
    count = 0
    for name, task in load_tasks(bundle, tokenizer, limit=0)["tasks"].items():
        task.build_all_requests()
        for doc, question in zip(task.docs, theirs[name.removeprefix("core_")], strict=True):
            ours = [tokens for _, tokens in task.options(doc)]
            assert [tokens.ids for tokens in ours] == question.options, (name, doc["index"])
            assert [tokens.start for tokens in ours] == question.starts, (name, doc["index"])
            count += len(ours)
    return count


def ask_lm_eval(
    bundle: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, limit: int
) -> tuple[dict, Answers]:
    """lm-eval's own loop and model class over hfgpt's tasks: its results, and each question."""
    loaded = load_tasks(bundle, tokenizer, limit)
    results = evaluate(HFLM(model, tokenizer=tokenizer, batch_size=8), loaded, bootstrap_iters=1, log_samples=True)
    by_label: Answers = {}
    for name, task in loaded["tasks"].items():
        questions = [Question(right=sample["acc"] == 1) for sample in results["samples"][name]]
        for question, doc in zip(questions, task.docs, strict=True):
            options = [tokens for _, tokens in task.options(doc)]
            question.options = [tokens.ids for tokens in options]
            question.starts = [tokens.start for tokens in options]
            question.losses = [math.nan] * len(options)  # of an option that all others begin with
        for request in task.instances:
            questions[request.doc_id].losses[request.idx] = request.filtered_resps["none"][0]
        by_label[name.removeprefix("core_")] = questions
    return results["results"], by_label


def train(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, text: str, answers: list[ScoredTokens], steps: int
) -> None:
    """AdamW, in turn on rows of `text` and on `answers`, of which the scored tokens alone are learned."""
    ids = tokenizer(text).input_ids
    rows = torch.tensor(ids[: len(ids) // 256 * 256]).view(-1, 256)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    rng = random.Random(0)
    model.train()
    for step in range(steps):
        if step % 2:
            batch = rows[rng.sample(range(len(rows)), 4)]
            labels = batch
        else:
            drawn = rng.sample(answers, 4)
            batch = pad_sequence([torch.tensor(answer.ids) for answer in drawn], batch_first=True)
            labels = torch.full_like(batch, -100)
            for row, answer in zip(labels, drawn, strict=True):
                row[answer.start : len(answer.ids)] = torch.tensor(answer.continuation)
        loss = model(input_ids=batch, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if step % 50 < 2:
            print(f"step {step}: loss {loss.item():.3f}", flush=True)
    model.eval()


def answers_to_learn(bundle: Path, tokenizer: PreTrainedTokenizerFast, limit: int) -> list[ScoredTokens]:
    """The first prompts of each language modelling task: few others are ever answered right to the letter."""
    answers = []
    for task in load_tasks(bundle, tokenizer, limit)["tasks"].values():
        if task.spec.kind == "language_modeling":
            task.build_all_requests()
            answers += [request.tokens for request in task.instances[:8]]
    return answers


def compare(name: str, theirs: tuple[dict, Answers], ours: tuple[dict, Answers]) -> list[str]:
    """Rows of the table for one model. Raises where the evaluators differ by more than a tie."""
    rows = []
    for label, asked in theirs[1].items():
        pairs = list(zip(asked, ours[1][label], strict=True))
        assert all(their.options == our.options and their.starts == our.starts for their, our in pairs), label
        losses = [losses for their, our in pairs for losses in zip(their.losses, our.losses, strict=True)]
        assert all(math.isnan(a) == math.isnan(b) for a, b in losses), label
        difference = max(abs(a - b) for a, b in losses if not math.isnan(a))
        assert difference < 1e-4, (label, difference)
        other = [their for their, our in pairs if their.right != our.right]
        assert all(tied(their.losses) for their in other), label
        cropped = sum(their.cropped for their in asked)
        options = sum(len(their.options) for their in asked)
        accuracies = theirs[0]["results"][label], ours[0][f"core_{label}"]["acc,none"]
        cells = [len(asked), options, cropped, f"{difference:.1e}", len(other), *(f"{a:.4f}" for a in accuracies)]
        centered = theirs[0]["centered_results"][label], ours[0][f"core_{label}"]["centered,none"]
        cells += [f"{value:+.4f}" for value in centered]
        rows.append(f"| {name} | {label} | {' | '.join(map(str, cells))} |")
    core = theirs[0]["core_metric"], ours[0]["core"]["centered,none"]
    rows.append(f"| {name} | **CORE** |  |  |  |  |  |  |  | {core[0]:+.6f} | {core[1]:+.6f} |")
    return rows


def tied(losses: list[float]) -> bool:
    lowest = sorted(losses)
    return len(lowest) > 1 and lowest[1] - lowest[0] < TIE


def models(arguments: argparse.Namespace, tokenizer: PreTrainedTokenizerFast) -> Iterator[tuple[str, PreTrainedModel]]:
    """(name, model) one after the other."""
    torch.manual_seed(0)
    size = {"vocab_size": len(tokenizer), "max_position_embeddings": CONTEXT, "initializer_range": 0.2}
    ids = {key: getattr(tokenizer, key) for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    gpt2 = GPT2Config(**size, **ids, n_embd=64, n_layer=2, n_head=2)
    yield "transformers' GPT-2, random", GPT2LMHeadModel(gpt2).eval()
    shape = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    yield "hfgpt, random", GPTForCausalLM(GPTConfig(**size, **ids, **shape)).eval()
    model = GPTForCausalLM(GPTConfig(**{**size, "initializer_range": 0.02}, **ids, **shape))
    text = "\n\n".join(path.read_text(encoding="utf-8")[:300_000] for path in arguments.text)
    answers = answers_to_learn(arguments.bundle, tokenizer, arguments.limit)
    train(model, tokenizer, text, answers, arguments.steps)
    yield f"hfgpt, {arguments.steps} steps", model


def main() -> None:
    arguments = parse_arguments()
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    arguments.nanochat, arguments.bundle = arguments.nanochat.resolve(), arguments.bundle.resolve()
    bundle = open_bundle(arguments.bundle)
    rows = [json.dumps(row) for label in bundle.tasks if label not in bundle.missing for row in bundle.rows(label)]
    tokenizer = train_tokenizer(rows[:: math.ceil(len(rows) / 4000)], vocab_size=VOCABULARY)
    table = []
    with tempfile.TemporaryDirectory() as base:
        os.environ["NANOCHAT_BASE_DIR"] = base  # where it looks for its bundle
        place_for_nanochat(arguments.bundle, bundle, Path(base) / "eval_bundle")
        _, asked = ask_nanochat(arguments.nanochat, bundle, None, tokenizer, limit=0)
        options = same_prompts(asked, arguments.bundle, tokenizer)
        questions = sum(map(len, asked.values()))
        print(f"{questions:,} questions, {options:,} options: the same prompts", flush=True)
        for name, model in models(arguments, tokenizer):
            theirs = ask_nanochat(arguments.nanochat, bundle, model, tokenizer, arguments.limit)
            ours = ask_lm_eval(arguments.bundle, model, tokenizer, arguments.limit)
            table += compare(name, theirs, ours)
            print(*table[-len(theirs[1]) - 1 :], sep="\n", flush=True)
    part = "all" if not arguments.limit else f"the first {arguments.limit}"
    REPORT.write_text(
        f"""# CORE beside nanochat's evaluator

`python benchmarks/core_parity.py --nanochat NANOCHAT --bundle BUNDLE --text TEXT --limit {arguments.limit}
--steps {arguments.steps}`: `evaluate_core` of nanochat's `scripts/base_eval.py` beside lm-eval's loop over hfgpt's
tasks, on the same three models, {part} questions of each task that the bundle has
({len(bundle.missing)} of {len(bundle.tasks)} are missing). The models have 2 layers, 64 wide, and see {CONTEXT}
tokens; vocabulary {len(tokenizer):,}. The tokens of every option and the place where scoring begins are equal (the
script stops where they are not), and so they are in all {questions:,} questions of the bundle, {options:,} options,
asked without a limit.

"Loss" is the largest difference of a mean loss per token, in nats; "other" counts questions that one evaluator calls
right and the other wrong, which is allowed only where the two best options are within {TIE} nats. Left nanochat's,
right ours. The trained model was taught the first answers of the language modelling tasks, so its scores say nothing
but that they are equal.

| model | task | questions | options | cropped | loss | other | acc | acc | centred | centred |
|---|---|---|---|---|---|---|---|---|---|---|
{chr(10).join(table)}

Machine: {describe_machine()}
""",
        encoding="utf-8",
    )


def place_for_nanochat(folder: Path, bundle: Bundle, target: Path) -> None:
    """The bundle with a core.yaml of those tasks only that it has, for nanochat stops at a missing one."""
    target.mkdir()
    for name in ("eval_data", "eval_meta_data.csv"):
        (target / name).symlink_to(folder / name)
    listed = yaml.safe_load((folder / "core.yaml").read_text(encoding="utf-8"))["icl_tasks"]
    listed = [entry for entry in listed if entry["label"] not in bundle.missing]
    (target / "core.yaml").write_text(yaml.safe_dump({"icl_tasks": listed}), encoding="utf-8")


if __name__ == "__main__":
    main()
