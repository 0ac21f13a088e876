"""Read requests: the API key, the session id, the flow and the body of a call."""

from __future__ import annotations

import re
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response

from ...local.flow_files.catalog import unknown_flow
from ...local.workflow.plan import Flow
from ..access import Access
from ..admission import idempotency_key
from ..bodies import Body, read_body
from ..errors import RequestError
from ..run import Run, Trigger
from ..run_spans import trace_of_request
from ..service import Service
from ..store.idempotency import IdempotencyKey
from ..store.store import Row

_SESSION_ID = re.compile(r"(?!\.+\Z)[A-Za-z0-9._-]{1,128}\Z")
_VERSION = re.compile(r"v(0|[1-9][0-9]{0,8})\Z")


def service_of(request: Request) -> Service:
    """Return the service of the request's app."""
    service: Service = request.app.state.service
    return service


async def authenticate(request: Request) -> None:
    """Find the rights of the request's key, for :func:`access_of`. Every route of the API depends on it.

    Raises:
        RequestError: The key is missing or unknown (401), too many were wrong, or its organisation has
            sent too many requests (429).
    """
    address = request.client.host if request.client is not None else ""
    doorkeeper = service_of(request).doorkeeper
    access = await doorkeeper.admit(request.headers.get("authorization", ""), address)
    await service_of(request).limiter.take_request(access)
    request.state.access = access


class CallRoute(APIRoute):
    """A route that checks the key and calls its endpoint, which takes the request alone.

    Resolving dependencies and parameters, as FastAPI does, takes a twentieth of a short call.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return what responds to a request."""
        endpoint = self.endpoint

        async def respond(request: Request) -> Response:
            await authenticate(request)
            response: Response = await endpoint(request)
            return response

        return respond


def access_of(request: Request) -> Access:
    """Return the rights of the request's key."""
    access: Access = request.state.access
    return access


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
    access: Access
    key: IdempotencyKey | None
    traceparent: str | None = None

    async def run(self, trigger: Trigger) -> Run:
        """Begin the run that the call asks for, or resume it.

        Raises:
            RequestError: The call does not fit the flow, the run or the organisation's limits.
            RepeatedCallError: The call's idempotency key has begun a run before.
        """
        runs, limits = self.service.runs, self.access.limits
        if self.body.call.execution_id is not None:
            # The run waits on: it can be continued when there are credits again.
            if limits.may_run_out:
                await self.service.limiter.check_credits(self.flow.org)
            run = await runs.resume(self.flow, self.version, self.body, trigger)
            run.traceparent = self.traceparent
            return run
        key = None if trigger == "step" else self.key
        admission = self.service.limiter.admission(self.flow.org, limits, key, self.started_at)
        return await runs.begin(
            self.flow,
            self.version,
            self.body,
            trigger=trigger,
            session_id=self.session_id,
            started_at=self.started_at,
            admission=admission,
            traceparent=self.traceparent,
        )


async def read_call(request: Request, *, allow_v0: bool = True) -> IncomingCall:
    """Read and check a call of a flow; ``allow_v0`` accepts ``/v0`` for the draft."""
    service = service_of(request)
    # Before the body is read: the call began when it arrived, not when its body was complete.
    started_at = service.clock.now()
    names = request.path_params
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
    body = await read_body(request, service.settings, service.bodies)
    address = (names["org"], names["project"], names["slug"])
    access = access_of(request)
    if not access.allows(names["org"]):
        raise unknown_flow(*address, version)
    key, header = None, request.headers.get("idempotency-key")
    if header is not None and body.call.execution_id is None:
        verb = request.scope["path"].rpartition("/")[2]
        path = f"{names['project']}/{names['slug']}/v{version or 0}/{verb}"
        key = idempotency_key(header, names["org"], path, body)
    flow = await service.flows.get(*address, version)
    traceparent = trace_of_request(request.headers)
    return IncomingCall(
        service, flow, version, body, session_id, started_at, access, key, traceparent
    )


async def find_run(request: Request) -> Row:
    """Return the row of the run in the path; raise RequestError if the key or the flow does not fit.

    The error does not say which of them: another organisation's runs look unknown.
    """
    names = request.path_params
    row = await service_of(request).store.execution(names["execution_id"])
    address = (names["org"], names["project"], names["slug"])
    is_allowed = access_of(request).allows(names["org"])
    if row is None or not is_allowed or (row["org"], row["project"], row["slug"]) != address:
        message = f"{'/'.join(address)} has no run {names['execution_id']!r}"
        raise RequestError(404, "RUN_NOT_FOUND", message)
    return row
