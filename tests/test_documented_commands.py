"""Every command that README and docs show is run, small, or stands in the list of those that need what is not here;
and of every one, in the running text and in tables too, subcommand, files and flags are known."""

import io
import re
import shlex
from contextlib import redirect_stdout, suppress
from functools import cache

import pytest
from commands import REPOSITORY, succeed

from hfgpt.cli import main

PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
PROGRAMS = (
    "hfgpt",
    "source",
    "accelerate",
    "make",
    "python",
    "pip",
    "hf",
    "vllm",
    "lm_eval",
    "sbatch",
    "trackio",
    "trl",
)
STAGES = ("midtrain", "sft", "dpo", "grpo")
# What a command needs that this suite has not, by the words that show it.
NEEDS = {
    "--num_processes 8": "GPUs",
    "data download": "the Hub; run against its stand-in by tests/data/test_hub_files.py",
    "data push": "the Hub; run against its stand-in by tests/data/test_prepared_hub.py",
    "hfgpt push": "the Hub; run against its stand-in by tests/hub/test_push.py",
    "--push": "the Hub; run against its stand-in by tests/hub/test_push.py and test_stage_pushes.py",
    "sbatch ": "Slurm; its script is run by tests/distributed/test_sharded_training.py",
    "trackio show": "a browser",
    "--executor slurm": "Slurm; its job files are run by tests/data/test_cluster.py",
    "my_nanochat": "a checkpoint of nanochat; run by tests/conversion/test_nanochat_checkpoint.py",
    "--model_name_or_path models/": "an imported model; run by tests/conversion/test_imported_models_go_on.py",
    "llama.cpp": "llama.cpp, whose converter tests/conversion/test_gguf.py runs",
    "trl sft": "rows; run by tests/ecosystem/test_trl_commands.py",
    "source .venv/bin/activate": "the environment that make makes; hfgpt is on the path of this suite",
    "make ": "make targets install; CI itself is `make quality` and `make test`",
    "pip install": "the package index",
    "hfgpt web": "a browser; run by tests/chat/test_web.py and test_web_browser.py",
    "vllm serve": "a GPU and vLLM, whose part tests/ecosystem/test_vllm_backend.py plays",
    "hfgpt serve": "clients; run by tests/chat/test_serve_process.py",
    "my_space/app.py": "a visitor; run by tests/chat/test_space.py",
    "my_hellaswag": "HellaSwag's rows; run on some in their form by tests/evals/test_eval_command.py",
    "-m hfgpt.eval": "several GPUs; run in two processes by tests/evals/test_eval_command.py",
    "hf ": "the Hub",
    "gpt2": "the Hub",
    "--trackio": "a folder of trackio's own; run by tests/test_compare.py",
    "hfgpt doctor": "half a minute; run by tests/test_doctor.py",
    "secrets.token_urlsafe": "nothing; it writes a file beside the repository's",
    "benchmarks/ablations.py": "hours",
    "benchmarks/learning.py": "hours",
    "hfgpt bench": "minutes; run small by tests/test_bench.py",
    "hfgpt run recipes/tiny.yaml": "minutes; run whole by tests/e2e/test_tiny_run.py",
}
# Enough to make a command quick, whatever else it says.
SMALL_DATA = ("--tinyworld_documents", "300", "--validation_fraction", "0.05", "--vocab_size", "400")
SMALL_RUN = (
    "--max_steps",
    "2",
    "--total_batch_size",
    "512",
    "--per_device_train_batch_size",
    "2",
    "--hidden_size",
    "128",
)


BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def documented_commands() -> list[str]:
    """Command lines of the fenced blocks without a language or for a shell; one that goes on in the next is one."""
    commands = []
    for page in PAGES:
        for language, block in BLOCK.findall(page.read_text(encoding="utf-8")):
            if language in ("", "bash"):
                lines = re.sub(r"\s*\\\n\s*", " ", block).splitlines()
                lines = [line.split("  #")[0].strip() for line in lines]
                commands += [line for line in lines if line.split(" ")[0] in PROGRAMS]
    return list(dict.fromkeys(commands))


def commands_in_sentences() -> list[str]:
    """Commands of the running text and of tables, those with arguments."""
    texts = [BLOCK.sub("", page.read_text(encoding="utf-8")) for page in PAGES]
    found = [code for text in texts for code in re.findall(r"`([^`\n]+)`", text)]
    return list(dict.fromkeys(code for code in found if code.startswith(("hfgpt ", "accelerate launch ", "sbatch "))))


def test_there_are_commands_to_check():
    assert len(documented_commands()) > 60 and len(commands_in_sentences()) > 40


@pytest.mark.parametrize("command", documented_commands() + commands_in_sentences())
def test_what_a_command_names_exists(command):
    words = shlex.split(command)
    for word in words:
        if re.fullmatch(r"(recipes|accelerate_configs|benchmarks|hfgpt|tests)/[\w./-]+\.\w+", word):
            assert (REPOSITORY / word).is_file(), word
    stages = [word for word in words if re.fullmatch(r"hfgpt/\w+\.py", word)]
    if words[0] != "hfgpt" and not stages:
        return
    arguments = words[words.index(stages[0]) :] if stages else words[1:]
    name = stages[0].removeprefix("hfgpt/").removesuffix(".py") if stages else arguments[0]
    subcommand = tuple(arguments[:2]) if name in ("data", "tokenizer") and len(arguments) > 1 else (name,)
    known = flags_of(subcommand)
    for word in arguments:
        if word.startswith("--"):
            flag = word.removeprefix("--").partition("=")[0]
            assert flag in known or flag.rpartition(".")[2] in known, f"{flag} of {' '.join(subcommand)}"


@cache
def keys_of_recipes() -> set[str]:
    reference = (REPOSITORY / "docs" / "reference.md").read_text(encoding="utf-8")
    return set(re.findall(r"^\| `(\w+)` \|", reference, re.MULTILINE))


@cache
def help_of(subcommand: tuple[str, ...]) -> str:
    """What `hfgpt SUBCOMMAND --help` prints."""
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(io.StringIO()) as said:
        patch.setenv("COLUMNS", "200")
        with suppress(SystemExit):
            assert main([*subcommand, "--help"]) == 0
    return said.getvalue()


def flags_of(subcommand: tuple[str, ...]) -> set[str]:
    """The flags of a subcommand, and where it takes a recipe its keys."""
    page = help_of(subcommand)
    return set(re.findall(r"--(\w+)", page)) | (keys_of_recipes() if "[--key value ...]" in page else set())


@pytest.mark.slow
@pytest.mark.parametrize("command", documented_commands())
def test_a_documented_command_works(command, tmp_path, tiny_run):
    for words, need in NEEDS.items():
        if words in command:
            pytest.skip(f"needs {need}")
    words = shlex.split(command)
    if words[1] in ("import", "export"):
        return convert(tiny_run[0] / "tokenizer", words, tmp_path)
    if words[1] in ("chat", "space", "compare", "leakage", "eval", "report"):
        return try_on(tiny_run[0], command, tmp_path)
    if "my_texts/" in words:
        texts = tmp_path / "my_texts"
        texts.mkdir()
        for n in range(60):
            (texts / f"{n}.txt").write_text(f"Text number {n} tells of {n * 7} things, one after another. " * 20)
        words[words.index("my_texts/")] = str(texts)
    if "plan" not in words:
        words += SMALL_DATA
        if "--output_root" in words:
            words[words.index("--output_root") + 1] = str(tmp_path / "runs")
        else:
            words += ["--output_root", str(tmp_path / "runs")]
    if any("pretrain" in word for word in words):
        words += SMALL_RUN + (() if "--eval_tasks" in words else ("--eval_tasks", "[]"))
    elif words[1] in STAGES:
        stage_is_small(words, tiny_run[0], tmp_path)
    succeed(*words)


def try_on(run_folder, command: str, tmp_path) -> None:
    """Run a command about the finished run `runs/tiny`, a script's lines on its standard input."""
    (tmp_path / "questions.txt").write_text("What is 7 plus 8?\nThank you.\n")
    line = command.replace("runs/tiny", str(run_folder)).replace("my_space", str(tmp_path / "my_space"))
    line = line.replace("scores.json", str(tmp_path / "scores.json"))
    line, _, answers = line.partition(" > ")
    line, _, questions = line.partition(" < ")
    words = shlex.split(line.replace("--model_repo you/tiny", "--model_repo you/tiny"))
    done = succeed(*words, stdin=(tmp_path / "questions.txt").read_text() if questions else "")
    assert done.stdout.strip() or not answers


def convert(tokenizer, words: list[str], tmp_path) -> None:
    """Run a command about the folder `my_llama`, or about what was imported from it."""
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    own = AutoTokenizer.from_pretrained(tokenizer)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=len(own), **shape)).save_pretrained(tmp_path / "my_llama")
    own.save_pretrained(tmp_path / "my_llama")
    if words[1] == "export":
        succeed("hfgpt", "import", tmp_path / "my_llama", "--output_dir", tmp_path / "models" / "my_llama")
    names = ("my_llama", "models/my_llama", "exported")
    succeed(*(str(tmp_path / word) if word in names else word for word in words))


def stage_is_small(words: list[str], run_folder, tmp_path) -> None:
    """Let a stage start from the finished run's base model, take few steps, and read conversations that are here."""
    (tmp_path / "my.jsonl").write_text(
        '{"prompt": "Hello?", "completion": "Hello.", "chosen": "a", "rejected": "b"}\n' * 40
    )
    words[:] = [str(tmp_path / "my.jsonl") if word.startswith("my_") else word for word in words]
    if "recipes/tiny.yaml" not in words:
        words[2] = "recipes/tiny.yaml"
    # The stage has its own share held out, the tokenizer is the run's, and the stage's folder is the test's.
    for flag in ("--validation_fraction", "--vocab_size", "--output_dir"):
        if flag in words:
            place = words.index(flag)
            del words[place : place + 2]
    words += ["--max_steps", "2", "--eval_tasks", "[]", "--output_dir", str(tmp_path / words[1])]
    words += ["--model_name_or_path", str(run_folder / "pretrain"), "--name_or_path", str(run_folder / "tokenizer")]
