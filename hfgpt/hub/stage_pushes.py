"""A stage's `push_to_hub`: its checkpoints while it trains, its model at the end. Whatever the Hub does, training goes
on and the model stays on this machine."""

import logging
import os
import shutil
import threading
from collections.abc import Mapping
from pathlib import Path

import httpx2  # the HTTP client of huggingface_hub
from huggingface_hub import HfApi
from transformers import TrainerCallback

from hfgpt.errors import UserError
from hfgpt.hub.model_repo import REPLACED, model_repo, records_in
from hfgpt.hub.upload import CARD, PATIENCE, Destination, check_can_push, open_repo, push_files
from hfgpt.hub_client import Retries, hub_errors, limit_waiting, may_pass, reason, with_retries
from hfgpt.model.saved_files import saved_files
from hfgpt.report.model_card import MADE_HERE, plain_card
from hfgpt.training.arguments import StageArguments
from hfgpt.training.checkpoints import checkpoint_step

logger = logging.getLogger(__name__)

BEING_PUSHED = "being-pushed"
# Hours of training wait for this one: six tries, a minute between the first and the last.
LAST_PUSH = Retries(attempts=6, base_seconds=2.0)


def destination(args: StageArguments, folder: Path) -> Destination:
    """`hub_model_id`, by default `<recipe>-<stage>` in the token's own namespace."""
    repo_id = args.hub_model_id or f"{folder.parent.name}-{folder.name}"
    return Destination(repo_id, private=args.hub_private_repo is not False, revision=args.hub_revision)


def open_stage_repo(args: StageArguments, folder: Path, is_resumed: bool) -> None:
    """Make the repo before the first step, and write its whole id into `args`.

    What the user can mend (no token, one that may not write) is a UserError then, when nothing is lost yet. A run that
    goes on trains all the same, and so does one that finds the Hub out of reach: it tries again at every push.
    """
    limit_waiting()
    to, api = destination(args, folder), HfApi(token=args.hub_token)
    try:
        check_can_push(to.repo_id, api)
        with hub_errors(to.repo_id, to.revision):
            args.hub_model_id = _opened(to, api, is_resumed)
    except UserError as error:
        if not is_resumed:
            raise
        logger.warning("%s Training goes on without.", error)


def _opened(to: Destination, api: HfApi, is_resumed: bool) -> str:
    """The repo's whole id; as far as it is known where the Hub is out of reach."""
    try:
        return with_retries(lambda: open_repo(to, api), PATIENCE)
    except (httpx2.HTTPError, OSError) as error:
        if not may_pass(error) or is_resumed:
            raise
        logger.warning("%s: %s; training goes on, and every push tries again.", to.repo_id, reason(error))
        return to.repo_id


class CheckpointPushes(TrainerCallback):
    """Pushes each checkpoint that has become complete, from a thread: no step waits for it.

    One at a time: a save that comes while a push is under way is left to the next. A push that fails is said and
    forgotten, since the next one brings all that it would have brought.
    """

    def __init__(self, args: StageArguments, folder: Path):
        self.args, self.folder, self.api = args, folder, HfApi(token=args.hub_token)
        self.pushed_step = -1
        self._thread: threading.Thread | None = None

    def push(self, checkpoint: Path) -> None:
        """For `CompleteCheckpoints.on_complete`."""
        if self.args.process_index != 0 or (self._thread and self._thread.is_alive()):
            return
        if checkpoint_step(checkpoint) <= self.pushed_step:
            return
        try:
            files = self._held(checkpoint)
        except (ValueError, OSError) as error:  # weights in shards of FSDP are whole at the end alone
            logger.warning("%s is not pushed: %s", checkpoint.name, error)
            return
        self.pushed_step = checkpoint_step(checkpoint)
        self._thread = threading.Thread(target=self._push, args=(files, self.pushed_step), daemon=True)
        self._thread.start()

    def on_train_end(self, args, state, control, **kwargs):
        if self._thread and state.global_step >= state.max_steps:  # a run that was told to stop has no time to wait
            self._thread.join()

    def _held(self, checkpoint: Path) -> dict[str, Path | bytes]:
        """Files of the checkpoint under second names, which stay when the checkpoint is removed, and the records as
        they are now."""
        held = self.folder / BEING_PUSHED
        shutil.rmtree(held, ignore_errors=True)
        held.mkdir()
        files: dict[str, Path | bytes] = {}
        for name, path in saved_files(checkpoint).items():
            files[name] = held / name
            (held / name).parent.mkdir(exist_ok=True)
            try:
                os.link(path, held / name)
            except OSError:  # not every file system has links
                shutil.copyfile(path, held / name)
        records = records_in(self.folder).items()
        return files | {name: one if isinstance(one, bytes) else one.read_bytes() for name, one in records}

    def _push(self, files: Mapping[str, Path | bytes], step: int) -> None:
        to = destination(self.args, self.folder)
        card = {CARD: plain_card(self.folder / BEING_PUSHED, to.repo_id).encode()}
        message = f"Training in progress, step {step}"
        _try_to_push({**card, **files}, to, message, self.api, PATIENCE)
        shutil.rmtree(self.folder / BEING_PUSHED, ignore_errors=True)


def push_stage(args: StageArguments, folder: Path) -> str:
    """Push the complete stage in `folder`; returns a sentence that says where it is, or why not and how to do it."""
    to = destination(args, folder)
    try:
        files = model_repo(folder, to.repo_id)
    except UserError as error:
        return f"not pushed: {error}"
    url = _try_to_push(files, to, "End of training", HfApi(token=args.hub_token), LAST_PUSH)
    return f"pushed to {url}" if url else f"not pushed; do it later: hfgpt push {folder} {to.repo_id}"


def _try_to_push(
    files: Mapping[str, Path | bytes], to: Destination, message: str, api: HfApi, retries: Retries
) -> str | None:
    """The address, or None and a warning whatever went wrong: a run is worth more than its push."""
    mark = MADE_HERE if MADE_HERE.encode() in bytes(files[CARD]) else None  # type: ignore[arg-type]
    try:
        return push_files(
            files, to, message=message, replaced=REPLACED, keep_foreign_card=mark, api=api, retries=retries
        )
    except Exception as error:
        logger.warning("The push failed: %s", reason(error))
        return None
