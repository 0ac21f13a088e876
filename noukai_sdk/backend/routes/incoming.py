"""What every route needs of its request."""

from __future__ import annotations

import re
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response

from ...local.workflow.plan import Flow
from ..access import Access, authenticate, session_id_from
from ..bodies import Body, read_body
from ..encoding import encode
from ..errors import RequestError
from ..run import Run, Trigger
from ..service import Service
from ..store.store import Found

_VERSION = re.compile(r"v(0|[1-9][0-9]{0,8})\Z")


def service_of(request: Request) -> Service:
    """The backend behind the app."""
    service: Service = request.app.state.service
    return service


def access_of(request: Request) -> Access:
    """What the request's key opens; refuses a bad one."""
    return authenticate(request, service_of(request).settings.keys)


def json_answer(value: object, status: int = 200) -> Response:
    """``value`` as the answer."""
    return Response(encode(value), status, media_type="application/json")


@dataclass(frozen=True)
class Incoming:
    """A call of a flow that was read and checked, as far as that can be told without the run."""

    service: Service
    flow: Flow
    version: int | None
    body: Body
    session_id: str | None
    started_at: int

    async def run(self, trigger: Trigger) -> Run:
        """Begin the run that the call asks for, or take it up again."""
        runs = self.service.runs
        if self.body.call.execution_id is not None:
            return await runs.go_on(self.flow, self.version, self.body, trigger=trigger)
        return runs.begin(
            self.flow,
            self.version,
            self.body,
            trigger=trigger,
            session_id=self.session_id,
            started_at=self.started_at,
        )


async def receive(request: Request, *, working_copy: bool = True) -> Incoming:
    """Read a call of a flow; ``working_copy``: whether ``/v0`` is taken for the draft."""
    service = service_of(request)
    # Before the body is read: the call began when it came in, not when it was complete.
    started_at = service.clock.now()
    names = request.path_params
    access_of(request).require(names["org"])
    session_id = request.headers.get("x-session-id")
    if session_id is not None:
        session_id_from(session_id)
    version = _version(names.get("version"), working_copy)
    body = await read_body(request, service.settings)
    flow = _flow(service, names, version)
    return Incoming(service, flow, version, body, session_id, started_at)


def _flow(service: Service, names: dict[str, str], version: int | None) -> Flow:
    try:
        return service.catalog.get(names["org"], names["project"], names["slug"], version)
    except OSError as error:
        # The system does not look for it: the name is too long for a file, or its folder is closed to us.
        message = f"the flow cannot be looked for: {error.strerror}"
        raise RequestError(404, "FLOW_NOT_FOUND", message) from error


def _version(text: str | None, working_copy: bool) -> int | None:
    if text is None:
        return None
    match = _VERSION.match(text)
    if match is None or (match[1] == "0" and not working_copy):
        raise RequestError(400, "INVALID_VERSION", f"{text!r} is no published version, such as v1")
    return int(match[1]) or None


async def find_run(request: Request) -> Found:
    """The row of the run that the path names, once its flow and the key fit."""
    names = request.path_params
    access_of(request).require(names["org"])
    row = await service_of(request).store.execution(names["execution_id"])
    address = (names["org"], names["project"], names["slug"])
    if row is None or (row["org"], row["project"], row["slug"]) != address:
        message = f"{'/'.join(address)} has no run {names['execution_id']!r}"
        raise RequestError(404, "RUN_NOT_FOUND", message)
    return row
