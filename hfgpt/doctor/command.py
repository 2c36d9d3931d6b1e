"""`hfgpt doctor`: is this machine ready, and if not, what mends it.

hfgpt doctor                    # everything: packages, disks, the Hub, and five steps of training
hfgpt doctor --quick            # all but the trial of training, evaluation and generation
hfgpt doctor --json             # for programs

Exit code 0 where nothing failed (warnings may stand), 2 where something must be mended first.
"""

import argparse
import dataclasses
import json
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from hfgpt.chat.arguments import parser
from hfgpt.doctor.findings import Finding, findings_of
from hfgpt.recipe import RunArguments


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    args = parse_args(argv)
    findings = []
    for finding in examine(args):
        findings.append(finding)
        if not args.json:
            print(finding.as_text(), flush=True)
    failed, warned = (sum(finding.status == status for finding in findings) for status in ("failed", "warning"))
    if args.json:
        print(json.dumps({"ok": failed == 0, "findings": [dataclasses.asdict(f) for f in findings]}, indent=1))
    elif failed:
        print(f"{_counted(failed, 'thing')} must be mended before hfgpt works here, {_counted(warned, 'warning')}.")
    else:
        print(f"hfgpt works here, {_counted(warned, 'warning')}.")
    return 2 if failed else 0


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    flags = parser("hfgpt doctor", __doc__ or "")
    flags.add_argument("--quick", action="store_true", help="leave out the trial of training, evaluation, generation")
    flags.add_argument("--json", action="store_true", help="print what was found as JSON")
    flags.add_argument(
        "--output_root",
        type=Path,
        default=Path(RunArguments.output_root),
        metavar="DIR",
        help=f"where runs will lie (default: {RunArguments.output_root})",
    )
    return flags.parse_args(sys.argv[1:] if argv is None else argv)


def examine(args: argparse.Namespace) -> Iterator[Finding]:
    """All findings, as they are made. A check that needs a package which is not here is one that failed."""

    def packages() -> Iterator[Finding]:
        from hfgpt.doctor.packages import check_extras, check_packages, check_python

        yield from check_python()
        yield from check_packages()
        yield from check_extras()

    def machine() -> Iterator[Finding]:
        from huggingface_hub import constants

        from hfgpt.doctor.machine import check_folder, check_memory

        yield from check_memory()
        yield from check_folder("runs", args.output_root)
        yield from check_folder("downloads", Path(constants.HF_HOME))
        yield from check_folder("temporary", Path(tempfile.gettempdir()))

    def hub() -> Iterable[Finding]:
        from hfgpt.doctor.hub import check_hub

        return check_hub()

    def trial() -> Iterable[Finding]:
        from hfgpt.doctor.trial import run_trial

        print("Training, evaluating and generating a little ...", file=sys.stderr, flush=True)
        return run_trial(args.debug)

    yield from findings_of("packages", packages, args.debug)
    yield from findings_of("machine", machine, args.debug)
    yield from findings_of("Hub", hub, args.debug)
    if not args.quick:
        yield from findings_of("training", trial, args.debug)


def _counted(number: int, noun: str) -> str:
    return f"{number or 'no'} {noun}{'' if number == 1 else 's'}"
