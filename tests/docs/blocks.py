"""Markdown pages as the tests see them: fenced blocks, each with the hidden notes above it.

A note is an HTML comment directly above its block, so that readers do not see it::

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
    "continues": "a python block goes on where the page's python block before it ended",
    "setup": "python that runs before the block, in its namespace",
    "raises": "the python block ends in this error",
    "file": "the block is a file of this name, in the folder that the page's blocks run in",
    "output": "the block is what the block before it printed; '...' stands for anything",
    "not-run": "the block is only checked for syntax, for this reason",
}

_NOTE = re.compile(
    r"<!--\s*test:\s*(?P<name>[\w-]+)(?:=(?P<value>[^\n]*?))?\s*(?P<text>\n.*?)?-->", re.DOTALL
)


@dataclass(frozen=True)
class Block:
    """A fenced block. ``line`` is that of its fence, counted from 1."""

    page: str
    line: int
    language: str
    code: str
    notes: Mapping[str, str]

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks_of(text: str, page: str) -> Iterator[Block]:
    """The blocks of a page, in order.

    Raises:
        ValueError: A note that is unknown, or that stands above no block.
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
            raise ValueError(f"{page}:{line}: the note above stands above no block")


def _notes_in(html: str, place: str) -> dict[str, str]:
    found = {m["name"]: m["value"] or (m["text"] or "").strip() for m in _NOTE.finditer(html)}
    unknown = found.keys() - NOTES.keys()
    if unknown or (not found and "test:" in html):
        raise ValueError(f"{place}: no note of ours: {html.strip()}; one of {sorted(NOTES)}")
    return found


def pages_of(root: Path) -> list[Path]:
    """Every page whose blocks have to run."""
    fixed = [root / "README.md", root / "CONTRIBUTING.md"]
    return [*fixed, *sorted(root.glob("docs/**/*.md")), *sorted(root.glob("example_apps/*/*.md"))]
