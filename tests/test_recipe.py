"""A recipe and flags become arguments, and every mistake becomes one sentence that names file, section and key."""

import dataclasses
import typing
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from hfgpt.errors import UserError
from hfgpt.recipe import SHARED_SECTIONS, load_recipe, read_recipe_file
from hfgpt.recipe_values import as_yaml


@dataclass
class StageArguments:
    """A stage's section with the kinds of fields that HF's arguments have."""

    max_steps: int = -1
    target_flops: float | None = None
    learning_rate: float = 0.1
    seed: int = 0
    output_dir: str | None = None
    report_to: None | str | list[str] = None
    bf16: bool = False
    lr_scheduler_kwargs: dict | str | None = None

    def __post_init__(self):
        if self.learning_rate < 0:
            raise ValueError("learning_rate must not be negative\nat all")


def recipe_of(tmp_path: Path, text: str, *flags: str):
    path = tmp_path / "small.yaml"
    path.write_text(text, encoding="utf-8")
    return load_recipe([str(path), *flags], "pretrain", StageArguments)


def stage_of(tmp_path: Path, text: str, *flags: str) -> StageArguments:
    return recipe_of(tmp_path, text, *flags).section("pretrain", StageArguments)


def test_flags_win_over_the_file_and_find_their_section(tmp_path):
    text = "model: {depth: 4}\ndata: {max_length: 256}\npretrain: {learning_rate: 3e-4}\n"
    recipe = recipe_of(tmp_path, text, "--max_length", "512", "--learning-rate=2e-3", "--model.depth", "6")
    assert (recipe.model.depth, recipe.data.max_length, recipe.name) == (6, 512, "small")
    assert recipe.section("pretrain", StageArguments).learning_rate == 2e-3


def test_numbers_in_scientific_form_are_numbers(tmp_path):
    assert stage_of(tmp_path, "pretrain: {learning_rate: 3e-4}\n").learning_rate == 3e-4
    assert recipe_of(tmp_path, "", "--tokens_threshold", "1e9").data.tokens_threshold == 1_000_000_000


def test_lists_maps_and_bare_flags(tmp_path):
    recipe = recipe_of(tmp_path, "", "--data_path", "a.txt", "b.txt", "--columns", "{text: body}", "--bf16")
    assert recipe.data.data_path == ["a.txt", "b.txt"]
    assert recipe.data.columns == {"text": "body"}
    stage = recipe.section("pretrain", StageArguments)
    assert stage.bf16 is True
    kwargs = stage_of(tmp_path, "", "--lr_scheduler_kwargs", "{min_lr: 0.1}").lr_scheduler_kwargs
    assert kwargs == {"min_lr": 0.1}


def test_a_length_given_as_a_flag_replaces_the_length_of_the_file(tmp_path):
    stage = stage_of(tmp_path, "pretrain: {max_steps: 10}\n", "--target_flops", "1e15")
    assert (stage.max_steps, stage.target_flops) == (-1, 1e15)


def test_the_recipe_as_run_gives_the_same_arguments_again(tmp_path):
    recipe = recipe_of(tmp_path, "model: {depth: 4}\npretrain: {report_to: [none]}\n", "--max_steps", "7")
    again = recipe_of(tmp_path, recipe.as_text())
    assert again.model == recipe.model
    assert again.section("pretrain", StageArguments) == recipe.section("pretrain", StageArguments)


@pytest.mark.parametrize(
    ("text", "flags", "words"),
    [
        ("model:\n\tdepth: 4\n", (), ["small.yaml:2", "tabs"]),
        ("model:\n  depth: 4\n  depth: 5\n", (), ["small.yaml:3", "depth stands twice", "line 2"]),
        ("data: {columns: {a: b, a: c}}\n", (), ["a stands twice", "data.columns"]),
        ("modell: {depth: 4}\n", (), ["small.yaml:1", "no section modell", "nearest is model"]),
        ("model:\n  depht: 4\n", (), ["small.yaml:2", "model.depht", "nearest is depth"]),
        ("model:\n  depth: four\n", (), ["small.yaml:2", "model.depth", "whole number", "'four'"]),
        ("model: {depth: true}\n", (), ["model.depth", "whole number"]),
        ("model: {depth: .inf}\n", (), ["model.depth", "whole number"]),
        ("model: 4\n", (), ["section model", "map"]),
        ("- model\n", (), ["the recipe must be a map"]),
        ("model: {depth: [4\n", (), ["small.yaml:"]),
        ("data: {format: xml}\n", (), ["data.format", "one of auto, txt"]),
        ("data: {vocab_size: 3}\n", (), ["belongs to section tokenizer"]),
        ("pretrain: {seed: 3}\n", (), ["pretrain.seed belongs to section data"]),
        ("pretrain: {lerning_rate: 3}\n", (), ["pretrain.lerning_rate", "nearest is learning_rate"]),
        ("pretrain:\n  learning_rate: -1\n", (), ["small.yaml:2: pretrain.learning_rate", "negative at all"]),
        ("", ("--lerning_rate", "1"), ["--lerning_rate is not known", "--learning_rate"]),
        ("", ("--model.dept", "1"), ["section model has no key dept", "depth"]),
        ("", ("--modle.depth", "1"), ["no section modle"]),
        ("", ("--sft.learning_rate", "1"), ["belongs to sft"]),
        ("", ("--depth", "x"), ["flag --depth (model.depth)", "whole number"]),
        ("", ("tail",), ["tail", "flag was expected"]),
    ],
)
def test_a_mistake_is_one_sentence_that_names_its_place(tmp_path, text, flags, words):
    with pytest.raises(UserError) as caught:
        recipe = recipe_of(tmp_path, text, *flags)
        _ = recipe.model, recipe.tokenizer, recipe.data, recipe.section("pretrain", StageArguments)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def test_a_missing_recipe_names_those_that_ship():
    with pytest.raises(UserError, match="does not exist.*tiny"):
        load_recipe(["recipes/tinny.yaml"])


def test_a_recipe_that_is_not_text_is_refused(tmp_path):
    path = tmp_path / "binary.yaml"
    path.write_bytes(b"\xff\xfe\x00model")
    with pytest.raises(UserError, match="binary.yaml cannot be read as UTF-8"):
        load_recipe([str(path)])


def test_a_source_given_as_a_flag_replaces_the_source_of_the_file(tmp_path):
    text = "data: {dataset: HuggingFaceFW/fineweb-edu, dataset_config: sample-10BT, max_length: 64}\n"
    data = recipe_of(tmp_path, text, "--data_path", "mine.txt").data
    assert (data.dataset, data.dataset_config, data.data_path, data.max_length) == (None, None, ["mine.txt"], 64)


def test_a_shape_given_as_a_flag_replaces_the_shape_of_the_file(tmp_path):
    model = recipe_of(tmp_path, "model: {depth: 4, qk_norm: false}\n", "--preset", "gpt2").model
    assert (model.depth, model.preset, model.qk_norm) == (None, "gpt2", False)


def test_a_recipe_that_a_run_left_keeps_the_runs_name(tmp_path):
    path = tmp_path / "runs" / "mine" / "pretrain" / "recipe.yaml"
    path.parent.mkdir(parents=True)
    path.write_text("model: {depth: 4}\n")
    assert load_recipe([str(path)]).name == "mine"


in_one_folder = settings(
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
)


def sections_of(arguments_class: type) -> st.SearchStrategy[dict]:
    """Sections with a few keys of a dataclass and values of their types."""
    hints = typing.get_type_hints(arguments_class)
    keys = [f.name for f in dataclasses.fields(arguments_class) if f.name != "seed"]
    # Not the smallest numbers, which a process that has trained rounds to zero.
    floats = st.floats(allow_nan=False, allow_infinity=False, allow_subnormal=False)
    numbers = {key for key in keys if float in (hints[key], *typing.get_args(hints[key]))}
    values = {key: floats if key in numbers else st.from_type(hints[key]) for key in keys}
    pairs = st.sampled_from(keys).flatmap(lambda key: st.tuples(st.just(key), values[key]))
    pairs = pairs.filter(lambda pair: not isinstance(pair[1], dict) or "" not in pair[1])  # no word; refused
    return st.lists(pairs, max_size=4).map(dict)


@in_one_folder
@given(sections=st.fixed_dictionaries({}, optional={n: sections_of(c) for n, c in SHARED_SECTIONS.items()}))
@example(sections={"data": {"columns": {"text": "next\x85line"}}})
def test_every_recipe_is_read_as_it_was_written_and_runs_again_as_it_was_run(tmp_path, sections):
    path = tmp_path / "any.yaml"
    path.write_text(as_yaml(sections), encoding="utf-8")
    recipe = load_recipe([str(path)])
    assert recipe.sections == sections
    path.write_text(recipe.as_text(), encoding="utf-8")
    again = load_recipe([str(path)])
    assert again.sections == {name: keys for name, keys in sections.items() if keys}
    for name, arguments_class in SHARED_SECTIONS.items():
        try:
            built = recipe.section(name, arguments_class)
        except UserError as error:  # a number that is too small
            assert name in str(error)
            continue
        keys = dict(sections.get(name, {}))
        if isinstance(keys.get("data_path"), str):  # one path is a list of one
            keys["data_path"] = [keys["data_path"]]
        assert built == again.section(name, arguments_class) == dataclasses.replace(arguments_class(), **keys)


PIECES = [
    "model",
    "data",
    "depth",
    "columns",
    ":",
    " ",
    "\n",
    "\n  ",
    "{",
    "}",
    "[",
    "]",
    "- ",
    "&a ",
    "*a",
    "!x ",
    "!!int ",
    "'",
]
PIECES += [
    '"',
    "#",
    "|",
    ">",
    "? ",
    ",",
    "1",
    "2020-13-01",
    ".nan",
    "null",
    "<<",
    "%",
    "---",
    "\t",
    "\x00",
    "\ufeff",
    "é",
]


@in_one_folder
@given(text=st.lists(st.sampled_from(PIECES), max_size=30).map("".join) | st.text(max_size=40))
@example(text="model: {depth: !!int x}")
@example(text="model: &a [*a]")
@example(text="? [model]\n: 1")
@example(text="? |\n  two\n  lines\n: 1")
def test_no_text_does_more_than_be_refused_as_a_recipe(tmp_path, text):
    path = tmp_path / "any.yaml"
    path.write_text(text, encoding="utf-8", errors="surrogatepass", newline="")
    try:
        sections, lines = read_recipe_file(path)
    except UserError as error:
        assert str(error).startswith(str(path)) and "\n" not in str(error)
    else:
        assert {(section, key) for section, keys in sections.items() for key in keys} == set(lines)


@in_one_folder
@given(
    words=st.lists(
        st.sampled_from(["--", "--depth", "--columns", "--data.", "=", "{", "[", "a: b", "3", "é"])
        | st.text(max_size=9)
    )
)
def test_no_words_do_more_than_be_refused_as_flags(tmp_path, words):
    (tmp_path / "any.yaml").write_text("model: {depth: 2}\n")
    try:
        recipe = load_recipe([str(tmp_path / "any.yaml"), *words], "pretrain", StageArguments)
        _ = recipe.model, recipe.tokenizer, recipe.data, recipe.section("pretrain", StageArguments)
    except UserError as error:
        assert "\n" not in str(error)
