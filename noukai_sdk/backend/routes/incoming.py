"""Read requests: the API key, the session id, the flow and the body of a call."""

from __future__ import annotations

import re
from dataclasses import dataclass

from starlette.requests import Request

from ...local.workflow.plan import Flow
from ..bodies import Body, read_body
from ..errors import RequestError
from ..run import Run, Trigger
from ..service import Service
from ..store.store import Row

_SESSION_ID = re.compile(r"(?!\.+\Z)[A-Za-z0-9._-]{1,128}\Z")
_VERSION = re.compile(r"v(0|[1-9][0-9]{0,8})\Z")


def service_of(request: Request) -> Service:
    """Return the service of the request's app."""
    service: Service = request.app.state.service
    return service


@dataclass(frozen=True)
class Access:
    """The rights of an API key: one organisation, or every one if ``org`` is None."""

    org: str | None

    def allows(self, org: str) -> bool:
        """Return True if the key may use this organisation."""
        return self.org is None or self.org == org

    def require(self, org: str) -> None:
        """Raise RequestError (403) unless the key may use this organisation."""
        if not self.allows(org):
            message = f"this API key may not use the organisation {org!r}"
            raise RequestError(403, "FORBIDDEN", message)


def access_of(request: Request) -> Access:
    """Return the rights of the request's key; raise RequestError (401) for a missing or unknown one."""
    keys = service_of(request).settings.keys
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or key.strip() not in keys:
        raise RequestError(
            401,
            "UNAUTHENTICATED",
            "unknown or missing API key: send 'Authorization: Bearer nk_dev', or name yours in "
            "NOUKAI_DEV_KEYS",
            headers={"WWW-Authenticate": 'Bearer realm="noukai"'},
        )
    return Access(keys[key.strip()])


def check_session_id(text: str) -> str:
    """Return ``text`` if it is a valid session id; raise RequestError (400) if not."""
    if not _SESSION_ID.match(text):
        raise RequestError(
            400,
            "SESSION_ID_INVALID",
            "a session id is 1 to 128 letters, digits, '-', '_' and '.', and not only dots",
        )
    return text


@dataclass(frozen=True)
class IncomingCall:
    """A call of a flow, checked as far as that is possible without the run."""

    service: Service
    flow: Flow
    version: int | None
    body: Body
    session_id: str | None
    started_at: int

    async def run(self, trigger: Trigger) -> Run:
        """Begin the run that the call asks for, or resume it."""
        runs = self.service.runs
        if self.body.call.execution_id is not None:
            return await runs.resume(self.flow, self.version, self.body, trigger)
        return runs.begin(
            self.flow,
            self.version,
            self.body,
            trigger=trigger,
            session_id=self.session_id,
            started_at=self.started_at,
        )


async def read_call(request: Request, *, allow_v0: bool = True) -> IncomingCall:
    """Read and check a call of a flow; ``allow_v0`` accepts ``/v0`` for the draft."""
    service = service_of(request)
    # Before the body is read: the call began when it arrived, not when its body was complete.
    started_at = service.clock.now()
    names = request.path_params
    access_of(request).require(names["org"])
    session_id = request.headers.get("x-session-id")
    if session_id is not None:
        check_session_id(session_id)
    version: int | None = None
    segment = names.get("version")
    if segment is not None:
        match = _VERSION.match(segment)
        if match is None or (match[1] == "0" and not allow_v0):
            message = f"{segment!r} is not a published version, such as v1"
            raise RequestError(400, "INVALID_VERSION", message)
        version = int(match[1]) or None
    body = await read_body(request, service.settings)
    try:
        flow = service.catalog.get(names["org"], names["project"], names["slug"], version)
    except OSError as error:
        # The name is too long for a file, or we may not read its folder.
        message = f"cannot look for the flow: {error.strerror}"
        raise RequestError(404, "FLOW_NOT_FOUND", message) from error
    return IncomingCall(service, flow, version, body, session_id, started_at)


async def find_run(request: Request) -> Row:
    """Return the row of the run in the path; raise RequestError if the key or the flow does not fit."""
    names = request.path_params
    access_of(request).require(names["org"])
    row = await service_of(request).store.execution(names["execution_id"])
    address = (names["org"], names["project"], names["slug"])
    if row is None or (row["org"], row["project"], row["slug"]) != address:
        message = f"{'/'.join(address)} has no run {names['execution_id']!r}"
        raise RequestError(404, "RUN_NOT_FOUND", message)
    return row
