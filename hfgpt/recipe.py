"""A recipe file and command-line flags become the dataclasses of a stage, or one sentence that says what is wrong.

Knows the shared sections and every stage's name, but imports neither torch nor transformers nor trl: a stage hands
in the class of its own section.
"""

import dataclasses
import difflib
import re
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml

from hfgpt.arguments import DataArguments, ModelArguments, TokenizerArguments
from hfgpt.errors import UserError
from hfgpt.recipe_values import as_yaml, coerce, from_yaml

STAGES = ("pretrain", "midtrain", "sft", "dpo", "grpo")
SHARED_SECTIONS: dict[str, type] = {"model": ModelArguments, "tokenizer": TokenizerArguments, "data": DataArguments}
DEFAULT_RECIPE = "tiny"
# Keys that only one section may own, although HF's argument classes have a field of the same name.
OWNERS = {"seed": "data", "max_length": "data", "vocab_size": "tokenizer"}
# Alternatives, of which one that is given as a flag replaces those in the file: how long to train, where text comes
# from, and which shape the model has.
LENGTH_KEYS = ("max_steps", "target_flops", "target_param_data_ratio", "num_train_epochs")
SOURCE_KEYS = ("dataset", "data_path")
SHAPE_KEYS = ("depth", "preset")

StageT = TypeVar("StageT")


@dataclass
class RunArguments:
    """Flags about the run as a whole; they are not part of a recipe."""

    output_root: str = field(default="runs", metadata={"help": "Folder that holds one folder a recipe."})
    overwrite: bool = field(default=False, metadata={"help": "Run the stage again although it is complete."})
    debug: bool = field(default=False, metadata={"help": "Show the traceback of an error."})


@dataclass
class Recipe:
    """What a recipe file and the flags said, before the stage's own class has checked its section.

    `sections` holds plain values by section and key; `given_by` says, for each (section, key), whether the "file" or
    a "flag" gave it, so that errors name the right place.
    """

    name: str
    path: Path
    sections: dict[str, dict[str, Any]]
    run: RunArguments
    given_by: dict[tuple[str, str], str] = field(default_factory=dict)
    line_of: dict[tuple[str, str], int] = field(default_factory=dict)

    def place(self, section: str, key: str) -> str:
        """The words that lead a user to one key: file, line, section and key, or the flag."""
        if self.given_by.get((section, key)) == "flag":
            return f"flag --{key} ({section}.{key})"
        line = self.line_of.get((section, key))
        return f"{self.path}{f':{line}' if line else ''}: {section}.{key}"

    def section(self, name: str, arguments_class: type[StageT], **defaults: Any) -> StageT:
        """Build `arguments_class` from section `name`; `defaults` fill keys that nobody gave.

        Raises UserError for an unknown key, a wrong type, or a value that the class itself refuses.
        """
        known = {f.name: f for f in dataclasses.fields(arguments_class) if f.init}  # type: ignore[arg-type]
        hints = typing.get_type_hints(arguments_class)
        values = dict(defaults)
        for key, value in self.sections.get(name, {}).items():
            owner = OWNERS.get(key, name)
            if owner != name:
                raise UserError(f"{self.place(name, key)} belongs to section {owner}: write {owner}.{key} instead.")
            if key not in known:
                raise UserError(f"{self.place(name, key)} is not a key of this section{_nearest(key, known)}.")
            try:
                values[key] = self.sections[name][key] = coerce(value, hints[key])
            except ValueError as error:
                raise UserError(f"{self.place(name, key)} {error}.") from None
        try:
            return arguments_class(**values)
        except (ValueError, TypeError, ImportError) as error:
            raise self.refusal(name, error) from None

    def refusal(self, name: str, error: Exception) -> UserError:
        """What HF or TRL says against the values of section `name`, with the place of the key that it speaks of: one
        that it names, else one whose word for a value it names."""
        sentence = " ".join(str(error).split())
        said, given = set(re.findall(r"\w+", sentence)), self.sections.get(name, {})
        culprits = [key for key in sorted(given, key=len) if key in said]
        culprits += [key for key, value in given.items() if isinstance(value, str) and value in said]
        where = self.place(name, culprits[0]) if culprits else f"{self.path}: section {name}"
        return UserError(f"{where}: {sentence}")

    @property
    def model(self) -> ModelArguments:
        return self.section("model", ModelArguments)

    @property
    def tokenizer(self) -> TokenizerArguments:
        return self.section("tokenizer", TokenizerArguments)

    @property
    def data(self) -> DataArguments:
        return self.section("data", DataArguments)

    @property
    def folder(self) -> Path:
        """`runs/<recipe>`, the folder of everything this recipe makes."""
        return Path(self.run.output_root) / self.name

    def as_text(self) -> str:
        """The recipe as it was run, flags included, as YAML that runs again. It goes to the Hub: it holds no token."""
        shown = {name: {k: v for k, v in values.items() if k != "hub_token"} for name, values in self.sections.items()}
        kept = {name: values for name, values in shown.items() if values}
        return as_yaml(kept)


def load_recipe(argv: list[str], stage: str | None = None, stage_class: type | None = None) -> Recipe:
    """Read `[RECIPE] [--flag value ...]`: the file first, then the flags, which win.

    `stage` names the stage that reads it and `stage_class` the dataclass of its section; a flag without a section goes
    to the one section that knows its key. Without `stage`, flags of a stage are written with their section.
    Raises UserError with one sentence for anything that is wrong.
    """
    argv = list(argv)
    named = argv.pop(0) if argv and not argv[0].startswith("--") else DEFAULT_RECIPE
    path = find_recipe(named)
    sections, lines = read_recipe_file(path)
    recipe = Recipe(recipe_name(path), path, sections, RunArguments(), line_of=lines)
    for section, values in sections.items():
        recipe.given_by.update({(section, key): "file" for key in values})
    owners = {**SHARED_SECTIONS, **({stage: stage_class} if stage and stage_class else {})}
    run_fields = {f.name for f in dataclasses.fields(RunArguments)}
    run_values: dict[str, Any] = {}
    for flag, words in split_flags(argv):
        if flag in run_fields:
            try:
                run_values[flag] = coerce(_flag_value(words), typing.get_type_hints(RunArguments)[flag])
            except ValueError as error:
                raise UserError(f"flag --{flag} {error}.") from None
            continue
        section, key = _owner_of_flag(flag, owners)
        hint = typing.get_type_hints(owners[section]).get(key) if section in owners else None
        try:
            recipe.sections.setdefault(section, {})[key] = _flag_value(words, wants_list=is_list(hint))
        except ValueError as error:
            raise UserError(f"flag --{flag} {error}.") from None
        recipe.given_by[section, key] = "flag"
    recipe.run = RunArguments(**run_values)
    for section in STAGES:
        _replace_alternatives(recipe, section, LENGTH_KEYS, LENGTH_KEYS)
    for section in ("data", *STAGES):
        _replace_alternatives(recipe, section, SOURCE_KEYS, (*SOURCE_KEYS, "dataset_config", "prepared", "mixture"))
    _replace_alternatives(recipe, "model", SHAPE_KEYS, SHAPE_KEYS)
    return recipe


def _replace_alternatives(recipe: Recipe, section: str, keys: tuple[str, ...], replaced: tuple[str, ...]) -> None:
    """Where a flag gave one of `keys`, what the file says for `replaced` goes."""
    if any(recipe.given_by.get((section, key)) == "flag" for key in keys):
        for key in replaced:
            if recipe.given_by.get((section, key)) == "file":
                recipe.sections[section].pop(key)


def find_recipe(named: str) -> Path:
    """The recipe file that `named` means: a path, or the name of a recipe that ships with hfgpt (`tiny`, `d20`)."""
    path = Path(named)
    if path.is_file():
        return path
    package = Path(__file__).parent
    folders = (package.parent / "recipes", package / "_recipes")  # in a checkout, in an installed wheel
    for folder in folders:
        shipped = folder / f"{path.stem}.yaml"
        if shipped.is_file() and path.suffix in {"", ".yaml"} and path.parent.name in {"", "recipes"}:
            return shipped
    if path.is_dir():
        raise UserError(f"{named} is a folder; name a recipe file, such as recipes/tiny.yaml.")
    known = sorted({p.stem for folder in folders for p in folder.glob("*.yaml")})
    raise UserError(
        f"recipe {named} does not exist{_nearest(path.stem, known)}; recipes that ship: {', '.join(known)}."
    )


def recipe_name(path: Path) -> str:
    """The file's name; of a recipe that a run left in `runs/<recipe>/<stage>/recipe.yaml`, the run's."""
    left_by_a_run = path.name == "recipe.yaml" and path.resolve().parent.name in STAGES
    return path.resolve().parents[1].name if left_by_a_run else path.stem


def read_recipe_file(path: Path) -> tuple[dict[str, dict[str, Any]], dict[tuple[str, str], int]]:
    """Sections of a recipe file, and the line of each (section, key). Raises UserError naming the line."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as UTF-8 text: {error}.") from None
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        tab = "\t" in text.splitlines()[line - 1] if line <= len(text.splitlines()) else False
        reason = "indent with spaces, not tabs" if tab else (error.problem or "not valid YAML")
        raise UserError(f"{path}:{line}: {reason}.") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}.") from None
    except RecursionError:
        raise UserError(f"{path} is not valid YAML: its brackets are nested too deeply.") from None
    if root is None:
        return {}, {}
    names = (*SHARED_SECTIONS, *STAGES)
    sections: dict[str, dict[str, Any]] = {}
    lines: dict[tuple[str, str], int] = {}
    for section, section_node in _pairs(root, path, "the recipe"):
        if section not in names:
            line = section_node.start_mark.line + 1
            raise UserError(f"{path}:{line}: there is no section {section}{_nearest(section, names)}.")
        sections[section] = {}
        if isinstance(section_node, yaml.ScalarNode) and section_node.tag.endswith(":null"):
            continue
        for key, node in _pairs(section_node, path, f"section {section}"):
            lines[section, key] = node.start_mark.line + 1
            sections[section][key] = _value(node, path, f"{section}.{key}")
    return sections, lines


def _value(node: yaml.Node, path: Path, what: str) -> Any:
    """The plain value of a node. Raises UserError for duplicate keys at any depth and for what YAML cannot make."""
    for inner in _mappings(node):
        _pairs(inner, path, what)
    try:
        return yaml.SafeLoader("").construct_object(node, deep=True)
    except (yaml.YAMLError, ValueError) as error:  # ValueError: of dates and numbers that cannot be
        reason = (error.problem if isinstance(error, yaml.MarkedYAMLError) else None) or str(error)
        line = node.start_mark.line + 1
        raise UserError(f"{path}:{line}: {what} has no value that can be read ({' '.join(reason.split())}).") from None


def split_flags(argv: list[str]) -> list[tuple[str, list[str]]]:
    """`["--a", "1", "--b=2", "--c"]` -> `[("a", ["1"]), ("b", ["2"]), ("c", [])]`; dashes become underscores."""
    flags: list[tuple[str, list[str]]] = []
    for word in argv:
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            flags.append((name.replace("-", "_"), [value] if equals else []))
        elif not flags:
            raise UserError(
                f"{word.strip() or repr(word)} stands where a flag was expected; flags look like --learning_rate 1e-3."
            )
        else:
            flags[-1][1].append(word)
    return flags


def is_list(hint: Any) -> bool:
    """Whether a dataclass field of this type takes a list, alone or among others."""
    return any((typing.get_origin(h) or h) is list for h in (hint, *typing.get_args(hint)))


def _flag_value(words: list[str], wants_list: bool = False) -> Any:
    """No word is true; several words, or words for a list, are a list; `null` and `none` are no value. Raises
    ValueError for a list in brackets that is none."""
    if not words:
        return True
    if len(words) > 1 or wants_list:
        return from_yaml(words[0]) if len(words) == 1 and words[0].startswith("[") else words
    return None if words[0].lower() in {"null", "none"} else words[0]


def _owner_of_flag(flag: str, owners: dict[str, type]) -> tuple[str, str]:
    """The (section, key) that `--flag` or `--section.flag` means."""
    keys = {section: {f.name for f in dataclasses.fields(c)} for section, c in owners.items()}  # type: ignore[arg-type]
    section, dot, key = flag.partition(".")
    if dot:
        if section not in (*SHARED_SECTIONS, *STAGES):
            raise UserError(f"flag --{flag}: there is no section {section}{_nearest(section, (*keys, *STAGES))}.")
        if section in STAGES and section not in owners:
            raise UserError(f"flag --{flag} belongs to {section}, which is not the stage that runs here.")
        if key not in keys[section]:
            raise UserError(f"flag --{flag}: section {section} has no key {key}{_nearest(key, keys[section])}.")
        return section, key
    having = [name for name in keys if flag in keys[name] and OWNERS.get(flag, name) == name]
    if len(having) == 1:
        return having[0], flag
    if having:
        choices = " or ".join(f"--{name}.{flag}" for name in having)
        raise UserError(f"flag --{flag} could mean several sections: write {choices}.")
    every = {key for names in keys.values() for key in names} | {f.name for f in dataclasses.fields(RunArguments)}
    raise UserError(f"flag --{flag} is not known{_nearest(flag, every, prefix='--')}.")


def _nearest(name: str, known: typing.Iterable[str], prefix: str = "") -> str:
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; the nearest is {prefix}{close[0]}" if close else ""


def _pairs(node: yaml.Node, path: Path, what: str) -> list[tuple[str, yaml.Node]]:
    """Key and value node of a mapping, in order; UserError for anything else, and for keys that are no words or stand
    twice."""
    if not isinstance(node, yaml.MappingNode):
        raise UserError(f"{path}:{node.start_mark.line + 1}: {what} must be a map of keys to values.")
    seen: dict[str, int] = {}
    for key_node, _ in node.value:
        line = key_node.start_mark.line + 1
        if not isinstance(key_node, yaml.ScalarNode) or not key_node.value:
            raise UserError(f"{path}:{line}: {what} has a key that is no word.")
        key = key_node.value
        if key in seen:
            raise UserError(f"{path}:{line}: {key} stands twice in {what} (first at line {seen[key]}).")
        seen[key] = line
    return [(key_node.value, value) for key_node, value in node.value]


def _mappings(node: yaml.Node) -> typing.Iterator[yaml.Node]:
    """The maps in a node, each once: aliases may lead to one from many places, or back to where it stands."""
    seen: set[int] = set()
    waiting = [node]
    while waiting:
        node = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, yaml.MappingNode):
            yield node
            waiting += [value for _, value in node.value]
        elif isinstance(node, yaml.SequenceNode):
            waiting += node.value
