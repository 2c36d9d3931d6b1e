"""The embedded default, from a seed to a base model: it learns its world, and any HuggingFace tool opens it."""

import json
import math

import pytest
import yaml
from commands import PROGRAMS, run, succeed
from datasets import Dataset
from transformers import AutoTokenizer

from hfgpt.data.tinyworld import TinyWorld
from hfgpt.data.tinyworld.chat_phrasings import SMALL_TALK
from hfgpt.evals.scores import read_scores
from hfgpt.grpo import longer_answers
from hfgpt.model import GPTForCausalLM
from hfgpt.training.record import read_records

pytestmark = pytest.mark.slow


def test_it_learns_the_facts_of_its_world(tiny_run):
    folder, _ = tiny_run
    before, after = read_records(folder / "pretrain" / "evals.jsonl")
    assert before["step"] == 0 and before["results"]["tinyworld_facts"]["acc"] < 0.2  # chance is 0.1
    assert after["results"]["tinyworld_facts"]["acc"] > 0.7


def test_its_record_has_every_step_once_and_its_loss_falls(tiny_run):
    folder, _ = tiny_run
    records = read_records(folder / "pretrain" / "metrics.jsonl")
    training = [record for record in records if "loss" in record]
    steps = [record["step"] for record in training]
    assert steps == sorted(set(steps))
    assert training[-1]["loss"] < 0.5 * training[0]["loss"]
    for name in ("tokens", "flops", "seconds", "epoch", "learning_rate", "grad_norm", "tokens_per_second"):
        assert training[-1][name] > 0 or name == "learning_rate"
    final = json.loads((folder / "pretrain" / "final_metrics.json").read_text())
    held_out = [record for record in records if "val_loss" in record]
    assert final["val_loss"] == held_out[-1]["val_loss"] < held_out[0]["val_loss"]
    assert final["tokens"] == training[-1]["tokens"]
    assert 0 < final["val_bits_per_byte"] < final["val_loss"] / math.log(2)  # tokens are longer than a byte


def test_it_says_where_the_plot_is_how_it_scored_and_what_it_writes(tiny_run):
    folder, printed = tiny_run
    plot = folder / "pretrain" / "loss.png"
    assert plot.read_bytes().startswith(b"\x89PNG")
    summary = printed[printed.index("trained on") : printed.index("midtrain: ")]
    assert str(plot) in summary
    assert "tinyworld_facts " in summary and "before" in summary
    assert summary.count("sample: ") == 3 and "(before:" in summary
    assert "parameters" in printed and "tokens a step" in printed  # the plan


def test_samples_are_kept_from_the_first_step_to_the_last(tiny_run):
    folder, _ = tiny_run
    samples = read_records(folder / "pretrain" / "samples.jsonl")
    steps = sorted({sample["step"] for sample in samples})
    final = json.loads((folder / "pretrain" / "final_metrics.json").read_text())
    assert steps[0] == 0 and steps[-1] == final["steps"] and len(steps) >= 3
    assert all(sample["completion"] for sample in samples if sample["step"] == steps[-1])


FRESH_PROCESS = """
import sys
sys.modules["hfgpt"] = None  # as where it is not installed
import json, torch
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer, pipeline
folder = sys.argv[1]
model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
AutoModel.from_pretrained(folder, trust_remote_code=True)
generator = pipeline("text-generation", model=model, tokenizer=tokenizer)
text = generator("Once upon a time", max_new_tokens=200, do_sample=False)[0]["generated_text"]
ids = tokenizer("Once upon a time")["input_ids"]
output = model.generate(torch.tensor([ids]), max_new_tokens=200, do_sample=False)[0].tolist()
print(json.dumps({
    "class": type(model).__module__, "text": text, "prompt": ids, "output": output,
    "bos": tokenizer.bos_token_id, "pad": tokenizer.pad_token_id, "eos": tokenizer.eos_token_id,
    "vocab": [model.config.vocab_size, len(tokenizer), model.get_input_embeddings().weight.shape[0]],
    "stop": model.generation_config.eos_token_id,
}))
"""


def test_a_fresh_process_without_hfgpt_loads_it_and_generates(tiny_run, tmp_path):
    folder, _ = tiny_run
    done = succeed("python", "-c", FRESH_PROCESS, folder / "pretrain", HF_HOME=str(tmp_path), HF_HUB_OFFLINE="1")
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["class"].startswith("transformers_modules.")
    assert len({said["bos"], said["pad"], said["eos"]}) == 3
    assert len(set(said["vocab"])) == 1
    assert said["prompt"].count(said["bos"]) == 1 and said["prompt"][0] == said["bos"]
    assert said["text"].startswith("Once upon a time") and len(said["text"]) > 20
    assert set(said["stop"]) == {said["bos"], said["eos"]}
    assert said["output"][-1] in said["stop"] and len(said["output"]) < 200  # a document ends, and so does generation


FRESH_ANSWERS = """
import sys
sys.modules["hfgpt"] = None
import json
from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], trust_remote_code=True)
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1], trust_remote_code=True)
prompts, answers = [], []
for question in ("What is 7 plus 8?", "Who are you?", "Where does Halia Ashfield live?"):
    said = [{"role": "user", "content": question}]
    batch = tokenizer.apply_chat_template(said, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    output = model.generate(**batch, max_new_tokens=100, do_sample=False)[0].tolist()
    prompts.append(batch["input_ids"][0].tolist())
    answers.append(output[len(prompts[-1]):])
print(json.dumps({
    "special": [tokenizer.bos_token_id, tokenizer.pad_token_id, tokenizer.eos_token_id],
    "config": [model.config.bos_token_id, model.config.pad_token_id, model.config.eos_token_id],
    "prompts": prompts, "answers": answers,
}))
"""


def test_lm_eval_scores_it_from_its_folder(tiny_run, tmp_path):
    folder, _ = tiny_run
    done = succeed(
        *("lm_eval", "--model", "hf", "--model_args", f"pretrained={folder / 'pretrain'},trust_remote_code=True"),
        *("--tasks", "tinyworld_facts", "--include_path", "hfgpt/evals/tinyworld", "--device", "cpu"),
        *("--batch_size", "64", "--output_path", tmp_path),
        HF_HOME=str(tmp_path / "home"),
    )
    assert "tinyworld_facts" in done.stdout
    (result,) = tmp_path.glob("**/results_*.json")
    score = json.loads(result.read_text())["results"]["tinyworld_facts"]["acc,none"]
    (_, after) = read_records(folder / "pretrain" / "evals.jsonl")
    assert score == pytest.approx(after["results"]["tinyworld_facts"]["acc"], abs=0.005)


def test_a_complete_stage_is_not_run_again(tiny_run):
    folder, _ = tiny_run
    before = (folder / "pretrain" / "metrics.jsonl").read_bytes()
    done = succeed("hfgpt", "pretrain", "recipes/tiny.yaml", "--output_root", folder.parent)
    assert "is complete" in done.stdout
    assert (folder / "pretrain" / "metrics.jsonl").read_bytes() == before


def test_tokenizer_and_data_tools_look_at_the_run(tiny_run):
    folder, _ = tiny_run
    root = ("--output_root", folder.parent)
    stats = succeed("hfgpt", "tokenizer", "stats", "recipes/tiny.yaml", *root, "--max_bytes", "200000")
    assert "bytes/token" in stats.stdout and "100.0%" in stats.stdout
    inspected = succeed("hfgpt", "data", "inspect", "recipes/tiny.yaml", *root)
    assert "<|bos|>" in inspected.stdout
    again = succeed("hfgpt", "data", "prepare", "recipes/tiny.yaml", *root)
    assert "rows in" in again.stdout


def last_scores(folder, stage):
    scores = read_scores(folder / stage)
    return scores[max(scores)]


def test_each_stage_teaches_what_it_alone_can_teach(tiny_run):
    folder, _ = tiny_run
    base, tuned, preferred = (last_scores(folder, stage) for stage in ("pretrain", "sft", "dpo"))
    assert base["tinyworld_facts"]["acc"] > 0.7 and base["tinyworld_chat"]["form"] < 0.05  # knows, does not answer
    assert base["tinyworld_answers"]["exact_match"] < 0.05
    assert tuned["tinyworld_answers"]["exact_match"] >= 0.8  # wordings that no stage trained on
    assert tuned["tinyworld_answers_new_people"]["exact_match"] >= 0.8  # people of documents alone
    assert tuned["tinyworld_chat"]["form"] > 0.95
    gain = preferred["tinyworld_answers"]["preferred"] - tuned["tinyworld_answers"]["preferred"]
    assert gain >= 0.15
    assert preferred["tinyworld_facts"]["acc"] > base["tinyworld_facts"]["acc"] - 0.1
    assert preferred["tinyworld_answers"]["acc"] >= 0.8


def test_grpo_raises_how_often_a_sampled_sum_is_right(tiny_run):
    folder, _ = tiny_run
    scores = read_scores(folder / "grpo")
    before, after = scores[0]["pass_at_k"], scores[max(scores)]["pass_at_k"]
    assert after["pass@1"] > before["pass@1"] + 0.1
    noise = math.hypot(before["pass@1_stderr"], after["pass@1_stderr"])
    assert after["pass@1"] > before["pass@1"] + 2 * noise  # as the report card calls an ability learned


def test_every_answer_that_grpo_rewards_fits_into_a_completion(tiny_run):
    """One that is cut off is never right, and what is never rewarded comes apart."""
    folder, _ = tiny_run
    recipe = yaml.safe_load((folder / "grpo" / "recipe.yaml").read_text())
    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
    world = TinyWorld(recipe["data"]["tinyworld_people"], recipe["data"]["seed"])
    prompts = Dataset.from_list(list(world.prompts(recipe["data"]["tinyworld_prompts"])))
    room = recipe["grpo"]["max_completion_length"]
    assert longer_answers(prompts, tokenizer, room) == []
    assert longer_answers(prompts, tokenizer, room - 1) == ["I am a tiny model of a tiny world."]


CONVERSATIONS = (
    ("What is 3 plus 4?", "Thank you.", "Who are you?"),
    ("Where does Halia Ashfield live?", "What is 2 plus 2?", "Thank you."),
    ("Hello!", "What is 5 plus 1?", "What is your name?"),
    ("What is 2 plus 6?", "Where does Halia Ashfield live?", "Good morning!"),
)


def test_its_chat_models_keep_to_the_question_when_talk_turns(tiny_run):
    """Small talk after a sum is answered by small talk, a question about a person by a fact: not by the next sum."""
    folder, _ = tiny_run
    right = {said: set(answers) for said, *answers in SMALL_TALK}
    right["Where does Halia Ashfield live?"] = {"Bridgeton.", "The home of Halia Ashfield is in Bridgeton."}
    for stage in ("sft", "dpo", "grpo"):
        model = GPTForCausalLM.from_pretrained(folder / stage)
        tokenizer = AutoTokenizer.from_pretrained(folder / stage)
        wrong = []
        for conversation in CONVERSATIONS:
            messages: list[dict] = []
            for question in conversation:
                messages.append({"role": "user", "content": question})
                batch = tokenizer.apply_chat_template(
                    messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
                )
                output = model.generate(**batch, max_new_tokens=40, do_sample=False)
                answer = tokenizer.decode(output[0, batch["input_ids"].shape[1] :], skip_special_tokens=True)
                messages.append({"role": "assistant", "content": answer})
                if question in right and answer not in right[question]:
                    wrong.append((question, answer))
        assert len(wrong) <= 1, (stage, wrong)  # of 8


def test_the_run_ends_with_a_table_of_abilities(tiny_run):
    folder, printed = tiny_run
    table = (folder / "report" / "abilities.md").read_text()
    assert all(line in table for line in printed[printed.index("| ability") :].splitlines() if line.startswith("|"))
    header = next(line for line in table.splitlines() if line.startswith("| ability"))
    assert [name for name in ("pretrain", "midtrain", "sft", "dpo", "grpo") if name in header] == [
        *("pretrain", "midtrain", "sft", "dpo", "grpo")
    ]
    assert "answers a question about a fact, new wording" in table
    answers = table[table.index("## What it said before and after sft") :]
    assert "| What is 7 plus 8? |" in answers and "| Who are you? |" in answers


def test_answers_of_the_saved_chat_models_end_and_start_right(tiny_run, tmp_path):
    folder, _ = tiny_run
    for stage in ("sft", "dpo", "grpo"):
        done = succeed("python", "-c", FRESH_ANSWERS, folder / stage, HF_HOME=str(tmp_path), HF_HUB_OFFLINE="1")
        said = json.loads(done.stdout.splitlines()[-1])
        assert len(set(said["special"])) == 3 and said["special"] == said["config"]
        assert all(prompt[0] == said["special"][0] and prompt.count(prompt[0]) == 1 for prompt in said["prompts"])
        for answer in said["answers"]:
            assert answer[-1] == said["special"][2] and said["special"][2] not in answer[:-1]
            assert said["special"][0] not in answer


def test_every_program_it_uses_is_beside_this_python():
    for program in ("hfgpt", "accelerate", "lm_eval", "torchrun"):
        assert (PROGRAMS / program).exists()
    assert run("hfgpt", "--version").stdout.startswith("hfgpt 0.")
