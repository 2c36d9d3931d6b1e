"""What comes out of the engine: text, seeds, where an answer ends, and what is refused."""

import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from hfgpt.chat.engine import Engine, TextStream
from hfgpt.chat.sampling import Sampling
from hfgpt.data.tokenizer import SPECIAL_TOKENS, train_tokenizer
from hfgpt.errors import UserError

GREEDY = Sampling(temperature=0)


@pytest.fixture(scope="module")
def chat(chat_model) -> Engine:
    return Engine.from_pretrained(chat_model)


@pytest.fixture(scope="module")
def base(base_model) -> Engine:
    return Engine.from_pretrained(base_model)


def asked(engine: Engine, question: str) -> list[int]:
    return engine.chat_ids([{"role": "user", "content": question}])


def test_streamed_text_is_the_whole_text_without_special_tokens(chat, base) -> None:
    for engine, prompt in ((chat, asked(chat, "Count to ten.")), (base, base.text_ids("Count"))):
        for sampling in (GREEDY, Sampling(temperature=3, top_k=None, max_new_tokens=60, seed=5)):
            (whole,) = engine.generate([prompt], sampling)
            pieces = list(engine.stream(prompt, sampling))
            assert "".join(piece.text for piece in pieces) == whole.text
            assert sum(piece.num_tokens for piece in pieces) == len(whole.token_ids)
            assert [piece.finish_reason for piece in pieces] == [None] * (len(pieces) - 1) + [whole.finish_reason]
            assert not any(token in whole.text for token in SPECIAL_TOKENS)
            assert whole.text.rstrip("\ufffd") == engine.tokenizer.decode(
                whole.token_ids, skip_special_tokens=True
            ).rstrip("\ufffd")


def test_characters_come_whole_and_what_never_became_one_is_dropped() -> None:
    tokenizer = train_tokenizer(["ab"], vocab_size=265)  # bytes alone
    ids = tokenizer("a😀é", add_special_tokens=False)["input_ids"]
    assert len(ids) == 7
    text = TextStream(tokenizer)
    assert [text.append(token) for token in ids] == ["a", "", "", "", "😀", "", "é"]
    assert [text.append(token) for token in ids[1:4]] == ["", "", ""]


def test_text_of_random_tokens_is_what_decoding_them_all_gives(chat_tokenizer) -> None:
    draw = random.Random(0)
    for _ in range(300):
        ids = [draw.randrange(len(chat_tokenizer)) for _ in range(30)]
        text = TextStream(chat_tokenizer)
        streamed = "".join(map(text.append, ids))
        assert streamed.rstrip("\ufffd") == chat_tokenizer.decode(ids, skip_special_tokens=True).rstrip("\ufffd")


def test_an_answer_ends_at_its_end_token(chat) -> None:
    questions = ["What is your name?", "Count to ten."]
    name, count = chat.generate([asked(chat, question) for question in questions], GREEDY)
    assert (name.text, name.finish_reason) == ("My name is Tiny.", "stop")
    assert (count.text, count.finish_reason) == ("one two three four five six seven eight nine ten", "stop")
    for completion in (name, count):
        assert completion.token_ids.index(chat.tokenizer.eos_token_id) == len(completion.token_ids) - 1
    assert name.log_probability > -0.5 > -50  # it knows the sentence by heart


def test_a_base_model_ends_where_the_next_document_begins(base_model) -> None:
    model = AutoModelForCausalLM.from_pretrained(base_model)
    engine = Engine(model, Engine.from_pretrained(base_model).tokenizer)
    assert engine.stop_ids == {engine.tokenizer.bos_token_id, engine.tokenizer.eos_token_id}
    with torch.no_grad():  # the tied head now likes bos best
        model.model.norm.bias.copy_(20 * model.lm_head.weight[engine.tokenizer.bos_token_id])
    (completion,) = Engine(model, engine.tokenizer).generate([engine.text_ids("Count")], GREEDY)
    assert (completion.text, completion.finish_reason) == ("", "stop")
    assert completion.token_ids == [engine.tokenizer.bos_token_id]


def test_kinds_of_model_are_told_apart(chat, base, chat_tokenizer) -> None:
    assert chat.is_chat and not base.is_chat
    assert chat.stop_ids == {chat_tokenizer.eos_token_id}
    assert chat.max_length == base.max_length == 256


def test_the_context_ends_an_answer(base) -> None:
    prompts = [[9] * 250, [9] * 255, [9] * 3]
    completions = base.generate(prompts, Sampling(temperature=0, max_new_tokens=40))
    assert [len(completion.token_ids) for completion in completions] == [6, 1, 40]
    assert {completion.finish_reason for completion in completions} == {"length"}


@pytest.mark.parametrize(("length", "sentence"), [(0, "empty"), (256, "256 tokens"), (999, "999 tokens")])
def test_a_prompt_that_leaves_no_room_is_refused_before_any_work(base, length, sentence) -> None:
    with pytest.raises(UserError, match=sentence):
        base.stream([9] * length, GREEDY)
    with pytest.raises(UserError, match=sentence):
        base.generate([[9], [9] * length], GREEDY)


def test_no_prompts_have_no_answers(base) -> None:
    assert base.generate([], GREEDY) == []


def test_a_closed_stream_does_no_more_work(chat_tokenizer) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(vocab_size=len(chat_tokenizer), n_embd=32, n_layer=1, n_head=2, eos_token_id=None)
    model = GPT2LMHeadModel(config)
    calls: list[int] = []
    model.register_forward_hook(lambda *_: calls.append(1))
    pieces = Engine(model, chat_tokenizer).stream([9, 10], Sampling(temperature=0, max_new_tokens=500))
    next(pieces)
    pieces.close()  # type: ignore[attr-defined]
    done = len(calls)
    assert 1 <= done < 20
    assert list(pieces) == [] and len(calls) == done


def test_the_same_seed_gives_the_same_text_whatever_else_runs(base) -> None:
    prompt, other = base.text_ids("one two"), base.text_ids("Count to")
    sampling = Sampling(temperature=1, top_k=None, max_new_tokens=20, seed=11)
    (alone,) = base.generate([prompt], sampling)
    torch.manual_seed(123)
    before = torch.get_rng_state()
    in_batch = base.generate([other, prompt, other, prompt], sampling)
    assert torch.equal(torch.get_rng_state(), before)
    assert in_batch[1].token_ids == alone.token_ids
    assert in_batch[3].token_ids != alone.token_ids  # a prompt that comes again is answered anew
    assert in_batch[0].token_ids != in_batch[2].token_ids
    assert [step.tokens[0] for step in base.steps([prompt], sampling)] == alone.token_ids
    for longer in (35, 10**11):  # far more than the context holds
        more = replace(sampling, max_new_tokens=longer)
        assert base.generate([prompt], more)[0].token_ids[:20] == alone.token_ids


def test_other_seeds_and_no_seed_give_other_texts(base) -> None:
    prompt = base.text_ids("one")
    seeds = (1, 2, None, None)
    texts = {
        tuple(base.generate([prompt], Sampling(temperature=1, top_k=None, max_new_tokens=20, seed=seed))[0].token_ids)
        for seed in seeds
    }
    assert len(texts) == 4


def test_prompts_are_the_tokenizers_own(chat, base, chat_tokenizer) -> None:
    messages = [{"role": "user", "content": "What is your name?"}]
    expected = chat_tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
    assert chat.chat_ids(messages) == expected
    assert base.text_ids("one two") == chat_tokenizer("one two")["input_ids"]
    assert base.text_ids("one two")[0] == base.text_ids("")[0] == chat_tokenizer.bos_token_id
    assert len(base.text_ids("")) == 1


def test_names_of_special_tokens_in_what_is_said_are_text(chat, base, chat_tokenizer) -> None:
    special = set(chat_tokenizer.all_special_ids)
    spoken = "".join(SPECIAL_TOKENS)
    ids = chat.chat_ids([{"role": "user", "content": spoken}])
    tokens = chat_tokenizer.convert_ids_to_tokens([token for token in ids if token in special])
    assert tokens == ["<|bos|>", "<|user|>", "<|end|>", "<|assistant|>"]
    assert [token for token in base.text_ids(spoken) if token in special] == [chat_tokenizer.bos_token_id]


def test_a_template_that_refuses_or_is_missing_is_the_users_to_know(chat, chat_tokenizer) -> None:
    with pytest.raises(UserError, match="role"):
        chat.chat_ids([{"role": "narrator", "content": "Once"}])
    bare = train_tokenizer(["one two"], vocab_size=265)
    bare.chat_template = None
    engine = Engine(chat.model, bare)
    assert not engine.is_chat
    with pytest.raises(UserError, match="no chat template"):
        engine.chat_ids([{"role": "user", "content": "Hi"}])


def test_what_cannot_be_loaded_says_so_in_one_sentence(tmp_path: Path, chat_model) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "no-such-thing"}')
    for name in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(UserError, match="cannot be loaded as a language model") as error:
            Engine.from_pretrained(name)
        assert "\n" not in str(error.value)


def test_a_tokenizer_larger_than_the_model_is_refused(chat) -> None:
    tokenizer = train_tokenizer(["many words, none of them ever heard of before, in a row " * 3], vocab_size=360)
    tokenizer.add_tokens([f"word{number}" for number in range(300)])
    with pytest.raises(UserError, match="do not belong together"):
        Engine(chat.model, tokenizer)


def test_weights_that_are_not_finite_are_refused(chat_model) -> None:
    engine = Engine.from_pretrained(chat_model)
    with torch.no_grad():
        engine.model.lm_head.weight.fill_(float("nan"))
    broken = Engine(engine.model, engine.tokenizer)
    with pytest.raises(UserError, match="not finite"):
        broken.generate([[9, 10]], GREEDY)
