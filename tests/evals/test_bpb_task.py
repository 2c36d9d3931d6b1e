import json
import math
import random

import pytest
import torch

from hfgpt.data.tinyworld import TinyWorld
from hfgpt.data.tokenizer import token_byte_lengths, train_tokenizer
from hfgpt.errors import UserError
from hfgpt.evals.bpb.utils import pieces
from hfgpt.evals.harness import evaluate_tasks
from hfgpt.model import GPTConfig, GPTForCausalLM

TEXTS = [
    "The baker lives in Thornbury.",
    "Zażółć gęślą jaźń " * 9,
    "東京タワー 🗼 naïve café" * 30,
    "7 + 5 = 12\n\n\n   x",
]


@pytest.fixture(scope="module", params=[280, 700], ids=["nearly bytes", "700 tokens"])
def tokenizer(request):
    return train_tokenizer([*TinyWorld(20, 1).documents(200), *TEXTS * 5], vocab_size=request.param)


@pytest.fixture
def text_file(tmp_path):
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS), encoding="utf-8")
    return path


def config(tokenizer, **changes) -> GPTConfig:
    shape = {"vocab_size": len(tokenizer), "max_position_embeddings": 32, "hidden_size": 32, "num_hidden_layers": 1}
    ids = {"bos_token_id": tokenizer.bos_token_id, "pad_token_id": tokenizer.pad_token_id}
    return GPTConfig(**shape, num_attention_heads=2, eos_token_id=tokenizer.eos_token_id, **ids, **changes)


def nine_bits_a_byte(tokenizer) -> GPTForCausalLM:
    """A model to which every byte costs nine bits, whatever came before: a token of n bytes has probability
    2 ** (-9 n), and BOS takes what is left."""
    token_bytes = torch.from_numpy(token_byte_lengths(tokenizer))
    probabilities = torch.where(token_bytes > 0, 2.0 ** (-9 * token_bytes.double()), 0.0)
    probabilities[tokenizer.bos_token_id] = 1 - probabilities.sum()
    model = GPTForCausalLM(config(tokenizer, tie_word_embeddings=False))
    with torch.no_grad():
        for parameter in model.model.parameters():
            parameter.zero_()
        bias = model.model.norm.bias
        bias[0] = 1.0  # the hidden state of every token
        model.lm_head.weight.zero_()
        model.lm_head.weight[:, 0] = probabilities.log().clamp(min=-1e9).float()
    return model


def test_a_uniform_byte_model_gets_the_same_figure_under_every_tokenizer(tokenizer, text_file):
    scores = evaluate_tasks(nine_bits_a_byte(tokenizer), tokenizer, ["bpb"], metadata={"bpb_text": str(text_file)})
    assert scores == {"bpb": {"bits_per_byte": pytest.approx(9.0, abs=1e-4)}}


def test_the_figure_is_that_of_a_hand_count(tokenizer, tmp_path):
    torch.manual_seed(0)
    model = GPTForCausalLM(config(tokenizer, initializer_range=0.3)).eval()
    text = "Alan met Mira.\n\nA 🗼 at noon\n\né"
    (tmp_path / "short.txt").write_text(text, encoding="utf-8")
    nats = 0.0
    for piece in pieces(text, tokenizer, 32):
        ids = [tokenizer.bos_token_id, *tokenizer(piece, add_special_tokens=False).input_ids]
        with torch.no_grad():
            log_probabilities = model(torch.tensor([ids])).logits[0].log_softmax(-1)
        nats -= sum(log_probabilities[i - 1, ids[i]].item() for i in range(1, len(ids)))
    expected = nats / math.log(2) / len(text.encode())
    scores = evaluate_tasks(model, tokenizer, ["bpb"], metadata={"bpb_text": [str(tmp_path / "short.txt")]})
    assert scores["bpb"]["bits_per_byte"] == pytest.approx(expected, abs=1e-5)


def test_names_of_special_tokens_in_a_text_add_neither_loss_nor_bytes(tokenizer, tmp_path):
    torch.manual_seed(0)
    model = GPTForCausalLM(config(tokenizer, initializer_range=0.3))
    figures = []
    for name, texts in (("two", ["Alan met Mira.", "7 + 5"]), ("one", ["Alan met Mira.<|bos|>7 + 5<|end|>"])):
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
        figures.append(evaluate_tasks(model, tokenizer, ["bpb"], metadata={"bpb_text": str(path)})["bpb"])
    assert figures[0]["bits_per_byte"] == pytest.approx(figures[1]["bits_per_byte"], abs=1e-9)


def test_pieces_hold_every_character_once_and_fit_the_model(tokenizer):
    generator = random.Random(0)
    alphabet = "aé東🗼 \n\t.0" + "the baker "
    for _ in range(60):
        text = "".join(generator.choice(alphabet) for _ in range(generator.randrange(1, 400)))
        for max_length in (4, 9, 32):
            cut = list(pieces(text, tokenizer, max_length))
            assert "".join(cut) == text
            assert all(1 <= len(tokenizer(piece, add_special_tokens=False).input_ids) <= max_length for piece in cut)


def test_a_piece_ends_before_a_blank_so_that_its_tokens_are_those_of_the_text(tokenizer):
    text = "The baker lives in Thornbury and sells bread to the mayor of the town. " * 20
    cut = list(pieces(text, tokenizer, 32))
    assert len(cut) > 10
    assert all(piece.startswith(" ") for piece in cut[1:])
    apart = [token for piece in cut for token in tokenizer(piece, add_special_tokens=False).input_ids]
    assert apart == tokenizer(text, add_special_tokens=False).input_ids


def test_text_that_is_none_is_refused(tokenizer, tmp_path):
    (tmp_path / "blank.txt").write_text("\n \n")
    model = GPTForCausalLM(config(tokenizer))
    with pytest.raises(UserError, match="there is no text"):
        evaluate_tasks(model, tokenizer, ["bpb"], metadata={"bpb_text": str(tmp_path / "blank.txt")})
    with pytest.raises(UserError, match="--bpb_text FILE"):
        evaluate_tasks(model, tokenizer, ["bpb"])
