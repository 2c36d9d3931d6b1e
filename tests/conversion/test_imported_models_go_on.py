"""A GPT-2 that others trained, imported: it starts stages, talks, is scored, and goes out as GPT-2 again."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel

from hfgpt import pretrain, sft
from hfgpt.chat.answering import answer, complete
from hfgpt.chat.engine import Engine
from hfgpt.chat.sampling import Sampling
from hfgpt.cli import main as hfgpt
from hfgpt.training.record import read_records

WORLD = """\
tokenizer: {{name_or_path: {imported}}}
data: {{dataset: tinyworld, tinyworld_documents: 300, tinyworld_conversations: 200, max_length: 128, num_proc: 1,
  validation_fraction: 0.05}}
pretrain: {{max_steps: 2, total_batch_size: 1024, per_device_train_batch_size: 8, sample_steps: 0, optim: adamw_torch,
  logging_steps: 1}}
sft: {{max_steps: 2, per_device_train_batch_size: 8, sample_max_new_tokens: 4, logging_steps: 1, optim: adamw_torch}}
"""
QUIET = ["--disable_tqdm", "true", "--report_to", "none"]
CHAT_TOKENS = 9


@pytest.fixture
def imported(tmp_path, plain_tokenizer):
    """`hfgpt import` of a GPT-2 with 300 tokens and 128 positions."""
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=300, n_positions=128, n_embd=32, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0
    )
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "gpt2")
    plain_tokenizer.save_pretrained(tmp_path / "gpt2")
    assert hfgpt(["import", str(tmp_path / "gpt2"), "--output_dir", str(tmp_path / "imported")]) == 0
    return tmp_path / "imported"


@pytest.mark.slow
def test_an_imported_gpt2_goes_on_in_pretraining_and_sft_chats_is_scored_and_is_exported(imported, tmp_path):
    recipe = tmp_path / "small.yaml"
    recipe.write_text(WORLD.format(imported=imported))
    where = [str(recipe), "--output_root", str(tmp_path / "runs"), *QUIET]
    pretrain.main([*where, "--model_name_or_path", str(imported)])
    base = tmp_path / "runs" / "small" / "pretrain"
    sft.main([*where, "--model_name_or_path", str(base)])
    chat = tmp_path / "runs" / "small" / "sft"

    for folder in (base, chat):
        losses = [record["loss"] for record in read_records(folder / "metrics.jsonl") if "loss" in record]
        assert len(losses) == 2
        assert 4.0 < losses[0] < 7.0  # ln 309 is 5.7
    # The import changed no token; the stage added the chat tokens behind them.
    before, after = AutoTokenizer.from_pretrained(imported), AutoTokenizer.from_pretrained(chat)
    assert (len(before), len(after)) == (300, 300 + CHAT_TOKENS)
    assert before.get_vocab().items() <= after.get_vocab().items()
    assert AutoModelForCausalLM.from_pretrained(chat).config.vocab_size == 300 + CHAT_TOKENS

    greedy = Sampling(temperature=0, max_new_tokens=4)
    begun, answering = Engine.from_pretrained(imported), Engine.from_pretrained(chat)
    assert (begun.is_chat, answering.is_chat) == (False, True)
    assert len("".join(piece.text for piece in complete(begun, "the quick", greedy))) > 0
    assert list(answer(answering, [{"role": "user", "content": "the quick"}], greedy))[-1].finish_reason

    scores = tmp_path / "scores.json"
    text = tmp_path / "text.txt"
    text.write_text("The quick brown fox jumps over the lazy dog. " * 9)
    words = ["--tasks", "bpb", "--bpb_text", str(text), "--output_path", str(scores), "--no_cache"]
    assert hfgpt(["eval", str(imported), str(chat), *words]) == 0
    values = [
        value
        for results in json.loads(scores.read_text())["results"].values()
        for metrics in results.values()
        for name, value in metrics.items()
        if name.startswith("bits_per_byte") and isinstance(value, float)
    ]
    assert len(values) >= 2
    assert all(1.0 < value < 10.0 for value in values)

    exported = tmp_path / "exported"
    assert hfgpt(["export", str(tmp_path / "runs" / "small"), "--to", "gpt2", "--output_dir", str(exported)]) == 0
    native, ours = AutoModelForCausalLM.from_pretrained(exported), AutoModelForCausalLM.from_pretrained(chat)
    assert isinstance(native, GPT2LMHeadModel)
    tokenizer = AutoTokenizer.from_pretrained(exported)
    prompt = tokenizer.apply_chat_template([{"role": "user", "content": "Hello?"}], return_tensors="pt")["input_ids"]
    with torch.no_grad():
        assert (native(prompt).logits - ours(prompt).logits).abs().max() < 1e-5
    assert native.generation_config.eos_token_id == after.eos_token_id
