"""``/flows/{org}/{project}/{slug}/runs/{id}``: a run of a flow, step by step as it goes on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

from starlette.responses import Response, StreamingResponse

from ..api import ApiError
from ..rendering import render
from ..views.run_progress import RunView, as_text
from .flows import FLOW, address_of
from .running import continue_run, read_events
from .visit import PageError, Visit, action, page

_RUN = f"{FLOW}/runs/{{execution_id}}"

# Events within this time are shown together.
_INTERVAL = 0.15
# A run whose events are not kept is looked at after this time. Another one is when it has been quiet for
# longer: its process may have died, and no event says so.
_LOOK_SECONDS = 1.0
_QUIET_SECONDS = 5.0
# Proxies close a connection on which nothing comes.
_KEEP_ALIVE_SECONDS = 15.0


@page(_RUN)
async def run(visit: Visit) -> Response:
    """Show a run as it is now. The page follows it from there."""
    view = await _read(visit)
    if view.progress.has_ended:
        await _read_result(visit, view)
    elif view.session_id is not None and not view.is_job:
        [call] = (await visit.api.call(view.session_id, view.execution_id)).executions
        view.progress.read_rounds(call.get("toolRounds") or ())
    return visit.render("run.html", run=view)


@page(f"{_RUN}/events")
async def run_events(visit: Visit) -> Response:
    """Stream the parts of the page that change."""
    streams = visit.site.streams
    if streams.open >= visit.site.options.max_streams or streams.closing.is_set():
        raise PageError(503, "Too many live pages are open. Reload this page to see what is new.")
    view = await _read(visit)
    headers = {"X-Accel-Buffering": "no"}
    return StreamingResponse(_counted(visit, view), 200, headers, "text/event-stream")


@action(f"{_RUN}/results")
async def results(visit: Visit) -> Response:
    """Continue a run with the results of the tools that it asked for."""
    view = await _read(visit)
    form = visit.form
    turns = []
    for number in range(1, len(form) + 1):
        if f"call-{number}" in form:
            content = form.get(f"result-{number}", "")
            call_id = form[f"call-{number}"]
            turns.append({"role": "tool", "tool_call_id": call_id, "content": content})
    step_index = form.get("step_index", "")
    body: dict[str, Any] = {
        "executionId": view.execution_id,
        "stepIndex": int(step_index) if step_index.isdecimal() and len(step_index) < 10 else 0,
        "toolCallMessages": turns,
    }
    await continue_run(visit, view.address, view.version, body, view.session_id)
    return visit.to(view.url)


@action(f"{_RUN}/cancel")
async def cancel(visit: Visit) -> Response:
    """Cancel a run, whoever has begun it."""
    address, execution_id = address_of(visit), visit.path["execution_id"]
    await visit.api.cancel_run(address, execution_id)
    return visit.to(f"/flows/{address}/runs/{execution_id}")


async def _read(visit: Visit) -> RunView:
    address = address_of(visit)
    trace = await visit.api.trace(address, visit.path["execution_id"])
    try:
        flow = await visit.api.flow(address, trace.flow_run.version)
    except ApiError as error:
        if error.status != 404:
            raise
        flow = None  # it was deleted
    return RunView.of(address, trace, flow)


async def _read_result(visit: Visit, view: RunView) -> None:
    """Read the result of a run that has ended."""
    progress = view.progress
    if view.is_job:
        status = await visit.api.job(view.address, view.execution_id)
        if status.status == "completed":
            progress.result = as_text(status.result)
        return
    async with visit.api.events(view.address, view.execution_id) as response:
        async for event in read_events(response):
            if event.get("eventType") == "flow_completed":
                progress.result = as_text(event.get("result"))


async def _counted(visit: Visit, view: RunView) -> AsyncIterator[str]:
    streams = visit.site.streams
    streams.open += 1
    try:
        # The browser asks again, and then hears of an error that lasts.
        with suppress(ApiError):
            async for frame in _frames(visit, view):
                yield frame
    finally:
        streams.open -= 1


async def _frames(visit: Visit, view: RunView) -> AsyncIterator[str]:
    """Yield what changes of the page until the run has ended."""
    progress = view.progress
    reader = asyncio.ensure_future(_follow(visit, view))
    closing = asyncio.ensure_future(visit.site.streams.closing.wait())
    # What the browser shows, by the name of the part.
    shown: dict[str, str] = {}
    sent_at = looked_at = time.monotonic()
    pause = _QUIET_SECONDS if view.keeps_events else _LOOK_SECONDS
    try:
        while not closing.done():
            await asyncio.wait((reader, closing), timeout=_INTERVAL)
            now = time.monotonic()
            is_over = reader.done()
            since = max(looked_at, sent_at) if view.keeps_events else looked_at
            if is_over or now - since > pause:
                looked_at = now
                await _look(visit, view)
            parts = {
                f"step-{step.number}": render("run_step.html", step=step)
                for step in progress.take_changes()
            }
            parts["state"] = render("run_state.html", visit=visit, run=view, progress=progress)
            frames = [_frame(name, part) for name, part in parts.items() if shown.get(name) != part]
            shown.update(parts)
            if is_over and progress.has_ended:
                frames.append(_frame("end", ""))
            if not frames and now - sent_at > _KEEP_ALIVE_SECONDS:
                frames.append(": \n\n")
            if frames:
                sent_at = now
                yield "".join(frames)
            if is_over:
                return
    finally:
        for task in (reader, closing):
            task.cancel()
        await asyncio.gather(reader, closing, return_exceptions=True)


async def _follow(visit: Visit, view: RunView) -> None:
    async with visit.api.events(view.address, view.execution_id) as response:
        async for event in read_events(response):
            view.progress.update(event)


async def _look(visit: Visit, view: RunView) -> None:
    """Read how far the run is: not all of a run is in its events, such as that it was cancelled."""
    trace = await visit.api.trace(view.address, view.execution_id)
    view.progress.read_trace(trace)
    if view.progress.has_ended and view.progress.result is None:
        await _read_result(visit, view)


def _frame(event: str, text: str) -> str:
    # Visible marks replace carriage returns, and the lines of a frame end with line feeds.
    lines = "\n".join(f"data: {line}" for line in text.split("\n"))
    return f"event: {event}\n{lines}\n\n"
