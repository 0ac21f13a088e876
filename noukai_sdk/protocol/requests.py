"""Requests: the address of a flow or run, the paths under the base URL, headers and bodies."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Literal
from urllib.parse import quote

from pydantic_core import from_json, to_json

from ..errors import ReplayInvalidSessionError
from .call import CallKind, FlowCall, FlowRef, Service
from .program import Request, Timeout

# A pattern, not compiled: that takes a third of a millisecond, and the first call waits for it.
_SESSION_ID = r"(?!\.+\Z)[A-Za-z0-9._-]{1,128}\Z"
_VERBS: dict[CallKind, str] = {"execute": "execute", "step": "step", "job": "jobs"}

Version = int | Literal["draft", "production"]


def resolve_flow(
    slug: str | None, org: str | None, project: str | None, defaults: tuple[str, str] | None
) -> FlowRef:
    """Return the flow that the arguments of ``client.flow`` name.

    A slug with two slashes is complete. A bare slug takes ``org`` and ``project`` from the arguments, or
    else from the client.
    """
    if not isinstance(slug, str) or not slug:
        raise ValueError("a flow needs a slug: flow('org/project/slug') or flow(slug='...')")
    parts = slug.split("/")
    if len(parts) == 3:
        if org is not None or project is not None:
            raise ValueError(f"{slug!r} names its org and project: leave out org= and project=")
        org, project, slug = parts
    elif len(parts) != 1:
        raise ValueError(f"bad flow slug {slug!r}: write 'slug' or 'org/project/slug'")
    owner = require_org_and_project(org, project) or defaults
    if owner is None:
        raise ValueError(
            f"flow {slug!r} needs an org and a project: write 'org/project/{slug}', "
            "or set org= and project= on the client"
        )
    return FlowRef(*owner, require_segment("slug", slug))


def require_org_and_project(org: str | None, project: str | None) -> tuple[str, str] | None:
    """Return the two, or None if neither is set. One alone raises ValueError."""
    if org is None and project is None:
        return None
    if org is None or project is None:
        raise ValueError("org and project go together: pass both or neither")
    return require_segment("org", org), require_segment("project", project)


def require_segment(name: str, value: str) -> str:
    """Return ``value`` if it can be one segment of a path. HTTP libraries resolve "." and "..", so it
    must be neither.
    """
    if not _is_encodable(value) or value in ("", ".", "..") or "/" in value:
        raise ValueError(f"bad {name} {value!r}: it must be one name, without slashes")
    return value


def require_session_id(session_id: str) -> str:
    """Return ``session_id`` if it is valid in a header and in a path."""
    if not isinstance(session_id, str) or not re.match(_SESSION_ID, session_id):
        raise ReplayInvalidSessionError(
            "bad session id: letters, digits, '-', '_' and '.', 1 to 128 characters, not only dots"
        )
    return session_id


def require_id(name: str, value: str) -> str:
    """Return ``value`` if it can be an id of the service. Special characters are allowed: paths encode
    them.
    """
    if not _is_encodable(value) or not value.strip("."):
        raise ValueError(f"bad {name} {value!r}: pass the id that the service returned")
    return value


def _is_encodable(value: object) -> bool:
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:  # a lone surrogate, as from a mangled file name
        return False
    return True


def flow_path(flow: FlowRef) -> str:
    """Return the path of a flow, without its version."""
    return f"/seq/{quote(flow.org, safe='')}/{quote(flow.project, safe='')}/{quote(flow.slug, safe='')}"


def call_path(kind: CallKind, flow: FlowRef) -> str:
    """Return the path that calls of this kind are posted to."""
    version = "" if flow.version is None else f"/v{flow.version}"
    return f"{flow_path(flow)}{version}/{_VERBS[kind]}"


def job_path(flow: FlowRef, execution_id: str) -> str:
    """Return the path that a job is polled at."""
    return f"{flow_path(flow)}/jobs/{_id_segment('execution_id', execution_id)}"


def trace_path(flow: FlowRef, execution_id: str, *, live: bool = False) -> str:
    """Return the path of a run's trace, or of its live stream."""
    run = f"{flow_path(flow)}/runs/{_id_segment('execution_id', execution_id)}"
    return f"{run}/trace/stream" if live else f"{run}/trace"


def step_trace_path(flow: FlowRef, execution_id: str, step_id: str) -> str:
    """Return the path of the trace of one step."""
    run = f"{flow_path(flow)}/runs/{_id_segment('execution_id', execution_id)}"
    return f"{run}/steps/{_id_segment('step_id', step_id)}/trace"


def session_path(session_id: str) -> str:
    """Return the path of a recorded session."""
    return f"/seq/sessions/{require_session_id(session_id)}"


def _id_segment(name: str, value: str) -> str:
    return quote(require_id(name, value), safe="")


def post(call: FlowCall, body: Mapping[str, Any], *, accept: str | None = None) -> Request:
    """Build the POST of ``call`` with this body."""
    headers = {"Content-Type": "application/json"}
    if call.session_id is not None:
        headers["X-Session-Id"] = call.session_id
    if accept is not None:
        headers["Accept"] = accept
    if call.idempotency_key is not None and "executionId" not in body:
        headers["Idempotency-Key"] = call.idempotency_key
    if call.extra_headers:
        # Ours win over a header of the same name in other letters.
        ours = {name.lower() for name in headers}
        extra = {name: v for name, v in call.extra_headers.items() if name.lower() not in ours}
        headers = extra | headers
    timeout = call.service.timeout if call.timeout is None else call.timeout
    path = call_path(call.kind, call.flow)
    return Request("POST", path, headers, encode(body), timeout, call.max_retries)


def get(
    service: Service,
    path: str,
    *,
    timeout: Timeout | None = None,
    headers: Mapping[str, str] | None = None,
) -> Request:
    """Build a GET of ``path``."""
    timeout = service.timeout if timeout is None else timeout
    return Request("GET", path, dict(headers or {}), None, timeout)


def delete(service: Service, path: str, *, timeout: Timeout | None = None) -> Request:
    """Build a DELETE of ``path``."""
    return Request("DELETE", path, {}, None, service.timeout if timeout is None else timeout)


def encode(value: Any) -> bytes:
    """Return ``value`` as JSON. Raises TypeError if it has no JSON form."""
    try:
        text = to_json(value)
        # Both words are fine inside a string. As a number they are not valid JSON.
        if b"NaN" in text or b"Infinity" in text:
            json.dumps(from_json(text), allow_nan=False)
    except ValueError as error:
        raise TypeError(f"this cannot be sent as JSON: {error}") from error
    return text
