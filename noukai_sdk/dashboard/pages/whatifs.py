"""``/sessions/{id}/whatif``: run named calls live with a change. ``/whatifs/{id}``: what came of it."""

from __future__ import annotations

import asyncio
from urllib.parse import quote

from starlette.responses import Response

from ...errors import CapturedRequestError, ReplayError
from ...models.exchanges import Exchange
from ...replay.cassette_file import CassetteFile, file_of
from ...replay.sources import with_ancestors
from ...replaying.app_request import AppRequest, RequestEdits, build_request, replay_header
from ...replaying.rerun import named_calls
from ...replaying.targets import TargetError
from ..replay_runs import TooManyReplaysError
from ..views.replay_form import FormError
from ..views.whatif import (
    LONGEST,
    WhatIfForm,
    WhatIfInput,
    read_what_if,
    what_if_form,
    what_if_view,
)
from ..whatif_work import ThroughApp, WhatIfWork, is_what_if
from .compare import load_session
from .visit import Visit, action, page

_SHORTEST_SECRET = 6


@page("/sessions/{session_id}/whatif")
async def what_if_page(visit: Visit) -> Response:
    """Show what can run live, and what can be changed. ``?live=grade-3#2`` chooses a call."""
    file = await _load(visit)
    return visit.render("whatif_form.html", form=what_if_form(file, visit.query))


@page("/sessions/{session_id}/whatifs")
async def what_if_form_again(visit: Visit) -> Response:
    """Show the form again: its address stays in the browser when something was wrong with it."""
    return visit.to(f"/sessions/{quote(visit.path['session_id'], safe='')}/whatif")


@action("/sessions/{session_id}/whatifs")
async def start_what_if(visit: Visit) -> Response:
    """Begin the runs of the form."""
    file = await _load(visit)
    form = what_if_form(file, visit.form)
    try:
        entered = read_what_if(visit.form)
        await asyncio.to_thread(named_calls, file, entered.options)
        app = await _through_app(visit, file.exchange, entered)
        api = visit.api
        work = WhatIfWork(
            api,
            visit.key,
            file,
            entered.options,
            runs=entered.runs,
            app=app,
            base_url=str(api.client.base_url),
            process_id=visit.site.options.process_id(),
        )
        await visit.site.replays.start(work)
    except (FormError, TargetError, CapturedRequestError, ReplayError) as error:
        return _show_again(visit, form, f"{error}.".replace("..", "."))
    except TooManyReplaysError:
        problem = "Too many replays are running: wait until one has ended."
        return _show_again(visit, form, problem, 429)
    return visit.to(f"/whatifs/{work.replay_id}{visit.from_query}")


@page("/whatifs/{what_if_id}")
async def show_what_if(visit: Visit) -> Response:
    """Show the runs of a what-if, also while they go on."""
    report = await visit.api.replay(visit.path["what_if_id"])
    if is_what_if(report) is None:
        return visit.to(f"/replays/{report.replay_id}{visit.from_query}")
    view = await asyncio.to_thread(what_if_view, report, longest=LONGEST)
    name = "whatif_result.html" if visit.is_fragment else "whatif.html"
    return visit.render(name, view=view, **visit.looks(view.age))


def _show_again(visit: Visit, form: WhatIfForm, problem: str, status: int = 400) -> Response:
    form.error = problem
    return visit.render("whatif_form.html", status, form=form)


async def _load(visit: Visit) -> CassetteFile:
    session_id = visit.path["session_id"]
    sessions = await load_session(visit, session_id)
    session = await asyncio.to_thread(with_ancestors, sessions, as_made=True)
    return file_of(session, await visit.api.exchange(session_id))


async def _through_app(
    visit: Visit, exchange: Exchange | None, entered: WhatIfInput
) -> ThroughApp | None:
    if entered.server is None:
        return None
    if exchange is None:
        raise FormError("The request of this session was not captured: run the calls alone")
    target = await visit.site.targets.check(entered.server)
    session_id = visit.path["session_id"]
    # An app that compresses its responses could send more than fits in memory.
    headers = (*entered.headers, ("Accept-Encoding", "identity"))
    edits = RequestEdits(server=str(target.origin), headers=headers)
    on_miss = "live" if entered.on_miss_live else None

    def request(replay_id: str) -> AppRequest:
        header = replay_header(
            session_id, replay_id=replay_id, on_miss=on_miss, what_if=entered.options
        )
        return build_request(edits, header, exchange)

    request("-")  # which raises if only a part of the body was captured
    secrets = [value.split(" ")[-1] for _, value in entered.headers]
    known = tuple(each for each in secrets if len(each) >= _SHORTEST_SECRET)
    return ThroughApp(target, request, exchange, known)
