"""Flows with their versions and problems; publish."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response

from ...local.flow_files.catalog import unknown_flow
from ...local.workflow.kinds import (
    Agent,
    Approval,
    Function,
    Repeat,
    Route,
    SubFlow,
    Transform,
    Work,
)
from ...local.workflow.node import Node
from ...local.workflow.tool_functions import name_of
from ..encoding import iso
from ..published import ListedFlow
from ..store.published_flows import Address, Row
from .incoming import access_of, service_of
from .queries import choice_of, cursor_of, encode_cursor, invalid_query, limit_of, unknown_cursor
from .responses import json_response

router = APIRouter()

_FLOW = "/flows/{org}/{project}/{slug}"


@router.get("/flows")
async def list_flows(request: Request) -> Response:
    """Return one page of the flows that the key may call, by address."""
    access, service = access_of(request), service_of(request)
    limit, after = limit_of(request), _position(cursor_of(request))
    flows = await service.flows.page(
        access.org,
        after,
        limit + 1,
        text=request.query_params.get("q", ""),
        only_problems=choice_of(request, "problems", ("true",)) is not None,
    )
    page, rest = flows[:limit], flows[limit:]
    body = {
        "flows": [_summary(flow) for flow in page],
        "nextCursor": encode_cursor("/".join(page[-1].entry.address)) if rest else None,
    }
    return json_response(body)


@router.get(_FLOW)
async def show_flow(request: Request) -> Response:
    """Return a flow with its steps: of the working copy, or of a version."""
    address, flows = _address(request), service_of(request).flows
    listed = await flows.find(address)
    flow = listed.entry.flow
    version = request.query_params.get("version")
    if version is not None:
        flow = await flows.get(*address, _version_number(version))
    details = {
        "parameters": {} if flow is None else flow.parameters,
        "steps": [] if flow is None else [_step(step) for step in flow.steps],
        "takesStepOutputs": True,
    }
    return json_response({**_summary(listed), **details})


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


def _step(node: Node) -> dict[str, Any]:
    work = node.work
    agent = work if isinstance(work, Agent) else None
    functions = agent.tools if agent is not None and not isinstance(agent.tools, bool) else ()
    return {
        "id": node.id,
        "name": node.name,
        "kind": node.kind,
        "model": node.model,
        "needs": list(node.needs),
        "unless": [need for need in node.needs if node.when.get(need) == (False,)],
        "when": {need: list(branches) for need, branches in node.when.items()},
        "branches": list(work.branches) if node.kind == "route" and isinstance(work, Route) else [],
        "forEach": node.for_each,
        "prompt": None if agent is None else agent.prompt,
        "system": None if agent is None else agent.system,
        "tools": node.tools,
        "functions": [name_of(function) for function in functions],
        "code": _code(work),
        "atMost": work.at_most if isinstance(work, Repeat) else None,
        "steps": [_step(step) for step in work.plan.nodes] if isinstance(work, SubFlow) else [],
    }


def _code(work: Work) -> str | None:
    """Return what a step does that asks no model: an expression, a transformation, or a function's name."""
    if isinstance(work, Transform):
        return work.transformation
    if isinstance(work, Route):
        code = work.by
    elif isinstance(work, Repeat):
        code = work.until
    elif isinstance(work, Function):
        code = work.call
    elif isinstance(work, Approval):
        code = work.prompt
    else:
        return None
    return code if isinstance(code, str) else name_of(code)


def _version_number(text: str) -> int:
    number = int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else 0
    if number < 1:
        raise invalid_query("version", f"must be the number of a version, not {text[:50]!r}")
    return number


def _version(row: Row) -> dict[str, Any]:
    return {
        "version": row["version"],
        "contentHash": row["content_hash"],
        "publishedAt": iso(row["published_at"]),
    }


def _position(text: str | None) -> Address | None:
    """Return the address of the flow that a cursor stands for."""
    if text is None:
        return None
    names = text.split("/")
    if len(names) != 3:
        raise unknown_cursor()
    return names[0], names[1], names[2]
