"""Python and the installed packages, against what hfgpt requires and the versions that its tests ran with."""

import platform
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from hfgpt.doctor.findings import Finding

CONSTRAINTS = ("constraints.txt", "_constraints.txt")  # beside the package in a checkout, inside it in a wheel
FOR_DEVELOPERS = "dev"  # the extra that nobody misses


def check_python() -> Iterator[Finding]:
    """The interpreter: its version, and whether it can hold more than 4 GB."""
    found = f"{platform.python_version()} ({sys.executable}), {platform.platform(terse=True)}"
    needed = metadata("hfgpt")["Requires-Python"]
    if Version(platform.python_version()) not in SpecifierSet(needed):
        yield Finding("Python", "failed", found, f"install Python {needed} and hfgpt in it")
    elif sys.maxsize < 2**32:
        yield Finding("Python", "failed", f"{found}, 32 bits", "install a Python of 64 bits, which torch needs")
    else:
        yield Finding("Python", "ok", found)


def check_packages() -> Iterator[Finding]:
    """What hfgpt requires: missing or too old fails; another version than the tests ran with is a warning."""
    required = _requirements()
    installed = {name: _installed(name) for name in required}
    missing = [name for name, number in installed.items() if number is None]
    old = [
        f"{name} {number} is not {required[name].specifier}"
        for name, number in installed.items()
        if number is not None and not required[name].specifier.contains(Version(number), prereleases=True)
    ]
    if missing:
        yield Finding("packages", "failed", f"missing: {', '.join(missing)}", _install(missing, required))
    if old:
        names = [sentence.split()[0] for sentence in old]
        yield Finding("packages", "failed", ", ".join(old), _install(names, required))
    pins = _pins()
    if pins is None:
        yield Finding(
            "packages", "warning", "no constraints.txt to compare with", "install hfgpt from PyPI or a clone"
        )
        return
    other = {
        name: number
        for name, number in installed.items()
        if number is not None and name in pins and Version(number).public != pins[name]
    }
    if other:
        differing = ", ".join(f"{name} {number} (tested: {pins[name]})" for name, number in other.items())
        remedy = "pip install " + " ".join(f"{name}=={pins[name]}" for name in other)
        yield Finding("packages", "warning", differing, f"if something goes wrong: {remedy}")
    if not missing and not old:
        same = sum(number is not None and name in pins for name, number in installed.items()) - len(other)
        yield Finding("packages", "ok", f"{len(required)} required, {same} of them in the version of the tests")


def check_extras() -> Iterator[Finding]:
    """Which optional parts are installed; none of them is needed."""
    here: list[str] = []
    absent: list[str] = []
    for extra in metadata("hfgpt").get_all("Provides-Extra") or []:
        missing = [name for name in _requirements(extra) if _installed(name) is None]
        if extra != FOR_DEVELOPERS:
            (absent if missing else here).append(extra)
    found = f"installed: {', '.join(here) or 'none'}"
    if absent:
        found += f"; not installed: {', '.join(absent)} (pip install hfgpt[{absent[0]}] when you need it)"
    yield Finding("extras", "ok", found)


def _requirements(extra: str = "") -> dict[str, Requirement]:
    """By canonical name, what hfgpt requires here; with `extra`, what that alone adds."""
    parsed = map(Requirement, requires("hfgpt") or [])
    wanted = [
        requirement
        for requirement in parsed
        if (requirement.marker is None or requirement.marker.evaluate({"extra": extra}))
        and (not extra or "extra" in str(requirement.marker))
    ]
    return {canonicalize_name(requirement.name): requirement for requirement in wanted}


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _install(names: list[str], required: dict[str, Requirement]) -> str:
    return "pip install " + " ".join(f'"{required[name].name}{required[name].specifier}"' for name in names)


def _pins() -> dict[str, str] | None:
    """Versions that the tests ran with, by canonical name; None where the file is not there."""
    package = Path(__file__).parents[1]
    for path in (package.parent / CONSTRAINTS[0], package / CONSTRAINTS[1]):
        if path.is_file():
            lines = [line.partition("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines()]
            pins = (line.partition("==") for line in lines if "==" in line)
            return {canonicalize_name(name): number for name, _, number in pins}
    return None
