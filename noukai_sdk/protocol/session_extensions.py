"""Extensions of our backend: the list of sessions, exchanges, outcomes and replay reports.

Another service answers 404. Programs that send what nobody waits for return False then; programs that
read raise NotFoundError, or return None where a missing object is normal.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from ..errors import FlowExecutionError, NotFoundError, NoukaiError
from ..models.base import WireModel
from ..models.boundaries import Boundaries
from ..models.exchanges import Exchange
from ..models.session_lists import ReplayList, SessionPage, StoredReport
from ..models.sessions import Outcomes
from .call import Service
from .decoding import decode
from .exchange import exchange
from .program import Program, Request
from .requests import get, session_path

_NOT_TAKEN = (404, 405, 501)


def list_sessions(service: Service, **query: Any) -> Program[SessionPage]:
    """Read one page of the sessions, newest first.

    Args:
        service: The service.
        **query: ``limit``, ``cursor``, ``flow``, ``status``, ``since``, ``parent``, ``replay``,
            ``error``, ``q``; None leaves one out.
    """
    given = {name: value for name, value in query.items() if value is not None}
    path = f"/seq/sessions?{urlencode(given)}" if given else "/seq/sessions"
    return decode(SessionPage, (yield from exchange(service, get(service, path))))


def fetch_exchange(service: Service, session_id: str) -> Program[Exchange | None]:
    """Read the captured request and response of a session; None if there is none."""
    request = get(service, f"{session_path(session_id)}/exchange")
    try:
        return decode(Exchange, (yield from exchange(service, request)))
    except NotFoundError:
        return None


def fetch_reports(service: Service, session_id: str) -> Program[ReplayList]:
    """Read the reports of a session's replays, the newest first; empty if the service keeps none."""
    request = get(service, f"{session_path(session_id)}/replays")
    try:
        return decode(ReplayList, (yield from exchange(service, request)))
    except NotFoundError:
        return ReplayList()


def put_exchange(service: Service, session_id: str, captured: Exchange) -> Program[bool]:
    """Store the exchange of a session; return False if the service does not take it."""
    return (yield from _send(service, "PUT", f"{session_path(session_id)}/exchange", captured))


def put_outcomes(service: Service, session_id: str, outcomes: Outcomes) -> Program[bool]:
    """Store the outcomes of a session's calls; return False if the service does not take them."""
    return (yield from _send(service, "PUT", f"{session_path(session_id)}/outcomes", outcomes))


def put_boundaries(service: Service, session_id: str, boundaries: Boundaries) -> Program[bool]:
    """Store the calls of a session's recorded functions; return False if the service does not take them."""
    return (yield from _send(service, "PUT", f"{session_path(session_id)}/boundaries", boundaries))


def post_report(service: Service, session_id: str, report: StoredReport) -> Program[bool]:
    """Store the report of a finished replay; return False if the service does not take it."""
    return (yield from _send(service, "POST", f"{session_path(session_id)}/replays", report))


def _send(service: Service, method: str, path: str, body: WireModel) -> Program[bool]:
    content = body.model_dump_json(by_alias=True).encode()
    headers = {"Content-Type": "application/json"}
    try:
        yield from exchange(service, Request(method, path, headers, content, service.timeout))
    except NoukaiError as error:
        if (
            isinstance(error, (NotFoundError, FlowExecutionError))
            and error.status_code in _NOT_TAKEN
        ):
            return False
        raise
    return True
