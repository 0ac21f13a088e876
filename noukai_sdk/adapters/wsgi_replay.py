"""Hold an application's answer back until it is known whether the replay went well."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from ..session.context import context_with
from .responses import session_headers, verdict
from .wsgi_messages import Header, ScopedBody, is_file, send_answer, tagged

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

    from ..session.scope import Scope


def replayed(
    app: WSGIApplication, session: Scope, environ: WSGIEnvironment, start_response: StartResponse
) -> Iterable[bytes]:
    """Run ``app`` in a replay; gives the body of its answer, or of the answer instead of it."""
    held = HeldAnswer(session, environ, start_response)
    context = context_with(session)
    steps: ScopedBody | None = None
    try:
        body = context.run(app, environ, held.start)
        if is_file(body, environ):
            return held.conclude(body)
        steps = ScopedBody(body, context)
        if held.take(steps):
            return StreamedBody(session, held.parts, steps)
        steps.close()
    except Exception as failure:  # noqa: BLE001  # conclude() raises it again or answers with it
        if steps is not None:
            steps.close()
        return held.conclude((), failure)
    return held.conclude(held.parts)


class HeldAnswer:
    """What an application answers during a replay.

    Nothing goes out before the application has ended, or gives a second part with content: from
    there on it is a stream, which goes through part by part.

    Attributes:
        parts: Those that wait, in order.
    """

    def __init__(
        self, session: Scope, environ: WSGIEnvironment, start_response: StartResponse
    ) -> None:
        self.parts: list[bytes] = []
        self._session = session
        self._environ = environ
        self._start_response = start_response
        self._start: tuple[str, list[Header]] | None = None
        self._released = False
        self._write: Callable[[bytes], object] | None = None

    def start(
        self, status: str, headers: list[Header], exc_info: Any = None
    ) -> Callable[[bytes], object]:
        """The application's ``start_response``."""
        if self._released:
            return self._start_response(status, headers, exc_info)
        if self._start is not None and exc_info is None:
            raise AssertionError(
                "start_response was called twice, the second time with no exc_info"
            )
        self._start = (status, headers)
        return self.write

    def write(self, part: bytes) -> None:
        """What ``start_response`` gives to applications that do not return their body."""
        if self._keep(part):
            return
        assert self._write is not None  # an application that writes has started
        while self.parts:
            self._write(self.parts.pop(0))

    def take(self, steps: Iterator[bytes]) -> bool:
        """Keep what the body gives. True as soon as it is known to be a stream."""
        return not all(self._keep(part) for part in steps)

    def _keep(self, part: bytes) -> bool:
        if part and any(self.parts):
            self._release()
        self.parts.append(part)
        return not self._released

    def _release(self) -> None:
        if self._start is None or self._released:
            return
        self._released = True
        status, headers = self._start
        ours = session_headers(self._session)
        self._write = self._start_response(status, tagged(headers, ours))

    def conclude(self, body: Iterable[bytes], failure: Exception | None = None) -> Iterable[bytes]:
        """End the replay: give ``body``, or an answer that says what went wrong.

        Args:
            body: The application's.
            failure: What the application raised; raised again, unless it is the replay's own error
                and can be answered.
        """
        status = int(self._start[0].split()[0]) if self._start else None
        answer = verdict(self._session, failure, status)
        if answer is not None and not self._released:
            getattr(body, "close", lambda: None)()
            return send_answer(answer, self._environ, self._start_response)
        if failure is not None:
            raise failure
        self._release()
        return body


class StreamedBody:
    """A body in mid-stream, whose verdict goes to the log."""

    def __init__(self, session: Scope, first: list[bytes], steps: ScopedBody) -> None:
        self._session = session
        self._first = first
        self._steps = steps
        self._has_ended = False

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        if self._first:
            return self._first.pop(0)
        try:
            return next(self._steps)
        except StopIteration:
            self._has_ended = True
            raise
        except Exception as failure:
            verdict(self._session, failure, None)
            raise

    def close(self) -> None:
        """Close the application's body, and settle where the client has stayed to its end."""
        try:
            self._steps.close()
            if self._has_ended:
                self._has_ended = False
                verdict(self._session, None, None)
        finally:
            self._session.end()
