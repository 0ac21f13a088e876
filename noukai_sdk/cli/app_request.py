"""The request that replays a session in an app: from the captured request and the command line."""

from __future__ import annotations

import base64
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

import click

from ..adapters.responses import HEADER_REPLAY
from ..errors import CapturedRequestError
from ..models.exchanges import Exchange, Header
from ..replay.resending import sent_again
from .shared_options import CONTROLS_IN_LINES, CommandError, clean_lines

# Linux takes no longer word on a command line; what the shell itself prints may be longer.
_LONGEST_WORD = 100_000
_NOT_SENT_AGAIN = frozenset({HEADER_REPLAY.lower(), "accept-encoding"})


@dataclass(frozen=True)
class CommandLine:
    """What the command line says about the request; None leaves it as it was captured.

    Attributes:
        url: The whole address, in place of the captured one.
        against: The server to send the captured request to: ``scheme://host[:port][/prefix]``.
        data: The body; ``@FILE`` for the content of a file.
    """

    url: str | None = None
    against: str | None = None
    method: str | None = None
    data: str | None = None
    headers: Sequence[Header] = ()

    @property
    def is_complete(self) -> bool:
        """Whether the captured request is not needed."""
        return self.url is not None and (self.method is not None or self.data is not None)


@dataclass(frozen=True)
class AppRequest:
    """A request to an app.

    Attributes:
        headers: All headers, that for the replay included.
        content: The body, None without one or if it is in ``file``.
        file: The file that holds the body.
        masked: What was removed at capture and is not given by the command line either.
    """

    method: str
    url: str
    headers: tuple[Header, ...]
    content: bytes | None = None
    file: str | None = None
    masked: tuple[str, ...] = ()

    @property
    def has_body(self) -> bool:
        """Whether the request has a body."""
        return self.content is not None or self.file is not None

    def body(self) -> bytes | None:
        """Return the body.

        Raises:
            OSError: The file cannot be read.
        """
        return self.content if self.file is None else Path(self.file).read_bytes()

    def curl(self) -> str:
        """Return the shell command that sends the same request with curl."""
        words = ["curl", "-i"]
        if set(self.url) & set("[]{}"):
            words.append("-g")  # without it, curl expands brackets to a list of URLs
        for name, value in self.headers:
            words += ["-H", f"{name}: {value}" if value else f"{name};"]
        if self.has_body and not _has(self.headers, "content-type"):
            words += ["-H", "Content-Type:"]  # without it, curl adds that of a form
        if self.method == "HEAD":
            words.append("--head")
        elif self.method != ("POST" if self.has_body else "GET"):
            words += ["-X", self.method]
        source = ""
        if self.file is not None:
            words += ["--data-binary", f"@{self.file}"]  # -d would remove the line breaks of a file
        elif self.content is not None:
            text = _as_word(self.content)
            if text is not None and len(self.content) <= _LONGEST_WORD:
                words += ["-d" if text[:1] != "@" else "--data-raw", text]
            else:
                words += ["--data-binary", "@-"]
                encoded = base64.b64encode(self.content).decode()
                given = f"printf %s {_quote(text)}" if text is not None else ""
                source = f"{given or f'printf %s {encoded} | base64 -d'} | "
        return source + " ".join(map(_quote, [*words, self.url]))


def replay_header(
    session_id: str,
    *,
    live_from: int | None = None,
    on_miss: str | None = None,
    strict: bool = False,
    pacing: str | None = None,
    lost: str | None = None,
) -> Header:
    """Return the header that asks an app to replay a session.

    Example:
        >>> replay_header("s-1", live_from=2, strict=True)
        ('X-Noukai-Replay', 's-1; live-from=2; strict')
    """
    options = {"live-from": live_from, "on-miss": on_miss, "pacing": pacing, "lost": lost}
    parts = [
        session_id,
        *(f"{name}={value}" for name, value in options.items() if value is not None),
    ]
    return HEADER_REPLAY, "; ".join([*parts, "strict"] if strict else parts)


def build_request(line: CommandLine, replay: Header, exchange: Exchange | None) -> AppRequest:
    """Return the captured request as the command line changes it.

    Raises:
        CommandError: The address is not known, or may be that of a production server.
        CapturedRequestError: Only a part of the body was captured, and ``--data`` is not given.
    """
    given = tuple(each for each in line.headers if each[0].lower() != HEADER_REPLAY.lower())
    content, file = None, None
    if line.data is not None:
        content, file = (
            (None, line.data[1:]) if line.data[:1] == "@" else (line.data.encode(), None)
        )
    if exchange is None or line.is_complete:
        if line.url is None:
            raise AssertionError("neither a captured request nor a URL")
        if line.data is not None and not _has(given, "content-type"):
            given = (("Content-Type", "application/json"), *given)
        method = line.method or ("GET" if line.data is None else "POST")
        return AppRequest(method, line.url, (replay, *given), content, file)

    refuse_websocket(exchange)
    if line.data is not None:
        captured = exchange.request.model_copy(update={"body": None})
        exchange = exchange.model_copy(update={"request": captured})
    again = sent_again(exchange)
    overridden = {name.lower() for name, _ in given} | _NOT_SENT_AGAIN
    kept = tuple(each for each in again.headers if each[0].lower() not in overridden)
    if line.data is not None and not _has((*kept, *given), "content-type"):
        kept = (("Content-Type", "application/json"), *kept)
    return AppRequest(
        line.method or again.method,
        line.url or _server(line.against, again.origin) + _absolute(again.target),
        (replay, *kept, *given),
        again.content if line.data is None else content,
        file,
        tuple(each for each in again.masked if not _is_given(each, overridden, line)),
    )


def refuse_websocket(exchange: Exchange) -> None:
    """Raise CapturedRequestError for the handshake of a websocket."""
    if exchange.request.origin.startswith(("ws:", "wss:")) or exchange.response.status == 101:
        raise CapturedRequestError(
            f"{exchange.request.path} is a websocket, and its messages were not captured: connect with a "
            f"client of your own, and the header {HEADER_REPLAY}"
        )


def _server(against: str | None, origin: str) -> str:
    """Return the address of the server to send a captured request to, without a final slash."""
    if against is not None:
        return against.rstrip("/")
    # The client sent the host name, so it may be anything.
    try:
        parts = urlsplit(origin)
        scheme, host, port = parts.scheme, parts.hostname or "", parts.port
    except ValueError:
        scheme, host, port = "", "", None
    if scheme not in ("http", "https") or not _is_local(host):
        raise CommandError(
            f"the request was captured at {clean_lines(origin)}, which may be production: name the "
            "server to send it to, by --against http://localhost:8000 or NOUKAI_APP_URL"
        )
    host = f"[{host}]" if ":" in host else host
    return f"{scheme}://{host}" + (f":{port}" if port is not None else "")


def _is_local(host: str) -> bool:
    """Return whether a host is this machine, or one in a private network.

    Example:
        >>> [_is_local(host) for host in ("localhost", "10.0.0.7", "::1", "api.acme.com", "8.8.8.8")]
        [True, True, True, False, False]
    """
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        address = ip_address(host)
    except ValueError:
        return False
    # Clouds serve the keys of a machine at a link-local address.
    return (address.is_private or address.is_loopback) and not address.is_link_local


def _absolute(target: str) -> str:
    # Without the slash, a captured path could become a part of the host's name.
    return target if target.startswith("/") else f"/{target}"


def _is_given(masked: str, overridden: set[str], line: CommandLine) -> bool:
    """Return whether the command line has what was masked, such as ``header authorization``."""
    kind, _, name = masked.partition(" ")
    return (kind == "body" and line.data is not None) or (kind == "header" and name in overridden)


def _has(headers: Sequence[Header], name: str) -> bool:
    return any(each.lower() == name for each, _ in headers)


def _quote(word: str) -> str:
    """Quote a word for bash and zsh, so that it cannot control the terminal that it is shown in."""
    if not CONTROLS_IN_LINES.search(word):
        return shlex.quote(word)

    def escape(match: re.Match[str]) -> str:
        return "".join(f"\\x{byte:02x}" for byte in match[0].encode())

    text = word.replace("\\", "\\\\").replace("'", "\\'")
    return f"$'{CONTROLS_IN_LINES.sub(escape, text)}'"


def _as_word(content: bytes) -> str | None:
    """Return a body as a word for the shell, None if it cannot be one."""
    try:
        text = content.decode()
    except UnicodeDecodeError:
        return None
    return None if "\0" in text else text


def check_server(_context: click.Context, _option: click.Parameter, url: str | None) -> str | None:
    """Check the address in ``--against``."""
    if not url:
        return None
    try:
        parts = urlsplit(url)
        is_server = parts.scheme in ("http", "https") and parts.hostname and (parts.port or 1)
    except ValueError:
        is_server = False
    if not is_server or parts.query or parts.fragment or set(url) & set(" \r\n\t\\"):
        raise click.BadParameter(
            f"{url!r} is not the address of a server: write 'http://localhost:8000'"
        )
    return url
