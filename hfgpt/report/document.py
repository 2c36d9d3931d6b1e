"""A report as sections of text, tables and pictures, written as Markdown and as one HTML file that needs no other.

What a model said is text like any other here: nothing in it can become markup or a script.
"""

import base64
import html
import re
from dataclasses import dataclass, field
from pathlib import Path

from hfgpt.report.tables import Table, markdown_table

# Nothing from outside, and no script at all, whatever might slip into the page.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
STYLE = """
:root { color-scheme: light dark; --page: #fff; --line: #d8dde3; --soft: #f5f7f9; --text: #1d2630; --faint: #5c6875; }
body { margin: 0 auto; max-width: 70rem; padding: 1.2rem; color: var(--text); background: var(--page);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.7rem; line-height: 1.2; } h2 { margin-top: 2.4rem; font-size: 1.25rem; }
p { color: var(--faint); max-width: 46rem; } img { display: block; width: 100%; max-width: 46rem; height: auto;
  background: #fff; border-radius: 6px; }
.scroll { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-size: .9rem; min-width: 100%; }
th, td { padding: .35rem .7rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
th { background: var(--soft); white-space: nowrap; } td { overflow-wrap: normal; }
.words td:last-child { overflow-wrap: anywhere; min-width: 12rem; } .figures tr > :first-child { min-width: 6.5rem;
  position: sticky; left: 0; }
.figures td:first-child { background: var(--page); }
.figures td:not(:first-child) { white-space: nowrap; }
.figures th:not(:first-child), .figures td:not(:first-child) { text-align: right;
  font-variant-numeric: tabular-nums; }
pre { background: var(--soft); padding: .8rem; overflow-x: auto; font-size: .85rem; overflow-wrap: normal; }
@media (max-width: 600px) { body { padding: .8rem; } table { font-size: .8rem; } }
@media (prefers-color-scheme: dark) {
  :root { --page: #12181e; --line: #39434e; --soft: #1d252d; --text: #e4e9ee; --faint: #a3afba; } }
"""


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str


@dataclass(frozen=True)
class Code:
    """Lines that keep their form."""

    text: str


@dataclass(frozen=True)
class Picture:
    """A PNG beside the report."""

    path: Path
    words: str


@dataclass(frozen=True)
class Words:
    """A table of which every column is text."""

    header: list[str]
    rows: list[list[str]]


Block = Text | Code | Picture | Words | Table


@dataclass(frozen=True)
class Section:
    """A heading and what stands under it."""

    title: str
    blocks: list[Block] = field(default_factory=list)


def as_markdown(title: str, sections: list[Section]) -> str:
    """The report in Markdown; pictures are linked by their names."""
    parts = [f"# {plain(title)}"]
    for section in sections:
        parts.append(f"## {plain(section.title)}")
        parts += [_markdown(block) for block in section.blocks]
    return "\n\n".join(parts) + "\n"


def as_html(title: str, sections: list[Section]) -> str:
    """The report as one page, pictures within."""
    body = [f"<h1>{html.escape(title)}</h1>"]
    for section in sections:
        body.append(f"<h2>{html.escape(section.title)}</h2>")
        body += [_html(block) for block in section.blocks]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(body)
        + "\n</body>\n</html>\n"
    )


def plain(text: str) -> str:
    """Text on one line that Markdown shows as it is."""
    escaped = html.escape(" ".join(text.split()), quote=False)
    return re.sub(r"([\\`*\[\]~])", r"\\\1", escaped).replace("://", "&colon;//")


def _markdown(block: Block) -> str:
    match block:
        case Text(text):
            return plain(text)
        case Code(text):
            fence = "`" * (max([2, *(len(run) for run in re.findall("`+", text))]) + 1)
            return f"{fence}\n{text.rstrip()}\n{fence}"
        case Picture(path, words):
            return f"![{plain(words)}]({path.name})"
        case Words(header, rows):
            return markdown_table(header, [[plain(cell) for cell in row] for row in rows], len(header))
        case Table(_, header, rows):
            return markdown_table(header, [[plain(cell) for cell in row] for row in rows])


def _html(block: Block) -> str:
    match block:
        case Text(text):
            return f"<p>{html.escape(text)}</p>"
        case Code(text):
            return f"<pre>{html.escape(text)}</pre>"
        case Picture(path, words):
            data = base64.b64encode(path.read_bytes()).decode()
            return f'<img alt="{html.escape(words)}" src="data:image/png;base64,{data}">'
        case Words(header, rows):
            return _table(header, rows, "words")
        case Table(_, header, rows):
            return _table(header, rows, "figures")


def _table(header: list[str], rows: list[list[str]], kind: str) -> str:
    def line(cells: list[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    lines = "\n".join([line(header, "th"), *(line(row, "td") for row in rows)])
    return f'<div class="scroll"><table class="{kind}">\n{lines}\n</table></div>'
