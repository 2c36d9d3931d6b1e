"""Models that others trained, imported: they start stages, talk, are scored, and go out as what they were."""

import json
import pickle

import pytest
import torch
from nanochat_forms import encoding_of, state_of, write_checkpoint
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
)

from hfgpt import pretrain, sft
from hfgpt.chat.answering import answer, complete
from hfgpt.chat.engine import Engine
from hfgpt.chat.sampling import Sampling
from hfgpt.cli import main as hfgpt
from hfgpt.data.tokenizer import load_tokenizer
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


CHATML = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"


def test_an_imported_llama_goes_on_in_sft_and_its_chat_format_is_not_replaced_in_silence(
    plain_tokenizer, tmp_path, capsys
):
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlamaConfig(vocab_size=300, **shape, num_key_value_heads=2, bos_token_id=0, eos_token_id=0)
    LlamaForCausalLM(config).save_pretrained(tmp_path / "llama")
    plain_tokenizer.save_pretrained(tmp_path / "llama")
    (tmp_path / "llama" / "chat_template.jinja").write_text(CHATML)
    imported, chat = tmp_path / "imported", tmp_path / "sft"
    assert hfgpt(["import", str(tmp_path / "llama"), "--output_dir", str(imported)]) == 0
    assert AutoTokenizer.from_pretrained(imported).chat_template == CHATML

    (tmp_path / "small.yaml").write_text(WORLD.format(imported=imported))
    where = [str(tmp_path / "small.yaml"), "--output_root", str(tmp_path / "runs"), "--output_dir", str(chat), *QUIET]
    sft.main([*where, "--model_name_or_path", str(imported)])
    said = capsys.readouterr().out
    assert said.count(f"The chat template of {imported} is replaced by hfgpt's") == 1
    losses = [record["loss"] for record in read_records(chat / "metrics.jsonl") if "loss" in record]
    assert len(losses) == 2 and all(4.0 < loss < 7.0 for loss in losses)
    model = AutoModelForCausalLM.from_pretrained(chat)
    assert (model.config.vocab_size, model.config.mlp_type) == (300 + CHAT_TOKENS, "swiglu")
    assert Engine.from_pretrained(chat).is_chat
    told: list[str] = []
    load_tokenizer(chat, tell=told.append)
    assert told == []  # what is hfgpt's already is not replaced

    exported = tmp_path / "exported"
    assert hfgpt(["export", str(chat), "--output_dir", str(exported)]) == 0
    native = AutoModelForCausalLM.from_pretrained(exported)
    assert isinstance(native, LlamaForCausalLM)
    input_ids = torch.arange(40)[None]
    with torch.no_grad():
        assert (native(input_ids).logits - model(input_ids).logits).abs().max() < 1e-5


def test_an_imported_nanochat_goes_on_in_sft_in_its_own_chat_format(tmp_path, capsys):
    home, imported, chat = tmp_path / "nanochat", tmp_path / "imported", tmp_path / "sft"
    checkpoint = write_checkpoint(home / "chatsft_checkpoints" / "d4", state_of("smeared"))
    (home / "tokenizer").mkdir()
    (home / "tokenizer" / "tokenizer.pkl").write_bytes(pickle.dumps(encoding_of(["the the them then"] * 9, 270)))
    assert hfgpt(["import", str(checkpoint), "--output_dir", str(imported)]) == 0
    rows = tmp_path / "chats.jsonl"
    asked = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Then?"}]
    messages = [[*asked, {"role": "assistant", "content": f"the {n}"}] for n in range(40)]
    rows.write_text("".join(json.dumps({"messages": one}) + "\n" for one in messages))

    (tmp_path / "small.yaml").write_text(WORLD.format(imported=imported))
    where = [str(tmp_path / "small.yaml"), "--output_root", str(tmp_path / "runs"), "--output_dir", str(chat), *QUIET]
    start = ["--model_name_or_path", str(imported), "--add_chat_tokens", "false", "--sft.data_path", str(rows)]
    sft.main([*where, *start])
    assert "is replaced by" not in capsys.readouterr().out
    losses = [record["loss"] for record in read_records(chat / "metrics.jsonl") if "loss" in record]
    assert len(losses) == 2 and losses[1] < losses[0]
    before, after = AutoTokenizer.from_pretrained(imported), AutoTokenizer.from_pretrained(chat)
    assert after.get_vocab() == before.get_vocab()
    assert after.chat_template == before.chat_template
    assert (after.bos_token, after.eos_token, after.pad_token) == ("<|bos|>", "<|assistant_end|>", "<|output_end|>")
    model = AutoModelForCausalLM.from_pretrained(chat)
    assert (model.config.vocab_size, model.config.smear) == (270, True)
    engine = Engine.from_pretrained(chat)
    assert engine.is_chat and engine.stop_ids == {after.eos_token_id}
    greedy = Sampling(temperature=0, max_new_tokens=4)
    assert list(answer(engine, asked, greedy))[-1].finish_reason
