"""Where a conversion reads from, be it the Hub, and writes to, settled before anything heavy is loaded."""

from pathlib import Path

from huggingface_hub import snapshot_download

from hfgpt.errors import UserError
from hfgpt.hub_client import Retries, hub_errors, with_retries

# Configurations, tokenizers and weights: of transformers, then nanochat's. No other copy of the weights, no code.
FILES = ["*.json", "*.jinja", "*.txt", "tokenizer.model", "*.safetensors", "model_*.pt", "tokenizer.pkl"]
OLD_WEIGHTS = ["*.bin", "*.bin.index.json"]


def local_source(name: str, revision: str | None) -> Path:
    """`name` itself where it is a folder or a file, else the folder that it was downloaded to.

    Raises UserError where there is nothing of this name, or the Hub does not give it.
    """
    path = Path(name).expanduser()
    if path.exists():
        if revision is not None:
            raise UserError(f"{name} is on this machine: --revision is for models of the Hub.")
        return path
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise UserError(f"there is no folder {name}: name a model's folder or a Hub id.")
    folder = _download(name, revision, FILES)
    if not list(folder.glob("*.safetensors")) and not list(folder.glob("model_*.pt")):
        folder = _download(name, revision, OLD_WEIGHTS)
    return folder


def check_output(output_dir: Path) -> None:
    """Raises UserError where no model can be written to `output_dir`, which must be new or empty."""
    if output_dir.exists() and not output_dir.is_dir():
        raise UserError(f"{output_dir} is a file; --output_dir must be a folder.")
    if output_dir.is_dir() and any(output_dir.iterdir()):
        raise UserError(f"{output_dir} is not empty: name another --output_dir.")


def _download(repo_id: str, revision: str | None, patterns: list[str]) -> Path:
    with hub_errors(repo_id, revision):
        fetch = with_retries(lambda: snapshot_download(repo_id, revision=revision, allow_patterns=patterns), Retries())
    return Path(fetch)
