"""A process that runs an app and replays the sessions that its parent names, many at once.

The app may print, hang, block its event loop or end the process: the parent and the other workers go on.
Lines of JSON come in by standard input, and go out by what was standard output::

    {"app": "main:app", "headers": {}, "ignore": [], "timeout": 60, ...}
    {"source": "s-1"}

    {"ready": true}           the app has started, or {"error": "..."}
    {"alive": true}           the event loop runs; about once a second
    {"result": {...}}         a SessionResult

It ends at the end of its input.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
import threading
import time
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from pydantic import TypeAdapter

from ..errors import CapturedRequestError, NoukaiError
from ..replay.player import ReplayOptions
from ..replaying.app_interfaces import resent_request
from ..replaying.app_runner import RunningApp, running_app
from ..replaying.apps import AppError
from ..testing.freezing import FreezeError, frozen_replay
from .causes import NOT_FETCHED, SessionResult, failed, result_of, skipped
from .loading import NotFetchedError, NotReplayableError, SessionLoader

HEARTBEAT = 1.0

results_as_json: TypeAdapter[SessionResult] = TypeAdapter(SessionResult)


def main() -> None:
    """Run the worker."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    out = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # what the app prints goes where its errors go
    logging.getLogger("noukai_sdk").setLevel(logging.ERROR)  # results are told by the parent
    first = sys.stdin.buffer.readline()
    if first:
        asyncio.run(_serve_and_exit(json.loads(first), out))


async def _serve_and_exit(settings: dict[str, Any], out: BinaryIO) -> None:
    code = await _serve(settings, out)
    sys.stdout.flush()
    # Threads of requests that hang would keep the event loop and the process alive.
    os._exit(code)


async def _serve(settings: dict[str, Any], out: BinaryIO) -> int:
    loop = asyncio.get_running_loop()
    jobs: asyncio.Queue[str | None] = asyncio.Queue()

    def read() -> None:
        for line in sys.stdin.buffer:
            loop.call_soon_threadsafe(jobs.put_nowait, json.loads(line)["source"])
        loop.call_soon_threadsafe(jobs.put_nowait, None)

    threading.Thread(target=read, daemon=True).start()
    folder = settings["folder"]
    beside = None if folder is None else Path(folder) / "app"
    try:
        async with (
            SessionLoader(settings["env"], settings["base_url"]) as loader,
            running_app(settings["app"], beside=beside) as app,
        ):
            _write(out, {"ready": True})
            heart = asyncio.ensure_future(_beat(out))
            tasks: set[asyncio.Future[None]] = set()
            while (source := await jobs.get()) is not None:
                task = asyncio.ensure_future(_replay(app, loader, source, settings, out))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
            for each in (heart, *tasks):
                each.cancel()
            await asyncio.wait([heart, *tasks])
    except AppError as error:
        _write(out, {"error": str(error)})
        return 2
    return 0


async def _beat(out: BinaryIO) -> None:
    while True:
        await asyncio.sleep(HEARTBEAT)
        _write(out, {"alive": True})


async def _replay(
    app: RunningApp, loader: SessionLoader, source: str, settings: dict[str, Any], out: BinaryIO
) -> None:
    result = await _result(app, loader, source, settings)
    _write(out, {"result": results_as_json.dump_python(result, mode="json")})


async def _result(
    app: RunningApp, loader: SessionLoader, source: str, settings: dict[str, Any]
) -> SessionResult:
    """Load a session and replay it, and return what came of it, whatever happens."""
    try:
        session = await loader.load(source)
        started = time.perf_counter()
        outcome = await app.replay(
            session.file,
            options=ReplayOptions(lost="refuse", redactor=session.redactor),
            ignore=settings["ignore"],
            request=resent_request(session.exchange, settings["headers"]),
            timeout=settings["timeout"],
            hold=partial(frozen_replay, file=session.file) if settings["freeze"] else nullcontext,
        )
    except (NotReplayableError, CapturedRequestError) as error:
        return skipped(source, str(error))
    except NotFetchedError as error:
        return failed(source, NOT_FETCHED, str(error))
    except (NoukaiError, FreezeError) as error:
        return failed(source, str(error))
    except Exception as error:  # noqa: BLE001  # the parent waits for a result of each session
        return failed(source, f"the replay failed with {type(error).__name__}", str(error))
    seconds = time.perf_counter() - started
    return result_of(
        source,
        session.file.session_id,
        session.request,
        outcome,
        seconds=seconds,
        flows=session.flows,
        masked=session.masked_without(settings["headers"]),
    )


def _write(out: BinaryIO, message: dict[str, Any]) -> None:
    data = json.dumps(message).encode() + b"\n"
    while data:  # an unbuffered file may take a part
        data = data[out.write(data) or 0 :]


if __name__ == "__main__":
    main()
