"""WSGI's words: the session's headers on a start, a whole answer, a body that runs in steps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from .responses import REPORT_HEADER, SESSION_HEADER, session_headers

if TYPE_CHECKING:
    from contextvars import Context

    from _typeshed.wsgi import StartResponse, WSGIEnvironment

    from ..session.scope import Scope
    from .responses import Answer

Header = tuple[str, str]

_OURS = frozenset({SESSION_HEADER.lower(), REPORT_HEADER.lower()})


def tagged(headers: Iterable[Header], ours: Iterable[Header]) -> list[Header]:
    """An answer's headers with ours, in place of any that it brings: a gateway may pass them on."""
    return [*[header for header in headers if header[0].lower() not in _OURS], *ours]


def tagging(start_response: StartResponse, session: Scope) -> StartResponse:
    """``start_response`` with the session's header."""
    ours = session_headers(session)

    def start(status: str, headers: list[Header], *exc_info: Any) -> Callable[[bytes], object]:
        return start_response(status, tagged(headers, ours), *exc_info)

    return start


def send_answer(
    answer: Answer, environ: WSGIEnvironment, start_response: StartResponse
) -> Iterable[bytes]:
    """Start a whole answer; gives its body."""
    start_response(answer.status_line, list(answer.headers))
    return [] if environ["REQUEST_METHOD"] == "HEAD" else [answer.body]


def is_file(body: Iterable[bytes], environ: WSGIEnvironment) -> bool:
    """True for a body that the server knows a faster way for, which must reach it as it is."""
    wrapper = environ.get("wsgi.file_wrapper")
    return isinstance(wrapper, type) and isinstance(body, wrapper)


class ScopedBody:
    """A body whose every step runs in a context of its own.

    Nothing stays behind in the thread, even if the server drops the body half way.
    """

    __slots__ = ("_close", "_next", "_run")

    def __init__(self, body: Iterable[bytes], context: Context) -> None:
        self._run = context.run
        self._close = getattr(body, "close", None)
        self._next = context.run(iter, body).__next__

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        return self._run(self._next)

    def close(self) -> None:
        """Close the application's body, once."""
        close, self._close = self._close, None
        if close is not None:
            self._run(close)

    def __del__(self) -> None:
        # For servers and tests that drop a body: generators in it reset context variables at their
        # end, and that fails in any other context.
        self.close()
