"""Lists of sessions and flows, page by page; one session. Only our backend has most of these."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any
from urllib.parse import urlencode

from ..errors import (
    FlowExecutionError,
    NotFoundError,
    NotSupportedError,
    NoukaiError,
    ReplayInvalidSessionError,
    SessionNotFoundError,
)
from ..models.flow_lists import FlowPage
from ..models.session_lists import SessionPage
from ..models.sessions import Session
from .call import Service
from .decoding import decode
from .exchange import exchange
from .program import Program
from .requests import delete, get, session_path

_NO_ROUTE = (HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED, HTTPStatus.NOT_IMPLEMENTED)


def all_sessions(service: Service, query: Mapping[str, Any]) -> Program[None]:
    """Yield every session that fits, newest first. A page is read when its first session is asked for."""
    return _all(service, "/seq/sessions", query, SessionPage, "sessions")


def all_flows(service: Service, query: Mapping[str, Any]) -> Program[None]:
    """Yield every flow that fits, by address. A page is read when its first flow is asked for."""
    return _all(service, "/flows", query, FlowPage, "flows")


def _all(
    service: Service,
    path: str,
    query: Mapping[str, Any],
    page_model: type[SessionPage | FlowPage],
    items: str,
) -> Program[None]:
    """Yield the ``items`` of page after page."""
    cursor: str | None = None
    while True:
        request = get(service, _path(path, query, cursor))
        with _may_lack(f"list {items}"):
            page = decode(page_model, (yield from exchange(service, request)))
        yield from getattr(page, items)
        cursor = page.next_cursor
        if cursor is None:
            return


def read_session(service: Service, session_id: str) -> Program[Session]:
    """Read a session. Raises SessionNotFoundError if there is none, ValueError for a malformed id."""
    try:
        response = yield from exchange(service, get(service, _session_path(session_id)))
    except NotFoundError as error:
        raise _as(SessionNotFoundError, error, f"there is no session {session_id}") from error
    return decode(Session, response)


def delete_session(service: Service, session_id: str) -> Program[None]:
    """Delete a session. Raises SessionNotFoundError if there is none, ValueError for a malformed id."""
    with _may_lack("delete sessions"):
        try:
            yield from exchange(service, delete(service, _session_path(session_id)))
        except NotFoundError as error:
            if error.code == "SESSION_NOT_FOUND":
                text = f"there is no session {session_id}"
                raise _as(SessionNotFoundError, error, text) from error
            raise


def _session_path(session_id: str) -> str:
    try:
        return session_path(session_id)
    except ReplayInvalidSessionError as error:
        # Outside of a replay it is a wrong argument, as others are.
        raise ValueError(error.message) from None


@contextmanager
def _may_lack(what: str) -> Iterator[None]:
    """Raise NotSupportedError if the service does not have the route."""
    try:
        yield
    except SessionNotFoundError:
        raise
    except (NotFoundError, FlowExecutionError) as error:
        if error.status_code not in _NO_ROUTE:
            raise
        text = (
            f"the service cannot {what} (HTTP {error.status_code}): only `noukai dev` and "
            "`noukai serve` can"
        )
        raise _as(NotSupportedError, error, text) from error


def _as(kind: type[NoukaiError], error: NoukaiError, text: str) -> NoukaiError:
    return kind(
        text,
        status_code=error.status_code,
        code=error.code,
        request_id=error.request_id,
        response_body=error.response_body,
    )


def _path(path: str, query: Mapping[str, Any], cursor: str | None) -> str:
    fields = {**query, "cursor": cursor}
    given = {name: value for name, value in fields.items() if value is not None}
    return f"{path}?{urlencode(given)}" if given else path
