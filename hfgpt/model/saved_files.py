"""The files of a saved model that loading it needs, and whether they are whole. Imports no torch."""

import json
from pathlib import Path

from hfgpt.errors import UserError

LORA_CONFIG = "adapter_config.json"
# Checkpoints, records of training and pickled arguments match none of these.
SAVED_FILES = (
    *("config.json", "generation_config.json", LORA_CONFIG, "*.safetensors", "*.safetensors.index.json", "*.py"),
    *("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "chat_template.jinja"),
    *("special_tokens_map.json", "added_tokens.json", "vocab.json", "vocab.txt", "merges.txt", "LICENSE*"),
)


def saved_files(folder: Path) -> list[Path]:
    """The files of the model in `folder`, by name. Raises UserError where its weights are not in safetensors, or a
    file is cut off or missing that the others name."""
    files = sorted({path for pattern in SAVED_FILES for path in folder.glob(pattern) if path.is_file()})
    names = {path.name for path in files}
    if not any(path.suffix == ".safetensors" for path in files):
        raise UserError(f"{folder} has no weights (*.safetensors): name a model that was saved with save_pretrained.")
    if not names & {"config.json", LORA_CONFIG}:
        raise UserError(f"{folder} has no config.json: name a model that was saved with save_pretrained.")
    for path in files:
        if path.suffix == ".safetensors":
            _check_weights(path)
        elif path.name.endswith(".safetensors.index.json"):
            _check_named(path, set(_json(path).get("weight_map", {}).values()), names)
        elif path.name == "config.json":
            modules = [name.rpartition(".")[0] for name in _json(path).get("auto_map", {}).values()]
            _check_named(path, {f"{module}.py" for module in modules if "--" not in module}, names)  # "--": elsewhere
    return files


def _check_weights(path: Path) -> None:
    """The header of a safetensors file says how long it is."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy"):
            pass
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is damaged ({error}): save the model again.") from None


def _check_named(by: Path, wanted: set[str], names: set[str]) -> None:
    if missing := sorted(wanted - names):
        raise UserError(f"{by.parent} lacks {missing[0]}, which {by.name} names: save the model again.")


def _json(path: Path) -> dict:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise UserError(f"{path} is no JSON object: save the model again.")
    return content
