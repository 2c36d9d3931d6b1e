"""The files of a saved model that loading it needs, and whether they are whole. Imports no torch."""

import json
import re
from pathlib import Path

from hfgpt.errors import UserError

LORA_CONFIG = "adapter_config.json"
# Checkpoints, records of training and pickled arguments match none of these. Code is not among them: of the modules in
# a folder only those belong to the model that its configs name.
SAVED_FILES = (
    *("config.json", "generation_config.json", LORA_CONFIG, "*.safetensors", "*.safetensors.index.json"),
    *("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "chat_template.jinja"),
    "additional_chat_templates/*.jinja",
    *("special_tokens_map.json", "added_tokens.json", "vocab.json", "vocab.txt", "merges.txt", "LICENSE*"),
)
NAMING_CODE = ("config.json", "tokenizer_config.json")  # by their auto_map
RELATIVE_IMPORT = re.compile(r"^\s*from\s+\.(\w+)\s+import", re.MULTILINE)  # the form that transformers follows


def saved_files(folder: Path) -> dict[str, Path]:
    """{path within `folder`: file} of the model in it, by name, with the modules that its configs name and those that
    these import. Raises UserError where its weights are not in safetensors, or a file is cut off or missing that the
    others name."""
    found = {path.relative_to(folder).as_posix(): path for pattern in SAVED_FILES for path in folder.glob(pattern)}
    files = {name: path for name, path in sorted(found.items()) if path.is_file()}
    if not any(path.suffix == ".safetensors" for path in files.values()):
        raise UserError(f"{folder} has no weights (*.safetensors): name a model that was saved with save_pretrained.")
    if not files.keys() & {"config.json", LORA_CONFIG}:
        raise UserError(f"{folder} has no config.json: name a model that was saved with save_pretrained.")
    for path in files.values():
        if path.suffix == ".safetensors":
            _check_weights(path)
        elif path.name.endswith(".safetensors.index.json"):
            _check_named(path, set(_json(path).get("weight_map", {}).values()))
    for config in NAMING_CODE:
        named = _code_names(folder / config)
        modules = {f"{name.rpartition('.')[0]}.py" for name in named if "--" not in name}  # "--": in another repo
        _check_named(folder / config, modules)
        files |= {name: folder / name for name in _with_imports(folder, modules)}
    return files


def own_code() -> list[str]:
    """The modules that every model of ours brings with it."""
    return _with_imports(Path(__file__).parent, {"modeling_gpt.py"})


def needs_remote_code(folder: Path) -> bool:
    """Whether the model in `folder` or its tokenizer is of a class that transformers itself does not have."""
    return any(_code_names(folder / config) for config in NAMING_CODE)


def _code_names(config: Path) -> list[str]:
    """The classes, as `module.Class`, that a config of a model or a tokenizer has in its auto_map."""
    named = _json(config).get("auto_map", {}).values() if config.is_file() else ()
    return [one for each in named for one in (each if isinstance(each, list) else [each]) if one]


def _with_imports(folder: Path, modules: set[str]) -> list[str]:
    """The files `modules` of `folder` and those that they import from beside them, by name. Raises UserError for one
    that is missing."""
    found: set[str] = set()
    waiting = set(modules)
    while waiting:
        name = waiting.pop()
        found.add(name)
        imported = RELATIVE_IMPORT.findall((folder / name).read_text(encoding="utf-8", errors="replace"))
        _check_named(folder / name, wanted := {f"{module}.py" for module in imported})
        waiting |= wanted - found
    return sorted(found)


def _check_weights(path: Path) -> None:
    """The header of a safetensors file says how long it is."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy"):
            pass
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is damaged ({error}): save the model again.") from None


def _check_named(by: Path, wanted: set[str]) -> None:
    there = {path.name for path in by.parent.iterdir()}
    if missing := sorted(wanted - there):
        raise UserError(f"{by.parent} lacks {missing[0]}, which {by.name} names: save the model again.")


def _json(path: Path) -> dict:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise UserError(f"{path} is no JSON object: save the model again.")
    return content
