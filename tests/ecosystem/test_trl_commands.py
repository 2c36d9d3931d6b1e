"""TRL's own commands, as they come, on a model that carries its source: `trl sft` and `trl dpo`."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import succeed
from transformers import AutoModelForCausalLM

from hfgpt.model.configuration_gpt import SOURCE_FILES

pytestmark = pytest.mark.slow

STEPS = 6
SETTINGS = (
    *("--trust_remote_code", "true", "--dtype", "float32", "--bf16", "false", "--use_cpu", "true"),
    *("--max_length", "256", "--max_steps", str(STEPS), "--save_steps", str(STEPS), "--logging_steps", "1"),
    *("--learning_rate", "1e-2", "--report_to", "none", "--num_processes", "1"),
)


@pytest.fixture
def trl(tmp_path: Path):
    """Run a command of trl over rows; returns its output folder and what it logged, a record a step."""

    def run(command: str, folder: Path, rows: list[dict[str, Any]], *flags: str) -> tuple[Path, list[dict]]:
        (tmp_path / "rows").mkdir()
        (tmp_path / "rows" / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        output = tmp_path / "output"
        words = ["--model_name_or_path", folder, "--dataset_name", tmp_path / "rows", "--output_dir", output]
        succeed("trl", command, *words, *SETTINGS, *flags, HF_HOME=str(tmp_path / "home"), HF_HUB_OFFLINE="1")
        state = json.loads((output / f"checkpoint-{STEPS}" / "trainer_state.json").read_text())
        return output, [record for record in state["log_history"] if "loss" in record]

    return run


@torch.no_grad()
def answer_losses(model: Any, tokenizer: Any, messages: list[dict[str, str]]) -> torch.Tensor:
    """Of each token of the answers, its end included, the loss in nats: the conversation read alone."""
    row = tokenizer.apply_chat_template(
        messages, return_dict=True, return_assistant_tokens_mask=True, return_tensors="pt"
    )
    log_probabilities = model(row["input_ids"]).logits[0, :-1].log_softmax(-1)
    losses = -log_probabilities.gather(-1, row["input_ids"][0, 1:, None])[:, 0]
    return losses[torch.as_tensor(row["assistant_masks"]).flatten()[1:].bool()]


def test_trl_sft_learns_answers_in_packed_rows(trl, folders, tokenizer, conversations) -> None:
    model = AutoModelForCausalLM.from_pretrained(folders["depth"], trust_remote_code=True, dtype=torch.float32)
    expected = torch.cat([answer_losses(model, tokenizer, messages) for messages in conversations])
    flags = ("--assistant_only_loss", "true", "--packing", "true", "--per_device_train_batch_size", "1")
    output, records = trl("sft", folders["depth"], [{"messages": messages} for messages in conversations], *flags)
    # One row holds all four: none sees another.
    assert records[0]["loss"] == pytest.approx(expected.mean().item(), abs=1e-3)
    assert records[-1]["loss"] < 0.7 * records[0]["loss"]
    tuned = AutoModelForCausalLM.from_pretrained(output, trust_remote_code=True, dtype=torch.float32)
    assert answer_losses(tuned, tokenizer, conversations[0]).mean() < records[0]["loss"]
    assert {path.name for path in output.glob("*.py")} == set(SOURCE_FILES)


def test_trl_dpo_trains_adapters_towards_what_is_chosen(trl, folders, tokenizer, conversations) -> None:
    peft = pytest.importorskip("peft")
    rows = [
        {"prompt": [question], "chosen": [answer], "rejected": [{"role": "assistant", "content": "No."}]}
        for question, answer in conversations
    ]
    flags = ("--use_peft", "true", "--lora_r", "4", "--lora_target_modules", "q_proj", "v_proj", "up_proj")
    output, records = trl("dpo", folders["gpt2"], rows, *flags, "--per_device_train_batch_size", "4")
    assert records[0]["loss"] == pytest.approx(0.6931, abs=1e-3)  # ln 2: the model is its own reference
    assert records[-1]["loss"] < 0.6 and records[-1]["rewards/margins"] > 0.1
    base = AutoModelForCausalLM.from_pretrained(folders["gpt2"], trust_remote_code=True, dtype=torch.float32)

    def preference() -> float:
        """By how many nats the chosen answers are likelier than the rejected ones, on average."""
        margins = [
            answer_losses(base, tokenizer, [*row["prompt"], *row["rejected"]]).sum()
            - answer_losses(base, tokenizer, [*row["prompt"], *row["chosen"]]).sum()
            for row in rows
        ]
        return sum(margins).item() / len(margins)

    before = preference()
    base = peft.PeftModel.from_pretrained(base, output).eval()
    assert preference() > before + 1
