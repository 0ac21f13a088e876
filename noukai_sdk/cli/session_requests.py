"""The request that replays a session: as a line for the shell, and as parts to send."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from ..adapters.responses import REPLAY_HEADER

Header = tuple[str, str]


@dataclass(frozen=True)
class ReplayRequest:
    """A request to an app, with the header that replays ``session_id``.

    Attributes:
        given_method: None for POST where there is data, else GET.
        data: The body; ``@FILE`` for what that file holds.
        given_headers: Those of the command line, from :func:`read_headers`.
    """

    session_id: str
    url: str
    given_method: str | None
    data: str | None
    given_headers: Sequence[Header]

    @property
    def method(self) -> str:
        """The HTTP method."""
        return self.given_method or ("GET" if self.data is None else "POST")

    @property
    def headers(self) -> list[Header]:
        """The given headers; a body is JSON where they do not say otherwise."""
        kept = [each for each in self.given_headers if each[0].lower() != REPLAY_HEADER.lower()]
        says_type = any(name.lower() == "content-type" for name, _ in kept)
        own = [] if self.data is None or says_type else [("Content-Type", "application/json")]
        return [(REPLAY_HEADER, self.session_id), *own, *kept]

    def content(self) -> bytes | None:
        """The body.

        Raises:
            OSError: Its file cannot be read.
        """
        if self.data is None:
            return None
        return Path(self.data[1:]).read_bytes() if self.data[:1] == "@" else self.data.encode()

    def curl(self) -> list[str]:
        """The words of the same request by curl."""
        # Without -g curl takes brackets for a list of addresses.
        words = ["curl", "-i", *(["-g"] if set(self.url) & set("[]{}") else [])]
        for name, value in self.headers:
            words += ["-H", f"{name}: {value}"]
        words += ["-X", self.given_method] if self.given_method else []
        if self.data is not None:
            # Of a file's text -d would drop the ends of its lines.
            words += ["--data-binary" if self.data[:1] == "@" else "-d", self.data]
        return [*words, self.url]


def read_headers(given: Sequence[str]) -> list[Header]:
    """Names and values of ``Name: value`` texts.

    Raises:
        click.BadParameter: A text is no header.
    """
    return [_header(text) for text in given]


def _header(text: str) -> Header:
    name, colon, value = text.partition(":")
    if not colon or not name.strip() or "\n" in text or "\r" in text:
        raise click.BadParameter(f"{text!r} is no header: write 'Name: value'")
    return name.strip(), value.strip()
