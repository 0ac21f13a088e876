"""Replay many sessions: in worker processes that run the app, or by requests to a running app."""

from __future__ import annotations

import asyncio
import json
import sys
import time
import uuid
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, BinaryIO, Literal

import httpx

from ..adapters.responses import HEADER_REPLAY_REPORT
from ..errors import APIConnectionError, CapturedRequestError
from ..models.exchanges import Header
from ..models.session_lists import StoredReport
from ..replaying.app_request import RequestEdits, build_request, replay_header
from ..replaying.sending import Limits, RequestSender
from .causes import ENTRIES, NOT_FETCHED, SessionResult, failed, grouped, result_of, skipped
from .loading import NotFetchedError, NotReplayableError, SessionLoader
from .worker_process import HEARTBEAT, results_as_json

# An app that is being imported and started sends no sign of life.
_LONGEST_START = 300.0
_LONGEST_STOP = 15.0
_LONGEST_REPORT = 10.0
_LONGEST_LINE = 2**26
_LAST_OUTPUT = 2_000
_MOST_DEATHS = 5
# A cause that more sessions share is no accident.
_MOST_ALIKE = 2
_MOST_CONFIRMED = 20
# Both depend on what else runs at the moment.
_ALONE = (ENTRIES["lost"], ENTRIES["unordered"])


class BatchError(Exception):
    """The sessions cannot be replayed at all. The message is for the user."""


@dataclass(frozen=True)
class BatchSettings:
    """How sessions are replayed.

    Attributes:
        app: The name of the app, for worker processes.
        server: In place of ``app``: the address of a running app.
        headers: Headers to add or to replace, such as those that were removed at capture.
        ignore: What may differ in the responses.
        timeout: How many seconds a request may take.
        workers: The number of worker processes.
        concurrency: How many sessions are replayed at once in all.
        freeze: Hold clock, uuids and random numbers, at the time of each session. Then each worker replays
            one session at a time.
        env, base_url: The service that has the sessions.
    """

    app: str | None = None
    server: str | None = None
    headers: tuple[Header, ...] = ()
    ignore: tuple[str, ...] = ()
    timeout: float = 60.0
    workers: int = 2
    concurrency: int = 16
    freeze: bool = False
    env: Literal["production", "dev"] | None = None
    base_url: str | None = None


async def replay_sessions(
    sources: Sequence[str], settings: BatchSettings
) -> AsyncGenerator[SessionResult, None]:
    """Replay sessions, and yield their results as they come. Close the iterator to stop.

    A session whose result may depend on what ran beside it is replayed again, alone. If it has a result
    already, the new one comes after that.

    Raises:
        BatchError: The app cannot be started, or is not reached, or does not replay.
    """
    if settings.server is not None:
        await _require_replays(settings.server)
    results: asyncio.Queue[SessionResult | None] = asyncio.Queue()
    run = _to_server if settings.server is not None else _through_workers
    task = asyncio.ensure_future(run(deque(sources), settings, results))
    task.add_done_callback(lambda _: results.put_nowait(None))
    try:
        while (result := await results.get()) is not None:
            yield result
        await task
    finally:
        task.cancel()
        await asyncio.wait([task])


async def _through_workers(
    sources: deque[str], settings: BatchSettings, results: asyncio.Queue[SessionResult | None]
) -> None:
    was_beside_others = settings.concurrency > 1 and len(sources) > 1
    alone: deque[str] = deque()
    seen: list[SessionResult] = []

    def publish(result: SessionResult) -> None:
        seen.append(result)
        results.put_nowait(result)

    number = max(1, min(settings.workers, len(sources)))
    each = 1 if settings.freeze else max(1, settings.concurrency // number)
    tasks = [
        asyncio.ensure_future(_Worker(settings, each, publish, alone).work(sources))
        for _ in range(number)
    ]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    if was_beside_others:
        alone.extend(_to_confirm(seen))
    if alone:
        await _Worker(settings, 1, publish, None).work(alone)


def _to_confirm(results: Sequence[SessionResult]) -> list[str]:
    """Return the few sessions that differ as no other does: perhaps only because the machine was busy."""
    groups = grouped(results)
    common = {
        name for group in groups if len(group.sessions) > _MOST_ALIKE for name in group.sessions
    }
    differing = [each for each in results if each.status in ("changed", "drifted", "missed")]
    rare = [each.source for each in differing if each.name not in common]
    return rare if len(rare) <= _MOST_CONFIRMED else []


class _Worker:
    """A worker process, and those that replace it if it dies.

    Args:
        settings: How sessions are replayed.
        most: How many it replays at once.
        publish: Called with each result.
        alone: Takes the sessions that are to be replayed alone; None if they are.
    """

    def __init__(
        self,
        settings: BatchSettings,
        most: int,
        publish: Callable[[SessionResult], None],
        alone: deque[str] | None,
    ) -> None:
        self._settings = settings
        self._most = most
        self._publish = publish
        self._alone = alone
        self._under_way: set[str] = set()
        self._deaths = 0

    async def work(self, sources: deque[str]) -> None:
        """Replay sessions until none is left."""
        while sources:
            with TemporaryFile() as log:
                process = await self._start(log)
                died = None
                try:
                    died = await self._run(process, sources)
                    if died is not None and process.returncode is None:
                        process.kill()
                finally:
                    await _stop(process)
                if died is None:
                    return
                output = _end_of(log)
            # One of these sessions is the reason, and alone it shows.
            under_way, self._under_way = self._under_way, set()
            if self._alone is not None and len(under_way) > 1:
                self._alone.extend(sorted(under_way))
                continue
            for source in under_way:
                self._publish(failed(source, f"{died}{output}"))
            self._deaths += 1
            if self._deaths >= _MOST_DEATHS:
                raise BatchError(f"given up after {_MOST_DEATHS} sessions: {died}{output}")

    async def _start(self, log: BinaryIO) -> asyncio.subprocess.Process:
        settings = self._settings
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "noukai_sdk.batch.worker_process"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=log,
            limit=_LONGEST_LINE,
            start_new_session=True,  # Ctrl-C is for the parent
        )
        first = {
            "app": settings.app,
            "headers": dict(settings.headers),
            "ignore": list(settings.ignore),
            "timeout": settings.timeout,
            "freeze": settings.freeze,
            "env": settings.env,
            "base_url": settings.base_url,
            "folder": str(Path.cwd()),
        }
        try:
            _send(process, first)
            message = await _receive(process, _LONGEST_START)
            if message is None or "error" in message:
                await _stop(process)
                reason = (message or {}).get("error") or f"the app does not start{_end_of(log)}"
                raise BatchError(reason)
        except BaseException:
            await _stop(process)
            raise
        return process

    async def _run(self, process: asyncio.subprocess.Process, sources: deque[str]) -> str | None:
        """Replay sessions in a process; return None at their end, or how the process died."""
        # A sign of life comes each second. An app that blocks the event loop lets none through.
        longest = self._settings.timeout + 5 * HEARTBEAT
        while True:
            while sources and len(self._under_way) < self._most:
                source = sources.popleft()
                self._under_way.add(source)
                _send(process, {"source": source})
            if not self._under_way:
                return None
            try:
                message = await _receive(process, longest)
            except asyncio.TimeoutError:
                return f"the app blocked its event loop for {longest:g} seconds"
            if message is None:
                return "the app ended its process"
            if "result" in message:
                result = results_as_json.validate_python(message["result"])
                self._under_way.discard(result.source)
                if self._alone is not None and _depends_on_others(result):
                    self._alone.append(result.source)
                else:
                    self._publish(result)


def _depends_on_others(result: SessionResult) -> bool:
    return any(cause.what in _ALONE for cause in result.causes)


def _send(process: asyncio.subprocess.Process, message: dict[str, Any]) -> None:
    assert process.stdin is not None  # a pipe
    if not process.stdin.is_closing():
        process.stdin.write(json.dumps(message).encode() + b"\n")


async def _receive(process: asyncio.subprocess.Process, seconds: float) -> dict[str, Any] | None:
    """Return the next message of a process, None if the process has ended."""
    assert process.stdout is not None  # a pipe
    line = await asyncio.wait_for(process.stdout.readline(), seconds)
    return json.loads(line) if line.endswith(b"\n") else None


async def _stop(process: asyncio.subprocess.Process) -> None:
    """Let a worker stop the app, and end it."""
    if process.returncode is not None:
        return
    assert process.stdin is not None  # a pipe
    process.stdin.close()
    try:
        await asyncio.wait_for(process.wait(), _LONGEST_STOP)
    except BaseException as error:
        if process.returncode is None:
            process.kill()
        await process.wait()
        if not isinstance(error, asyncio.TimeoutError):
            raise


def _end_of(log: BinaryIO) -> str:
    """Return the last output of a worker, to be put after a message."""
    log.seek(max(0, log.seek(0, 2) - _LAST_OUTPUT))
    lines = log.read().decode(errors="replace").strip().splitlines()
    return f": {lines[-1]}" if lines else ""


async def _to_server(
    sources: deque[str], settings: BatchSettings, results: asyncio.Queue[SessionResult | None]
) -> None:
    # Made once: to load the certificates takes longer than a request.
    certificates = httpx.create_ssl_context()

    def transport() -> httpx.AsyncBaseTransport:
        return httpx.AsyncHTTPTransport(verify=certificates)

    async with SessionLoader(settings.env, settings.base_url) as loader:

        async def work() -> None:
            while sources:
                results.put_nowait(await _send_one(sources.popleft(), settings, loader, transport))

        tasks = [asyncio.ensure_future(work()) for _ in range(settings.concurrency)]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)


async def _send_one(
    source: str,
    settings: BatchSettings,
    loader: SessionLoader,
    transport: Callable[[], httpx.AsyncBaseTransport],
) -> SessionResult:
    """Send the captured request of a session to the running app."""
    try:
        session = await loader.load(source, calls=False)
        session_id = session.file.session_id
        if session_id is None:
            return skipped(source, "the file has no session id, by which an app could fetch it")
        header = replay_header(session_id, replay_id=str(uuid.uuid4()))
        edits = RequestEdits(server=settings.server, headers=settings.headers)
        request = build_request(edits, header, session.exchange)

        async def stored_reports() -> Sequence[StoredReport]:
            return await loader.reports(session_id)

        sender = RequestSender(
            request,
            stored_reports=stored_reports,
            transport=transport,
            limits=Limits(seconds=settings.timeout),
        )
        response = session.exchange.response
        started = time.perf_counter()
        outcome = await sender.replay(
            session_id, lambda _: response, ignore=settings.ignore, wait=_LONGEST_REPORT
        )
    except (NotReplayableError, CapturedRequestError) as error:
        return skipped(source, str(error))
    except NotFetchedError as error:
        return failed(source, NOT_FETCHED, str(error))
    except APIConnectionError as error:
        return failed(source, "the app cannot be reached", error.message)
    seconds = time.perf_counter() - started
    return result_of(
        source, session_id, session.request, outcome, seconds=seconds, masked=request.masked
    )


async def _require_replays(server: str) -> None:
    """Raise BatchError unless the app replays: otherwise its code would run live, once for each session."""
    headers = {HEADER_REPLAY_REPORT: str(uuid.uuid4())}
    try:
        async with httpx.AsyncClient(timeout=_LONGEST_REPORT) as client:
            response = await client.options(server, headers=headers)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise BatchError(f"{server} cannot be reached: {error or type(error).__name__}") from error
    if "replay_report_unknown" not in response.text[:1000]:
        raise BatchError(
            f"the app at {server} does not replay, so no request was sent: set NOUKAI_REPLAY_ENABLED=true "
            "where it runs, and add the middleware of Noukai to it"
        )
