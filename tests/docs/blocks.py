"""Find the fenced blocks of Markdown pages, each with the notes above it.

A note is an HTML comment directly above its block. Readers do not see it::

    <!-- test: continues -->
    <!-- test: file=main.py -->
    <!-- test: setup
    flow = client.flow("acme/samples/two-step")
    -->
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt

NOTES = {
    "continues": "the python block runs in the namespace of the page's python block before it",
    "setup": "python that runs before the block, in its namespace",
    "raises": "the python block ends in this error",
    "file": "the block is a file of this name in the folder of the page's blocks",
    "output": "the block is the output of the block before it; '...' matches anything",
    "not-run": "only the syntax of the block is checked, for this reason",
}

_NOTE = re.compile(
    r"<!--\s*test:\s*(?P<name>[\w-]+)(?:=(?P<value>[^\n]*?))?\s*(?P<text>\n.*?)?-->", re.DOTALL
)


@dataclass(frozen=True)
class Block:
    """A fenced block. ``line`` is the line of its fence, counted from 1."""

    page: str
    line: int
    language: str
    code: str
    notes: Mapping[str, str]

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks_of(text: str, page: str) -> Iterator[Block]:
    """Yield the blocks of a page, in order.

    Raises:
        ValueError: A note is unknown or has no block below it.
    """
    notes: dict[str, str] = {}
    for token in MarkdownIt("commonmark").parse(text):
        line = token.map[0] + 1 if token.map else 0
        if token.type == "html_block":
            notes |= _notes_in(token.content, f"{page}:{line}")
        elif token.type == "fence":
            yield Block(page, line, token.info.split(" ")[0], token.content, notes)
            notes = {}
        elif notes and token.map:
            raise ValueError(f"{page}:{line}: the note above this line has no block below it")


def _notes_in(html: str, place: str) -> dict[str, str]:
    notes = {m["name"]: m["value"] or (m["text"] or "").strip() for m in _NOTE.finditer(html)}
    unknown = notes.keys() - NOTES.keys()
    if unknown or (not notes and "test:" in html):
        raise ValueError(f"{place}: {html.strip()} is not a note; use one of {sorted(NOTES)}")
    return notes


def pages_of(root: Path) -> list[Path]:
    """List every page whose blocks run."""
    fixed = [root / "README.md", root / "CONTRIBUTING.md"]
    return [*fixed, *sorted(root.glob("docs/**/*.md")), *sorted(root.glob("example_apps/**/*.md"))]
