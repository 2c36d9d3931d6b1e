"""The site of docs/: the reference is what the dataclasses say, links lead somewhere, mkdocs builds it strictly."""

import re
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
import yaml
from commands import REPOSITORY, succeed

DOCS = REPOSITORY / "docs"
OTHER_PAGES = ("README.md", "CONTRIBUTING.md", "benchmarks/*.md", "hfgpt/evals/*/README.md")


def settings() -> dict:
    return yaml.safe_load((REPOSITORY / "mkdocs.yml").read_text(encoding="utf-8"))


def drafts() -> set[str]:
    """Pages that are still being written, which the site leaves out."""
    return set(settings().get("draft_docs", "").split())


def pages() -> list[Path]:
    others = [path for pattern in OTHER_PAGES for path in sorted(REPOSITORY.glob(pattern))]
    return [path for path in sorted(DOCS.glob("*.md")) if path.name not in drafts()] + others


def in_navigation(entries: list | dict | str) -> set[str]:
    if isinstance(entries, str):
        return {entries}
    inner = entries.values() if isinstance(entries, dict) else entries
    return {page for entry in inner for page in in_navigation(entry)}


def links(page: Path) -> list[str]:
    """Where the links and pictures of a page lead within the repository, code left out."""
    text = re.sub(r"^```.*?^```|`[^`\n]*`", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if not re.match(r"\w+:", link)]


def test_every_page_is_in_the_navigation_and_every_entry_is_a_page():
    assert in_navigation(settings()["nav"]) == {path.name for path in DOCS.glob("*.md")} - drafts()


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.relative_to(REPOSITORY).as_posix())
def test_links_within_the_repository_lead_somewhere(page):
    targets = [link.partition("#")[0] for link in links(page)]
    assert [target for target in targets if target and not (page.parent / target).exists()] == []


def test_links_are_found():
    assert "images/web.png" in links(DOCS / "index.md") and "quickstart.md" in links(DOCS / "index.md")


def test_the_reference_is_what_the_dataclasses_say():
    spec = spec_from_file_location("make_reference", DOCS / "make_reference.py")
    script = module_from_spec(spec)
    spec.loader.exec_module(script)
    assert script.page() == script.PAGE.read_text(encoding="utf-8"), "write it anew: python docs/make_reference.py"


def test_the_reference_names_every_key_that_a_recipe_uses():
    keys = set(re.findall(r"^\| `(\w+)` \|", (DOCS / "reference.md").read_text(encoding="utf-8"), re.MULTILINE))
    for recipe in sorted((REPOSITORY / "recipes").glob("*.yaml")):
        for section, values in yaml.safe_load(recipe.read_text(encoding="utf-8")).items():
            assert set(values) <= keys, f"{recipe.name}: {section}: {set(values) - keys}"


def test_mkdocs_builds_the_site_with_strict_links(tmp_path):
    pytest.importorskip("material", reason="mkdocs-material is not installed (pip install hfgpt[dev])")
    succeed("mkdocs", "build", "--strict", "--site-dir", tmp_path / "site", timeout=120)
    built = tmp_path / "site"
    front = (built / "index.html").read_text(encoding="utf-8")
    fetched = re.findall(r'<(?:script|link|img)[^>]*(?:src|href)="([^"]+)"', front)
    assert len(fetched) > 3 and not [address for address in fetched if address.startswith(("http", "//"))]
    assert "target_param_data_ratio" in (built / "reference" / "index.html").read_text(encoding="utf-8")
    assert (built / "benchmarks" / "learning_a" / "index.html").is_file()  # which lies outside of docs/
    assert not list(built.rglob("*.py"))
    assert not [name for name in drafts() if (built / Path(name).stem).exists()]
