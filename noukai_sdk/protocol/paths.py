"""Addresses: flow slugs, versions, session ids, and the paths under the base URL."""

from __future__ import annotations

import re
from typing import Literal
from urllib.parse import quote

from ..errors import ReplayInvalidSessionError
from .call import CallKind, FlowRef

_SESSION_ID = re.compile(r"(?!\.+\Z)[A-Za-z0-9._-]{1,128}\Z")
_VERBS: dict[CallKind, str] = {"execute": "execute", "step": "step", "job": "jobs"}

Version = int | Literal["draft", "production"]


def resolve_flow(
    slug: str | None, org: str | None, project: str | None, defaults: tuple[str, str] | None
) -> FlowRef:
    """The flow that the three forms of ``client.flow`` name.

    A slug with two slashes is complete and wins; a bare slug takes ``org`` and ``project`` from the
    arguments, else from the client.
    """
    if not isinstance(slug, str) or not slug:
        raise ValueError("a flow needs a slug: flow('org/project/slug') or flow(slug='...')")
    parts = slug.split("/")
    if len(parts) == 3 and all(parts):
        return FlowRef(parts[0], parts[1], parts[2])
    if len(parts) != 1:
        raise ValueError(f"bad flow slug {slug!r}: write 'slug' or 'org/project/slug'")
    if (org is None) != (project is None):
        raise ValueError("org and project go together: pass both or neither")
    if org and project:
        return FlowRef(org, project, slug)
    if defaults is None:
        raise ValueError(
            f"flow {slug!r} needs an org and a project: write 'org/project/{slug}', "
            "or set org= and project= on the client"
        )
    return FlowRef(*defaults, slug)


def resolve_version(version: Version) -> int | None:
    """The number of a published version, None for the draft."""
    if version == "draft":
        return None
    if version == "production":
        raise NotImplementedError(
            'version="production" is not supported yet: pass a published version\'s number'
        )
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise ValueError(f'bad version {version!r}: pass "draft" or a number from 1')
    return version


def require_session_id(session_id: str) -> str:
    """``session_id`` as it is, if it can stand in a header and a path."""
    if not isinstance(session_id, str) or not _SESSION_ID.match(session_id):
        raise ReplayInvalidSessionError(
            "bad session id: letters, digits, '-', '_' and '.', 1 to 128 characters, not only dots"
        )
    return session_id


def flow_path(flow: FlowRef) -> str:
    """The path of a flow, without its version."""
    return "/seq/" + "/".join(quote(part, safe="") for part in (flow.org, flow.project, flow.slug))


def call_path(kind: CallKind, flow: FlowRef) -> str:
    """Where a call of this kind is posted."""
    version = "" if flow.version is None else f"/v{flow.version}"
    return f"{flow_path(flow)}{version}/{_VERBS[kind]}"


def job_path(flow: FlowRef, execution_id: str) -> str:
    """Where a job is polled."""
    return f"{flow_path(flow)}/jobs/{quote(execution_id, safe='')}"


def trace_path(flow: FlowRef, execution_id: str, *, live: bool = False) -> str:
    """Where a run's trace is read, or streamed."""
    tail = "/stream" if live else ""
    return f"{flow_path(flow)}/runs/{quote(execution_id, safe='')}/trace{tail}"


def step_trace_path(flow: FlowRef, execution_id: str, step_id: str) -> str:
    """Where one step's trace is read."""
    run = f"{flow_path(flow)}/runs/{quote(execution_id, safe='')}"
    return f"{run}/steps/{quote(step_id, safe='')}/trace"


def session_path(session_id: str) -> str:
    """Where a session is read."""
    return f"/seq/sessions/{quote(require_session_id(session_id), safe='')}"
