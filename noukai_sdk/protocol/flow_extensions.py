"""Extensions of our backend: the versions of a flow, and publish. Another service returns 404."""

from __future__ import annotations

from ..models.flow_lists import FlowDescription, PublishedVersion
from .call import FlowRef, Service
from .decoding import decode
from .exchange import exchange
from .program import Program, Request
from .requests import flow_path, get


def describe_flow(service: Service, flow: FlowRef) -> Program[FlowDescription]:
    """Read a flow with its versions and problems."""
    return decode(FlowDescription, (yield from exchange(service, get(service, _path(flow)))))


def publish_flow(service: Service, flow: FlowRef) -> Program[PublishedVersion]:
    """Freeze the working copy of a flow as its next version."""
    request = Request("POST", f"{_path(flow)}/publish", {}, None, service.timeout)
    return decode(PublishedVersion, (yield from exchange(service, request)))


def _path(flow: FlowRef) -> str:
    return f"/flows/{flow_path(flow).removeprefix('/seq/')}"
