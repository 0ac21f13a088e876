"""Replay the captured request in this process, or send it live."""

from __future__ import annotations

import asyncio
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import NoukaiError
from ..replay.cassette_file import CassetteFile, read_cassette
from ..replay.player import ReplayOptions
from ..replay.redaction import Redactor
from ..replaying.app_interfaces import resent_request, send_to_asgi, send_to_wsgi
from ..replaying.app_runner import running_app
from ..replaying.apps import AppError
from .completion import AS_RECORDED, ranked_pace, reordered
from .observation import Observer, response_of
from .source_reads import Plan, Sources

if TYPE_CHECKING:
    from .run_program import Orders


def run_request(orders: Orders, sources: Sources) -> dict[str, Any]:
    """Send the captured request through the app, and return what came out."""
    file = read_cassette(orders.cassette)
    observer = Observer(Redactor(file.redacted, pii=file.redacted_pii))
    warnings.simplefilter("ignore")
    try:
        asyncio.run(_send(file, orders, sources, observer))
    except (AppError, NoukaiError) as error:
        observer.observation.problem = f"{type(error).__name__}: {error}"
    return observer.observation.as_dict()


def options_of(file: CassetteFile, plan: Plan) -> ReplayOptions:
    """Return how calls are served; for another order of completion, the file is changed."""
    if plan.factor != "completion" or plan.variant == AS_RECORDED:
        return ReplayOptions(lost="refuse")
    if plan.variant % 2:
        return ReplayOptions(lost="refuse", pace=ranked_pace(file.recordings, plan.variant // 2))
    file.recordings[:] = reordered(file.recordings, plan.variant // 2)
    return ReplayOptions(lost="refuse")


async def _send(file: CassetteFile, orders: Orders, sources: Sources, observer: Observer) -> None:
    assert file.exchange is not None  # the parent has checked
    request = resent_request(file.exchange, dict(orders.headers), orders.body)
    options = options_of(file, orders.plan)
    beside = Path(orders.beside) if orders.beside else None
    async with running_app(
        orders.app, beside=beside, live_calls="allow" if orders.live else "refuse"
    ) as running:
        sources.in_request = True
        with observer.watching(live=orders.live):
            if orders.live:
                await _send_live(running, request, observer)
                return
            outcome = await running.replay(
                file, options=options, request=request, timeout=orders.timeout
            )
    observation = observer.observation
    if outcome.timed_out is not None:
        observation.problem = f"the app did not respond within {outcome.timed_out:g} seconds"
        return
    if outcome.error is not None:
        observation.refusal = str(outcome.error.get("message") or outcome.error.get("error"))
    if outcome.exception is not None:
        observation.failure = f"{outcome.exception.type}: {outcome.exception.message}"
    content = b"" if outcome.error is not None else outcome.body.encode()
    observation.response = response_of(outcome.status, list(outcome.headers), content)


async def _send_live(running: Any, request: Any, observer: Observer) -> None:
    if running._state is not None:
        sent = await send_to_asgi(running.app, request, None, running._state)
    else:
        sent = await asyncio.to_thread(send_to_wsgi, running.app, request, None)
    response, observation = sent.response, observer.observation
    headers = list(response.headers.multi_items())
    observation.response = response_of(response.status_code, headers, response.content)
    if sent.failure is not None:
        observation.failure = f"{type(sent.failure).__name__}: {sent.failure}"
