"""``/sessions/{id}/context``: what changed from what the models of one call received to another."""

from __future__ import annotations

import asyncio
from urllib.parse import quote

from starlette.responses import Response

from ...contexts.call_changes import compare_calls
from ...contexts.model_inputs import CallInputs, call_inputs
from ...replay.sources import recordings_of
from ..views.context_changes import shown_steps
from .visit import PageError, Visit, page


@page("/sessions/{session_id}/context")
async def context(visit: Visit) -> Response:
    """Compare what the models of the calls ``from`` and ``to`` received."""
    session_id = visit.path["session_id"]
    old, new = [await _call(visit, name) for name in ("from", "to")]
    # Long conversations take a while.
    change = await asyncio.to_thread(compare_calls, old[0], new[0])
    steps = await asyncio.to_thread(shown_steps, change)
    base = f"/sessions/{quote(session_id, safe='')}"
    return visit.render(
        "context.html",
        session_id=session_id,
        base=base,
        change=change,
        steps=steps,
        urls=(old[1], new[1]),
    )


async def _call(visit: Visit, name: str) -> tuple[CallInputs, str]:
    """Return what the models of a call received, and the page of the call."""
    text, session_id = visit.query.get(name, "").strip(), visit.path["session_id"]
    if not (text.isdecimal() and 0 < len(text) < 9 and int(text)):
        message = "Name two calls by their numbers, such as ?from=2&to=3."
        raise PageError(400, message)
    number = int(text)
    found = await visit.api.calls(session_id, {"offset": number - 1, "limit": 1})
    if not found.calls:
        total = sum(found.counts.values())
        raise PageError(404, f"There is no call {number}: the session has {total}.")
    execution_id = found.calls[0].execution_id
    session = await visit.api.call(session_id, execution_id)
    steps = session.executions[0].get("steps", [])
    (recording,) = recordings_of(session)
    url = f"/sessions/{quote(session_id, safe='')}/calls/{quote(execution_id, safe='')}?number={number}"
    return call_inputs(number, recording, steps), url
