"""`hfgpt space DIR --output_dir OUT`: a folder that is a ready HuggingFace Space.

hfgpt space runs/tiny --output_dir my_space                       # the latest complete stage, copied inside
hfgpt space runs/tiny --output_dir my_space --model_repo you/tiny # loads the model from the Hub instead
hfgpt space runs/tiny --output_dir my_space --push you/tiny-chat  # and onto the Hub, private until you change it
python my_space/app.py                                            # the Space on this computer

The Space's app.py needs gradio, torch and transformers, and not hfgpt.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import re
import shutil
import sys
from pathlib import Path
from typing import Any

from hfgpt.chat.arguments import model_name, parser
from hfgpt.chat.web_models import short_name
from hfgpt.errors import UserError
from hfgpt.model.saved_files import SAVED_FILES, saved_files
from hfgpt.recipe_values import as_yaml

APP = Path(__file__).with_name("space_app.py")
MODEL_FOLDER = "model"


def main(argv: list[str] | None = None) -> int:
    """The command. Raises UserError for arguments or folders that cannot be used; then nothing is written."""
    args = parse_args(argv)
    source = model_name(args.model)
    output_dir = Path(args.output_dir)
    model_repo = args.model_repo or (None if Path(source).is_dir() else source)
    check_output(output_dir, source, args.overwrite)
    files = {} if model_repo else saved_files(Path(source))
    title = args.title or short_name(args.model)
    header = readme_header(title, args.license or _license(Path(source)), model_repo)
    requirements = [f"{name}=={_version(name)}" for name in ("torch", "transformers")]

    output_dir.mkdir(parents=True, exist_ok=True)
    (output_dir / "README.md").write_text(_readme(header, title), encoding="utf-8")
    (output_dir / "requirements.txt").write_text("\n".join(requirements) + "\n", encoding="utf-8")
    (output_dir / "app.py").write_text(app_source(model_repo or MODEL_FOLDER, title), encoding="utf-8")
    (output_dir / ".gitattributes").write_text("*.safetensors filter=lfs diff=lfs merge=lfs -text\n", encoding="utf-8")
    num_bytes = copy_model(files, output_dir / MODEL_FOLDER)
    _report(output_dir, title, source, model_repo, num_bytes)
    if args.push:
        print(f"  pushed to:    {push_space(output_dir, list(files), args.push, public=args.public)}")
    else:
        _say_how_to_publish(output_dir, title)
    if "license" not in header:
        print("The model's licence is not known: say it by --license apache-2.0, or in README.md.")
    return 0


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    flags = parser("hfgpt space", __doc__ or "")
    flags.add_argument("model", metavar="DIR", help="a model's folder, a run's folder, or a Hub id")
    flags.add_argument("--output_dir", required=True, metavar="OUT", help="folder to write, empty or new")
    flags.add_argument("--model_repo", metavar="YOU/MODEL", help="load this model of the Hub; nothing is copied")
    flags.add_argument("--title", help="name of the Space (default: the folder's)")
    flags.add_argument("--license", help="licence of the model, as the Hub writes it (default: its model card's)")
    flags.add_argument("--push", metavar="YOU/SPACE", help="push the Space to the Hub")
    flags.add_argument("--public", action="store_true", help="--push: a Space that is made now is for everyone")
    flags.add_argument("--overwrite", action="store_true", help="write into a folder that has files in it")
    args = flags.parse_args(sys.argv[1:] if argv is None else argv)
    for flag, repo_id in (("--model_repo", args.model_repo), ("--push", args.push)):
        if repo_id is not None and not re.fullmatch(r"[\w.-]+/[\w.-]+", repo_id):
            raise UserError(f"{flag} must be a repo of the Hub as you/name, not {repo_id}.")
    if args.public and not args.push:
        raise UserError("--public is for a Space that goes to the Hub: give --push you/name too.")
    return args


def check_output(output_dir: Path, source: str, overwrite: bool) -> None:
    """Raises UserError where the Space cannot be written to `output_dir`."""
    if output_dir.exists() and not output_dir.is_dir():
        raise UserError(f"{output_dir} is a file; --output_dir must be a folder.")
    if output_dir.is_dir() and output_dir.resolve() == Path(source).resolve():
        raise UserError(f"{output_dir} is the model's own folder: give the Space another by --output_dir.")
    if output_dir.is_dir() and any(output_dir.iterdir()) and not overwrite:
        raise UserError(f"{output_dir} is not empty: name another --output_dir, or write into it by --overwrite.")


def copy_model(files: dict[str, Path], folder: Path) -> int:
    """Copy the files, by their paths within `folder`, in place of a model that is there; returns their size in
    bytes."""
    for pattern in (*SAVED_FILES, "*.py"):
        for left in folder.glob(pattern):
            left.unlink()
    for name, path in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, folder / name)
    return sum(path.stat().st_size for path in files.values())


def app_source(model: str, title: str) -> str:
    """space_app.py with its two constants set."""
    source = APP.read_text(encoding="utf-8")
    for name, value in (("MODEL", model), ("TITLE", title)):
        (line,) = (line for line in source.splitlines() if line.startswith(f"{name} = "))
        source = source.replace(line, f"{name} = {value!r}")
    return source


def push_space(folder: Path, model_files: list[str], repo_id: str, public: bool = False) -> str:
    """Push the Space in `folder` with these files of its model to the Hub, private unless it is there already or
    `public`; returns its address."""
    from hfgpt.hub.upload import Destination, push_files
    from hfgpt.hub_client import limit_waiting

    limit_waiting()
    names = ["README.md", "requirements.txt", "app.py", ".gitattributes"]
    names += [f"{MODEL_FOLDER}/{name}" for name in model_files]
    to = Destination(repo_id, repo_type="space", private=not public)
    replaced = (f"{MODEL_FOLDER}/*", f"{MODEL_FOLDER}/additional_chat_templates/*")
    return push_files({name: folder / name for name in names}, to, message="Upload the Space", replaced=replaced)


def readme_header(title: str, license: str | None, model_repo: str | None) -> dict[str, Any]:
    """The Space's configuration (https://huggingface.co/docs/hub/spaces-config-reference)."""
    header: dict[str, Any] = {
        "title": title,
        "emoji": "💬",
        "colorFrom": "indigo",
        "colorTo": "gray",
        "sdk": "gradio",
        "sdk_version": _version("gradio"),
        "python_version": f"{sys.version_info.major}.{sys.version_info.minor}",
        "app_file": "app.py",
        "pinned": False,
    }
    if license:
        header["license"] = license
    if model_repo:
        header["models"] = [model_repo]
    return header


def _readme(header: dict[str, Any], title: str) -> str:
    front = as_yaml(header)
    text = "A chat with a language model, whose answers may be wrong. Written by `hfgpt space`."
    return f"---\n{front}---\n\n# {title}\n\n{text}\n"


def _version(package: str) -> str:
    """The installed version, without a local part such as +cpu, which PyPI does not have."""
    try:
        return importlib.metadata.version(package).partition("+")[0]
    except importlib.metadata.PackageNotFoundError:
        raise UserError(
            f"a Space names its version of {package}, and none is installed: pip install hfgpt[web]"
        ) from None


def _license(folder: Path) -> str | None:
    """What the model card in `folder` says."""
    from huggingface_hub import metadata_load

    card = folder / "README.md"
    said = (metadata_load(card) or {}) if card.is_file() else {}
    return said.get("license")


def _report(output_dir: Path, title: str, source: str, model_repo: str | None, num_bytes: int) -> None:
    model = f"loads {model_repo} from the Hub" if model_repo else f"{source}, {num_bytes / 1e6:,.1f} MB, copied inside"
    print(f"Wrote the Space {title} to {output_dir} (model: {model}).\n  try it here:  python {output_dir}/app.py")


def _say_how_to_publish(output_dir: Path, title: str) -> None:
    name = re.sub(r"[^\w.-]+", "-", title)
    print(
        f"  publish it:   hf repos create you/{name} --type space --sdk gradio\n"
        f"                hf upload you/{name} {output_dir} . --type space"
    )
