"""Send a request that replays a session, and wait for the replay's report."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import anyio
import httpx
from pydantic import ValidationError

from ..adapters.responses import (
    HEADER_REPLAY,
    HEADER_REPLAY_ID,
    HEADER_REPLAY_REPORT,
    HEADER_RESPONSE_SESSION,
)
from ..errors import APIConnectionError
from ..models.exchanges import CapturedResponse
from ..models.session_lists import StoredReport
from ..replay.response_diff import ReceivedResponse, compare_responses, without_ignored
from .app_request import AppRequest
from .outcome import Outcome, body_text, replay_error

# The app may work for long, even though no model is called.
_TIMEOUT = 300.0
_REPORT_TIMEOUT = 10.0
# Between two questions for the report of a replay that is still running, or that another process has.
_FIRST_PAUSE = 0.02
_LONGEST_PAUSE = 0.5

Expected = Callable[[ReceivedResponse], "CapturedResponse | None"]
StoredReports = Callable[[], Awaitable[Sequence[StoredReport]]]


@dataclass(frozen=True)
class Limits:
    """Limits for a response.

    Attributes:
        seconds: How long the request may take in all; None for any time, as long as the app sends
            something every five minutes.
        size: How many bytes of the body are read; None for all.
    """

    seconds: float | None = None
    size: int | None = None


@dataclass(frozen=True)
class _Received:
    response: httpx.Response
    content: bytes
    note: str | None


class RequestSender:
    """Sends one request to an app, and asks the app for the report of the replay.

    Args:
        request: The request, with the header that asks for the replay.
        transport: Makes the connections to the app; None for the usual way.
        limits: The limits for its response.
        stored_reports: Returns the reports that the service has of replays of this session.
        replay_id: The id that the request asks for, by which reports are asked for while it runs.
        on_report: Called with each new report of the replay.
    """

    def __init__(
        self,
        request: AppRequest,
        *,
        stored_reports: StoredReports,
        transport: Callable[[], httpx.AsyncBaseTransport] | None = None,
        limits: Limits = Limits(),
        replay_id: str | None = None,
        on_report: Callable[[StoredReport], Awaitable[None]] | None = None,
    ) -> None:
        self._request = request
        self._transport = transport
        self._limits = limits
        self._stored_reports = stored_reports
        self._replay_id = replay_id
        self._on_report = on_report
        self._latest: StoredReport | None = None
        self._may_watch = True

    async def replay(
        self,
        session_id: str | None,
        expected: Expected,
        *,
        ignore: Sequence[str] = (),
        wait: float,
    ) -> Outcome:
        """Send the request, wait for the final report, and compare the response with the captured one.

        Args:
            session_id: The session to replay, None if the app may not name one.
            expected: Returns what to compare a response with, None for nothing.
            ignore: The paths of what may differ.
            wait: How many seconds to wait for the report, at most.

        Raises:
            APIConnectionError: The app cannot be reached.
            OSError: The file of the body cannot be read.
        """
        async with self._watched():
            sent = await self._send(expected)
        response, content = sent.response, sent.content
        received = ReceivedResponse(
            response.status_code, tuple(response.headers.multi_items()), content
        )
        captured = expected(received)
        summary = response.headers.get(HEADER_REPLAY_REPORT)
        named = response.headers.get(HEADER_RESPONSE_SESSION)
        replay_id = response.headers.get(HEADER_REPLAY_ID)
        error = replay_error(content)
        # An app that refuses the replay names the session too, but reports nothing about its calls.
        replayed = summary is not None or (
            named is not None and named == session_id and error is None
        )
        verdict = None
        if replayed and replay_id is not None:
            verdict = await self._wait_for_report(replay_id, wait)
        differences = None
        if captured is not None:
            # Large texts take a while to compare.
            found = await asyncio.to_thread(compare_responses, captured, received)
            differences = without_ignored(found, ignore)
            if error is not None:  # it replaces the app's response
                differences = [each for each in differences if each.where == "status"]
        return Outcome(
            status=response.status_code,
            body=body_text(content, response.encoding or "utf-8"),
            session_id=named,
            summary_line=summary,
            replayed=replayed,
            replay_id=replay_id,
            verdict=verdict,
            error=error,
            differences=differences,
            notes=[] if sent.note is None else [sent.note],
        )

    def _client(self, timeout: float) -> httpx.AsyncClient:
        # An address that was checked must not be replaced by a proxy of the environment.
        if self._transport is None:
            return httpx.AsyncClient(timeout=timeout)
        return httpx.AsyncClient(timeout=timeout, transport=self._transport(), trust_env=False)

    async def _send(self, expected: Expected) -> _Received:
        request, note = self._request, None
        content = request.body()
        parts: list[bytes] = []
        received = 0
        response: httpx.Response | None = None
        try:
            with anyio.move_on_after(self._limits.seconds) as deadline:
                async with (
                    self._client(_TIMEOUT) as client,
                    client.stream(
                        request.method, request.url, content=content, headers=_raw(request.headers)
                    ) as response,
                ):
                    enough = _size_of_part(expected(ReceivedResponse(response.status_code)))
                    # An app that fails within a stream breaks the connection: the report says why.
                    with suppress(httpx.RemoteProtocolError, httpx.ReadError):
                        async for part in response.aiter_bytes():
                            parts.append(part)
                            received += len(part)
                            # The captured client left here, and the stream may have no end.
                            if enough is not None and received >= enough:
                                break
                            if self._limits.size is not None and received > self._limits.size:
                                note = (
                                    f"only the first {received:,} bytes of the response were read"
                                )
                                break
        except httpx.DecodingError as error:
            note = f"the body of the response cannot be read: {error}"
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            reason = str(error) or type(error).__name__
            raise APIConnectionError(f"{request.url}: {reason}") from error
        if deadline.cancelled_caught:
            note = f"the response was not complete after {self._limits.seconds:g} seconds"
        if response is None:
            raise APIConnectionError(
                f"{request.url}: no response within {self._limits.seconds:g} seconds"
            )
        return _Received(response, b"".join(parts), note)

    @asynccontextmanager
    async def _watched(self) -> AsyncIterator[None]:
        """Ask for reports while the request is under way, if somebody wants to see them."""
        if self._on_report is None or self._replay_id is None:
            yield
            return
        watcher = asyncio.create_task(self._watch(self._replay_id))
        try:
            yield
        finally:
            watcher.cancel()
            await asyncio.wait([watcher])

    async def _watch(self, replay_id: str) -> None:
        while self._may_watch:
            await asyncio.sleep(_LONGEST_PAUSE)
            # An app that does not replay takes it for a request of its own: it must change nothing.
            await self._note(await self._report_of_app(replay_id, method="OPTIONS"))

    async def _note(self, report: StoredReport | None) -> None:
        if report is None or report == self._latest:
            return
        self._latest = report
        if self._on_report is not None:
            await self._on_report(report)

    async def _wait_for_report(self, replay_id: str, seconds: float) -> StoredReport | None:
        """Return the final report of a replay; the unfinished one, or None, if there is none in time."""
        deadline = time.monotonic() + seconds
        pause = _FIRST_PAUSE
        latest: StoredReport | None = None
        while True:
            report = await self._report_of_app(replay_id)
            if report is None:  # another process of the server may have it
                reports = await self._stored_reports() if pause >= _LONGEST_PAUSE / 4 else ()
                report = next((each for each in reports if each.replay_id == replay_id), None)
            await self._note(report)
            latest = report or latest
            left = deadline - time.monotonic()
            if (latest is not None and latest.state == "finished") or left <= 0:
                return latest
            await asyncio.sleep(min(pause, left))
            pause = min(pause * 1.5, _LONGEST_PAUSE)

    async def _report_of_app(self, replay_id: str, method: str = "GET") -> StoredReport | None:
        """Ask the app for a report; None if it has none, or if another of its processes was asked."""
        headers = [
            *(each for each in self._request.headers if each[0].lower() not in _NOT_ASKED_WITH),
            (HEADER_REPLAY_REPORT, replay_id),
        ]
        try:
            # On a new connection, which may reach another process.
            async with (
                self._client(_REPORT_TIMEOUT) as client,
                client.stream(method, self._request.url, headers=_raw(headers)) as response,
            ):
                # 404 is also the response of another process of the app, which has no such report.
                self._may_watch = response.status_code in (200, 404)
                if response.status_code != 200:
                    return None
                content = b""
                async for part in response.aiter_bytes():
                    content += part
                    if len(content) > (self._limits.size or len(content)):
                        return None
            report = StoredReport.model_validate_json(content)
        except ValidationError:
            self._may_watch = False
            return None
        except httpx.HTTPError:
            return None
        return report if report.replay_id == replay_id else None


_NOT_ASKED_WITH = frozenset(
    {
        HEADER_REPLAY.lower(),
        "content-type",
        "content-encoding",
        "accept",
    }
)


def _size_of_part(captured: CapturedResponse | None) -> int | None:
    """Return how many bytes the captured client received, None if it received all."""
    if captured is None or captured.body is None or captured.body.complete:
        return None
    return captured.body.size


def _raw(headers: Sequence[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    # As bytes: httpx encodes text as ASCII, curl as UTF-8.
    return [(name.encode(), value.encode()) for name, value in headers]
