"""`hfgpt push DIR REPO`: a model to the Hub, with its card, scores, samples and plots.

hfgpt push runs/tiny/sft you/tiny                       # one stage, into a private repo
hfgpt push runs/tiny you/tiny --public --license mit    # the run's latest complete stage, for everyone
hfgpt push runs/tiny you/tiny --all_stages              # each to you/tiny-STAGE, together in a collection
hfgpt push runs/tiny/sft you/tiny --create_pr           # as a pull request

Interrupted or cut off, the same command goes on: what the Hub has is not sent again.
"""

import argparse
import re
from pathlib import Path

from hfgpt.chat.arguments import complete_stages, model_name, parser
from hfgpt.errors import UserError


def main(argv: list[str]) -> None:
    """The command. Raises UserError; the Hub then shows what it showed before."""
    args = parse_args(argv)
    from hfgpt.hub_client import limit_waiting

    limit_waiting()
    if args.all_stages:
        push_stages(args)
    else:
        folder = Path(model_name(args.model))
        if not folder.is_dir():
            raise UserError(f"there is no folder {args.model}: name a model's folder or a run's.")
        print(f"{folder} is at {push_model(folder, args.repo, args)}")
    if args.license is None:
        print("The model's licence is its data's to decide: say it by --license apache-2.0, or in README.md.")


def parse_args(argv: list[str]) -> argparse.Namespace:
    flags = parser("hfgpt push", __doc__ or "")
    flags.add_argument("model", metavar="DIR", help="a model's folder, or a run's (its latest complete stage)")
    flags.add_argument("repo", metavar="REPO", help="repo on the Hub, as you/tiny")
    flags.add_argument("--public", action="store_true", help="a repo that is made now is for everyone, not private")
    flags.add_argument("--revision", metavar="BRANCH", help="push to this branch, made where it is missing")
    flags.add_argument("--create_pr", action="store_true", help="open a pull request instead of changing the repo")
    flags.add_argument("--license", help="licence of the model, as the Hub writes it: apache-2.0, mit, cc-by-4.0")
    flags.add_argument("--message", help="title of the commit (default: Upload the model)")
    flags.add_argument("--all_stages", action="store_true", help="every complete stage of a run, to REPO-STAGE")
    flags.add_argument("--collection", metavar="TITLE", help="of --all_stages (default: the run's name)")
    args = flags.parse_args(argv)
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", args.repo):
        raise UserError(f"REPO must be a repo of the Hub as you/tiny, not {args.repo}.")
    if args.create_pr and args.revision is not None:
        raise UserError("--create_pr opens a pull request to the branch main: leave --revision out.")
    if args.collection is not None and not args.all_stages:
        raise UserError("--collection gathers the stages of a run: give --all_stages too.")
    return args


def push_model(folder: Path, repo_id: str, args: argparse.Namespace, base_model: str | None = None) -> str:
    """Push one model; returns its address."""
    from hfgpt.hub.model_repo import REPLACED, model_repo
    from hfgpt.hub.upload import Destination, push_files
    from hfgpt.report.model_card import MADE_HERE

    files = model_repo(folder, repo_id, license=args.license, base_model=base_model)
    return push_files(
        files,
        Destination(repo_id, private=not args.public, revision=args.revision, create_pr=args.create_pr),
        message=args.message or "Upload the model",
        replaced=REPLACED,
        keep_foreign_card=MADE_HERE if MADE_HERE.encode() in bytes(files["README.md"]) else None,
    )


def push_stages(args: argparse.Namespace) -> None:
    """Push every complete stage of a run, each card naming the stage before as its base, and gather them."""
    from hfgpt.hub.collection import gather

    run_folder = Path(args.model)
    stages = complete_stages(run_folder)
    if not stages:
        raise UserError(f"{run_folder} has no complete stage: give a run's folder, as runs/tiny.")
    notes: dict[str, str] = {}
    for folder in stages:
        repo_id = f"{args.repo}-{folder.name}"
        url = push_model(folder, repo_id, args, base_model=next(reversed(notes), None))
        print(f"{folder} is at {url}", flush=True)
        notes[repo_id] = f"{folder.name}, stage {len(notes) + 1} of {len(stages)}"
    title = args.collection or run_folder.resolve().name
    url = gather(title, notes, namespace=args.repo.split("/")[0], private=not args.public)
    print(f"together at {url}")
