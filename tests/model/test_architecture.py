"""The torch-free arithmetic of shapes: the dial, the presets, and one sentence for every impossible shape."""

import subprocess
import sys

import pytest

from hfgpt.model.architecture import Architecture, architecture_keys, depth_series, gpt2_shape


def test_importing_it_loads_neither_torch_nor_transformers() -> None:
    code = "import sys, hfgpt.model.architecture as a; a.depth_series(20)\n"
    code += "print({'torch', 'transformers'} & {*sys.modules})"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


@pytest.mark.parametrize(
    ("depth", "hidden_size", "heads", "head_dim"),
    [(1, 128, 2, 64), (2, 128, 2, 64), (4, 256, 4, 64), (6, 384, 6, 64), (8, 512, 4, 128), (9, 640, 5, 128),
     (12, 768, 6, 128), (20, 1280, 10, 128), (32, 2048, 16, 128)],
)  # fmt: skip
def test_the_dial_sets_width_and_heads(depth: int, hidden_size: int, heads: int, head_dim: int) -> None:
    shape = depth_series(depth)
    assert (shape["hidden_size"], shape["num_attention_heads"], shape["head_dim"]) == (hidden_size, heads, head_dim)
    assert shape["num_hidden_layers"] == depth
    assert shape["intermediate_size"] == 4 * hidden_size
    assert shape["attention_multiplier"] == pytest.approx(1.44 / head_dim**0.5)


def test_three_short_layers_then_a_long_one_and_the_last_always_long() -> None:
    shape = depth_series(6)
    assert "".join(kind[0] for kind in shape["layer_types"]) == "sssfsf"
    assert shape["sliding_window"] == 512
    assert depth_series(6, max_position_embeddings=600)["sliding_window"] == 256  # 150 rounded up to 128s


@pytest.mark.parametrize("context", [64, 128])
def test_a_window_that_would_cover_the_context_gives_full_attention(context: int) -> None:
    shape = depth_series(4, max_position_embeddings=context)
    assert shape["layer_types"] == ["full_attention"] * 4
    assert shape["sliding_window"] is None


def test_sliding_window_zero_turns_the_pattern_off() -> None:
    assert depth_series(4, sliding_window=0)["layer_types"] == ["full_attention"] * 4


@pytest.mark.parametrize("name", ["gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl"])
def test_shapes_are_complete_and_rebuild_themselves(name: str) -> None:
    for shape in (gpt2_shape(name), depth_series(5)):
        open_by_design = {"attention_multiplier", "final_logit_softcapping", "sliding_window"}
        assert {key for key, value in shape.items() if value is None} <= open_by_design
        again = Architecture(**shape)
        again.resolve()
        assert architecture_keys(again) == shape


def test_overrides_win_and_none_means_not_given() -> None:
    shape = depth_series(4, mlp_type="swiglu", num_key_value_heads=2, final_logit_softcapping=0, rope_theta=None)
    assert shape["intermediate_size"] == 704  # 8/3 x 256, rounded up to 64
    assert (shape["num_key_value_heads"], shape["final_logit_softcapping"], shape["rope_theta"]) == (2, None, 1e5)
    assert depth_series(4, max_position_embeddings=256)["rope_theta"] == 12_500
    assert depth_series(4, num_attention_heads=8)["head_dim"] == 32


@pytest.mark.parametrize("depth", [2, 3, 12])
def test_value_embeddings_lie_in_every_second_layer_and_the_last(depth: int) -> None:
    architecture = Architecture(**depth_series(depth))
    layers = [layer for layer in range(depth) if architecture.has_value_embedding(layer)]
    assert layers == list(range((depth - 1) % 2, depth, 2))


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"hidden_size": 100, "num_attention_heads": 12}, "hidden_size 100.*num_attention_heads 12"),
        ({"num_key_value_heads": 5}, "num_attention_heads 12.*num_key_value_heads 5"),
        ({"num_key_value_heads": 24}, "num_key_value_heads 24"),
        ({"mlp_type": "relu3"}, "mlp_type must be one of gelu, relu2, swiglu, not 'relu3'"),
        ({"norm_type": "batchnorm"}, "norm_type must be one of"),
        ({"linear_type": "sparse"}, "linear_type must be one of"),
        ({"init_scheme": 3}, "init_scheme must be one of"),
        ({"position_embedding_type": "alibi"}, "position_embedding_type must be one of learned, rope"),
        ({"hidden_size": "768"}, "hidden_size must be a whole number, not '768'"),
        ({"hidden_size": 768.0}, "hidden_size must be a whole number"),
        ({"num_hidden_layers": True}, "num_hidden_layers must be a whole number, not True"),
        ({"qk_norm": 1}, "qk_norm must be true or false"),
        ({"norm_eps": "1e-5"}, "norm_eps must be a number"),
        ({"norm_eps": 0.0}, "norm_eps must be greater than 0"),
        ({"rope_theta": float("nan")}, "rope_theta must be greater than 0"),
        ({"final_logit_softcapping": -15.0}, "final_logit_softcapping must be greater than 0"),
        ({"hidden_size": -8}, "hidden_size must be at least 1"),
        ({"vocab_size": 0}, "vocab_size must be at least 1"),
        ({"num_hidden_layers": 0}, "num_hidden_layers must be at least 1"),
        ({"kan_grid_size": 1}, "kan_grid_size must be at least 2"),
        ({"layer_types": ["full_attention"] * 11}, "layer_types has 11 entries.*12"),
        ({"layer_types": ["linear_attention"] * 12}, "layer_types.*'linear_attention'"),
        ({"layer_types": ["sliding_attention"] * 12}, "sliding_attention, which needs sliding_window"),
        ({"layer_types": "full_attention"}, "layer_types must be a list of strings"),
        ({"sliding_window": -1}, "sliding_window must be at least 1"),
        ({"head_dim": 63, "position_embedding_type": "rope"}, "head_dim 63 must be even"),
        ({"hidden_dropout": 1.0}, "hidden_dropout must be at least 0 and less than 1"),
        ({"attention_dropout": -0.1}, "attention_dropout must be at least 0"),
    ],
)
def test_an_impossible_shape_is_one_sentence_that_names_the_key(overrides: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        Architecture(**overrides).resolve()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: depth_series("20"), "depth must be a whole number"),
        (lambda: depth_series(0), "depth must be at least 1"),
        (lambda: depth_series(4, hiden_size=64), "hiden_size is not a key.*did you mean hidden_size"),
        (lambda: depth_series(4, hidden_size=100), "hidden_size 100.*head_dim 64"),
        (lambda: depth_series(4, head_dim=0), "head_dim must be a whole number of at least 1"),
        (lambda: depth_series(4, hidden_size="wide"), "hidden_size must be a whole number"),
        (lambda: depth_series(4, max_position_embeddings="long"), "max_position_embeddings must be a whole number"),
        (lambda: depth_series(4, sliding_window=1.5), "sliding_window must be a whole number"),
        (lambda: depth_series(4, layer_types="SSSL"), "layer_types must be a list"),
        (lambda: gpt2_shape("gpt3"), "preset must be one of gpt2, gpt2-medium, gpt2-large, gpt2-xl, not 'gpt3'"),
    ],
)
def test_a_family_refuses_what_it_cannot_build(call, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call()
