"""What ``noukai dev`` prints while it serves: a line for each request, and problems of flow files."""

from __future__ import annotations

import io
import os
import sys
import threading
import time
from collections import defaultdict
from typing import TYPE_CHECKING

import click
from rich.console import Console

from ..backend.json_logs import FLOODING
from ..backend.log_limits import LineLimiter
from ..backend.request_observer import FinishedRequest, RequestObserver
from ..local.flow_files.catalog import FlowCatalog
from ..replaying.controls import CONTROLS
from .page_links import hyperlink, session_url

if TYPE_CHECKING:
    from starlette.types import ASGIApp

# Seconds between two looks at the flow files, and how much longer than a look the pause is at least:
# looking at thousands of files must not keep a core busy.
_INTERVAL = 0.3
_LEAST_PAUSE = 20
# Seconds until a problem is looked at again: an editor may be halfway through writing the file.
_SETTLE = 0.05
_LONGEST_ADDRESS, _SHORTEST_ADDRESS = 40, 20


class Terminal:
    """Prints lines to standard output, from any thread.

    Colors are for terminals only, and NO_COLOR turns them off. If the reader of a pipe goes away,
    nothing more is printed and the server works on.
    """

    def __init__(self) -> None:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")
        self._console = Console(soft_wrap=True, highlight=False)
        self._has_color = self._console.color_system is not None and not self._console.no_color
        self._lock = threading.Lock()

    @property
    def columns(self) -> int | None:
        """The width of the terminal; None if the output is not a terminal."""
        return self._console.width if self._console.is_terminal else None

    def print(self, *parts: tuple[str, str | None]) -> None:
        """Print one line.

        Args:
            *parts: A text and its style each: a color, ``"dim"``, ``"bold"``, None, or the URL of a link.
        """
        line = "".join(self._styled(CONTROLS.sub(" ", text), style) for text, style in parts)
        with self._lock:
            try:
                # One write for each line: rich's print takes a hundred times as long.
                sys.stdout.write(f"{line}\n")
                sys.stdout.flush()
            except OSError:
                # Python would report the lines that are left in its buffer when it ends.
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    def _styled(self, text: str, style: str | None) -> str:
        if style is not None and "://" in style:
            return hyperlink(text, style) if text and self._console.is_terminal else text
        if style is None or not self._has_color:
            return text
        return click.style(text, **({style: True} if style in ("dim", "bold") else {"fg": style}))


class RequestLog(RequestObserver):
    """ASGI middleware: print method, flow, status, milliseconds and session of each request.

    Args:
        app: The app that responds.
        terminal: Prints the lines.
        prefix: Left out of the paths, so that those of calls start with the flow's address.
        page: The address of the page, to which the ids of sessions link; None without one.
    """

    def __init__(
        self, app: ASGIApp, terminal: Terminal, prefix: str, page: str | None = None
    ) -> None:
        super().__init__(app, self._print)
        self._page = page
        self._terminal = terminal
        self._prefix = prefix
        self._width = 0
        self._limiter = LineLimiter()

    def _print(self, request: FinishedRequest) -> None:
        held_back = self._limiter.held_back(request.code) if request.code in FLOODING else 0
        if held_back is None:
            return
        # The raw path is percent-encoded: what a client sends cannot control the terminal.
        address = request.raw_path.removeprefix(self._prefix)
        outcome = f"{request.status or '---'} {request.code}".rstrip()
        rest = f"  {request.seconds * 1000:.0f} ms"
        session = f"  {request.session_id}".rstrip()
        more = f"  (and {held_back} more)" if held_back else ""
        columns = self._terminal.columns
        method = f"{request.method:4} "
        if columns is not None:
            # The session's id stays whole, to be copied. The end of an address tells the most.
            room = columns - len(f"{method}  {outcome}{rest}{session}{more}")
            most = max(room, _SHORTEST_ADDRESS)
            if len(address) > most:
                address = f"...{address[len(address) - most + 3 :]}"
            self._width = min(max(self._width, len(address)), _LONGEST_ADDRESS)
            address = address.ljust(min(self._width, room))
        status = request.status
        color = "green" if 0 < status < 400 else "yellow" if 0 < status < 500 else "red"
        url = None if self._page is None else session_url(self._page, request.session_id)
        self._terminal.print(
            (f"{method}{address}  ", None),
            (outcome, color),
            (rest, None),
            (session[:2], None),
            (session[2:], url),
            (more, None),
        )


class FlowWatcher:
    """Prints the problems of flow files as they come and go, from a thread of its own.

    Use it as a context manager: it prints the problems that are there, and then watches.
    """

    def __init__(self, catalog: FlowCatalog, terminal: Terminal) -> None:
        self._catalog = catalog
        self._terminal = terminal
        self._reported: dict[str, list[str]] = {}
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="noukai-flow-watcher", daemon=True)

    def __enter__(self) -> None:
        self._report(self._problems())
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        # A thread that prints while Python ends could crash it.
        self._stopped.set()
        self._thread.join()

    def _watch(self) -> None:
        pause = _INTERVAL
        while not self._stopped.wait(pause):
            started_at = time.perf_counter()
            has_changed = self._problems() != self._reported
            pause = max(_INTERVAL, (time.perf_counter() - started_at) * _LEAST_PAUSE)
            if has_changed and not self._stopped.wait(_SETTLE):
                self._report(self._problems())

    def _problems(self) -> dict[str, list[str]]:
        problems: dict[str, list[str]] = defaultdict(list)
        for problem in self._catalog.problems():
            problems[problem.file].append(str(problem))
        return dict(problems)

    def _report(self, problems: dict[str, list[str]]) -> None:
        for file in sorted(self._reported | problems):
            if problems.get(file) == self._reported.get(file):
                continue
            for problem in problems.get(file, ()):
                self._terminal.print(("Problem:", "red"), (f" {problem}", None))
            if file not in problems:
                self._terminal.print(("Solved:", "green"), (f" {file} has no problems", None))
        self._reported = problems
