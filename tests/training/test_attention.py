"""Variable-length attention keeps to documents, generates as sdpa does, and leaves no trace in a checkpoint."""

import numpy as np
import pytest
import torch

from hfgpt import GPTConfig, GPTForCausalLM
from hfgpt.data.rows import sequence_lengths
from hfgpt.training.attention import VARLEN, fastest_attention, use_fastest_attention

CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
DEVICES = ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, CUDA])]
DOCUMENTS = [[9, 1, 15, 7], [32], [4, 4, 24], [11, 21]]
ROW = 32


def small_model(name: str, device: str = "cpu", **overrides) -> GPTForCausalLM:
    shape = {"hidden_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 97}
    shape |= {"max_position_embeddings": 64, "sliding_window": 6, **overrides}
    torch.manual_seed(0)
    model = GPTForCausalLM(GPTConfig.from_depth(3, **shape, attn_implementation=name))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model.to(device, torch.bfloat16 if device == "cuda" else None).eval()


def packed() -> tuple[torch.Tensor, torch.Tensor, dict]:
    """Tokens, positions and the collator's keywords of four rows of documents."""
    input_ids = torch.randint(2, 97, (4, ROW), generator=torch.Generator().manual_seed(7))
    position_ids = torch.stack([torch.cat([torch.arange(length) for length in row]) for row in DOCUMENTS])
    return input_ids, position_ids, sequence_lengths(position_ids.numpy() == 0)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("collated", [True, False], ids=["collated", "from positions"])
def test_packed_rows_give_the_logits_of_their_documents(device, training, collated) -> None:
    model = small_model("sdpa", device)
    input_ids, position_ids, lengths = packed()
    input_ids, position_ids = input_ids.to(device), position_ids.to(device)
    lengths = {name: v.to(device) if isinstance(v, torch.Tensor) else v for name, v in lengths.items()}
    with torch.no_grad():
        expected = torch.stack(
            [
                torch.cat([model(document[None]).logits[0] for document in ids.split(row)])
                for ids, row in zip(input_ids, DOCUMENTS, strict=True)
            ]
        )
        leaking = model(input_ids).logits
        model.set_attn_implementation(VARLEN)
        logits = model.train(training)(input_ids, position_ids=position_ids, **(lengths if collated else {})).logits
    assert (logits - expected).abs().max() < (0.1 if device == "cuda" else 1e-5)
    assert (leaking - expected).abs().max() > 0.2


@pytest.mark.parametrize("device", DEVICES)
def test_gradients_are_those_of_the_masked_kernel(device) -> None:
    input_ids, position_ids, lengths = packed()
    input_ids, position_ids = input_ids.to(device), position_ids.to(device)
    lengths = {name: v.to(device) if isinstance(v, torch.Tensor) else v for name, v in lengths.items()}
    gradients = []
    for name, keywords in (("sdpa", {}), (VARLEN, lengths)):
        model = small_model(name, device).train()
        model(input_ids, labels=input_ids, position_ids=position_ids, **keywords).loss.backward()
        gradients.append(torch.cat([parameter.grad.flatten().float() for parameter in model.parameters()]))
    difference = (gradients[1] - gradients[0]).norm() / gradients[0].norm()
    assert difference < (0.05 if device == "cuda" else 1e-5)


def test_generation_is_that_of_sdpa_with_and_without_padding() -> None:
    prompts = torch.randint(2, 97, (3, 12), generator=torch.Generator().manual_seed(5))
    mask = torch.ones_like(prompts)
    mask[1, :5] = mask[2, :9] = 0
    answers = {}
    for name in ("sdpa", VARLEN):
        model = small_model(name)
        for padding in (None, mask):
            answers[name, padding is None] = model.generate(
                prompts, attention_mask=padding, max_new_tokens=20, do_sample=False, pad_token_id=0
            )
    assert answers["sdpa", True].tolist() == answers[VARLEN, True].tolist()
    assert answers["sdpa", False].tolist() == answers[VARLEN, False].tolist()
    assert answers["sdpa", True].tolist() != answers["sdpa", False].tolist()


def test_the_name_is_in_no_checkpoint(tmp_path) -> None:
    small_model(VARLEN).save_pretrained(tmp_path)
    assert VARLEN not in (tmp_path / "config.json").read_text()
    assert GPTForCausalLM.from_pretrained(tmp_path).config._attn_implementation == "sdpa"


def test_packed_dropout_is_refused() -> None:
    model = small_model(VARLEN, attention_dropout=0.1).train()
    input_ids, position_ids, lengths = packed()
    with pytest.raises(ValueError, match="has no dropout: set model.attention_dropout to 0"):
        model(input_ids, position_ids=position_ids, **lengths)


def test_a_cpu_and_float32_attend_by_sdpa() -> None:
    assert fastest_attention(torch.device("cpu"), half_precision=True) == "sdpa"
    assert fastest_attention(torch.device("cuda"), half_precision=False) == "sdpa"
    assert fastest_attention(torch.device("cuda"), half_precision=True, dropout=0.1) == "sdpa"
    for head_dim in (512, 20):
        assert fastest_attention(torch.device("cuda"), half_precision=True, head_dim=head_dim) == "sdpa"
    model = small_model(VARLEN)
    use_fastest_attention(model, torch.device("cpu"), half_precision=True)
    assert model.config._attn_implementation == "sdpa"


def test_a_model_of_the_name_is_made_as_any_other() -> None:
    assert small_model(VARLEN).config._attn_implementation == VARLEN
    lengths = sequence_lengths(np.array([[True, False, True, False]] * 3))
    assert lengths["cu_seq_lens_q"].tolist()[:7] == [0, 2, 4, 6, 8, 10, 12]
