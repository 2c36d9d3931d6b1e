"""What mkdocs must know of this repository: pages that lie beside the code, outside of docs/, stand on the site too,
under their own paths, and links that lead out of docs/ lead to them there."""

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

REPOSITORY = Path(__file__).resolve().parents[1]
MEASURED = "benchmarks/*.md"
OUTSIDE = (MEASURED, "hfgpt/evals/*/README.md")
LEADS_OUT = re.compile(r"\]\((\.\./[^)\s]+)\)")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    config.nav = [*(config.nav or []), {"Measured": _paths(MEASURED)}]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for pattern in OUTSIDE:
        for path in _paths(pattern):
            files.append(File.generated(config, path, abs_src_path=str(REPOSITORY / path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links from the repository's tree into the site's, where docs/ is the root."""
    here = page.file.src_uri
    folder = posixpath.dirname(here if (REPOSITORY / here).is_file() else f"docs/{here}")

    def on_the_site(link: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(folder, link[1])).removeprefix("docs/")
        return f"]({posixpath.relpath(path, posixpath.dirname(here) or '.')})"

    return LEADS_OUT.sub(on_the_site, markdown)


def _paths(pattern: str) -> list[str]:
    return sorted(path.relative_to(REPOSITORY).as_posix() for path in REPOSITORY.glob(pattern))
