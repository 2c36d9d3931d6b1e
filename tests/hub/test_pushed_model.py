"""A pushed model where nothing of ours is: a fresh process, an empty cache, hfgpt not importable."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hub_server import HubServer
from transformers import AutoTokenizer

from hfgpt.hub.command import main
from hfgpt.model import GPTForCausalLM

pytestmark = pytest.mark.slow

CHAT = """
import sys
sys.modules["hfgpt"] = None  # as where it is not installed
import json
from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained("tester/tiny", trust_remote_code=True)
tokenizer = AutoTokenizer.from_pretrained("tester/tiny", trust_remote_code=True)
said = [{"role": "user", "content": "Who are you?"}]
prompt = tokenizer.apply_chat_template(said, add_generation_prompt=True, return_tensors="pt", return_dict=True)
answer = model.generate(**prompt, max_new_tokens=60, do_sample=False)[0, prompt["input_ids"].shape[1]:]
logits = model(prompt["input_ids"]).logits[0, -1]
print(json.dumps({
    "text": tokenizer.decode(answer, skip_special_tokens=True), "last": answer[-1].item(),
    "end": tokenizer.eos_token_id, "module": type(model).__module__,
    "ids": prompt["input_ids"].tolist(), "logits": logits.tolist(),
}))
"""
LM_EVAL = """
import sys
sys.modules["hfgpt"] = None
sys.argv = ["lm_eval", "--model", "hf", "--model_args", "pretrained=tester/tiny,trust_remote_code=True",
    "--tasks", "parrot", "--include_path", ".", "--device", "cpu", "--output_path", "scores"]
from lm_eval.__main__ import cli_evaluate
cli_evaluate()
"""
TASK = """
task: parrot
dataset_path: json
dataset_kwargs: {data_files: {test: DATA}}
test_split: test
output_type: multiple_choice
doc_to_text: question
doc_to_choice: choices
doc_to_target: label
metric_list: [{metric: acc}]
"""


def run(code: str, hub: HubServer, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], env=hub.env(folder), cwd=folder, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture
def pushed(hub, run_folder) -> HubServer:
    main([str(run_folder / "sft"), "tester/tiny"])
    return hub


def test_it_answers_by_its_template_and_computes_what_it_did_here(pushed, run_folder, tmp_path):
    said = json.loads(run(CHAT, pushed, tmp_path).splitlines()[-1])
    assert said["text"] == "I am Tiny, and I know one sentence." and said["last"] == said["end"]
    assert said["module"].startswith("transformers_modules.")
    here = GPTForCausalLM.from_pretrained(run_folder / "sft")
    assert torch.allclose(here(torch.tensor(said["ids"])).logits[0, -1], torch.tensor(said["logits"]), atol=1e-5)


def test_lm_eval_scores_it_by_its_name_on_the_hub(pushed, run_folder, tmp_path):
    choices = [" Tiny", " one sentence", " I know"]
    questions = [{"question": "Say " * n + "it:", "choices": choices, "label": n % 3} for n in range(1, 13)]
    (tmp_path / "parrot.jsonl").write_text("".join(json.dumps(question) + "\n" for question in questions))
    (tmp_path / "parrot.yaml").write_text(TASK.replace("DATA", str(tmp_path / "parrot.jsonl")))
    run(LM_EVAL, pushed, tmp_path)
    (result,) = (tmp_path / "scores").glob("**/results_*.json")
    score = json.loads(result.read_text())["results"]["parrot"]["acc,none"]
    right = [best_choice(run_folder / "sft", question) == question["label"] for question in questions]
    assert score == pytest.approx(sum(right) / len(right)) and 0 < sum(right) < len(right)


def best_choice(folder: Path, question: dict) -> int:
    """The likeliest choice by our own arithmetic."""
    model, tokenizer = GPTForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    context = len(tokenizer(question["question"])["input_ids"])
    scores = []
    for choice in question["choices"]:
        ids = torch.tensor([tokenizer(question["question"] + choice)["input_ids"]])
        logs = torch.log_softmax(model(ids).logits[0, context - 1 : -1].float(), dim=-1)
        scores.append(logs.gather(1, ids[0, context:, None]).sum().item())
    return max(range(len(scores)), key=scores.__getitem__)
