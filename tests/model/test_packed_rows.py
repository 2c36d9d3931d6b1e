"""A packed row gives the logits of its documents alone: on every attention backend, at batch 1 and 4."""

import pytest
import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import flash_attention_mask

from hfgpt.model.modeling_gpt import packed_sequence_lengths

ROW = 32
# Lengths of the documents in each row; every row is full, as the packer makes them.
ROWS = [[9, 1, 15, 7], [32], [4, 4, 24], [11, 21]]
CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
BACKENDS = [
    *(pytest.param(name, "cpu", id=f"{name}-cpu") for name in ("eager", "sdpa", "flex_attention", "varlen_by_hand")),
    *(
        pytest.param(name, "cuda", id=f"{name}-cuda", marks=[pytest.mark.gpu, CUDA])
        for name in ("eager", "sdpa", "flex_attention", "flash_attention_2", "flash_attention_3")
    ),
]


def varlen_by_hand(module, query, key, value, attention_mask, scaling, cu_seq_lens_q, sliding_window=None, **kwargs):
    """Flash attention's contract on any device: rows flattened, sequences cut by cu_seq_lens, a causal window."""
    assert attention_mask is None
    batch, heads, length, head_dim = query.shape
    groups = heads // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    flat = [states.transpose(0, 1).reshape(heads, batch * length, head_dim) for states in (query, key, value)]
    pieces = []
    bounds = cu_seq_lens_q.tolist()
    for start, stop in zip(bounds[:-1], bounds[1:], strict=True):
        q, k, v = (states[:, start:stop] for states in flat)
        ages = torch.arange(stop - start)[:, None] - torch.arange(stop - start)
        seen = (ages >= 0) & (ages < (sliding_window or length))
        pieces.append((q @ k.mT * scaling).masked_fill(~seen, -torch.inf).softmax(-1) @ v)
    return torch.cat(pieces, 1).view(heads, batch, length, head_dim).permute(1, 2, 0, 3), None


AttentionInterface.register("varlen_by_hand_flash", varlen_by_hand)
AttentionMaskInterface.register("varlen_by_hand_flash", flash_attention_mask)


def packed(rows: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    input_ids = torch.randint(2, 97, (len(rows), ROW), generator=torch.Generator().manual_seed(7))
    position_ids = torch.stack([torch.cat([torch.arange(length) for length in row]) for row in rows])
    return input_ids, position_ids


@pytest.mark.parametrize("batch_size", [1, 4])
@pytest.mark.parametrize(("backend", "device"), BACKENDS)
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_a_packed_row_equals_its_documents(small_model, family, backend, device, batch_size, training) -> None:
    if backend == "flash_attention_2":
        pytest.importorskip("flash_attn")
    if backend == "flash_attention_3":
        pytest.importorskip("flash_attn_interface")
    shape = {"hidden_size": 128, "num_attention_heads": 4} if device == "cuda" else {}  # flex wants 16 or more a head
    half = backend.startswith("flash")  # its kernels know no float32
    model = small_model(family, attn_implementation="eager", **shape).to(device, torch.bfloat16 if half else None)
    rows = ROWS[:batch_size]
    input_ids, position_ids = (tensor.to(device) for tensor in packed(rows))
    with torch.no_grad():
        expected = torch.stack(
            [
                torch.cat([model(document[None]).logits[0] for document in ids.split(lengths)])
                for ids, lengths in zip(input_ids, rows, strict=True)
            ]
        )
        leaking = model(input_ids, position_ids=torch.arange(ROW, device=device)[None]).logits
        model.config._attn_implementation = "varlen_by_hand_flash" if backend == "varlen_by_hand" else backend
        # flex on CPU has no backward and refuses to train; uncompiled it is the same arithmetic without the minute.
        model.train(training and (backend, device) != ("flex_attention", "cpu"))
        with torch.compiler.set_stance("force_eager" if device == "cpu" else "default"):
            logits = model(input_ids, position_ids=position_ids).logits
    error = (logits - expected).abs().max().item()
    assert error < (0.1 if half else 1e-5), error
    assert (leaking - expected).abs().max().item() > 0.5  # were documents to see each other, this test would tell


def test_masks_are_left_to_the_kernel_when_no_positions_are_given(small_model, family, monkeypatch) -> None:
    model = small_model(family, sliding_window=None if family == "gpt2" else 0)
    seen = []
    original = torch.nn.functional.scaled_dot_product_attention

    def spy(*args, **kwargs):
        seen.append((kwargs["attn_mask"], kwargs["is_causal"]))
        return original(*args, **kwargs)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", spy)
    model(torch.randint(2, 97, (2, 16)))
    assert seen == [(None, True)] * 3


def test_sequences_start_with_each_row_and_wherever_positions_do_not_go_up_by_one() -> None:
    lengths = packed_sequence_lengths(packed(ROWS)[1])
    assert lengths["cu_seq_lens_q"].tolist() == [0, 9, 10, 25, 32, 64, 68, 72, 96, 107, 128]
    assert lengths["cu_seq_lens_q"].dtype == torch.int32
    assert lengths["max_length_q"] == ROW
