"""``/sessions/{id}/replay``: send the request again, or fork it. ``/replays/{id}``: what came of it."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence
from urllib.parse import quote

from starlette.responses import Response

from ...errors import CapturedRequestError
from ...models.exchanges import Exchange
from ...models.session_lists import StoredReport
from ...replay.recording import Recording
from ...replay.sources import recordings_of_fork
from ...replaying.app_request import RequestEdits, build_request, replay_header
from ...replaying.targets import TargetError
from ..replay_runs import LONGEST, Replay, ReplayRun, TooManyReplaysError, stopped_report
from ..views.replay import ReplayHistory, history_view, replay_view
from ..views.replay_form import (
    HEADER_FIELD,
    ForkPoint,
    FormError,
    ReplayForm,
    Sending,
    fork_inputs,
    read_form,
    replay_form,
)
from .compare import load_session
from .visit import PageError, Visit, action, page

_MOST_FORKS = 20
# A shorter value of a header would be masked in texts that have nothing to do with it.
_SHORTEST_SECRET = 6


@page("/sessions/{session_id}/replay")
async def replay_page(visit: Visit) -> Response:
    """Show the captured request, to send it again with changes. ``?from_call=N`` forks from call N."""
    session_id = visit.path["session_id"]
    exchange = await visit.api.exchange(session_id)
    form = replay_form(session_id, exchange, await _fork_point(visit, visit.query.get("from_call")))
    return visit.render(
        "replay_form.html", form=form, history=await replay_history(visit, session_id)
    )


@page("/sessions/{session_id}/replays")
async def replay_form_again(visit: Visit) -> Response:
    """Show the form again: its address stays in the browser when something was wrong with it."""
    return visit.to(f"/sessions/{quote(visit.path['session_id'], safe='')}/replay")


@action("/sessions/{session_id}/replays")
async def start_replay(visit: Visit) -> Response:
    """Send the captured request with the changes of the form."""
    session_id = visit.path["session_id"]
    exchange = await visit.api.exchange(session_id)
    form = replay_form(session_id, exchange)
    if exchange is None or form.why_not:
        return await _show_again(visit, form, form.why_not)
    try:
        replay = await _replay(visit, session_id, exchange, read_form(visit.form, exchange))
        await visit.site.replays.start(ReplayRun(visit.api, replay))
    except (FormError, TargetError, CapturedRequestError) as error:
        return await _show_again(visit, form, f"{error}.".replace("..", "."))
    except TooManyReplaysError:
        problem = "Too many replays are running: wait until one has ended."
        return await _show_again(visit, form, problem, 429)
    return visit.to(f"/replays/{replay.replay_id}{visit.from_query}")


@page("/replays/{replay_id}")
async def replay(visit: Visit) -> Response:
    """Show a replay, also while it runs."""
    report = await visit.api.replay(visit.path["replay_id"])
    if report.sent is not None and report.sent.what_if is not None:
        return visit.to(f"/whatifs/{report.replay_id}{visit.from_query}")
    view = replay_view(report, longest=LONGEST)
    name = "replay_result.html" if visit.is_fragment else "replay.html"
    return visit.render(name, replay=view, **visit.looks(view.age))


@action("/replays/{replay_id}/stop")
async def stop_replay(visit: Visit) -> Response:
    """End a replay whose app takes too long, or the runs of a what-if."""
    report = await visit.api.replay(visit.path["replay_id"])
    view = replay_view(report, longest=LONGEST)
    if not visit.site.replays.stop(report.replay_id) and view.is_running:
        if report.sent is None:
            raise PageError(409, "Another program sends this replay: stop it there.")
        # Another process of the service sends it, and looks at the report from time to time.
        await visit.api.post_replay(report.session_id or "", stopped_report(report, report.sent))
    return visit.to(f"{view.url}{visit.from_query}")


async def replay_history(
    visit: Visit, session_id: str, reports: Sequence[StoredReport] | None = None
) -> ReplayHistory:
    """Return the replays and the forks of a session, for ``replay_history.html``."""
    if reports is None:
        reports = (await visit.api.replays(session_id)).replays
    forks = await visit.api.sessions({"parent": session_id, "limit": _MOST_FORKS})
    return history_view(session_id, reports, forks.sessions, longest=LONGEST)


async def _replay(visit: Visit, session_id: str, exchange: Exchange, sending: Sending) -> Replay:
    target = await visit.site.targets.check(sending.target)
    replay_id = str(uuid.uuid4())
    options = dict(sending.options)
    if "live_from" in options:
        fork = await _fork_point(visit, visit.form.get("from_call", "").strip())
        options["live_from"] = fork.served if fork is not None else options["live_from"]
    header = replay_header(session_id, replay_id=replay_id, **options)
    path, _, query = sending.path.partition("?")
    captured = exchange.request.model_copy(update={"path": path, "query": query})
    # An app that compresses its responses could send more than fits in memory.
    headers = (*sending.headers, ("Accept-Encoding", "identity"))
    edits = RequestEdits(server=str(target.origin), content=sending.content, headers=headers)
    changes = list(sending.edits)
    if str(target.origin) != exchange.request.origin:
        changes.append("server")
    request = build_request(edits, header, exchange.model_copy(update={"request": captured}))
    secrets = [value.split(" ")[-1] for _, value in sending.headers]
    return Replay(
        replay_id,
        session_id,
        target,
        request,
        exchange,
        tuple(changes),
        options.get("live_from"),
        tuple(each for each in secrets if len(each) >= _SHORTEST_SECRET),
        visit.site.options.process_id(),
    )


async def _show_again(visit: Visit, form: ReplayForm, problem: str, status: int = 400) -> Response:
    """Show the form with what was entered. Values of headers may be secrets: they are not shown."""
    form.error = problem
    form.values = {
        name: value
        for name, value in visit.form.items()
        if name != "headers" and not name.startswith(HEADER_FIELD)
    }
    form.fork = await _fork_point(visit, form.values.get("from_call"))
    history = await replay_history(visit, form.session_id)
    return visit.render("replay_form.html", status, form=form, history=history)


async def _fork_point(visit: Visit, number: str | None) -> ForkPoint | None:
    """Return the call from which a fork goes live, with its input as far as it is known."""
    if number is None or not number.isascii() or not number.isdecimal() or len(number) > 6:
        return None
    at = max(1, int(number))
    session_id = visit.path["session_id"]
    page = await visit.api.calls(session_id, {"offset": at - 1, "limit": 1})
    total = sum(page.counts.values())
    served = min(at - 1, total)
    recordings: Sequence[Recording] = ()
    if page.parent is not None or page.outcomes:
        sessions = await load_session(visit, session_id)
        recordings = await asyncio.to_thread(recordings_of_fork, sessions)
    if not page.calls:
        # After the last one: all that are recorded are served.
        return ForkPoint(at, len(recordings) or served, total=total)
    call = page.calls[0]
    ids = [each.execution_id for each in recordings]
    served = ids.index(call.execution_id) if call.execution_id in ids else served
    whole = await visit.api.call(session_id, call.execution_id)
    recorded = whole.executions[0].get("call")
    inputs = fork_inputs(recorded.request) if recorded is not None else ()
    return ForkPoint(at, served, call.slug or "(deleted flow)", total, inputs)
