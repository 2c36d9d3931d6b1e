"""Prepared data to and from the Hub, as a dataset repo that holds the folder as it is: the next person skips the
work, and `datasets.load_dataset` opens the rows too."""

from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi

from hfgpt.data.hub_download import HubFile, download_files
from hfgpt.data.hub_files import list_folder, recorded_listing
from hfgpt.data.prepared import RECORD, PreparedData, damaged_files, open_prepared
from hfgpt.errors import UserError
from hfgpt.hub_client import Retries, hub_errors, with_retries

FOLDERS = ("train", "validation", "tokenizer")

CARD = """---
configs:
- config_name: default
  data_files:
{data_files}
tags:
- hfgpt
- tokenized
task_categories:
- text-generation
---
# {title}

Tokenized and packed rows for training a language model, made by hfgpt: each row is `input_ids` of exactly
{max_length} tokens; documents begin with the tokenizer's BOS token, and there is no padding. The tokenizer is in
`tokenizer/`, how the rows were made and a hash of every file in `prepared.json`.

| split | rows | tokens in rows | documents | text |
|---|---|---|---|---|
{table}

```
{summary}
```

In a recipe of hfgpt:

```yaml
data:
  prepared: {repo_id}
  max_length: {max_length}
```

Anywhere else: `datasets.load_dataset("{repo_id}", split="train")` and
`AutoTokenizer.from_pretrained(folder)` on the downloaded `tokenizer/` folder.

The rows carry the licence of the text that they were made from.
"""


def push_prepared(
    folder: Path,
    repo_id: str,
    *,
    private: bool = True,
    revision: str | None = None,
    token: str | None = None,
    api: HfApi | None = None,
    retries: Retries | None = None,
) -> str:
    """Pushes the prepared data in `folder` to the dataset repo `repo_id` (made if it is not there, private unless
    told otherwise), on branch `revision`, and returns its address.

    Tried again after failures that may pass; interrupted, the same call goes on, and what has been uploaded is not
    sent again. prepared.json goes last, so that a repo that has it is complete. Raises UserError for a folder that is
    not complete or is damaged, and for what the Hub refuses.
    """
    api = api or HfApi(token=token)
    folder = Path(folder)
    prepared = open_prepared(folder)
    if prepared is None:
        raise UserError(f"{folder} holds no complete prepared data: run `hfgpt data prepare` first.")
    if prepared.train_rows is None:
        raise UserError(f"{folder} holds validation rows only, made for data.streaming: prepare the text first.")
    if damaged := damaged_files(prepared):
        raise UserError(f"{folder}: {damaged[0]} is damaged; delete the folder and prepare the text anew.")
    with hub_errors(repo_id, revision):
        with_retries(lambda: _push(api, prepared, repo_id, private, revision), retries or Retries())
    return f"{api.endpoint}/datasets/{repo_id}" + (f"/tree/{revision}" if revision else "")


def _push(api: HfApi, prepared: PreparedData, repo_id: str, private: bool, revision: str | None) -> None:
    api.create_repo(repo_id, repo_type="dataset", private=private, exist_ok=True)
    if revision is not None:
        api.create_branch(repo_id, branch=revision, repo_type="dataset", exist_ok=True)
    # upload_folder skips what the Hub has already, file by file, and with Xet commits as it goes. An older
    # prepared.json goes with the files that it told of.
    api.upload_folder(
        repo_id=repo_id,
        repo_type="dataset",
        revision=revision,
        folder_path=prepared.path,
        allow_patterns=[*prepared.record["files"], "train/*.json", "validation/*.json", "tokenizer/*"],
        delete_patterns=[RECORD, *(f"{name}/**" for name in FOLDERS)],
        commit_message="Upload prepared rows",
    )
    card = dataset_card(prepared, repo_id).encode()
    api.create_commit(
        repo_id,
        [CommitOperationAdd("README.md", card), CommitOperationAdd(RECORD, prepared.path / RECORD)],
        repo_type="dataset",
        revision=revision,
        commit_message="Complete the prepared rows",
    )


def load_prepared_from_hub(
    repo_id: str,
    revision: str | None = None,
    cache_dir: Path | None = None,
    *,
    api: HfApi | None = None,
    retries: Retries | None = None,
) -> Path:
    """The folder of prepared data pushed to `repo_id`, in the Hub's cache; downloads what is missing, in parallel and
    resumed, and works offline once it is there. Raises UserError if the repo holds no complete prepared data."""
    api = api or HfApi()
    files = recorded_listing(
        repo_id, f"prepared.{revision}", revision, lambda info: list_folder(api, info), api, cache_dir, retries
    )
    wanted = [file for file in files if _is_prepared(file)]
    if not any(file.path == RECORD for file in wanted):
        raise UserError(f"{repo_id} holds no prepared data (it has no {RECORD}): name it in data.dataset instead.")
    paths = download_files(wanted, api=api, cache_dir=cache_dir, retries=retries)
    folder = next(path.parent for path, file in zip(paths, wanted, strict=True) if file.path == RECORD)
    if open_prepared(folder) is None:
        raise UserError(
            f"{repo_id} holds prepared data that is not complete, or of another version of hfgpt: push it again."
        )
    return folder


def _is_prepared(file: HubFile) -> bool:
    return file.path == RECORD or file.path.split("/")[0] in FOLDERS


def dataset_card(prepared: PreparedData, repo_id: str) -> str:
    """README.md of the repo: which files are which split, and how the rows were made."""
    statistics = prepared.statistics
    splits = [split for split in ("train", "validation") if split in statistics and statistics[split]["rows"]]
    files = [f"  - split: {split}\n    path: {split}/*.arrow" for split in splits]
    max_length = statistics["max_length"]
    rows = [
        f"| {split} | {counts['rows']:,} | {counts['rows'] * max_length:,} | {counts['documents']:,} "
        f"| {counts['text_bytes'] / 1e6:,.2f} MB |"
        for split, counts in ((split, statistics[split]) for split in splits)
    ]
    return CARD.format(
        data_files="\n".join(files),
        title=repo_id.split("/")[-1],
        repo_id=repo_id,
        max_length=max_length,
        table="\n".join(rows),
        summary=prepared.summary(),
    )
