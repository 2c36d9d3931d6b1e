"""Files into one repo of the Hub, in one commit: what a visitor sees is the old repo or the new one, never a half."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import httpx2  # the HTTP client of huggingface_hub
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token, is_offline_mode
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, RemoteEntryNotFoundError

from hfgpt.errors import UserError
from hfgpt.hub_client import Retries, hub_errors, may_pass, reason, with_retries

logger = logging.getLogger(__name__)

CommitOperation = CommitOperationAdd | CommitOperationDelete
CARD = "README.md"
# The client tries single requests again by itself (five times within half a minute); this is for what is left.
PATIENCE = Retries(attempts=3, base_seconds=2.0)
SAID_BEFORE_IT_BEGINS = (412, 429)  # the Hub's status codes for a commit that it does not begin


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
    is not sent again, so the same call goes on where one was interrupted. A commit whose answer was lost is not made
    twice: it names the commit that it builds on. Of a pull request nobody can know, and it is not tried again. Raises
    UserError for what the user can mend.
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
    head = api.repo_info(repo_id, repo_type=to.repo_type, revision=to.revision).sha
    there = api.list_repo_files(repo_id, repo_type=to.repo_type, revision=head)
    stale = [path for path in there if path not in files and any(_matches(path, pattern) for pattern in replaced)]
    if keep_foreign_card and CARD in there and _is_foreign(repo_id, to.repo_type, head, keep_foreign_card, api):
        logger.warning("%s has a %s that somebody has written: it stays.", repo_id, CARD)
        files = {path: content for path, content in files.items() if path != CARD}
    operations: list[CommitOperation] = [CommitOperationDelete(path) for path in stale]
    operations += [CommitOperationAdd(path, content) for path, content in files.items()]
    kind = "" if to.repo_type == "model" else f"{to.repo_type}s/"
    url = f"{api.endpoint}/{kind}{repo_id}"
    try:
        commit = api.create_commit(
            repo_id,
            operations,
            commit_message=message,
            repo_type=to.repo_type,
            revision=to.revision,
            create_pr=to.create_pr,
            parent_commit=head,
        )
    except HFValidationError:
        raise
    except (HfHubHTTPError, httpx2.TransportError) as error:
        if to.create_pr and _may_have_arrived(error):
            raise UserError(
                f"{repo_id}: {reason(error)}, and the pull request may be open all the same: look at "
                f"{url}/discussions before you run the same command again."
            ) from error
        raise
    except (RuntimeError, ValueError) as error:  # of hf_xet, which has no classes of its own; of a card's header
        raise OSError(reason(error).rstrip(".")) from error
    if commit.pr_url:
        return commit.pr_url
    return url + (f"/tree/{to.revision}" if to.revision else "")


def _matches(path: str, pattern: str) -> bool:
    """`fnmatch`, whose `*` stays within one folder."""
    return path.count("/") == pattern.count("/") and fnmatch(path, pattern)


def _may_have_arrived(error: HfHubHTTPError | httpx2.TransportError) -> bool:
    """Whether the Hub may have made the commit although its answer was lost on the way."""
    if isinstance(error, HfHubHTTPError):
        was_begun = error.response.status_code not in SAID_BEFORE_IT_BEGINS
        return was_begun and may_pass(error) and "/commit/" in error.response.request.url.path
    never_came = isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout)
    return not never_came and "/commit/" in error.request.url.path


def _is_foreign(repo_id: str, repo_type: str, revision: str | None, mark: str, api: HfApi) -> bool:
    """Whether the repo's card is one that we did not write."""
    try:
        card = api.hf_hub_download(repo_id, CARD, repo_type=repo_type, revision=revision)
    except RemoteEntryNotFoundError:
        return False
    return mark not in Path(card).read_text(encoding="utf-8")
