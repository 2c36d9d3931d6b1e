"""The engine against `generate`, alone against in a batch, streamed against whole, and where it must stop."""

import threading
from typing import Any

import pytest
import torch
from torch import nn
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from hfgpt.chat.engine import Engine
from hfgpt.chat.gpt_decoder import GPTDecoder, is_plain_gpt
from hfgpt.chat.sampling import Sampling
from hfgpt.model import GPTConfig, GPTForCausalLM

GREEDY = Sampling(temperature=0, max_new_tokens=24)
SHAPE = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "max_position_embeddings": 64}
# Every switch of the model, off and on, alone and with those that it works with.
SWITCHES: dict[str, dict[str, Any]] = {
    "gpt2": {},
    "gpt2, untied, no bias": {"tie_word_embeddings": False, "attention_bias": False, "mlp_bias": False},
    "gpt2, swiglu": {"mlp_type": "swiglu"},
    "gpt2, kan": {"linear_type": "kan"},
    "gpt2, kan, swiglu, grouped": {"linear_type": "kan", "mlp_type": "swiglu", "num_key_value_heads": 1},
    "gpt2, rope, rmsnorm with weight": {"position_embedding_type": "rope", "norm_type": "rmsnorm"},
    "gpt2, norms without weight": {"norm_weight": False, "attention_multiplier": 0.5},
    "gpt2, windows": {"layer_types": ["sliding_attention", "full_attention"] * 2, "sliding_window": 5},
    "depth": {"sliding_window": 6},
    "depth, full attention": {"sliding_window": 0},
    "depth, window of two": {"sliding_window": 2},
    "depth, grouped": {"sliding_window": 6, "num_key_value_heads": 2},
    "depth, layernorm, qk norm with weight": {"norm_type": "layernorm", "norm_weight": True},
    "depth, swiglu, tied, no cap": {"mlp_type": "swiglu", "tie_word_embeddings": True, "final_logit_softcapping": 0},
    "depth, smear and backout": {"sliding_window": 6, "smear": True, "backout": True},
    "depth, smear without bigrams or norm": {"smear": True, "bigram_vocab_size": 0, "embedding_norm": False},
    "depth, kan": {"linear_type": "kan", "sliding_window": 6},
    "depth, plain": {"value_embeddings": False, "residual_scalars": False, "embedding_norm": False, "qk_norm": False},
}
FOREIGN: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64},
    "llama": {"num_key_value_heads": 2, "intermediate_size": 64, **SHAPE},
    "mistral": {"num_key_value_heads": 2, "intermediate_size": 64, "sliding_window": 6, **SHAPE},
    "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 4},  # no positions
    "mamba": {"hidden_size": 32, "num_hidden_layers": 2},  # no keys and values
}


def shaken(model: Any, tokenizer: Any) -> Any:
    """The model with weights that make every switch count, and that stops at <|end|>."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model.eval()


def our_model(tokenizer: Any, name: str = "depth", **more: Any) -> Any:
    torch.manual_seed(0)
    config = {"vocab_size": len(tokenizer), **SHAPE, **SWITCHES[name], **more}
    made = GPTConfig.from_depth(4, **config) if name.startswith("depth") else GPTConfig(**config)
    return shaken(GPTForCausalLM(made), tokenizer)


def prompts_of(lengths: tuple[int, ...], vocab_size: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(2)
    return [torch.randint(9, vocab_size, (length,), generator=generator).tolist() for length in lengths]


def generated(model: Any, prompt: list[int], **settings: Any) -> list[int]:
    """What transformers' own `generate` says after one prompt."""
    ids = torch.tensor([prompt])
    settings = {"max_new_tokens": GREEDY.max_new_tokens, "do_sample": False} | settings
    return model.generate(ids, attention_mask=torch.ones_like(ids), **settings)[0, len(prompt) :].tolist()


@pytest.fixture
def engine(chat_tokenizer) -> Engine:
    return Engine(our_model(chat_tokenizer), chat_tokenizer)


@pytest.mark.parametrize("name", SWITCHES)
def test_greedy_tokens_of_every_switch_are_those_of_generate(name, chat_tokenizer) -> None:
    model = our_model(chat_tokenizer, name)
    engine = Engine(model, chat_tokenizer)
    assert isinstance(engine.decoder, GPTDecoder)
    prompts = prompts_of((9, 23, 1, 23), model.config.vocab_size)
    prompts.append(prompts[1])
    expected = [generated(model, prompt) for prompt in prompts]
    assert [completion.token_ids for completion in engine.generate(prompts, GREEDY)] == expected
    assert [engine.generate([prompt], GREEDY)[0].token_ids for prompt in prompts[:3]] == expected[:3]
    assert len({token for tokens in expected for token in tokens}) > 4  # they do not all say one word


def test_a_window_of_one_token_is_that_token(chat_tokenizer) -> None:
    model = our_model(chat_tokenizer, sliding_window=1)
    (prompt,) = prompts_of((9,), len(chat_tokenizer))
    # transformers' cache keeps the last `window - 1` keys by a slice that for 1 keeps all of them.
    expected = generated(model, prompt, use_cache=False)
    assert Engine(model, chat_tokenizer).generate([prompt], GREEDY)[0].token_ids == expected


@pytest.mark.parametrize("name", FOREIGN)
def test_other_models_run_over_their_own_forward(name, chat_tokenizer) -> None:
    torch.manual_seed(0)

    special = {key: chat_tokenizer.eos_token_id for key in ("bos_token_id", "eos_token_id")}
    config = CONFIG_MAPPING[name](vocab_size=len(chat_tokenizer), **FOREIGN[name], **special)
    model = shaken(AutoModelForCausalLM.from_config(config), chat_tokenizer)
    engine = Engine(model, chat_tokenizer)
    prompts = prompts_of((9, 23, 1), len(chat_tokenizer))
    completions = engine.generate(prompts, GREEDY)
    assert [completion.token_ids for completion in completions] == [generated(model, prompt) for prompt in prompts]
    assert "".join(piece.text for piece in engine.stream(prompts[0], GREEDY)) == completions[0].text


@pytest.mark.parametrize("name", ["gpt2", "depth"])
def test_a_repetition_penalty_counts_prompt_and_answer_as_in_generate(name, chat_tokenizer) -> None:
    model = our_model(chat_tokenizer, name)
    prompts = prompts_of((9, 23), model.config.vocab_size)
    sampling = Sampling(temperature=0, repetition_penalty=1.7, max_new_tokens=24)
    completions = Engine(model, chat_tokenizer).generate(prompts, sampling)
    expected = [generated(model, prompt, repetition_penalty=1.7) for prompt in prompts]
    assert [completion.token_ids for completion in completions] == expected
    assert expected != [generated(model, prompt) for prompt in prompts]


def test_logits_in_bfloat16_are_the_models(chat_tokenizer) -> None:
    model = our_model(chat_tokenizer).to(torch.bfloat16)
    (prompt,) = prompts_of((20,), len(chat_tokenizer))
    decoding = GPTDecoder(model).begin([prompt[:15]], 5)
    for token in prompt[15:]:
        decoding.append(torch.tensor([token]))
    with torch.no_grad():
        expected = model(torch.tensor([prompt])).logits[0, -1].float()
    assert (decoding.logits[0] - expected).abs().max() < 0.15 * expected.std()


def test_rows_that_stop_leave_the_batch_and_the_others_do_not_notice(chat_tokenizer) -> None:
    model = our_model(chat_tokenizer)
    prompts = prompts_of((4, 30, 7, 12, 19, 30), len(chat_tokenizer))
    alone = [generated(model, prompt) for prompt in prompts]
    stops = {alone[1][2], alone[4][5], alone[0][9]}  # tokens that end some rows early
    model.generation_config.eos_token_id = sorted(stops)
    engine = Engine(model, chat_tokenizer)
    said: list[list[int]] = [[] for _ in prompts]
    sizes = []
    for step in engine.steps(prompts, GREEDY):
        sizes.append(len(step.rows))
        for row, token in zip(step.rows, step.tokens, strict=True):
            said[row].append(token)
    assert said == [generated(model, prompt) for prompt in prompts]
    assert sizes == sorted(sizes, reverse=True) and sizes[0] == 6 and sizes[-1] < 4


def test_equal_prompts_are_read_once_and_answered_each(chat_tokenizer) -> None:
    model = our_model(chat_tokenizer)
    engine = Engine(model, chat_tokenizer)
    first, second = prompts_of((11, 5), len(chat_tokenizer))
    decoding = engine.decoder.begin([first, second, first, first], 4)
    assert decoding.logits.shape == (4, len(chat_tokenizer))
    tokens = torch.tensor([9, 10, 11, 12])
    decoding.append(tokens)
    for row, prompt in enumerate((first, second, first, first)):
        with torch.no_grad():
            expected = model(torch.tensor([[*prompt, int(tokens[row])]])).logits[0, -1]
        torch.testing.assert_close(decoding.logits[row], expected, atol=1e-5, rtol=0)


def test_log_probabilities_are_those_of_the_model(engine, chat_tokenizer) -> None:
    sampling = Sampling(temperature=1.3, top_k=20, repetition_penalty=1.2, max_new_tokens=12, seed=3)
    prompts = prompts_of((6, 15), len(chat_tokenizer))
    for prompt, completion in zip(prompts, engine.generate(prompts, sampling), strict=True):
        text = torch.tensor([prompt + completion.token_ids])
        with torch.no_grad():
            scores = engine.model(text).logits.log_softmax(-1)[0, len(prompt) - 1 : -1]
        expected = scores.gather(-1, text[0, len(prompt) :, None]).sum().item()
        assert completion.log_probability == pytest.approx(expected, abs=1e-3)


def test_a_model_with_replaced_parts_runs_over_its_own_forward(chat_tokenizer) -> None:
    class Adapted(nn.Linear):
        """Stands for what LoRA or quantisation put in a linear's place."""

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return super().forward(inputs) * 1.5

    model = our_model(chat_tokenizer)
    assert is_plain_gpt(model)
    old = model.model.layers[1].mlp.up_proj
    model.model.layers[1].mlp.up_proj = Adapted(old.in_features, old.out_features, bias=False)
    assert not is_plain_gpt(model)
    (prompt,) = prompts_of((9,), len(chat_tokenizer))
    engine = Engine(model, chat_tokenizer)
    assert engine.generate([prompt], GREEDY)[0].token_ids == generated(model, prompt)


def test_threads_share_an_engine(engine, chat_tokenizer) -> None:
    prompts = prompts_of((8, 20, 13), len(chat_tokenizer))
    expected = [completion.token_ids for completion in engine.generate(prompts, GREEDY)]
    said: dict[int, list[int]] = {}

    def answer(row: int) -> None:
        said[row] = [step.tokens[0] for step in engine.steps([prompts[row]], GREEDY)]

    threads = [threading.Thread(target=answer, args=(row,)) for row in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [said[row] for row in range(3)] == expected


@pytest.mark.slow
def test_the_compiled_step_gives_the_same_tokens(chat_tokenizer) -> None:
    model = our_model(chat_tokenizer, num_hidden_layers=2)
    prompts = prompts_of((9, 30, 9), len(chat_tokenizer))
    engine = Engine(model, chat_tokenizer, compile=True)
    expected = [generated(model, prompt) for prompt in prompts]
    assert [completion.token_ids for completion in engine.generate(prompts, GREEDY)] == expected
    assert engine.generate(prompts[:1], GREEDY)[0].token_ids == expected[0]
