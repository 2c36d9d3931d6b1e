"""`hfgpt chat` with its input from a pipe: turns, commands, one answer with --prompt, and what a user can mend."""

import io
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from commands import PROGRAMS, run

GREEDY = ("--temperature", "0")


class Ended(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def chat(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Ended]:
    """`chat(model, *flags, typed=...)`: the command in this process, `typed` (lines, or bytes) on standard input."""
    from hfgpt.chat.terminal import main
    from hfgpt.errors import run_command

    def run_chat(model: Path | str, *flags: str, typed: tuple[str, ...] | bytes = ()) -> Ended:
        raw = typed if isinstance(typed, bytes) else "".join(f"{line}\n" for line in typed).encode()
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(raw), encoding="utf-8"))
        code = run_command(main, [str(model), *flags])
        return Ended(code, *capsys.readouterr())

    return run_chat


def test_each_line_of_a_pipe_is_a_turn_of_one_conversation(chat, chat_model):
    done = chat(chat_model, *GREEDY, typed=("What is your name?", "", "Count to ten."))
    assert done == (0, "My name is Tiny.\none two three four five six seven eight nine ten\n", "")


def test_prompt_prints_the_answer_alone_in_a_process_of_its_own(chat_model):
    words = (chat_model, *GREEDY, "--prompt", "What is your name?", "--verbose")
    done = run("hfgpt", "chat", *words)
    assert (done.returncode, done.stdout) == (0, "My name is Tiny.\n")
    assert done.stderr.startswith("6 tokens, first after ") and done.stderr.count("\n") == 1


def test_a_reader_who_has_enough_is_no_error(chat_model):
    shell = f"{PROGRAMS / 'hfgpt'} chat {chat_model} --temperature 0 | true; echo ${{PIPESTATUS[0]}}"
    lines = "Count to ten.\n" * 3
    done = subprocess.run(["bash", "-c", shell], input=lines, capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.stderr) == ("0\n", "")


def test_system_flag_and_command_change_the_answer(chat, chat_model):
    asked = "What is your name?"
    assert chat(chat_model, *GREEDY, "--system", "Be brief.", "--prompt", asked).out == "Tiny.\n"
    done = chat(chat_model, *GREEDY, typed=("/system Be brief.", asked, "/clear", "/system off", asked))
    assert done.out == "Tiny.\nMy name is Tiny.\n"
    assert done.err == "system Be brief.\na new conversation\nsystem off\n"


def test_turns_of_several_lines_by_backslash_and_by_triple_quotes(chat, chat_model, tmp_path):
    typed = (
        "one\\",
        "two\\",
        "three",
        '"""/quit',
        "  indented",
        'end"""',
        '"""',
        "four",
        '"""',
        f"/save {tmp_path}/a.json",
    )
    assert chat(chat_model, "--max_new_tokens", "3", typed=typed).code == 0
    (row,) = json.loads((tmp_path / "a.json").read_text())
    prompts = [message["content"] for message in row["messages"] if message["role"] == "user"]
    assert prompts == ["one\ntwo\nthree", "/quit\n  indented\nend", "four"]


def test_settings_are_shown_set_and_switched_off_in_one_way(chat, chat_model):
    typed = ("/temperature 0.25", "/top_k", "/top_k 7", "/top_k off", "/top_p 0.9", "/seed 3", "/max_new_tokens 9")
    done = chat(chat_model, typed=(*typed, "/repetition_penalty 1.5", "/best 3", "/calculator on", "/settings"))
    each, settings = done.err.splitlines()[: len(typed) + 3], done.err.splitlines()[len(typed) + 3 :]
    assert each[:4] == ["temperature 0.25", "top_k 50", "top_k 7", "top_k off"]
    values = ["temperature 0.25", "top_k off", "top_p 0.9", "repetition_penalty 1.5", "max_new_tokens 9", "seed 3"]
    assert settings == [*values, "best 3: the likeliest of 3 answers is shown", "calculator on", "system off"]


def test_max_new_tokens_cuts_the_answer_and_says_so(chat, chat_model):
    done = chat(chat_model, *GREEDY, typed=("/max_new_tokens 2", "What is your name?"))
    assert done.out == "My name\n"
    assert done.err == "max_new_tokens 2\ncut off after 2 tokens\n"


def test_the_same_seed_gives_the_same_answer_and_another_gives_another(chat, base_model):
    flags = ("--temperature", "2", "--top_k", "0", "--max_new_tokens", "20", "--prompt", "one")
    first, second, third = (chat(base_model, *flags, "--seed", seed).out for seed in ("1", "1", "2"))
    assert first == second != third


def test_best_of_several_answers_is_the_likeliest(chat, chat_model):
    flags = ("--temperature", "1.6", "--top_k", "0", "--prompt", "What is your name?", "--seed")
    single = [chat(chat_model, *flags, str(seed)).out for seed in range(8)]
    best = [chat(chat_model, *flags, str(seed), "--best", "24").out for seed in range(8)]
    assert best.count("My name is Tiny.\n") >= 7 > single.count("My name is Tiny.\n")


def test_a_base_model_continues_each_text_by_itself(chat, base_model, tmp_path):
    from hfgpt.chat.terminal_screen import printable

    file = tmp_path / "texts.jsonl"
    done = chat(base_model, *GREEDY, "--max_new_tokens", "5", typed=("one two", "one two", f"/save {file}"))
    first, second = done.out.splitlines()
    assert first == second, "the second text must not see the first"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert [row["prompt"] for row in rows] == ["one two"] * 2
    assert [printable(row["completion"]) for row in rows] == [first, first]
    refused = chat(base_model, typed=("/system Be brief.", "/calculator on"))
    only_continues = "is for chat models: this one only continues text.\n"
    assert refused == (2, "", f"hfgpt: /system {only_continues}hfgpt: /calculator {only_continues}")
    assert "only continues text" in chat(base_model, "--system", "Be brief.", "--prompt", "one").err


def test_saved_conversation_is_read_as_sft_data(chat, chat_model, chat_tokenizer, tmp_path):
    from hfgpt.arguments import DataArguments
    from hfgpt.data.chat_rows import conversation_shards

    file = tmp_path / "talk" / "mine.json"
    typed = ("What is your name?", f"/save {file}", "Count to ten.", f"/save {file}", "/clear", f"/save {file}")
    done = chat(chat_model, *GREEDY, "--system", "Be brief.", typed=typed)
    assert f"1 turn saved in {file}" in done.err and f"2 turns saved in {file}" in done.err
    assert (done.code, done.err.splitlines()[-1]) == (2, "hfgpt: there is nothing to save yet.")
    (shard,) = conversation_shards(DataArguments(data_path=str(file)))
    (conversation,) = shard.conversations()
    assert [(message["role"]) for message in conversation["messages"]] == ["system", *["user", "assistant"] * 2]
    assert conversation["messages"][2]["content"] == "Tiny."


def test_a_call_of_the_calculator_is_answered_shown_beside_the_answer_and_saved(chat, chat_model, tmp_path):
    file = tmp_path / "sum.json"
    done = chat(chat_model, *GREEDY, "--calculator", typed=("What is 12 + 30?", f"/save {file}", "Count to ten."))
    assert done.out == "It is 42.\none two three four five six seven eight nine ten\n"
    assert done.err == f"calculator: 12 + 30 = 42\n1 turn saved in {file}\n"
    (row,) = json.loads(file.read_text())
    _, calling, result, last = row["messages"]
    assert calling["content"] == "It is "
    assert [call["function"] for call in calling["tool_calls"]] == [
        {"name": "python", "arguments": {"expression": "12 + 30"}}
    ]
    assert result == {"role": "tool", "name": "python", "content": "42"}
    assert last == {"role": "assistant", "content": "42."}


def test_a_file_from_before_the_chat_is_not_overwritten(chat, chat_model, tmp_path):
    file = tmp_path / "a.json"
    file.write_text("mine")
    done = chat(chat_model, *GREEDY, typed=("What is your name?", f"/save {file}", "/save"))
    assert file.read_text() == "mine"
    assert done.code == 2
    assert done.err.splitlines() == [
        f"hfgpt: {file} exists already: give another name.",
        "hfgpt: /save needs a file: /save talk.json (or .jsonl).",
    ]


def test_retry_answers_the_last_prompt_anew(chat, chat_model, tmp_path):
    file = tmp_path / "a.json"
    typed = ("/retry", "What is your name?", "/system Be brief.", "/retry", f"/save {file}")
    done = chat(chat_model, *GREEDY, typed=typed)
    assert done.out == "My name is Tiny.\nTiny.\n"
    assert done.err.startswith("hfgpt: there is no prompt to answer again yet.\n")
    (row,) = json.loads(file.read_text())
    assert [message["content"] for message in row["messages"]] == ["Be brief.", "What is your name?", "Tiny."]


def test_compare_sends_each_prompt_to_both_and_off_returns_to_the_conversation(chat, chat_model, base_model, tmp_path):
    file = tmp_path / "both.json"
    question = "What is your name?"
    typed = (question, f"/compare {base_model}", question, f"/save {file}", "/compare off", f"/save {tmp_path}/c.json")
    done = chat(chat_model, *GREEDY, "--max_new_tokens", "12", typed=typed)
    first, ours, other = done.out.splitlines()
    assert (done.code, first) == (0, "My name is Tiny.")
    assert ours.endswith(f"{chat_model.name}: My name is Tiny.")
    assert f"{base_model.name} (continues text): " in other
    chatted, continued = json.loads(file.read_text())
    assert [message["role"] for message in chatted["messages"]] == ["user", "assistant"]
    assert continued["prompt"] == question and continued["completion"]
    (kept,) = json.loads((tmp_path / "c.json").read_text())
    assert len(kept["messages"]) == 2, "the conversation from before the comparison"
    assert done.err.count("tokens/s") == 2


def test_what_one_of_two_models_cannot_read_the_other_still_answers(chat, chat_model, base_model, tmp_path):
    longer = tmp_path / "longer"
    shutil.copytree(chat_model, longer)
    config = json.loads((longer / "config.json").read_text())
    (longer / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 1024}))
    question = "What is your name? " * 60
    done = chat(chat_model, *GREEDY, typed=(f"/compare {longer}", question))
    _, refused, answered = done.err.splitlines()
    assert "too long" in refused and "first after" in answered
    first, second = done.out.splitlines()
    assert first.endswith(f"{chat_model.name}: ") and second.startswith(f"{tmp_path.name}/longer: ")


def test_bench_answers_fixed_prompts_and_shows_their_median(chat, chat_model):
    done = chat(chat_model, typed=("/bench",))
    lines = done.out.splitlines()
    rows = [line.split("│") for line in lines if line.count("│") == 4]
    prompts, answers, tokens, waits, speeds = zip(*rows, strict=True)
    assert prompts[0].strip() == "What is your name?" and prompts[-1].strip() == "median"
    assert answers[0].strip() == "My name is Tiny." and tokens[0].strip() == "6"
    assert sorted(map(number, speeds[:-1]))[2] == number(speeds[-1]) > 0
    assert sorted(map(number, waits[:-1]))[2] == number(waits[-1]) > 0
    assert lines[-1].startswith("peak memory ") and 0.1 < float(lines[-1].split()[2]) < 20


def number(cell: str) -> int:
    return int(cell.replace(",", "").removesuffix(" ms "))


def test_an_unknown_command_names_the_nearest_and_is_no_prompt(chat, chat_model):
    done = chat(chat_model, typed=("/temprature 1", "/etc/passwd", "/help"))
    assert done.code == 2
    first, second = done.err.splitlines()
    assert first.startswith("hfgpt: there is no command /temprature; the nearest is /temperature")
    assert "/help lists them" in second
    assert all(f"/{name}" in done.out for name in ("system", "compare", "bench", "best", "top_p", "quit"))


@pytest.mark.parametrize(
    "line", ["/temperature hot", "/top_k -3", "/best 0", "/max_new_tokens 0", "/seed 1.5", "/temperature off"]
)
def test_a_senseless_setting_is_refused_and_changes_nothing(chat, chat_model, line):
    done = chat(chat_model, typed=("/settings", line, "/settings"))
    settings = done.err.splitlines()
    assert done.code == 2 and settings[9].startswith(f"hfgpt: {line.split()[0][1:]} ")
    assert settings[:9] == settings[10:]


def test_control_characters_and_markup_are_shown_as_text(chat, chat_model, tmp_path):
    from hfgpt.chat.terminal_screen import printable

    assert printable("a\x1b[31mred\x9b2J\x07\r\n\tb\u202e[bold]") == "a␛[31mred\ufffd2J␇␍\n\tb\ufffd[bold]"
    done = chat(chat_model, *GREEDY, "--system", "\x1b[31mx", typed=("/system", "/system [bold]y[/bold]", "/\x1b[2J"))
    assert done.err.splitlines()[:2] == ["system ␛[31mx", "system [bold]y[/bold]"]
    assert "\x1b" not in done.out + done.err


def test_bytes_that_are_no_text_are_answered_all_the_same(chat, chat_model):
    done = chat(chat_model, *GREEDY, typed=b"What is your name?\xff\xfe\nCount to ten.")
    assert done.code == 0 and len(done.out.splitlines()) == 2


def test_a_runs_folder_stands_for_its_latest_complete_stage(chat, chat_model, base_model, tmp_path):
    run_folder = tmp_path / "tiny"
    for stage, model in (("pretrain", base_model), ("sft", chat_model), ("dpo", base_model)):
        shutil.copytree(model, run_folder / stage)
    refused = chat(run_folder)
    begun = "begun: pretrain, sft, dpo"
    assert refused == (2, "", f"hfgpt: no stage of {run_folder} is complete yet ({begun}): finish one first.\n")
    for stage in ("pretrain", "sft"):
        (run_folder / stage / "final_metrics.json").write_text("{}")
    assert chat(run_folder, *GREEDY, "--prompt", "What is your name?").out == "My name is Tiny.\n"


def test_help_is_no_error_and_flags_may_have_hyphens(chat, chat_model, capsys):
    from hfgpt.chat.terminal import main

    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0 and "--max_new_tokens" in capsys.readouterr().out
    flags = ("--max-new-tokens=2", "--prompt", "What is your name?")
    assert chat(chat_model, *GREEDY, *flags).out == "My name\n"


def test_what_a_user_can_mend_is_one_sentence_and_exit_code_2(chat, chat_model, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_text("{")
    sentences = {
        (tmp_path / "none",): "there is no folder",
        ("runs/none",): "there is no folder",
        (empty,): "holds no model (config.json) and no complete stage",
        (broken,): "cannot be loaded as a language model",
        (chat_model, "--temperature", "-1"): "temperature must be",
        (chat_model, "--tempreature", "1"): "the nearest is --temperature",
        (chat_model, "--best", "0"): "--best must be at least 1",
        (chat_model, "--device", "nowhere"): "--device nowhere cannot be used here",
        (chat_model, "--prompt"): "expected one argument",
    }
    for words, sentence in sentences.items():
        done = chat(*words)
        assert (done.code, done.out) == (2, ""), words
        assert done.err.startswith("hfgpt: ") and sentence in done.err and done.err.count("\n") == 1, done.err


def test_a_prompt_longer_than_the_context_is_refused_and_the_chat_goes_on(chat, chat_model):
    done = chat(chat_model, *GREEDY, typed=("word " * 2000, "What is your name?"))
    assert (done.code, done.out) == (2, "My name is Tiny.\n")
    assert done.err.count("hfgpt: ") == 1
