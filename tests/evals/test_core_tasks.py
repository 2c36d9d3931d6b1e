"""CORE's prompts, cuts and scores are those of nanochat's evaluator, through lm-eval's own loop and command too."""

import copy
import hashlib
import json
import math
import random
from pathlib import Path

import pytest
import torch
from commands import succeed
from eval_bundle import BASELINES, rows_of, write_bundle
from lm_eval.evaluator import evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from transformers import GPT2Config, GPT2LMHeadModel

from hfgpt import evals
from hfgpt.data.tokenizer import train_tokenizer
from hfgpt.errors import UserError
from hfgpt.evals.core.model_tokens import ModelTokens, model_tokens
from hfgpt.evals.core.prompts import fewshot_indices
from hfgpt.evals.core.scored_tokens import ScoredTokens, scored_tokens
from hfgpt.evals.harness import evaluate_tasks
from hfgpt.model import GPTConfig, GPTForCausalLM

CONTEXT = 48  # shorter than some of the prompts
ASKED = [label for label in BASELINES if label != "squad"]
SHOTS = {"piqa": 3, "winogrande": 2, "jeopardy": 2}
DELIMITERS = {"piqa": "\nAnswer: ", "jeopardy": "\nA: "}

# Of every option of the first 25 questions of each task: its token ids, one a byte, and where scoring begins, as
# nanochat's core_eval.py (commit 92d63d4) renders and cuts them; asked without a limit, and with a limit of 40.
NANOCHATS_PROMPTS = {
    "jeopardy": ("1f9003131f711290", "9646f583db846712"),
    "arc_easy": ("6db17f0422669795", "0081043c7eb59d24"),
    "copa": ("a5a2ffb6b0640e3a", "a5a2ffb6b0640e3a"),
    "piqa": ("fb35f4327171183a", "9b7e8fe7e4d0f1b7"),
    "lambada_openai": ("6096d1006f942811", "6096d1006f942811"),
    "winograd": ("dfde874d65f951f3", "dfde874d65f951f3"),
    "agi_eval_lsat_ar": ("2cf4575614ada537", "854f4be892153b51"),
    "bigbench_repeat_copy_logic": ("607f0a9f042ae659", "607f0a9f042ae659"),
}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("core") / "eval_bundle")


@pytest.fixture(scope="module")
def tokenizer():
    texts = [
        json.dumps(row, ensure_ascii=False) for kind in ("multiple_choice", "schema", "lm") for row in rows_of(kind)
    ]
    return train_tokenizer(texts, vocab_size=500)


@pytest.fixture(scope="module")
def byte_tokenizer():
    return train_tokenizer(["bytes alone"], vocab_size=265)


@pytest.fixture
def model(tokenizer):
    torch.manual_seed(0)
    ids = {key: getattr(tokenizer, key) for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    size = {"vocab_size": len(tokenizer), "max_position_embeddings": CONTEXT, "initializer_range": 0.2}
    return GPTForCausalLM(
        GPTConfig(**size, **ids, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, hidden_dropout=0.1)
    )


def load(bundle: Path, tasks: list[str], **metadata) -> dict:
    manager = TaskManager(
        include_path=list(evals.__path__),
        include_defaults=False,
        metadata={"core_bundle": str(bundle), **metadata},
    )
    return manager.load(tasks)["tasks"]


def ask(bundle: Path, label: str, **metadata):
    """The task with its requests made, as lm-eval makes them before it runs the model."""
    (task,) = load(bundle, [f"core_{label}"], **metadata).values()
    task.build_all_requests()
    return task


def evaluate_logged(model, tokenizer, bundle: Path, tasks: list[str]) -> dict:
    """lm-eval's own loop and model class, with a log of samples."""
    metadata = {"core_bundle": str(bundle), "tokenizer": tokenizer, "max_length": CONTEXT}
    manager = TaskManager(include_path=list(evals.__path__), include_defaults=False, metadata=metadata)
    return evaluate(HFLM(model, tokenizer=tokenizer, batch_size=3), manager.load(tasks), log_samples=True)


@pytest.mark.parametrize("limit", [0, 40])
def test_prompts_and_cuts_are_nanochats(shared_data, byte_tokenizer, limit):
    """Also: the two limits of lm-eval's, its own and CORE's, ask the same."""
    folder = shared_data / "evals" / "core"
    model = {"tokenizer": byte_tokenizer, "max_length": 1_000_000}
    by_metadata = load(folder, ["core"], **model, core_limit=limit)
    by_limit = load(folder, ["core"], **model)
    for label, digests in NANOCHATS_PROMPTS.items():
        for tasks, core_limit in ((by_metadata, None), (by_limit, limit)):
            task = tasks[f"core_{label}"]
            task._questions = task.docs[: core_limit or None]
            digest = hashlib.sha256()
            for doc in task._questions[:25]:
                for _, tokens in task.options(doc):
                    digest.update(repr((tokens.ids, tokens.start)).encode())
            assert digest.hexdigest()[:16] == digests[limit > 0], label


def direct_count(model, tokenizer, label: str, kind: str) -> tuple[list[bool], list[list[float]]]:
    """What is right, and every option's mean loss, by the words of the definition, one forward pass an option."""
    rows = rows_of(kind)
    random.Random(1337).shuffle(rows)
    delimiter = DELIMITERS.get(label, " ")

    def written(row, option):
        if kind == "multiple_choice":
            return row["query"] + delimiter + row["choices"][option]
        if kind == "schema":
            return row["context_options"][option] + delimiter + row["continuation"]
        return row["context"].strip() + delimiter + row["continuation"]

    right, losses = [], []
    for index, row in enumerate(rows):
        others = [i for i in range(len(rows)) if i != index]
        shots = random.Random(1234 + index).sample(others, SHOTS.get(label, 0))
        before = "".join(written(rows[i], rows[i].get("gold", 0)) + "\n\n" for i in shots)
        options = {"multiple_choice": row.get("choices"), "schema": row.get("context_options")}.get(kind, [""])
        ids = [tokenizer(before + written(row, i)).input_ids for i in range(len(options))]  # its tokenizer adds BOS
        scored = []
        if kind == "multiple_choice":
            shared = next(i for i in range(1000) if len({tuple(x[: i + 1]) for x in ids}) > 1)
            scored = [len(x) - shared for x in ids]
        elif kind == "schema":
            shared = next(i for i in range(1000) if len({tuple(x[len(x) - i - 1 :]) for x in ids}) > 1)
            scored = [shared for _ in ids]
        else:
            context = tokenizer((before + row["context"].strip() + delimiter).strip()).input_ids
            assert ids[0][: len(context)] == context
            scored = [len(ids[0]) - len(context)]
        means, greedy = [], False
        for tokens, count in zip(ids, scored, strict=True):
            tokens = torch.tensor(tokens[-CONTEXT:])
            with torch.no_grad():
                logits = model.eval()(tokens[None]).logits[0, :-1]
            each = torch.nn.functional.cross_entropy(logits, tokens[1:], reduction="none")
            means.append(each[-count:].mean().item())
            greedy = bool((logits.argmax(-1) == tokens[1:])[-count:].all())
        losses.append(means)
        right.append(greedy if kind == "language_modeling" else means.index(min(means)) == row["gold"])
    return right, losses


KINDS = {"copa": "multiple_choice", "piqa": "multiple_choice", "winograd": "schema", "winogrande": "schema"}


def teach(model, tokenizer, texts: list[str], **options) -> None:
    batch = tokenizer(texts, return_tensors="pt", padding=True, padding_side="right", **options)
    labels = batch.input_ids.masked_fill(batch.attention_mask == 0, -100)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    model.train()
    for _ in range(100):
        model(input_ids=batch.input_ids, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("taught", [False, True])
def test_scores_are_those_of_a_direct_count(model, tokenizer, bundle, taught):
    if taught:
        rows = rows_of("language_modeling")
        teach(model, tokenizer, [f"{row['context'].strip()} {row['continuation']}" for row in rows])
    scores = evaluate_tasks(model, tokenizer, ["core"], metadata={"core_bundle": str(bundle)}, batch_size=5)
    centered, errors = [], []
    longest = 0
    for label in ASKED:
        right, losses = direct_count(model, tokenizer, label, KINDS.get(label, "language_modeling"))
        share, baseline = sum(right) / 12, BASELINES[label] / 100
        longest = max(longest, *(max(row) for row in losses))
        error = math.sqrt(share * (1 - share) / 11)
        expected = {
            "acc": share,
            "stderr": error,
            "centered": (share - baseline) / (1 - baseline),
            "centered_stderr": error / (1 - baseline),
        }
        assert scores[f"core_{label}"] == pytest.approx(expected, abs=1e-9), label
        centered.append(expected["centered"])
        errors.append(expected["centered_stderr"])
    mean_error = math.sqrt(sum(error**2 for error in errors)) / 6
    expected = {"centered": sum(centered) / 6, "stderr": mean_error, "left_out": 1}
    assert scores["core"] == pytest.approx(expected, abs=1e-9)
    assert longest > 1
    assert scores["core_lambada_openai"]["acc"] == (1 if taught else 0)


def test_what_a_log_of_samples_holds(model, tokenizer, bundle):
    """Each option's mean loss, as the direct count has it, and whether it is what greedy decoding gives."""
    results = evaluate_logged(model, tokenizer, bundle, ["core"])
    for label in ASKED:
        right, losses = direct_count(model, tokenizer, label, KINDS.get(label, "language_modeling"))
        samples = results["samples"][f"core_{label}"]
        assert [sample["acc"] == 1 for sample in samples] == right
        for sample, expected in zip(samples, losses, strict=True):
            assert [loss for loss, _ in sample["filtered_resps"]] == pytest.approx(expected, abs=1e-5)
            assert all(isinstance(text, str) for pair in sample["arguments"] for text in pair)
    assert results["results"]["core"]["alias"] == "core (6 of 7 tasks)"
    assert results["results"]["core"]["missing_tasks"] == ["squad"]
    json.dumps(results["configs"])


def test_a_limit_cuts_the_questions_before_examples_are_drawn(model, tokenizer, bundle):
    metadata = {"core_bundle": str(bundle)}
    tasks = ["core_piqa", "core_jeopardy"]
    limited = evaluate_tasks(model, tokenizer, tasks, metadata=metadata, limit=5)
    assert limited == evaluate_tasks(model, tokenizer, tasks, metadata={**metadata, "core_limit": 5})
    task = ask(bundle, "piqa", tokenizer=tokenizer, max_length=CONTEXT, core_limit=5)
    texts = {strings[0] for doc in task.docs for strings, _ in task.options(doc)}
    asked = {doc["query"] for doc in task.docs}
    others = {row["query"] for row in rows_of("multiple_choice")} - asked
    assert len(asked) == 5 and len(others) == 7
    assert not [other for other in others if any(other in text for text in texts)]
    with pytest.raises(UserError, match="core_piqa shows 3 examples .* the limit must be at least 4, not 3"):
        evaluate_tasks(model, tokenizer, ["core_piqa"], metadata=metadata, limit=3)


@pytest.mark.parametrize("index", [0, 3, 11])
def test_examples_are_drawn_as_from_a_list_without_the_question(index):
    others = [i for i in range(12) if i != index]
    assert fewshot_indices(index, 12, 5) == random.Random(1234 + index).sample(others, 5)


def test_an_option_that_all_others_begin_with_wins_in_the_first_place_only(bundle, tmp_path, tokenizer, model):
    """As in nanochat's evaluator, where the mean of no losses is not a number."""
    rows = [
        {"query": "It is", "choices": ["deep", "deep blue"], "gold": 0},
        {"query": "It is", "choices": ["deep blue", "deep"], "gold": 1},
    ]
    folder = write_bundle(tmp_path / "bundle")
    path = folder / "eval_data/all/copa.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    scores = evaluate_tasks(model, tokenizer, ["core_copa"], metadata={"core_bundle": str(folder)})
    assert scores["core_copa"]["acc"] == 0.5
    task = ask(folder, "copa", tokenizer=tokenizer, max_length=CONTEXT)
    assert len(task.instances) == 2
    path.write_text(json.dumps({"query": "It is", "choices": ["red", "red"], "gold": 0}) + "\n")
    with pytest.raises(UserError, match="core_copa: question 0 has nothing to be scored"):
        evaluate_tasks(model, tokenizer, ["core_copa"], metadata={"core_bundle": str(folder)})


def test_what_is_scored_of_each_kind():
    first, second = [1, 5, 6, 7], [1, 5, 8, 6, 7]
    assert [scored.start for scored in scored_tokens("multiple_choice", [first, second])] == [2, 2]
    assert [scored.start for scored in scored_tokens("schema", [first, second])] == [2, 3]
    (scored,) = scored_tokens("language_modeling", [first[:3], first])
    assert (scored.context, scored.continuation) == ([1, 5, 6], [7])


def test_a_prompt_longer_than_the_model_loses_its_beginning():
    tokens = ScoredTokens([1, 2, 3, 4, 5, 6], start=4)
    assert tokens.cropped(6) is tokens
    assert tokens.cropped(4) == ScoredTokens([3, 4, 5, 6], start=2)
    assert tokens.cropped(2) == ScoredTokens([5, 6], start=1, unscored=1)


def test_an_answer_longer_than_the_model_is_never_right(model, tokenizer, bundle, tmp_path):
    """Though the model would go on like this: nobody saw it give the whole answer."""
    teach(model, tokenizer, [" ".join(["red"] * (CONTEXT - 5))], add_special_tokens=False)
    teach(model, tokenizer, [" ".join(["red"] * (CONTEXT - 5))])
    folder = write_bundle(tmp_path / "bundle")
    path = folder / "eval_data/all/lambada_openai.jsonl"
    for words, right in ((5, True), (CONTEXT - 6, True), (200, False)):
        path.write_text(json.dumps({"context": "red red red red", "continuation": " ".join(["red"] * words)}) + "\n")
        results = evaluate_logged(model, tokenizer, folder, ["core_lambada_openai"])
        (sample,) = results["samples"]["core_lambada_openai"]
        ((_, is_greedy),) = sample["resps"][0]
        assert is_greedy and sample["acc"] == right and sample["filtered_resps"][0][1] == right


def test_every_prompt_begins_with_one_bos_whatever_the_tokenizer_adds(tokenizer):
    assert tokenizer("red").input_ids[0] == tokenizer.bos_token_id
    (with_bos,) = ModelTokens(tokenizer, 10)(["red"])
    assert with_bos == tokenizer("red").input_ids
    assert ModelTokens(tokenizer, 10, bos_token_id=7)(["red"])[0] == [7, *with_bos[1:]]


def test_a_model_that_is_not_named_or_has_no_first_token_is_refused(bundle, tokenizer):
    with pytest.raises(UserError, match="give pretrained or tokenizer in the model's arguments"):
        ask(bundle, "copa")
    with pytest.raises(UserError, match="give pretrained in the model's arguments"):
        model_tokens({"tokenizer": tokenizer})
    bare = copy.deepcopy(tokenizer)
    bare.bos_token = None
    assert ModelTokens(bare, 10).bos_token_id == tokenizer.eos_token_id
    bare.eos_token = None
    with pytest.raises(UserError, match="neither BOS nor EOS"):
        ModelTokens(bare, 10)


def test_a_task_without_data_is_refused_where_it_is_asked_for_alone(model, tokenizer, bundle):
    for label in ("squad", "boolq"):
        with pytest.raises(UserError, match=f"eval_bundle has no data for core_{label}: leave it out"):
            evaluate_tasks(model, tokenizer, [f"core_{label}"], metadata={"core_bundle": str(bundle)})


def test_it_is_never_asked_in_chat_form(bundle, tokenizer):
    (task,) = load(bundle, ["core_copa"], tokenizer=tokenizer, max_length=CONTEXT).values()
    with pytest.raises(UserError, match="leave out apply_chat_template"):
        task.build_all_requests(apply_chat_template=True)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["hfgpt", "gpt2"])
def test_lm_evals_own_command_gives_the_same_scores(model, tokenizer, bundle, tmp_path, family):
    if family == "gpt2":
        ids = {key: getattr(tokenizer, key) for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
        model = GPT2LMHeadModel(
            GPT2Config(vocab_size=len(tokenizer), n_positions=CONTEXT, n_embd=32, n_layer=2, n_head=2, **ids)
        )
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    remote = ",trust_remote_code=True" if family == "hfgpt" else ""
    command = ["--model", "hf", "--device", "cpu", "--batch_size", "4", "--tasks", "core", "--log_samples"]
    command += ["--model_args", f"pretrained={tmp_path / 'model'}{remote}", "--output_path", str(tmp_path / "out")]
    command += ["--include_path", str(Path(evals.__file__).parent)]
    command += ["--metadata", json.dumps({"core_bundle": str(bundle), "core_limit": 8})]
    environment = {"HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(tmp_path / "modules"), "OMP_NUM_THREADS": "1"}
    done = succeed("lm_eval", *command, timeout=240, **environment)
    assert "core (6 of 7 tasks)" in done.stdout and "squad" in done.stdout
    (written,) = (tmp_path / "out").rglob("results_*.json")
    theirs = json.loads(written.read_text())["results"]
    ours = evaluate_tasks(model, tokenizer, ["core"], metadata={"core_bundle": str(bundle)}, limit=8)
    assert set(ours) == {"core", *(f"core_{label}" for label in ASKED)}
    for name, score in ours.items():
        assert theirs[name]["centered,none"] == pytest.approx(score["centered"], abs=1e-9)
    (log,) = (tmp_path / "out").rglob("samples_core_piqa_*.jsonl")
    samples = [json.loads(line) for line in log.read_text().splitlines()]
    assert len(samples) == 8 and {len(sample["filtered_resps"]) for sample in samples} == {2, 3, 4}
    assert {row["doc"]["query"].strip() for row in samples} < {
        row["query"].strip() for row in rows_of("multiple_choice")
    }


@pytest.mark.slow
def test_two_processes_share_the_questions_and_get_the_scores_of_one(model, tokenizer, bundle, tmp_path):
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    script = tmp_path / "evaluate.py"
    script.write_text(
        "import json, sys, torch\n"
        "from transformers import AutoTokenizer\n"
        "from hfgpt.model import GPTForCausalLM\n"
        "from hfgpt.evals.harness import evaluate_tasks\n"
        "torch.distributed.init_process_group('gloo')\n"
        "model = GPTForCausalLM.from_pretrained(sys.argv[1])\n"
        "tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])\n"
        "scores = evaluate_tasks(model, tokenizer, ['core'], metadata={'core_bundle': sys.argv[3]}, limit=7)\n"
        "json.dump(scores, open(f'{sys.argv[2]}/{torch.distributed.get_rank()}.json', 'w'))\n"
        "torch.distributed.destroy_process_group()\n"
    )
    launcher = ["python", "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    succeed(*launcher, script, tmp_path / "model", tmp_path, bundle, OMP_NUM_THREADS="1", timeout=240)
    alone = evaluate_tasks(model, tokenizer, ["core"], metadata={"core_bundle": str(bundle)}, limit=7)
    for rank in (0, 1):
        scores = json.loads((tmp_path / f"{rank}.json").read_text())
        assert scores == {name: pytest.approx(score, abs=1e-9) for name, score in alone.items()}
