"""Files into one repo of the Hub, in one commit: what a visitor sees is the old repo or the new one, never a half."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token, is_offline_mode
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, RemoteEntryNotFoundError

from hfgpt.errors import UserError
from hfgpt.hub_client import Retries, hub_errors, reason, with_retries

logger = logging.getLogger(__name__)

CommitOperation = CommitOperationAdd | CommitOperationDelete
CARD = "README.md"
# The client tries single requests again by itself (five times within half a minute); this is for what is left.
PATIENCE = Retries(attempts=3, base_seconds=2.0)


@dataclass(frozen=True)
class Destination:
    """A repo (`you/name`; a bare name lies in the token's own namespace) and how to come into it.

    `private` holds for a repo that is made now; `revision` is a branch, made where it is missing; `create_pr` opens a
    pull request.
    """

    repo_id: str
    repo_type: str = "model"
    private: bool = True
    revision: str | None = None
    create_pr: bool = False


def push_files(
    files: Mapping[str, Path | bytes],
    to: Destination,
    *,
    message: str,
    replaced: tuple[str, ...] = (),
    keep_foreign_card: str | None = None,
    api: HfApi | None = None,
    retries: Retries | None = None,
) -> str:
    """Push `files`, {path in the repo: file or content}, and return the address where they are.

    Files of the repo that match a pattern of `replaced` and are not among `files` are deleted by the same commit. With
    `keep_foreign_card`, a mark, the repo's own card stays where it has one without that mark. What the Hub has already
    is not sent again, so the same call goes on where one was interrupted. Raises UserError for what the user can mend.
    """
    api = api or HfApi()
    check_can_push(to.repo_id, api)
    with hub_errors(to.repo_id, to.revision):
        return with_retries(
            lambda: _push(files, to, message, replaced, keep_foreign_card, api),
            retries or PATIENCE,
        )


def check_can_push(name: str, api: HfApi) -> None:
    """Raises UserError where `name` could not be pushed whatever the Hub says."""
    if is_offline_mode():
        raise UserError(f"{name} cannot be pushed while HF_HUB_OFFLINE is set: unset it.")
    if not (api.token or get_token()):
        raise UserError(f"{name}: pushing needs a token: log in with `hf auth login` (or set HF_TOKEN).")


def open_repo(to: Destination, api: HfApi) -> str:
    """Make the repo and the branch where they are missing; returns the repo's whole id."""
    sdk = "gradio" if to.repo_type == "space" else None
    url = api.create_repo(to.repo_id, repo_type=to.repo_type, private=to.private, exist_ok=True, space_sdk=sdk)
    if to.revision is not None and not to.revision.startswith("refs/"):
        api.create_branch(url.repo_id, branch=to.revision, repo_type=to.repo_type, exist_ok=True)
    return url.repo_id


def _push(
    files: Mapping[str, Path | bytes],
    to: Destination,
    message: str,
    replaced: tuple[str, ...],
    keep_foreign_card: str | None,
    api: HfApi,
) -> str:
    repo_id = open_repo(to, api)
    there = api.list_repo_files(repo_id, repo_type=to.repo_type, revision=to.revision)
    stale = [path for path in there if path not in files and any(_matches(path, pattern) for pattern in replaced)]
    if keep_foreign_card and CARD in there and _is_foreign(repo_id, to, keep_foreign_card, api):
        logger.warning("%s has a %s that somebody has written: it stays.", repo_id, CARD)
        files = {path: content for path, content in files.items() if path != CARD}
    operations: list[CommitOperation] = [CommitOperationDelete(path) for path in stale]
    operations += [CommitOperationAdd(path, content) for path, content in files.items()]
    try:
        commit = api.create_commit(
            repo_id,
            operations,
            commit_message=message,
            repo_type=to.repo_type,
            revision=to.revision,
            create_pr=to.create_pr,
        )
    except (HfHubHTTPError, HFValidationError):
        raise
    except (RuntimeError, ValueError) as error:  # of hf_xet, which has no classes of its own; of a card's header
        raise OSError(reason(error).rstrip(".")) from error
    if commit.pr_url:
        return commit.pr_url
    kind = "" if to.repo_type == "model" else f"{to.repo_type}s/"
    return f"{api.endpoint}/{kind}{repo_id}" + (f"/tree/{to.revision}" if to.revision else "")


def _matches(path: str, pattern: str) -> bool:
    """`fnmatch`, whose `*` stays within one folder."""
    return path.count("/") == pattern.count("/") and fnmatch(path, pattern)


def _is_foreign(repo_id: str, to: Destination, mark: str, api: HfApi) -> bool:
    """Whether the repo's card is one that we did not write."""
    try:
        card = api.hf_hub_download(repo_id, CARD, repo_type=to.repo_type, revision=to.revision)
    except RemoteEntryNotFoundError:
        return False
    return mark not in Path(card).read_text(encoding="utf-8")
