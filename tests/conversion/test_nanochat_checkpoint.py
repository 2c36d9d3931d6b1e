"""Checkpoints of nanochat, of each of its forms, and its tokenizer, which is never unpickled."""

import json
import os
import pickle

import pytest
import tiktoken
import torch
from nanochat_forms import (
    CONFIG,
    PADDED_VOCABULARY,
    SPECIAL_TOKENS,
    encoding_of,
    logits_of,
    state_of,
    write_checkpoint,
)
from transformers import AutoModelForCausalLM, AutoTokenizer, NanoChatConfig, NanoChatForCausalLM

from hfgpt import UserError
from hfgpt.chat.engine import Engine
from hfgpt.conversion.export_model import main as export_model
from hfgpt.conversion.import_model import main as import_model
from hfgpt.data.chat_tokens import check_template, tokenize_conversation


@pytest.fixture(scope="module")
def encoding() -> tiktoken.Encoding:
    return encoding_of(["the the them then"] * 9, CONFIG["vocab_size"])


@pytest.fixture
def home(tmp_path, encoding):
    """nanochat's folder: tokenizer/tokenizer.pkl, and checkpoints to be put below base_checkpoints/d4."""
    assert encoding.n_vocab == CONFIG["vocab_size"]
    (tmp_path / "nanochat" / "tokenizer").mkdir(parents=True)
    (tmp_path / "nanochat" / "tokenizer" / "tokenizer.pkl").write_bytes(pickle.dumps(encoding))
    return tmp_path / "nanochat"


def imported(folder, out, *flags: str) -> torch.nn.Module:
    import_model([str(folder), "--output_dir", str(out), *flags])
    return AutoModelForCausalLM.from_pretrained(out)


def some_ids(length: int) -> torch.Tensor:
    return torch.randint(CONFIG["vocab_size"], (2, length), generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("form", ["first", "value gates", "smeared"])
def test_every_form_of_nanochat_computes_the_same_here(form, home, tmp_path):
    state = state_of(form)
    folder = write_checkpoint(home / "base_checkpoints" / "d4", state, window_pattern="SSL")
    model = imported(folder, tmp_path / "ours")
    input_ids = some_ids(400)  # more than the short window of 128 or 256
    expected = logits_of(state, form, input_ids, "SSL")
    with torch.no_grad():
        logits = model(input_ids).logits
        assert logits.shape == expected.shape == (2, 400, CONFIG["vocab_size"])
        assert expected.std() > 0.1
        assert (logits - expected).abs().max() < 1e-5
        everywhere = logits_of(state, form, input_ids, "L")
        assert (logits - everywhere).abs().max() > 1e-2  # the windows matter, so their sizes are tested
    assert "model.layers.3.self_attn.value_embed.weight" in model.state_dict() or form == "first"


def test_the_first_form_computes_what_transformers_nanochat_does_and_exports_to_it(home, tmp_path):
    state = state_of("first", windows=False)
    folder = write_checkpoint(home / "base_checkpoints" / "d4", {f"_orig_mod.{k}": v for k, v in state.items()})
    model = imported(folder, tmp_path / "ours")
    config = NanoChatConfig(
        vocab_size=CONFIG["vocab_size"],
        hidden_size=32,
        intermediate_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        rms_norm_eps=torch.finfo(torch.float32).eps,
    )
    renamed = {"attn.c_q": "self_attn.q_proj", "attn.c_k": "self_attn.k_proj", "attn.c_v": "self_attn.v_proj"}
    renamed |= {"attn.c_proj": "self_attn.o_proj", "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2"}
    renamed |= {"transformer.h": "model.layers", "transformer.wte": "model.embed_tokens"}
    native_state = {}
    for name, tensor in state.items():
        for theirs, native_name in renamed.items():
            name = name.replace(theirs, native_name)
        native_state[name] = tensor[: CONFIG["vocab_size"]] if tensor.shape[0] == PADDED_VOCABULARY else tensor
    native = NanoChatForCausalLM(config).eval()
    native.load_state_dict(native_state)
    with torch.no_grad():
        expected = native(some_ids(64)).logits
        assert (model(some_ids(64)).logits - expected).abs().max() < 1e-5
    export_model([str(tmp_path / "ours"), "--output_dir", str(tmp_path / "exported")])
    back = AutoModelForCausalLM.from_pretrained(tmp_path / "exported")
    assert isinstance(back, NanoChatForCausalLM)
    assert all(torch.equal(back.state_dict()[name], tensor) for name, tensor in native_state.items())


def test_nanochats_own_class_computes_the_same(home, tmp_path):
    """Where nanochat can be imported (PYTHONPATH=its checkout, NANOCHAT_DTYPE=float32)."""
    gpt = pytest.importorskip("nanochat.gpt")
    config = gpt.GPTConfig(**CONFIG, window_pattern="SSL")
    theirs = gpt.GPT(config)
    theirs.init_weights()
    state = state_of("smeared")
    theirs.load_state_dict(state)
    folder = write_checkpoint(home / "base_checkpoints" / "d4", theirs.state_dict(), window_pattern="SSL")
    model = imported(folder, tmp_path / "ours")
    with torch.no_grad():
        expected = theirs(some_ids(400))
        assert (model(some_ids(400)).logits - expected).abs().max() < 1e-5
        assert (logits_of(state, "smeared", some_ids(400), "SSL") - expected).abs().max() < 1e-5


def test_the_newest_step_of_a_folder_is_taken_and_one_file_can_be_named(home, tmp_path):
    folder = home / "base_checkpoints" / "d4"
    old, new = state_of("first"), {name: tensor * 2 for name, tensor in state_of("first").items()}
    write_checkpoint(folder, new, step=1000)
    write_checkpoint(folder, old, step=90)
    for source, state in ((folder, new), (folder / "model_000090.pt", old)):
        out = tmp_path / f"{source.name}-ours"
        weight = imported(source, out).state_dict()["lm_head.weight"]
        assert torch.equal(weight, state["lm_head.weight"][: CONFIG["vocab_size"]])


def test_the_tokenizer_gives_tiktokens_ids_on_real_text(shared_data, tmp_path):
    files = ("wikitext-2.valid.txt", "tinystories_val.first600k.txt", "c4_demo.first240.jsonl")
    texts = [(shared_data / "corpora" / name).read_text(encoding="utf-8")[:200_000] for name in files]
    texts += ["  \n\n\t x  y \r\n\r\n 1234567 don't DON'T\u00a0naïve 世界🙂👩\u200d👧 <|bos|> a\u0301 ", ""]
    encoding = encoding_of(texts, 3000)
    state = state_of("first")
    for name in ("transformer.wte.weight", "lm_head.weight"):
        state[name] = torch.zeros(3008, 32)
    folder = write_checkpoint(tmp_path / "d4", state, vocab_size=encoding.n_vocab)
    (folder / "tokenizer.pkl").write_bytes(pickle.dumps(encoding))
    import_model([str(folder), "--output_dir", str(tmp_path / "ours")])
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "ours")
    assert len(tokenizer) == encoding.n_vocab
    for text in texts:
        ids = tokenizer(text, split_special_tokens=True, add_special_tokens=False).input_ids
        assert ids == encoding.encode_ordinary(text)
        assert tokenizer.decode(ids) == text
    assert {token: tokenizer.convert_tokens_to_ids(token) for token in SPECIAL_TOKENS} == {
        token: encoding.encode_single_token(token) for token in SPECIAL_TOKENS
    }
    assert tokenizer("a").input_ids[0] == encoding.encode_single_token("<|bos|>")


def test_a_conversation_is_rendered_as_nanochat_does_and_its_answers_are_learnt(home, tmp_path, encoding):
    folder = write_checkpoint(home / "chatsft_checkpoints" / "d4", state_of("smeared"))
    imported(folder, tmp_path / "ours")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "ours")
    check_template(tokenizer)
    text, special = encoding.encode_ordinary, encoding.encode_single_token
    user = [special("<|user_start|>"), *text("Sum?\n\nthe them"), special("<|user_end|>")]
    call = [special("<|python_start|>"), *text("1+1"), special("<|python_end|>")]
    output = [special("<|output_start|>"), *text("2"), special("<|output_end|>")]
    parts = [("text", "then "), ("python", "1+1"), ("python_output", "2"), ("text", " is 2")]
    messages = [
        {"role": "system", "content": "Sum?"},
        {"role": "user", "content": "the them"},
        {"role": "assistant", "content": [{"type": kind, "text": words} for kind, words in parts]},
    ]
    expected = [special("<|bos|>"), *user, special("<|assistant_start|>"), *text("then "), *call, *output]
    expected += [*text(" is 2"), special("<|assistant_end|>")]
    assert tokenizer.apply_chat_template(messages, return_dict=False) == expected
    learnt = tokenizer.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
    masked = [token for token, mask in zip(expected, learnt["assistant_masks"], strict=True) if mask]
    assert masked == [*text("then "), *call, *text(" is 2"), special("<|assistant_end|>")]

    prompt = tokenizer.apply_chat_template(messages[:2], add_generation_prompt=True, return_dict=False)
    assert prompt == expected[: len(user) + 2]
    said = [{"role": "user", "content": "<|assistant_start|>"}, {"role": "assistant", "content": "<|assistant_end|>"}]
    assert (
        tokenize_conversation(tokenizer, {"messages": said, "tools": None}, 200)
        .input_ids.tolist()
        .count(special("<|assistant_start|>"))
        == 1
    )


@pytest.mark.parametrize(
    "folder, flags, is_chat, said",
    [
        ("base_checkpoints", [], False, "taken for a base model, as there is base_checkpoints in its path (--chat"),
        ("chatsft_checkpoints", [], True, "taken for a chat model, as there is no base_checkpoints in its path (--ba"),
        ("moved_elsewhere", ["--base"], False, "parameters, a base model"),
        ("base_checkpoints", ["--chat"], True, "parameters, a chat model"),
    ],
)
def test_chat_models_chat_and_base_models_continue_text(
    folder, flags, is_chat, said, home, tmp_path, encoding, capsys
):
    checkpoint = write_checkpoint(home / folder / "d4", state_of("smeared"))
    imported(checkpoint, tmp_path / "ours", *flags)
    assert said in capsys.readouterr().out
    engine = Engine.from_pretrained(tmp_path / "ours")
    assert engine.is_chat is is_chat
    stops = {"<|assistant_end|>"} if is_chat else {"<|assistant_end|>", "<|bos|>"}
    assert engine.stop_ids == {encoding.encode_single_token(token) for token in stops}


class Trap:
    """Pickled, it makes a folder when it is read."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def test_what_cannot_be_read_or_expressed_is_named_and_no_code_in_a_file_is_run(home, tmp_path, encoding):
    folder, out = home / "base_checkpoints" / "d4", tmp_path / "ours"
    model, meta = folder / "model_000100.pt", folder / "meta_000100.json"
    pickled = home / "tokenizer" / "tokenizer.pkl"

    def refusal(*words) -> str:
        with pytest.raises(UserError) as refused:
            import_model([str(folder), "--output_dir", str(out), *map(str, words)])
        assert not out.exists()
        return str(refused.value)

    state = state_of("smeared")
    write_checkpoint(folder, state | {"transformer.h.1.attn.ve_gate.weight": torch.ones(2, 32)})
    assert "value gates of 32 channels" in refusal()
    write_checkpoint(folder, state | {"bigram_embed.embed.weight": torch.ones(9, 32)})
    assert "a parameter bigram_embed.embed.weight" in refusal()
    write_checkpoint(folder, {name: tensor for name, tensor in state.items() if name != "lm_head.weight"})
    assert "lm_head.weight is None, and should be (270, 32)" in refusal()
    write_checkpoint(folder, state, n_layer=3)
    assert "do not fit: model.layers." in refusal()
    write_checkpoint(folder, state)
    config = json.loads(meta.read_text())["model_config"]
    meta.write_text(json.dumps({"model_config": {key: value for key, value in config.items() if key != "n_head"}}))
    assert "has n_head None" in refusal()
    meta.write_text(json.dumps({"model_config": config | {"n_layer": "4"}}))
    assert "has n_layer '4'" in refusal()
    meta.write_text(json.dumps({"model_config": config | {"n_head": 3}}))
    assert "num_attention_heads 3" in refusal()
    meta.write_text(json.dumps({"model_config": config | {"window_pattern": ""}}))
    assert "window_pattern ''" in refusal()
    meta.write_text("{}")
    assert "has no model_config" in refusal()
    meta.write_text("{")
    assert "cannot be read as JSON" in refusal()
    meta.unlink()
    assert "needs meta_000100.json beside it" in refusal()

    write_checkpoint(folder, state)
    pickled.write_bytes(pickle.dumps(Trap(tmp_path / "trap")))
    assert "names posix.mkdir" in refusal()
    pickled.write_bytes(b"not a pickle")
    assert "is no tokenizer of nanochat" in refusal()
    pickled.write_bytes(pickle.dumps({"mergeable_ranks": {}}))
    assert "is no tokenizer of nanochat" in refusal()
    pickled.write_bytes(pickle.dumps(encoding_of(["the the"], 280)))
    assert "tokens but the model 270" in refusal()
    pickled.unlink()
    assert "there is no tokenizer.pkl beside" in refusal()
    torch.save(state | {"trap": Trap(tmp_path / "trap")}, model)
    assert "cannot be read as tensors" in refusal()
    model.write_bytes(model.read_bytes()[:1000])
    assert "cannot be read as tensors" in refusal()
    assert not (tmp_path / "trap").exists()
