"""The model against transformers' own classes, and what training, resizing and compiling need of it."""

import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from hfgpt import GPTConfig, GPTForCausalLM, GPTModel

SIZES = {"gpt2": 124_439_808, "gpt2-medium": 354_823_168, "gpt2-large": 774_030_080, "gpt2-xl": 1_557_611_200}


@pytest.fixture
def input_ids() -> torch.Tensor:
    return torch.randint(2, 97, (2, 24), generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize(("name", "parameters"), SIZES.items())
def test_gpt2_sizes_have_the_parameters_of_transformers_gpt2(name: str, parameters: int) -> None:
    config = GPTConfig.gpt2(name)
    theirs = GPT2Config(n_layer=config.num_hidden_layers, n_embd=config.hidden_size, n_head=config.num_attention_heads)
    with torch.device("meta"):
        assert GPTForCausalLM(config).num_parameters() == parameters
        assert GPT2LMHeadModel(theirs).num_parameters() == parameters


def copy_gpt2(theirs: GPT2LMHeadModel, ours: GPTForCausalLM) -> None:
    """Copy every weight; GPT-2's Conv1D holds its matrices transposed, and query, key and value as one."""
    source, state = theirs.transformer.state_dict(), {}
    for layer in range(ours.config.num_hidden_layers):
        old, new = f"h.{layer}.", f"model.layers.{layer}."
        for kind in ("weight", "bias"):
            query_key_value = source[f"{old}attn.c_attn.{kind}"].chunk(3, dim=-1)
            for name, tensor in zip("qkv", query_key_value, strict=True):
                state[f"{new}self_attn.{name}_proj.{kind}"] = tensor.mT if kind == "weight" else tensor
            projections = {"attn.c_proj": "self_attn.o_proj", "mlp.c_fc": "mlp.up_proj", "mlp.c_proj": "mlp.down_proj"}
            for theirs_name, ours_name in projections.items():
                tensor = source[f"{old}{theirs_name}.{kind}"]
                state[f"{new}{ours_name}.{kind}"] = tensor.mT if kind == "weight" else tensor
            state[f"{new}input_layernorm.{kind}"] = source[f"{old}ln_1.{kind}"]
            state[f"{new}post_attention_layernorm.{kind}"] = source[f"{old}ln_2.{kind}"]
            state[f"model.norm.{kind}"] = source[f"ln_f.{kind}"]
    state["model.embed_tokens.weight"] = state["lm_head.weight"] = source["wte.weight"]
    state["model.embed_positions.weight"] = source["wpe.weight"]
    ours.load_state_dict(state)


def test_gpt2_weights_give_gpt2_logits(small_model, input_ids) -> None:
    ours = small_model("gpt2")
    torch.manual_seed(1)
    theirs = GPT2LMHeadModel(GPT2Config(n_layer=3, n_embd=32, n_head=4, vocab_size=97, n_positions=64)).eval()
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.3)
    copy_gpt2(theirs, ours)
    with torch.no_grad():
        difference = ours(input_ids).logits - theirs(input_ids).logits
    assert difference.abs().max() < 1e-5


@pytest.mark.parametrize(
    ("config_class", "model_class"), [(LlamaConfig, LlamaForCausalLM), (Qwen3Config, Qwen3ForCausalLM)]
)
def test_llama_and_qwen3_weights_load_by_name_and_give_their_logits(config_class, model_class, input_ids) -> None:
    shape = {"vocab_size": 97, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    shape |= {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 64}
    torch.manual_seed(1)
    rope = {"rope_type": "default", "rope_theta": 500.0}
    theirs = model_class(
        config_class(**shape, rms_norm_eps=1e-5, rope_parameters=rope, tie_word_embeddings=False)
    ).eval()
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.2)
    switches = {"position_embedding_type": "rope", "rope_theta": 500.0, "norm_type": "rmsnorm", "mlp_type": "swiglu"}
    switches |= {"attention_bias": False, "mlp_bias": False, "tie_word_embeddings": False}
    ours = GPTForCausalLM(GPTConfig(**shape, **switches, qk_norm=model_class is Qwen3ForCausalLM)).eval()
    ours.load_state_dict(theirs.state_dict())
    with torch.no_grad():
        difference = ours(input_ids).logits - theirs(input_ids).logits
    assert difference.abs().max() < 1e-5


def test_one_step_of_eight_rows_equals_two_of_four_with_uneven_labels(small_model, family) -> None:
    model = small_model(family).train()
    generator = torch.Generator().manual_seed(5)
    input_ids = torch.randint(2, 97, (8, 24), generator=generator)
    labels = input_ids.clone()
    for row in range(8):
        labels[row, : 2 * row + 3] = -100
    count = (labels[:, 1:] != -100).sum()

    def loss_and_gradient(parts: int) -> tuple[float, torch.Tensor]:
        model.zero_grad()
        total = 0.0
        for ids, targets in zip(input_ids.chunk(parts), labels.chunk(parts), strict=True):
            loss = model(ids, labels=targets, num_items_in_batch=count).loss
            loss.backward()
            total += loss.item()
        return total, torch.cat([parameter.grad.flatten() for parameter in model.parameters()])

    (whole, whole_gradient), (parted, parted_gradient) = loss_and_gradient(1), loss_and_gradient(2)
    assert whole == pytest.approx(parted, abs=1e-5)
    assert (whole_gradient - parted_gradient).abs().max() < 1e-5
    assert model(input_ids, labels=labels).loss.item() == pytest.approx(whole, abs=1e-5)  # the mean over labels


def test_shifted_labels_give_the_loss_of_labels(small_model, family, input_ids) -> None:
    model = small_model(family)
    shifted = nn.functional.pad(input_ids[:, 1:], (0, 1), value=-100)
    expected = model(input_ids, labels=input_ids).loss
    assert model(input_ids, shift_labels=shifted).loss.item() == pytest.approx(expected.item(), abs=1e-6)


def test_a_fresh_model_starts_at_the_entropy_of_its_vocabulary(small_config, family, input_ids) -> None:
    torch.manual_seed(0)
    loss = GPTForCausalLM(small_config(family))(input_ids, labels=input_ids).loss.item()
    assert loss == pytest.approx(4.575, abs=0.05)  # ln 97


def test_the_soft_cap_bounds_logits_in_float32(small_model, input_ids) -> None:
    capped = small_model("depth", final_logit_softcapping=0.5).to(torch.bfloat16)
    with torch.no_grad():
        plain = small_model("depth", final_logit_softcapping=0).to(torch.bfloat16)(input_ids).logits
        logits = capped(input_ids).logits
    assert logits.dtype == torch.float32
    assert logits.abs().max() <= 0.5 < plain.abs().max()
    torch.testing.assert_close(logits, 0.5 * torch.tanh(plain.float() / 0.5))


def test_logits_to_keep_are_the_last_positions_or_the_ones_named(small_model, family, input_ids) -> None:
    model = small_model(family)
    with torch.no_grad():
        everything = model(input_ids).logits
        torch.testing.assert_close(model(input_ids, logits_to_keep=3).logits, everything[:, -3:])
        named = torch.tensor([0, 5])
        torch.testing.assert_close(model(input_ids, logits_to_keep=named).logits, everything[:, named])


def test_no_cache_is_built_while_training(small_model, family, input_ids) -> None:
    model = small_model(family)
    assert model(input_ids).past_key_values is not None
    assert model.train()(input_ids, use_cache=True).past_key_values is None


def test_the_head_shares_the_embedding_exactly_when_tied(small_model, family) -> None:
    for tied in (True, False):
        model = small_model(family, tie_word_embeddings=tied)
        assert (model.lm_head.weight is model.model.embed_tokens.weight) is tied


def test_a_model_made_on_meta_initialises_as_one_made_in_memory(small_config, family, input_ids) -> None:
    torch.manual_seed(0)
    made = GPTForCausalLM(small_config(family))
    with torch.device("meta"):
        late = GPTForCausalLM(small_config(family))
    late.to_empty(device="cpu")
    for parameter in late.parameters():
        nn.init.constant_(parameter, torch.nan)
    late.init_weights()
    for (name, early), parameter in zip(made.named_parameters(), late.parameters(), strict=True):
        assert parameter.std(correction=0).item() == pytest.approx(early.std(correction=0).item(), rel=0.2), name
        assert parameter.mean().item() == pytest.approx(early.mean().item(), abs=0.1), name
    assert late(input_ids, labels=input_ids).loss.item() == pytest.approx(4.575, abs=0.05)


@torch.no_grad()
def test_initial_values_follow_the_two_schemes() -> None:
    torch.manual_seed(0)
    gpt2 = GPTModel(GPTConfig(hidden_size=128, num_hidden_layers=8, num_attention_heads=4, vocab_size=512))
    assert gpt2.layers[0].self_attn.q_proj.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert gpt2.layers[0].mlp.down_proj.weight.std().item() == pytest.approx(
        0.02 / 4, rel=0.05
    )  # 1/sqrt(2 x 8 layers)
    depth = GPTForCausalLM(GPTConfig.from_depth(4, vocab_size=512)).model
    assert depth.embed_tokens.weight.std().item() == pytest.approx(0.8, rel=0.05)
    assert depth.layers[0].self_attn.k_proj.weight.std().item() == pytest.approx(256**-0.5, rel=0.05)
    assert depth.layers[0].self_attn.k_proj.weight.abs().max() <= (3 / 256) ** 0.5
    assert depth.layers[0].self_attn.o_proj.weight.abs().max() == 0
    assert depth.layers[3].self_attn.value_embed.weight.std().item() == pytest.approx(256**-0.5, rel=0.05)
    assert [layer.residual_scalar.item() for layer in (depth.layers[0], depth.layers[3])] == pytest.approx(
        [1.15, 1.05]
    )
    assert [layer.embedding_scalar.item() for layer in (depth.layers[0], depth.layers[3])] == pytest.approx(
        [0.2, 0.05]
    )


@pytest.mark.parametrize("size", [97 + 9, 80])
def test_resizing_the_vocabulary_takes_every_table_along(small_model, family, input_ids, size: int) -> None:
    model = small_model(family)
    input_ids = input_ids % 80
    with torch.no_grad():
        before = model(input_ids).logits
        model.resize_token_embeddings(size)
        after = model(input_ids).logits
        new_token = model(input_ids.clamp(min=size - 1)).logits
    kept = min(size, 97)
    torch.testing.assert_close(after[..., :kept], before[..., :kept])
    assert after.shape[-1] == new_token.shape[-1] == model.config.vocab_size == size
    tables = [module.num_embeddings for name, module in model.named_modules() if name.endswith("value_embed")]
    assert tables == ([size, size] if family == "depth" else [])


def test_embeddings_alone_run_where_no_layer_needs_the_tokens(small_model, input_ids) -> None:
    model = small_model("gpt2")
    embeds = model.get_input_embeddings()(input_ids)
    torch.testing.assert_close(model(inputs_embeds=embeds).logits, model(input_ids).logits)
    with pytest.raises(ValueError, match="either input_ids or inputs_embeds"):
        model(input_ids, inputs_embeds=embeds)
    with pytest.raises(ValueError, match="both are None"):
        model()
    with pytest.raises(ValueError, match="inputs_embeds alone cannot run a model with value_embeddings"):
        small_model("depth")(inputs_embeds=embeds)


def test_an_input_longer_than_the_learned_positions_is_refused(small_model) -> None:
    with pytest.raises(ValueError, match="65 tokens long.*max_position_embeddings 64"):
        small_model("gpt2")(torch.zeros(1, 65, dtype=torch.long))
    assert small_model("depth")(torch.zeros(1, 65, dtype=torch.long)).logits.shape == (1, 65, 97)


def test_kan_linears_replace_every_linear_of_the_blocks_and_learn(small_config, family) -> None:
    config = small_config(family, linear_type="kan", kan_grid_size=4, init_scheme="depth")
    torch.manual_seed(0)
    model = GPTForCausalLM(config)
    for name in ("self_attn.q_proj", "self_attn.o_proj", "mlp.up_proj", "mlp.down_proj"):
        linear = model.get_submodule(f"model.layers.0.{name}")
        assert linear.spline.weight.shape == (linear.out_features, 4 * linear.in_features)
    input_ids = torch.arange(24).repeat(4, 1) + torch.arange(4)[:, None]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(40):
        loss = model(input_ids, labels=input_ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[0] > 4.4
    assert losses[-1] < 0.5  # counting upwards is learnt
    assert all(parameter.ndim <= 2 for parameter in model.parameters())


@pytest.mark.parametrize("reentrant", [True, False])
def test_activation_checkpointing_changes_no_gradient(small_model, family, input_ids, reentrant: bool) -> None:
    model = small_model(family).train()

    def gradient() -> torch.Tensor:
        model.zero_grad()
        model(input_ids, labels=input_ids).loss.backward()
        return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])

    expected = gradient()
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    torch.testing.assert_close(gradient(), expected, rtol=1e-5, atol=1e-7)  # sums may be taken in another order


@pytest.mark.parametrize("packed", [False, True])
def test_a_training_step_compiles_to_one_graph_and_no_more(small_model, family, input_ids, packed: bool) -> None:
    model = small_model(family, num_hidden_layers=2).train()
    positions = [torch.cat([torch.arange(cut), torch.arange(24 - cut)]).expand(2, -1) for cut in (10, 5, 17)]
    # On a CPU the fused loss stays out of the graph, see linear_cross_entropy.py.
    keywords = {"labels": input_ids, "skip_logits": False}
    torch.compiler.reset()  # code is compiled per function: another test's model would count as a recompilation
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    with torch._dynamo.config.patch(error_on_recompile=True):
        for position_ids in positions if packed else [None, None]:
            loss = compiled(input_ids, position_ids=position_ids, **keywords).loss
            expected = model(input_ids, position_ids=position_ids, labels=input_ids).loss
            assert loss.item() == pytest.approx(expected.item(), abs=1e-5)
    loss.backward()
    assert model.lm_head.weight.grad.abs().max() > 0


def test_a_compiled_step_trains_by_the_fused_loss(small_model, family, input_ids) -> None:
    model = small_model(family, num_hidden_layers=2).train()
    expected = model(input_ids, labels=input_ids).loss
    torch.compiler.reset()
    with torch._dynamo.config.patch(error_on_recompile=True):
        compiled = torch.compile(model, backend="aot_eager")
        for _ in range(2):
            outputs = compiled(input_ids, labels=input_ids)
    outputs.loss.backward()
    assert outputs.logits is None
    assert outputs.loss.item() == pytest.approx(expected.item(), abs=1e-5)
    assert model.lm_head.weight.grad.abs().max() > 0


def test_autocast_gives_every_attention_backend_one_dtype(small_model, family, input_ids) -> None:
    for backend in ("eager", "sdpa"):
        model = small_model(family, attn_implementation=backend).train()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = model(input_ids, labels=input_ids).loss
        loss.backward()
        assert loss.item() == pytest.approx(model(input_ids, labels=input_ids).loss.item(), abs=0.1)
