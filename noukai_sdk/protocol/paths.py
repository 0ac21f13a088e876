"""Addresses: flow slugs, versions, session ids, and the paths under the base URL."""

from __future__ import annotations

import re
from typing import Literal
from urllib.parse import quote

from ..errors import ReplayInvalidSessionError
from .call import CallKind, FlowRef

_SESSION_ID = re.compile(r"(?!\.+\Z)[A-Za-z0-9._-]{1,128}\Z")
_SURROGATES = re.compile("[\ud800-\udfff]")
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
    if len(parts) == 3:
        return _flow_ref(*parts)
    if len(parts) != 1:
        raise ValueError(f"bad flow slug {slug!r}: write 'slug' or 'org/project/slug'")
    named = require_org_and_project(org, project) or defaults
    if named is None:
        raise ValueError(
            f"flow {slug!r} needs an org and a project: write 'org/project/{slug}', "
            "or set org= and project= on the client"
        )
    return _flow_ref(*named, slug)


def require_org_and_project(org: str | None, project: str | None) -> tuple[str, str] | None:
    """The two, or None where neither is given."""
    if org is None and project is None:
        return None
    if org is None or project is None:
        raise ValueError("org and project go together: pass both or neither")
    return require_segment("org", org), require_segment("project", project)


def _flow_ref(org: str, project: str, slug: str) -> FlowRef:
    return FlowRef(
        require_segment("org", org),
        require_segment("project", project),
        require_segment("slug", slug),
    )


def require_segment(name: str, value: str) -> str:
    """``value`` as it is, if it can be one segment of a path: HTTP libraries resolve "." and ".."."""
    if not _is_text(value) or value in ("", ".", "..") or "/" in value:
        raise ValueError(f"bad {name} {value!r}: it must be one name, without slashes")
    return value


def _is_text(value: object) -> bool:
    # A lone surrogate, as from a mangled file name, has no bytes that it could be encoded in.
    return isinstance(value, str) and not _SURROGATES.search(value)


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
    return f"{flow_path(flow)}/jobs/{_id_segment('execution_id', execution_id)}"


def trace_path(flow: FlowRef, execution_id: str, *, live: bool = False) -> str:
    """Where a run's trace is read, or streamed."""
    return f"{_run_path(flow, execution_id)}/trace{'/stream' if live else ''}"


def step_trace_path(flow: FlowRef, execution_id: str, step_id: str) -> str:
    """Where one step's trace is read."""
    return f"{_run_path(flow, execution_id)}/steps/{_id_segment('step_id', step_id)}/trace"


def _run_path(flow: FlowRef, execution_id: str) -> str:
    return f"{flow_path(flow)}/runs/{_id_segment('execution_id', execution_id)}"


def require_id(name: str, value: str) -> str:
    """``value`` as it is, if it can be an id of the service; anything else in it is encoded."""
    if not _is_text(value) or not value.strip("."):
        raise ValueError(f"bad {name} {value!r}: give the one that the service gave")
    return value


def _id_segment(name: str, value: str) -> str:
    return quote(require_id(name, value), safe="")


def session_path(session_id: str) -> str:
    """Where a session is read."""
    return f"/seq/sessions/{quote(require_session_id(session_id), safe='')}"
