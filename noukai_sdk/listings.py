"""``client.sessions`` and ``client.flows``: lists that read their pages by themselves."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

from typing_extensions import TypedDict, Unpack

from .arguments import require_count, require_flag
from .protocol import listing
from .protocol.program import Program

if TYPE_CHECKING:
    from .models.flow_lists import FlowSummary
    from .models.session_lists import SessionSummary
    from .models.sessions import Session
    from .transport.drivers import AsyncTransport, SyncTransport

Status = Literal["failed", "running", "completed"]
Verdict = Literal["clean", "differs", "failed", "running", "any", "never"]


class SessionFilters(TypedDict, total=False):
    """The keyword arguments of ``client.sessions.list``."""

    flow: str | None
    status: Status | None
    since: str | datetime | None
    parent: str | None
    replay: Verdict | None
    error: str | None
    q: str | None
    page_size: int | None


def list_sessions(
    transport: Any,
    *,
    since: str | datetime | None = None,
    page_size: int | None = None,
    flow: str | None = None,
    status: Status | None = None,
    parent: str | None = None,
    replay: Verdict | None = None,
    error: str | None = None,
    q: str | None = None,
) -> Program[None]:
    """Check the filters of ``client.sessions.list``, and return its program."""
    query = {
        "flow": flow,
        "status": status,
        "since": since.isoformat() if isinstance(since, datetime) else since,
        "parent": parent,
        "replay": replay,
        "error": error,
        "q": q,
        "limit": None if page_size is None else require_count("page_size", page_size),
    }
    return listing.all_sessions(transport.service, query)


def list_flows(
    transport: Any, q: str | None, problems: bool, page_size: int | None
) -> Program[None]:
    """Check the filters of ``client.flows.list``, and return its program."""
    only = "true" if require_flag("problems", problems) else None
    limit = None if page_size is None else require_count("page_size", page_size)
    return listing.all_flows(transport.service, {"q": q, "problems": only, "limit": limit})


class Sessions:
    """The sessions of the service, on the sync client."""

    def __init__(self, transport: SyncTransport) -> None:
        self._transport = transport

    def list(self, **filters: Unpack[SessionFilters]) -> Generator[SessionSummary, None, None]:
        """Yield the sessions that fit all filters, newest first. Pages are read as they are needed.

        Args:
            flow: A slug, or ``org/project/slug``.
            status: Of the session as a whole.
            since: A time, or how long ago: ``"30m"``, ``"12h"``, ``"7d"``.
            parent: The id of a session: only its forks.
            replay: The verdict of the last replay; ``"any"`` or ``"never"`` if it was replayed or not.
            error: A text in the error of a run.
            q: A text in inputs, outputs, errors, the request line or the session id.
            page_size: How many sessions one request reads, 1 to 200.

        Raises:
            NotSupportedError: The service has no list of sessions.
            NoukaiError: As for ``execute``.

        Example:
            >>> for session in client.sessions.list(status="failed"):       # doctest: +SKIP
            ...     print(session.session_id, session.cost_usd)
        """
        return self._transport.stream(list_sessions(self._transport, **filters))

    def get(self, session_id: str) -> Session:
        """Read a session with its runs and their steps.

        Args:
            session_id: The id.

        Raises:
            SessionNotFoundError: There is no such session.
            ValueError: The id is malformed; nothing was sent.
            NoukaiError: As for ``execute``.
        """
        return self._transport.run(listing.read_session(self._transport.service, session_id))

    def delete(self, session_id: str) -> None:
        """Delete a session: its runs, and everything stored of it.

        Args:
            session_id: The id.

        Raises:
            SessionNotFoundError: There is no such session.
            ValueError: The id is malformed; nothing was sent.
            NotSupportedError: The service cannot delete sessions.
            FlowExecutionError: A run of it is in progress; code ``SESSION_IN_PROGRESS``.
            NoukaiError: As for ``execute``.
        """
        self._transport.run(listing.delete_session(self._transport.service, session_id))


class AsyncSessions:
    """The sessions of the service, on the async client. See :class:`Sessions`."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport

    def list(self, **filters: Unpack[SessionFilters]) -> AsyncGenerator[SessionSummary, None]:
        """Yield the sessions that fit all filters. See :meth:`Sessions.list`; use ``async for``."""
        return self._transport.stream(list_sessions(self._transport, **filters))

    async def get(self, session_id: str) -> Session:
        """Read a session with its runs and their steps. See :meth:`Sessions.get`."""
        return await self._transport.run(listing.read_session(self._transport.service, session_id))

    async def delete(self, session_id: str) -> None:
        """Delete a session. See :meth:`Sessions.delete`."""
        await self._transport.run(listing.delete_session(self._transport.service, session_id))


class Flows:
    """The flows of the service, on the sync client."""

    def __init__(self, transport: SyncTransport) -> None:
        self._transport = transport

    def list(
        self, *, q: str | None = None, problems: bool = False, page_size: int | None = None
    ) -> Generator[FlowSummary, None, None]:
        """Yield the flows with their versions and problems, by address. Pages are read as they are needed.

        Args:
            q: A part of the address.
            problems: Only flows with problems.
            page_size: How many flows one request reads, 1 to 200.

        Raises:
            NotSupportedError: The service has no list of flows.
            NoukaiError: As for ``execute``.

        Example:
            >>> [flow.address for flow in client.flows.list()]              # doctest: +SKIP
        """
        return self._transport.stream(list_flows(self._transport, q, problems, page_size))


class AsyncFlows:
    """The flows of the service, on the async client. See :class:`Flows`."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport

    def list(
        self, *, q: str | None = None, problems: bool = False, page_size: int | None = None
    ) -> AsyncGenerator[FlowSummary, None]:
        """Yield the flows. See :meth:`Flows.list`; use ``async for``."""
        return self._transport.stream(list_flows(self._transport, q, problems, page_size))
