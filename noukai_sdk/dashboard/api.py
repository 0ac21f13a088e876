"""The service as the pages use it: its own HTTP API, called in this process with the visitor's key."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import quote

import httpx
from pydantic import ValidationError

from ..models.base import WireModel
from ..models.exchanges import Exchange
from ..models.flow_lists import FlowDescription, FlowPage, PublishedVersion
from ..models.job_lists import JobPage, WorkerList
from ..models.results import JobStatus
from ..models.session_lists import ReplayList, SessionCalls, SessionPage, StoredReport
from ..models.sessions import Session
from ..models.traces import Trace

M = TypeVar("M", bound=WireModel)

# Without a limit for the time: the API has limits of its own, and runs of flows may take long.
_TIMEOUT = httpx.Timeout(None)


GONE = (404, 410)
"""The statuses of what was deleted, has expired or never was."""


class ApiError(Exception):
    """The API responded with an error.

    Attributes:
        status: The HTTP status.
        code: Such as ``SESSION_NOT_FOUND``; empty if the response has none.
        message: What was wrong and what to do, for the visitor.
        retry_after: Seconds after which the API may be asked again, None if it does not say.
    """

    def __init__(self, status: int, code: str, message: str, retry_after: float | None = None):
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.retry_after = retry_after


@dataclass(frozen=True)
class Api:
    """The API with one visitor's key. Every method raises ApiError if the API refuses.

    Attributes:
        client: Sends requests to the API of this process.
        headers: The visitor's key, and the name by which the visitor calls the service.
        address: The visitor's address and port: the API slows down who guesses keys.
    """

    client: httpx.AsyncClient
    headers: Mapping[str, str]
    address: tuple[str, int] | None

    async def sessions(self, query: Mapping[str, Any]) -> SessionPage:
        """Return a page of the list of sessions; ``query`` has the parameters of docs/wire.md."""
        return await self.read(SessionPage, "/seq/sessions", query)

    async def session(self, session_id: str) -> Session:
        """Return a session."""
        response = await self.request("GET", f"/seq/sessions/{quote(session_id, safe='')}")
        # One of thousands of calls takes half a second.
        return await asyncio.to_thread(read_model, Session, response.content)

    async def calls(self, session_id: str, query: Mapping[str, Any]) -> SessionCalls:
        """Return calls of a session without their payloads, sums over all, and its recorded functions."""
        path = f"/seq/sessions/{quote(session_id, safe='')}/calls"
        response = await self.request("GET", path, query=query)
        # Values of recorded functions may have megabytes.
        return await asyncio.to_thread(read_model, SessionCalls, response.content)

    async def call(self, session_id: str, execution_id: str) -> Session:
        """Return a session with one of its calls alone."""
        path = f"/seq/sessions/{quote(session_id, safe='')}/calls/{quote(execution_id, safe='')}"
        response = await self.request("GET", path)
        return read_model(Session, b'{"sessionId":"","executions":[%b]}' % response.content)

    async def exchange(self, session_id: str) -> Exchange | None:
        """Return the request of a session and its response, None if they were not captured."""
        path = f"/seq/sessions/{quote(session_id, safe='')}/exchange"
        try:
            return await self.read(Exchange, path)
        except ApiError as error:
            if error.code != "EXCHANGE_NOT_FOUND":
                raise
            return None

    async def replays(self, session_id: str, limit: int = 20) -> ReplayList:
        """Return the last replays of a session, newest first, without the entries of their reports."""
        path = f"/seq/sessions/{quote(session_id, safe='')}/replays"
        return await self.read(ReplayList, path, {"limit": limit, "details": "false"})

    async def replay(self, replay_id: str) -> StoredReport:
        """Return the report of a replay."""
        return await self.read(StoredReport, f"/seq/replays/{quote(replay_id, safe='')}")

    async def post_replay(self, session_id: str, report: StoredReport) -> None:
        """Store the report of a replay of a session."""
        path = f"/seq/sessions/{quote(session_id, safe='')}/replays"
        await self.request("POST", path, json=report.model_dump(mode="json", by_alias=True))

    async def pin(self, session_id: str, pinned: bool) -> None:
        """Keep a session beyond the retention, or do so no longer."""
        path = f"/seq/sessions/{quote(session_id, safe='')}/pin"
        await self.request("PUT" if pinned else "DELETE", path)

    async def delete_session(self, session_id: str) -> None:
        """Delete a session."""
        await self.request("DELETE", f"/seq/sessions/{quote(session_id, safe='')}")

    async def flows(
        self,
        *,
        limit: int = 200,
        cursor: str | None = None,
        q: str | None = None,
        problems: str | None = None,
    ) -> FlowPage:
        """Return a page of the list of flows; docs/wire.md has the parameters."""
        query = {"limit": limit, "cursor": cursor, "q": q, "problems": problems}
        return await self.read(FlowPage, "/flows", query)

    async def flow(self, address: str, version: int | None = None) -> FlowDescription:
        """Return a flow with the steps of its working copy, or of a version."""
        return await self.read(FlowDescription, f"/flows/{quote(address)}", {"version": version})

    async def publish(self, address: str) -> PublishedVersion:
        """Freeze the working copy of a flow as its next version."""
        response = await self.request("POST", f"/flows/{quote(address)}/publish")
        return PublishedVersion.model_validate_json(response.content)

    async def trace(self, address: str, execution_id: str) -> Trace:
        """Return the trace of a run."""
        return await self.read(Trace, f"{_run(address, execution_id)}/trace")

    async def cancel_run(self, address: str, execution_id: str) -> None:
        """Cancel a run."""
        await self.request("DELETE", _run(address, execution_id))

    def events(
        self, address: str, execution_id: str
    ) -> AbstractAsyncContextManager[httpx.Response]:
        """Yield the stream of a run's events, of the past and those to come."""
        return self.stream("GET", f"{_run(address, execution_id)}/trace/stream")

    async def jobs(self, query: Mapping[str, Any]) -> JobPage:
        """Return a page of the list of jobs; ``query`` has the parameters of docs/wire.md."""
        return await self.read(JobPage, "/seq/jobs", query)

    async def job(self, address: str, execution_id: str) -> JobStatus:
        """Return the status of a job, and its result or error if it has ended."""
        return await self.read(JobStatus, _job(address, execution_id))

    async def cancel_job(self, address: str, execution_id: str) -> None:
        """Cancel a job."""
        await self.request("DELETE", _job(address, execution_id))

    async def retry_job(self, address: str, execution_id: str) -> str:
        """Submit a job that failed again; return the id of the new run."""
        response = await self.request("POST", f"{_job(address, execution_id)}/retry")
        return str(response.json()["executionId"])

    async def workers(self) -> WorkerList:
        """Return the processes of the service that are alive."""
        return await self.read(WorkerList, "/workers")

    async def read(self, model: type[M], path: str, query: Mapping[str, Any] | None = None) -> M:
        """GET a path under the base URL, as a model."""
        response = await self.request("GET", path, query=query)
        return read_model(model, response.content)

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, Any] | None = None,
        json: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        """Send a request to a path under the base URL; return the response when it is complete."""
        async with self.stream(method, path, query=query, json=json, headers=headers) as response:
            await response.aread()
            return response

    @asynccontextmanager
    async def stream(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, Any] | None = None,
        json: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> AsyncIterator[httpx.Response]:
        """Send a request; yield the response while its body is produced."""
        given = {name: value for name, value in (query or {}).items() if value is not None}
        request = self.client.build_request(
            method,
            path.removeprefix("/"),
            params=given,
            json=json,
            headers={**self.headers, **(headers or {})},
            timeout=_TIMEOUT,
            extensions={"client": self.address},
        )
        response = await self.client.send(request, stream=True)
        try:
            if response.is_error:
                await response.aread()
                raise _to_error(response)
            yield response
        finally:
            await response.aclose()


def read_model(model: type[M], content: bytes) -> M:
    """Return a model from JSON, also if a value in it is nested deep.

    Raises:
        ApiError: A value is nested too deep.
    """
    try:
        return model.model_validate_json(content)
    except ValidationError:
        try:
            return model.model_validate(json.loads(content))
        except RecursionError:
            message = "This cannot be shown: a value in it is nested too deep."
            raise ApiError(500, "", message) from None


def _run(address: str, execution_id: str) -> str:
    return f"/seq/{quote(address)}/runs/{quote(execution_id, safe='')}"


def _job(address: str, execution_id: str) -> str:
    return f"/seq/{quote(address)}/jobs/{quote(execution_id, safe='')}"


def _to_error(response: httpx.Response) -> ApiError:
    code, message = "", f"the service responded with status {response.status_code}"
    try:
        detail = response.json()["detail"]
        code, message = str(detail["code"]), str(detail["message"])
    except (ValueError, LookupError, TypeError):
        pass
    after = response.headers.get("retry-after", "")
    retry_after = float(after) if after.isdecimal() else None
    return ApiError(response.status_code, code, message, retry_after)
