"""Which files of a Hub dataset hold the text that section `data` names, and those files as source shards.

Configs and splits are read as `datasets.load_dataset` reads them: from the card's `configs`, else from names.
"""

import json
import logging
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath

import httpx2  # the HTTP client of huggingface_hub
from fsspec.utils import glob_translate
from huggingface_hub import DatasetInfo, HfApi, cached_assets_path, is_offline_mode
from huggingface_hub.errors import EntryNotFoundError, OfflineModeIsEnabled
from huggingface_hub.hf_api import RepoFile

from hfgpt.arguments import DataArguments
from hfgpt.data.documents import SourceShard
from hfgpt.data.hub_download import HubFile, download_files, is_cached
from hfgpt.data.local_files import SHARD_BYTES, LocalFile, local_file, natural_order
from hfgpt.data.row_formats import Row
from hfgpt.data.unpacking import PACKINGS
from hfgpt.errors import UserError
from hfgpt.hub_client import Retries, hub_errors, may_pass, with_retries

logger = logging.getLogger(__name__)

PREFERRED_SUFFIXES = (".parquet", ".jsonl", ".json", ".csv", ".txt")
# Names that `datasets` does not take for data either.
NO_DATA = {"config.json", "dataset_dict.json", "dataset_info.json", "dataset_infos.json", "requirements.txt"}
SPLIT_WORDS = {"train": "train(?:ing)?", "validation": "val(?:id(?:ation)?)?|dev", "test": "test(?:ing)?|eval"}
NUMBERED_SPLIT = re.compile(r"(?:.*/)?([\w.]+)-\d{5}-of-\d{5}\b")
STREAMED_FILES = 2  # of a stream, kept at a time: the one that is read and the one before or after it
PATIENT = Retries(attempts=20)  # about a quarter of an hour: a run that streams outlives the Hub's bad minutes
FREE_BYTES = 2_000_000_000  # what a stream leaves free on its disk for checkpoints


def list_data_files(
    dataset: str,
    config: str | None = None,
    split: str = "train",
    revision: str | None = None,
    *,
    api: HfApi | None = None,
    cache_dir: Path | None = None,
    retries: Retries | None = None,
) -> list[HubFile]:
    """The data files of one split in natural order: of Parquet, jsonl, json, csv and txt (.gz, .zst) the first kind
    that is there. `config` is a name from the dataset's card, or a folder.

    Without the Hub (offline, no network) it is the same list as last time. Raises UserError for an unknown dataset,
    revision, config or split, naming those that exist, for a dataset without data files, and for lack of access.
    """
    api = api or HfApi()
    name = f"{config}.{split}.{revision}"
    call = partial(_list_online, api, config=config, split=split)
    return recorded_listing(dataset, name, revision, call, api, cache_dir, retries)


def recorded_listing(
    dataset: str,
    name: str,
    revision: str | None,
    list_files: Callable[[DatasetInfo], list[HubFile]],
    api: HfApi,
    cache_dir: Path | None = None,
    retries: Retries | None = None,
) -> list[HubFile]:
    """`list_files` of the dataset as it is on the Hub, or, where that is out of reach, what it gave last time under
    this `name`. Raises UserError for a dataset or revision that is not there or may not be seen."""
    assets_dir = cache_dir / "assets" if cache_dir else None
    with hub_errors(dataset, revision):
        folder = cached_assets_path("hfgpt", "listings", dataset, assets_dir=assets_dir)
        record = folder / f"{re.sub(r'[^a-zA-Z0-9_.-]', '_', name)}.json"
        try:
            if is_offline_mode():
                raise OfflineModeIsEnabled(dataset)
            info = with_retries(lambda: api.dataset_info(dataset, revision=revision), retries or Retries())
            files = with_retries(lambda: list_files(info), retries or Retries())
        except (httpx2.HTTPError, OSError) as error:
            unreachable = isinstance(error, OfflineModeIsEnabled) or may_pass(error)
            if not unreachable or not record.exists():
                raise
            logger.warning("%s: the Hub is out of reach, so its list of files is that of last time.", dataset)
            return [HubFile(**fields) for fields in json.loads(record.read_text())]
        temporary = record.with_suffix(f".{os.getpid()}.tmp")
        temporary.write_text(json.dumps([asdict(file) for file in files]))
        temporary.replace(record)
    return files


def _list_online(api: HfApi, info: DatasetInfo, *, config: str | None, split: str) -> list[HubFile]:
    dataset = info.id
    patterns = _declared_patterns(info, config, split)
    if patterns is None:
        folder = _config_folder(info, config)
        tree = list_folder(api, info, folder)
        inside = {file.path: file.path.removeprefix(f"{folder}/") for file in tree}
        of_split = _by_split_in_name(inside, dataset, split)
    else:
        tree = [file for folder in _folders_of(patterns) for file in list_folder(api, info, folder)]
        regex = re.compile("|".join(f"(?:{glob_translate(pattern)})" for pattern in patterns))
        of_split = {file.path for file in tree if regex.fullmatch(file.path)}
    chosen = _preferred(of_split)
    if not chosen:
        where = f"config '{config}' of {dataset}" if config else dataset
        seen = sorted({PurePosixPath(path).suffix or path for path in of_split}) or ["no files at all"]
        raise UserError(
            f"{where} has no data files for split '{split}' that can be read ({', '.join(PREFERRED_SUFFIXES)}, also "
            f"{', '.join(PACKINGS)}); there are: {', '.join(seen)}."
        )
    files = {file.path: file for file in tree if file.path in chosen}
    return [files[path] for path in sorted(files, key=natural_order)]


def list_folder(api: HfApi, info: DatasetInfo, folder: str = "") -> list[HubFile]:
    """Every file below `folder` of the dataset at the commit of `info`; none where there is no such folder."""
    try:
        tree = api.list_repo_tree(info.id, folder or None, recursive=True, revision=info.sha, repo_type="dataset")
        entries = [entry for entry in tree if isinstance(entry, RepoFile)]
    except EntryNotFoundError:
        entries = []
    etags = {entry.path: entry.lfs.sha256 if entry.lfs else entry.blob_id for entry in entries}
    return [HubFile(info.id, str(info.sha), entry.path, entry.size, etags[entry.path]) for entry in entries]


def _declared_configs(info: DatasetInfo) -> dict[str, dict]:
    """The configs that the dataset's card declares with files or folders of their own, by name."""
    declared = (info.card_data.get("configs") if info.card_data else None) or []
    with_files = [entry for entry in declared if isinstance(entry, dict) and {"data_files", "data_dir"} & set(entry)]
    return {str(entry.get("config_name", "default")): entry for entry in with_files}


def _declared_patterns(info: DatasetInfo, config: str | None, split: str) -> list[str] | None:
    """Patterns of the files of `split`, from the card; None where the card leaves it to the names."""
    declared = _declared_configs(info)
    if config is None and declared:
        defaults = [name for name, entry in declared.items() if entry.get("default")] or ["default"]
        config = defaults[0] if defaults[0] in declared else next(iter(declared)) if len(declared) == 1 else None
        if config is None:
            raise UserError(
                f"{info.id} has several configs: set data.dataset_config (--config) to one of {', '.join(declared)}."
            )
    if config not in declared or "data_files" not in declared[config]:
        return None
    entry = declared[config]
    prefix = f"{entry['data_dir'].strip('/')}/" if entry.get("data_dir") else ""
    data_files = entry["data_files"]
    if isinstance(data_files, dict):
        data_files = [{"split": name, "path": path} for name, path in data_files.items()]
    by_split: dict[str, list[str]] = {}
    for item in [data_files] if isinstance(data_files, str) else data_files:
        name, path = (item.get("split", "train"), item["path"]) if isinstance(item, dict) else ("train", item)
        by_split.setdefault(str(name), []).extend([path] if isinstance(path, str) else path)
    if split not in by_split:
        raise _no_split(f"config '{config}' of {info.id}", split, by_split)
    return [prefix + path.removeprefix("./") for path in by_split[split]]


def _config_folder(info: DatasetInfo, config: str | None) -> str:
    """The folder that `config` names, empty for the whole repo."""
    declared = _declared_configs(info)
    if config is None or config in declared:
        entry = declared.get(config or "default") or next(iter(declared.values()), {})
        return str(entry.get("data_dir", "")).strip("/")
    folder = config.strip("/")
    paths = [sibling.rfilename for sibling in info.siblings or []]
    if any(path.startswith(f"{folder}/") for path in paths):
        return folder
    folders = sorted({path.split("/")[0] for path in paths if "/" in path}, key=natural_order)
    there = ", ".join(declared or folders) or "none: leave it out"
    raise UserError(f"{info.id} has no config '{config}' (data.dataset_config, --config); there are: {there}.")


def _folders_of(patterns: Sequence[str]) -> list[str]:
    """The folders to list for these patterns: what stands before the first wildcard, those inside another left out."""
    folders = set()
    for pattern in patterns:
        parts = PurePosixPath(pattern).parts[:-1]
        fixed = next((n for n, part in enumerate(parts) if re.search(r"[*?\[{]", part)), len(parts))
        folders.add("/".join(parts[:fixed]))
    return [f for f in sorted(folders) if not any(f != g and (not g or f.startswith(f"{g}/")) for g in folders)]


def _by_split_in_name(inside: dict[str, str], dataset: str, split: str) -> set[str]:
    """Paths whose name tells `split`, as in train-00000-of-00002 or test/a.csv; all are train where no name tells."""
    data = {path: name for path, name in inside.items() if _preferred([path])}
    numbered = {path: match[1] for path, name in data.items() if (match := NUMBERED_SPLIT.match(name))}
    worded = {
        path: word
        for path, name in data.items()
        for word, spelling in SPLIT_WORDS.items()
        if re.search(rf"(?<![a-zA-Z])(?:{spelling})(?![a-zA-Z])", name, re.IGNORECASE)
    }
    told = numbered or worded or dict.fromkeys(data, "train")
    if told and split not in told.values():
        raise _no_split(dataset, split, told.values())
    return {path for path, name in told.items() if name == split} or set(inside)


def _no_split(where: str, split: str, splits) -> UserError:
    there = ", ".join(sorted(set(splits)))
    return UserError(f"{where} has no split '{split}' (data.dataset_split, --split); there are: {there}.")


def _preferred(paths) -> set[str]:
    """Of the files that can be read those of the kind that is preferred."""
    kinds: dict[str, set[str]] = {}
    for path in paths:
        parts = PurePosixPath(path).parts
        if parts[-1] in NO_DATA or any(part.startswith((".", "__")) for part in parts):
            continue
        name = parts[-1].lower()
        for packing in PACKINGS:
            name = name.removesuffix(packing)
        kinds.setdefault(PurePosixPath(name).suffix, set()).add(path)
    return next((kinds[suffix] for suffix in PREFERRED_SUFFIXES if suffix in kinds), set())


@dataclass(frozen=True)
class HubShard(SourceShard):
    """One file of a Hub dataset, or several small ones in a row, each downloaded when it is first read; `readers` say
    how to read them. A stream keeps few files, in a folder of its own, and gives up those unread for longest."""

    files: tuple[HubFile, ...]
    readers: tuple[LocalFile, ...]
    streaming: bool = False

    def documents(self, counts: Counter | None = None) -> Iterator[str]:
        counts = Counter() if counts is None else counts
        for file, reader in zip(self.files, self.readers, strict=True):
            yield from replace(reader, path=self._local_path(file)).documents(counts)

    def rows(self, counts: Counter) -> Iterator[tuple[str, Row]]:
        """Every row with the name of its file on the Hub; `empty_files` are counted."""
        for file, reader in zip(self.files, self.readers, strict=True):
            for _, row in replace(reader, path=self._local_path(file)).rows(counts):
                yield f"{file.path} of {file.dataset}", row

    def fingerprint(self) -> str:
        """Of the content as the Hub names it, and of how it is read: no download, the same on every machine."""
        parts = []
        for file, reader in zip(self.files, self.readers, strict=True):
            how = reader.document_separator if reader.format == "txt" else reader.text_column
            parts.append(f"{file.etag}:{reader.format}:{how}")
        return ",".join(parts)

    def _local_path(self, file: HubFile) -> Path:
        if not self.streaming or is_cached(file):
            return download_files([file], progress=False, retries=PATIENT)[0]
        folder = cached_assets_path("hfgpt", "streamed", file.dataset)
        path = folder / file.commit / file.path
        if not path.exists():
            make_room(folder, file.num_bytes + FREE_BYTES, keep=STREAMED_FILES - 1)
            download_files([file], output_dir=folder / file.commit, progress=False, retries=PATIENT)
        os.utime(path)
        return path


def make_room(folder: Path, num_bytes: int, keep: int) -> None:
    """Deletes files below `folder`, those unread for longest first, until at most `keep` are left and `num_bytes` are
    free, or none is left. Downloads under way are left alone."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.suffix not in {".lock", ".partial"}]
    files.sort(key=lambda path: path.stat().st_mtime)
    while files and (len(files) > keep or shutil.disk_usage(folder).free < num_bytes):
        files.pop(0).unlink(missing_ok=True)


def hub_shards(data: DataArguments) -> list[HubShard]:
    """The files of `data.dataset` as shards, the first `data.num_shards` files of them, small ones together. Nothing
    is downloaded here: see `download_shards`. Raises UserError."""
    assert data.dataset is not None
    if data.num_shards is not None and data.num_shards < 1:
        raise UserError(f"data.num_shards is {data.num_shards}: set it to 1 or more, or leave it out for all.")
    files = list_data_files(data.dataset, data.dataset_config, data.dataset_split, data.dataset_revision)
    if data.num_shards is not None and data.num_shards > len(files):
        logger.warning("%s has %d files; data.num_shards asks for %d.", data.dataset, len(files), data.num_shards)
    groups: list[list[HubFile]] = []
    size = 0
    for file in files[: data.num_shards]:  # rows are packed by shard: many small files would each lose their tail
        if not groups or size + file.num_bytes > SHARD_BYTES:
            groups.append([])
            size = 0
        groups[-1].append(file)
        size += file.num_bytes
    return [
        HubShard(group[0].path, tuple(group), tuple(local_file(Path(f.path), data) for f in group), data.streaming)
        for group in groups
    ]


def download_shards(shards: Sequence[SourceShard]) -> None:
    """Download, in parallel, the Hub's files among `shards` that are not here yet; streams download as they read."""
    files = [file for shard in shards if isinstance(shard, HubShard) and not shard.streaming for file in shard.files]
    if files:
        download_files(files)
