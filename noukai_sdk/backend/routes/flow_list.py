"""Flows with their versions and problems; publish."""

from __future__ import annotations

import base64
import binascii
from typing import Any

from fastapi import APIRouter, Request, Response

from ...local.flow_files.catalog import unknown_flow
from ..encoding import iso
from ..errors import RequestError
from ..published import ListedFlow
from ..store.published_flows import Address, Row
from .incoming import access_of, service_of
from .responses import json_response

router = APIRouter()

MAX_LIMIT = 200
DEFAULT_LIMIT = 50

_FLOW = "/flows/{org}/{project}/{slug}"


@router.get("/flows")
async def list_flows(request: Request) -> Response:
    """Return one page of the flows that the key may call, by address."""
    access, service = access_of(request), service_of(request)
    limit = _limit(request.query_params.get("limit"))
    after = _position(request.query_params.get("cursor"))
    flows = await service.flows.page(access.org, after, limit + 1)
    page, rest = flows[:limit], flows[limit:]
    body = {
        "flows": [_summary(flow) for flow in page],
        "nextCursor": _cursor(page[-1].entry.address) if rest else None,
    }
    return json_response(body)


@router.get(_FLOW)
async def show_flow(request: Request) -> Response:
    """Return a flow with its steps."""
    flow = await service_of(request).flows.find(_address(request))
    steps = flow.entry.flow.steps if flow.entry.flow is not None else []
    shown = [
        {"id": step.id, "name": step.name, "kind": step.kind, "model": step.model} for step in steps
    ]
    return json_response({**_summary(flow), "steps": shown})


@router.post(f"{_FLOW}/publish")
async def publish(request: Request) -> Response:
    """Freeze the working copy as the next version: 201, or 200 if a version with its content exists."""
    address = _address(request)
    row, is_new = await service_of(request).flows.publish(address)
    org, project, slug = address
    body = {"org": org, "project": project, "slug": slug, **_version(row), "isNew": is_new}
    return json_response(body, 201 if is_new else 200)


def _address(request: Request) -> Address:
    names = request.path_params
    address = (names["org"], names["project"], names["slug"])
    if not access_of(request).allows(names["org"]):
        raise unknown_flow(*address)
    return address


def _summary(listed: ListedFlow) -> dict[str, Any]:
    entry, flow = listed.entry, listed.entry.flow
    org, project, slug = entry.address
    files = [
        {"version": number, "contentHash": each.content_hash, "publishedAt": None}
        for number, each in entry.versions.items()
    ]
    versions = [*files, *map(_version, listed.published)]
    return {
        "org": org,
        "project": project,
        "slug": slug,
        # None of these without a working copy that was valid once.
        "flowId": None if flow is None else flow.flow_id,
        "description": None if flow is None else flow.description,
        "blockCount": None if flow is None else len(flow.steps),
        "traceCaptureMode": None if flow is None else flow.capture_mode,
        "contentHash": None if flow is None else flow.content_hash,
        "versions": sorted(versions, key=lambda version: version["version"]),
        "problems": [vars(problem) for problem in entry.problems],
    }


def _version(row: Row) -> dict[str, Any]:
    return {
        "version": row["version"],
        "contentHash": row["content_hash"],
        "publishedAt": iso(row["published_at"]),
    }


def _limit(text: str | None) -> int:
    if text is None:
        return DEFAULT_LIMIT
    limit = int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else 0
    if not 1 <= limit <= MAX_LIMIT:
        message = f"limit: must be a number from 1 to {MAX_LIMIT}, not {text[:50]!r}"
        raise RequestError(400, "INVALID_REQUEST", message)
    return limit


def _cursor(address: Address) -> str:
    return base64.urlsafe_b64encode("/".join(address).encode()).decode().rstrip("=")


def _position(cursor: str | None) -> Address | None:
    """Return the address of the flow that a cursor stands for."""
    if cursor is None:
        return None
    try:
        padding = "=" * (-len(cursor) % 4)
        text = base64.b64decode(cursor + padding, altchars=b"-_", validate=True).decode()
        org, project, slug = text.split("/")
    except (binascii.Error, ValueError) as error:
        message = "cursor: must be the nextCursor of another page"
        raise RequestError(400, "INVALID_REQUEST", message) from error
    return org, project, slug
