"""Download the files of a Hub dataset, ahead of training or for a machine that is offline later.

python -m hfgpt.dataset -n 8                                                 # 8 files of FineWeb-Edu sample-10BT
python -m hfgpt.dataset -n -1 --dataset karpathy/fineweb-edu-100b-shuffle    # every file
python -m hfgpt.dataset -n 2 --dataset HuggingFaceTB/smollm-corpus --config cosmopedia-v2 --output_dir data/

Files go to the Hub's cache (HF_HOME), where a recipe with the same dataset finds them, or below --output_dir, for
`data_path`. Stopped or cut off, the same command goes on from there. Exit code 2 and one sentence for what is yours
to mend.
"""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from hfgpt.chat.arguments import parser
from hfgpt.errors import UserError, run_command

DEFAULT_DATASET, DEFAULT_CONFIG = "HuggingFaceFW/fineweb-edu", "sample-10BT"


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    """The command line. Raises UserError for a word that makes no sense."""
    flags = parser("hfgpt data download", __doc__ or "")
    flags.add_argument("-n", "--num_files", type=int, default=-1, help="first N files; -1 is all (default)")
    flags.add_argument("--dataset", default=DEFAULT_DATASET, help="Hub dataset id (default: %(default)s)")
    flags.add_argument("--config", help=f"config or folder (default for {DEFAULT_DATASET}: {DEFAULT_CONFIG})")
    flags.add_argument("--split", default="train", help="split (default: %(default)s)")
    flags.add_argument("--revision", help="branch, tag or commit (default: main)")
    flags.add_argument("-w", "--num_workers", type=int, default=4, help="files at a time (default: %(default)s)")
    flags.add_argument("--output_dir", type=Path, help="plain files here instead of the Hub's cache")
    return flags.parse_args(argv)


def download(args: argparse.Namespace) -> None:
    """Downloads and prints where the files lie, their bytes, and the speed. Raises UserError."""
    from hfgpt.data.hub_download import bytes_to_download, download_files
    from hfgpt.data.hub_files import list_data_files

    if args.num_files == 0 or args.num_files < -1 or args.num_workers < 1:
        raise UserError(
            f"-n {args.num_files} --num_workers {args.num_workers}: -n is a number of files or -1 for all, "
            "and there is at least one worker."
        )
    config = args.config or (DEFAULT_CONFIG if args.dataset == DEFAULT_DATASET else None)
    files = list_data_files(args.dataset, config, args.split, args.revision)
    total = len(files)
    if args.num_files > 0:
        files = files[: args.num_files]
    num_bytes = sum(file.num_bytes for file in files)
    print(f"{args.dataset}: {len(files)} of {total} files, {num_bytes / 1e9:.3f} GB", flush=True)
    to_come = bytes_to_download(files, args.output_dir)
    start = time.monotonic()
    paths = download_files(files, num_workers=args.num_workers, output_dir=args.output_dir)
    seconds = time.monotonic() - start
    print(f"{len(paths)} files, {num_bytes:,} bytes in {os.path.commonpath([path.parent for path in paths])}")
    print(f"{to_come:,} bytes downloaded in {seconds:.1f} s, {to_come / 1e6 / max(seconds, 1e-9):.1f} MB/s")


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code, 0 or 2."""
    return run_command(_download, None if argv is None else list(argv))


def _download(argv: list[str]) -> int | None:
    try:
        download(parse_args(argv))
    except KeyboardInterrupt:
        print("Stopped; the same command goes on from here.", file=sys.stderr)
        return 130
    return None


if __name__ == "__main__":
    sys.exit(main())
