import json
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import PROGRAMS, REPOSITORY, succeed
from transformers import GPT2Config, GPT2LMHeadModel

from hfgpt.data.tinyworld import TinyWorld
from hfgpt.data.tokenizer import train_tokenizer
from hfgpt.errors import UserError
from hfgpt.eval import main, parse_args
from hfgpt.evals.answer_log import AnswerLog
from hfgpt.evals.harness import TaskSettings
from hfgpt.evals.result_cache import CachedResult, model_fingerprint
from hfgpt.model import GPTConfig, GPTForCausalLM

RECIPE = "data:\n  dataset: tinyworld\n  tinyworld_people: 12\n  seed: 3\n"


@pytest.fixture(scope="module")
def world() -> TinyWorld:
    return TinyWorld(num_people=12, seed=3)


@pytest.fixture(scope="module")
def tokenizer(world):
    return train_tokenizer(world.documents(100), vocab_size=400)


@pytest.fixture(scope="module")
def models(tokenizer, tmp_path_factory) -> list[Path]:
    """Two random models of ours and a GPT-2 of transformers, in folders with the recipe of a world of twelve."""
    root = tmp_path_factory.mktemp("models")
    shape = {"vocab_size": len(tokenizer), "bos_token_id": tokenizer.bos_token_id}
    ids = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}
    small = {"max_position_embeddings": 128, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    for seed, name in enumerate(("one", "other")):
        torch.manual_seed(seed)
        model = GPTForCausalLM(GPTConfig(**shape, **ids, **small, initializer_range=0.2))
        model.save_pretrained(root / name)
    torch.manual_seed(2)
    gpt2 = GPT2Config(**shape, **ids, n_positions=128, n_embd=32, n_layer=1, n_head=2, initializer_range=0.2)
    GPT2LMHeadModel(gpt2).save_pretrained(root / "gpt2")
    for name in ("one", "other", "gpt2"):
        tokenizer.save_pretrained(root / name)
        (root / name / "recipe.yaml").write_text(RECIPE)
    return [root / name for name in ("one", "other", "gpt2")]


@pytest.fixture
def evaluate(tmp_path, capfd):
    """Runs the command in this process with a cache of its own: (results file, stdout, stderr)."""

    def run(*words: str | Path) -> tuple[dict, str, str]:
        output = tmp_path / "results.json"
        fixed = ["--output_path", str(output), "--cache_dir", str(tmp_path / "cache")]
        assert main([*map(str, words), *fixed]) == 0
        return json.loads(output.read_text(encoding="utf-8")), *capfd.readouterr()

    return run


@torch.no_grad()
def choice_sums(folder: Path, tokenizer, context: str, choices: list[str]) -> list[float]:
    """Summed log-probability of each choice after BOS and the context."""
    model = GPTForCausalLM.from_pretrained(folder).eval()
    start = len(tokenizer(context).input_ids)
    sums = []
    for choice in choices:
        ids = tokenizer(context + choice).input_ids
        log_probabilities = model(torch.tensor([ids])).logits[0].log_softmax(-1)
        sums.append(sum(log_probabilities[i - 1, ids[i]].item() for i in range(start, len(ids))))
    return sums


def test_models_stand_side_by_side_and_the_world_is_the_one_of_their_recipe(evaluate, models, tokenizer, world):
    written, shown, _ = evaluate(*models, "--tasks", "tinyworld")
    results = written["results"]
    assert list(results) == [str(model) for model in models]
    questions = [question for question in world.questions() if question["attribute"] == "pet"]
    for model in models[:2]:
        sums = [choice_sums(model, tokenizer, asked["context"], asked["choices"]) for asked in questions]
        right = np.mean([int(np.argmax(s)) == asked["answer_index"] for s, asked in zip(sums, questions, strict=True)])
        assert results[str(model)]["tinyworld_facts_pet"]["acc"] == pytest.approx(right)
    assert written["versions"]["tinyworld_facts"] == "1.0"
    lines = [line for line in shown.splitlines() if line.startswith("| tinyworld_facts ")]
    (line,) = lines
    scores = [results[str(model)]["tinyworld_facts"] for model in models]
    assert line.count("|") == 6 and all(f"{score['acc']:.4f} ± {score['stderr']:.4f}" in line for score in scores)
    assert len({score["acc"] for score in scores}) > 1


def hellaswag_rows(count: int) -> list[dict]:
    """Rows in HellaSwag's own form, brackets and headers included, with endings of very different length."""
    world = TinyWorld(num_people=60, seed=5)
    rows = []
    for number, person in enumerate(world.people[:count]):
        endings = ["He waits.", "They buy bread from the baker [step] and go home.", "It rains", "the end of the day"]
        endings[number % 4] = f"{person.name} goes back to the town with all of the bread."
        rows.append(
            {
                "ind": number,
                "activity_label": "Going to market",
                "ctx_a": f"[header] How to meet {person.name} [title] Go to the town.",
                "ctx_b": "the baker" if number % 2 else "",
                "ctx": "",
                "endings": endings,
                "label": str(number % 4),
            }
        )
    return rows


@pytest.mark.slow  # lm-eval's thousands of tasks are indexed
def test_hellaswag_on_local_data_agrees_with_a_hand_count_of_fifty_rows(evaluate, models, tokenizer, tmp_path):
    rows = hellaswag_rows(50)
    assert len(rows) == 50
    data = tmp_path / "hellaswag"
    data.mkdir()
    for split in ("train", "validation"):
        (data / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    written, shown, _ = evaluate(models[0], "--tasks", "hellaswag", "--task_data", f"hellaswag={data}")
    acc, acc_norm = [], []
    for row in rows:
        second = " The baker" if row["ctx_b"] else ""
        name = row["ctx_a"].split("How to meet ")[1].split(" [title]")[0]
        context = f"Going to market: How to meet {name}. Go to the town.{second}"
        endings = [ending.replace("[step] ", "") for ending in row["endings"]]
        sums = choice_sums(models[0], tokenizer, context, [f" {ending}" for ending in endings])
        lengths = [len(ending) for ending in endings]
        acc.append(int(np.argmax(sums)) == int(row["label"]))
        acc_norm.append(int(np.argmax(np.array(sums) / lengths)) == int(row["label"]))
    score = written["results"][str(models[0])]["hellaswag"]
    assert score["acc"] == pytest.approx(np.mean(acc), abs=1e-9)
    assert score["acc_norm"] == pytest.approx(np.mean(acc_norm), abs=1e-9)
    assert np.mean(acc) != np.mean(acc_norm)
    assert [line.split("|")[2].strip() for line in shown.splitlines()[-4:-1]][-2:] == ["acc", "acc_norm"]


def test_what_was_asked_before_is_not_asked_again(evaluate, models):
    first, _, bars = evaluate(models[0], "--tasks", "tinyworld_facts_pet,tinyworld_sums", "--limit", 5)
    assert bars.count("loglikelihood requests: 100%") == 2
    again, _, bars = evaluate(models[0], "--tasks", "tinyworld_facts_pet,tinyworld_sums", "--limit", 5)
    assert again == first and "loglikelihood" not in bars
    more, _, bars = evaluate(models[0], "--tasks", "tinyworld_facts_pet", "--limit", 6)
    assert bars.count("loglikelihood requests: 100%") == 1
    assert more["results"][str(models[0])].keys() == {"tinyworld_facts_pet"}


def test_a_result_belongs_to_its_weights_questions_and_precision(models, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(models[0], copy)
    fingerprint = model_fingerprint(str(copy))
    assert fingerprint == model_fingerprint(str(models[0])) != model_fingerprint(str(models[1]))
    (copy / "metrics.jsonl").write_text("{}\n")
    assert model_fingerprint(str(copy)) == fingerprint
    weights = bytearray((copy / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (copy / "model.safetensors").write_bytes(weights)
    assert model_fingerprint(str(copy)) != fingerprint

    text = tmp_path / "text.txt"
    text.write_text("one")
    settings = TaskSettings(metadata={"bpb_text": [str(text)]})

    def place(**changes) -> Path:
        facts = {"model": fingerprint, "task": "bpb", "settings": settings, "dtype": "float32", **changes}
        return CachedResult(**facts, folder=tmp_path).path

    places = [place(), place(model="another"), place(task="core"), place(dtype="bfloat16")]
    places += [place(settings=TaskSettings(metadata=settings.metadata, limit=3)), place(settings=TaskSettings())]
    assert place() == places[0]
    text.write_text("other text")
    places.append(place())
    assert len(set(places)) == 7


def test_samples_hold_every_question_in_order_and_give_the_score(evaluate, models, tmp_path):
    evaluate(models[0], "--tasks", "tinyworld_facts_pet")  # whose cached result has no samples
    written, _, _ = evaluate(models[0], "--tasks", "tinyworld_facts_pet", "--log_samples")
    (folder,) = (tmp_path / "results_samples").iterdir()
    lines = (folder / "tinyworld_facts_pet.jsonl").read_text(encoding="utf-8").splitlines()
    samples = [json.loads(line) for line in lines]
    assert [sample["doc_id"] for sample in samples] == list(range(12))
    score = written["results"][str(models[0])]["tinyworld_facts_pet"]["acc"]
    assert np.mean([sample["acc"] for sample in samples]) == pytest.approx(score)
    right = [int(np.argmax([resp[0] for resp in sample["filtered_resps"]])) for sample in samples]
    assert [sample["acc"] for sample in samples] == [
        float(choice == sample["doc"]["answer_index"]) for choice, sample in zip(right, samples, strict=True)
    ]


def test_core_says_which_tasks_its_mean_is_without(evaluate, models, tmp_path, shared_data):
    bundle = tmp_path / "bundle"
    shutil.copytree(shared_data / "evals" / "core", bundle)
    for kept in ("world_knowledge/arc_easy.jsonl", "commonsense_reasoning/copa.jsonl"):
        assert (bundle / "eval_data" / kept).is_file()
    for path in (bundle / "eval_data").rglob("*.jsonl"):
        if path.name not in ("arc_easy.jsonl", "copa.jsonl"):
            path.unlink()
    written, shown, _ = evaluate(models[0], "--tasks", "core", "--limit", 12, "--core_bundle", bundle)
    results = written["results"][str(models[0])]
    assert results.keys() == {"core", "core_arc_easy", "core_copa"}
    mean = (results["core_arc_easy"]["centered"] + results["core_copa"]["centered"]) / 2
    assert results["core"]["centered"] == pytest.approx(mean, abs=1e-9)
    assert results["core"]["left_out"] == len(written["left_out"]["core"]) == 20
    assert "core is the mean without 20 tasks whose data is missing:" in shown and "winograd" in shown


def test_answers_of_a_killed_run_are_read_whatever_file_they_are_in(tmp_path):
    for text in ('{"key": "a", "answer": [-1.5, true]}\n{"key": "b", "answ', '{"key": "c", "answer": "12"}\n'):
        (tmp_path / f"{len(text)}.jsonl").write_text(text)
    log = AnswerLog(tmp_path)
    assert log.answers == {"a": (-1.5, True), "c": "12"}
    log.add_partial("generate_until", ("prompt", {"until": ["\n"]}), "greedy")
    log.add_partial("generate_until", ("prompt", {"do_sample": True}), "sampled")
    log.close()
    assert list(AnswerLog(tmp_path).answers.values()).count("greedy") == 1
    assert "sampled" not in AnswerLog(tmp_path).answers.values()


def test_the_batch_size_makes_no_difference(evaluate, models):
    scores = []
    for size in ("auto", "1", "7"):
        written, _, _ = evaluate(models[0], "--tasks", "tinyworld_facts", "--batch_size", size, "--no_cache")
        scores.append(written["results"][str(models[0])])
    assert scores[0] == scores[1] == scores[2]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("--tasks tinyworld --limit 0", "--limit must be at least 1, not 0"),
        ("--tasks ,", "--tasks names no task"),
        ("--tasks bpb", "bpb needs a text"),
        ("--tasks tinyworld --batch_size many", "--batch_size must be auto or a number"),
        ("--tasks tinyworld --log_samples", "say where by --output_path"),
        ("--tasks tinyworld --metadata {", "--metadata is not JSON"),
        ("--tasks hellaswag --task_data data", "--task_data takes TASK=FOLDER"),
        ("--tasks tinyworld --include_path no/where", "there is no such folder"),
        ("--tasks tinyworld --limits 5", "the nearest is --limit"),
    ],
)
def test_arguments_that_make_no_sense_are_refused_in_a_sentence(words, sentence):
    with pytest.raises(UserError, match=sentence):
        parse_args(["runs/tiny", *words.split()])


def test_a_model_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match="there is no folder"):
        main([str(tmp_path / "nothing" / "here"), "--tasks", "tinyworld"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no model"):
        main([str(tmp_path / "empty"), "--tasks", "tinyworld"])


def test_programs_are_run_only_if_asked_and_only_of_a_model_that_can_write_them(models, tmp_path, shared_data):
    data = tmp_path / "humaneval"
    data.mkdir()
    shutil.copy(shared_data / "evals" / "humaneval" / "HumanEval.first82.jsonl", data / "test.jsonl")
    words = [str(models[0]), "--tasks", "humaneval", "--task_data", f"humaneval={data}", "--limit", "2"]
    words += ["--cache_dir", str(tmp_path / "cache")]
    with pytest.raises(UserError, match="say --allow_code to let it"):
        main(words)
    with pytest.raises(UserError, match="answers of up to 1,024 tokens, but the model sees 128 at once"):
        main([*words, "--allow_code"])
    words[4] = f"humaneval={tmp_path / 'nowhere'}"
    with pytest.raises(UserError, match="there is no such folder"):
        main(words)


@pytest.mark.slow
def test_two_processes_give_the_scores_of_one(evaluate, models, tmp_path):
    words = [models[0], models[2], "--tasks", "tinyworld", "--log_samples"]
    alone, shown, _ = evaluate(*words)
    (tmp_path / "results_samples").rename(tmp_path / "alone_samples")
    together = tmp_path / "together.json"
    done = succeed(
        *("accelerate", "launch", "--config_file", "accelerate_configs/cpu_ddp.yaml", "-m", "hfgpt.eval", *words),
        *("--output_path", together, "--cache_dir", tmp_path / "other_cache"),
        OMP_NUM_THREADS="1",
    )
    assert done.stdout.count("| tinyworld_facts ") == 1  # said by the main process alone
    assert shown.splitlines()[2:-1] == done.stdout.splitlines()[2:-1]
    found = json.loads(together.read_text())["results"]
    for model, tasks in alone["results"].items():
        assert found[model] == {task: pytest.approx(score, abs=1e-12) for task, score in tasks.items()}
    for path in (tmp_path / "alone_samples").rglob("*.jsonl"):
        other = tmp_path / "together_samples" / path.relative_to(tmp_path / "alone_samples")
        assert [json.loads(line)["acc"] for line in path.open()] == [json.loads(line)["acc"] for line in other.open()]


@pytest.mark.slow
def test_a_killed_run_goes_on_with_the_questions_that_are_still_open(evaluate, models, tmp_path):
    words = [str(models[0]), "--tasks", "tinyworld", "--metadata", '{"tinyworld_people": 60}', "--batch_size", "2"]
    command = [str(PROGRAMS / "hfgpt"), "eval", *words, "--cache_dir", str(tmp_path / "cache")]
    process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while sum(path.stat().st_size for path in tmp_path.glob("cache/*/*-answers/*.jsonl")) < 30_000:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    (log,) = tmp_path.glob("cache/*/*-answers/*.jsonl")
    answered = len(log.read_text().splitlines()) - 1
    assert answered > 100 and not list(tmp_path.glob("cache/*/*.json"))

    resumed, _, bars = evaluate(*words)
    asked = int(bars.rsplit("100%", 1)[1].split("/")[1].split(" ")[0])
    whole, _, bars = evaluate(*words, "--no_cache")
    in_whole = int(bars.rsplit("100%", 1)[1].split("/")[1].split(" ")[0])
    assert resumed == whole
    assert asked <= in_whole - answered
    assert not list(tmp_path.glob("cache/*/*-answers"))
