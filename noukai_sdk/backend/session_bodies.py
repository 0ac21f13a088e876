"""Parse and check what clients store of a session: its exchange, outcomes and replay reports."""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from pydantic import ValidationError
from starlette.requests import Request

from ..errors import FlowExecutionError, FlowNotFoundError
from ..masking.http_messages import mask_body, mask_headers, mask_query
from ..masking.values import Masker
from ..models.base import WireModel
from ..models.boundaries import Boundaries
from ..models.exchanges import CapturedBody, CapturedRequest, Exchange, Header
from ..models.session_lists import StoredReport
from ..models.sessions import Outcome, Outcomes, RecordedCall
from .bodies import BodyReceiver, from_json_object
from .capture import captured, keeps_snapshots
from .encoding import iso, to_column
from .errors import RequestError
from .published import Flows

MAX_BYTES = 4 * 1024 * 1024
"""The limit for an exchange and for a report. Clients capture at most 1 MB of a body."""

MAX_OUTCOMES_BYTES = 8 * 1024 * 1024
MAX_TOTAL_CALLS = 1_000_000
MAX_BOUNDARIES_BYTES = 16 * 1024 * 1024
MAX_BOUNDARIES = 10_000
MAX_NAME = 500
# Each flow is looked up.
MAX_FLOWS = 1000

_masker = Masker()

_ID = re.compile(r"(?!\.+\Z)[A-Za-z0-9._-]{1,128}\Z")
_METHOD = re.compile(r"[A-Z][A-Z0-9!#$%&'*+.^_`|~-]{0,31}\Z")
_CONTROLS = re.compile(r"[\x00-\x1f\x7f]")
_KINDS = ("execute", "step", "job")
_STATES = ("running", "finished")

_Flow = tuple[str, str, str, "int | None"]
"""Organization, project, slug and version."""

M = TypeVar("M", bound=WireModel)


def _parsed(data: bytes, model: type[M]) -> M:
    from_json_object(data)
    try:
        return model.model_validate_json(data, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        location = ".".join(str(part) for part in first["loc"])
        raise _invalid(location, first["msg"]) from error


def _invalid(location: str, message: str) -> RequestError:
    return RequestError(400, "INVALID_REQUEST", f"{location}: {message}")


def is_valid_id(text: str) -> bool:
    """Return True if ``text`` can be the id of a session or of a replay."""
    return _ID.match(text) is not None


async def read_exchange(request: Request, receiver: BodyReceiver) -> dict[str, Any]:
    """Read an exchange; return the columns of its row. Secrets that the client left in are masked."""
    async with receiver.received(request, MAX_BYTES, "BODY_TOO_LARGE") as data:
        return await receiver.parse(_exchange_row, data)


def _exchange_row(data: bytes) -> dict[str, Any]:
    exchange = _parsed(data, Exchange)
    sent, response = exchange.request, exchange.response
    if not _METHOD.match(sent.method):
        raise _invalid("request.method", "must be an HTTP method in capitals")
    if not sent.path.startswith("/") and sent.path != "*":
        raise _invalid("request.path", "must start with '/'")
    for name in ("origin", "path", "query"):
        if _CONTROLS.search(getattr(sent, name)):
            raise _invalid(f"request.{name}", "must be percent-encoded")
    if response.status is not None and not 100 <= response.status <= 599:
        raise _invalid("response.status", "must be an HTTP status")
    masked = Exchange(
        request=CapturedRequest(
            method=sent.method,
            origin=_masker.text(sent.origin),
            path=_masker.text(sent.path),
            query=mask_query(sent.query, _masker),
            headers=tuple(mask_headers(sent.headers, _masker)),
            body=_masked_body("request.body", sent.body, sent.headers),
            redacted=sent.redacted,
        ),
        response=response.model_copy(
            update={
                "headers": tuple(mask_headers(response.headers, _masker)),
                "body": _masked_body("response.body", response.body, response.headers),
            }
        ),
        started_at=exchange.started_at,
        completed_at=exchange.completed_at,
        client_left=exchange.client_left,
    )
    return {
        "body": to_column(masked.model_dump(by_alias=True)),
        "request_line": f"{masked.request.method} {masked.request.target}",
        "response_status": response.status,
        "client_left": masked.client_left,
    }


def _masked_body(
    location: str, body: CapturedBody | None, headers: tuple[Header, ...]
) -> CapturedBody | None:
    if body is None:
        return None
    if body.size < 0:
        raise _invalid(f"{location}.size", "must be 0 or more")
    content_type = next((value for name, value in headers if name.lower() == "content-type"), "")
    if body.encoding == "utf-8":
        return body.model_copy(update={"text": mask_body(body.text, content_type, _masker)})
    try:
        content = base64.b64decode(body.text, validate=True)
        text = content.decode()
    except (binascii.Error, ValueError) as error:
        if isinstance(error, UnicodeDecodeError):
            return body
        raise _invalid(f"{location}.text", "must be base64") from error
    masked = mask_body(text, content_type, _masker)
    if masked == text:
        return body
    return body.model_copy(update={"text": base64.b64encode(masked.encode()).decode()})


async def read_outcomes(
    request: Request, receiver: BodyReceiver, flows: Flows
) -> dict[str, Any] | None:
    """Read the outcomes of a session; return the columns of their row that change, None if there are none.

    What a flow's capture mode does not keep of a run is not kept of an outcome either.
    """
    async with receiver.received(request, MAX_OUTCOMES_BYTES, "BODY_TOO_LARGE") as data:
        body = await receiver.parse(_checked_outcomes, data)
    if body.outcomes is None:
        return {"total_calls": body.total_calls}
    if not body.outcomes and body.parent is None and body.total_calls is None:
        return None
    called = {_flow_of(outcome.call) for outcome in body.outcomes}
    called |= {
        _flow_of(each.call) for each in (body.parent.all_edited if body.parent is not None else ())
    }
    if len(called) > MAX_FLOWS:
        raise _invalid("outcomes", f"must not name more than {MAX_FLOWS} flows")
    modes = {address: await _capture_mode(flows, address) for address in called}
    return await asyncio.to_thread(_outcomes_row, body, body.outcomes, modes)


def _checked_outcomes(data: bytes) -> Outcomes:
    body = _parsed(data, Outcomes)
    total = body.total_calls
    if total is not None and not 0 <= total <= MAX_TOTAL_CALLS:
        raise _invalid("totalCalls", f"must be from 0 to {MAX_TOTAL_CALLS}")
    if body.outcomes is None:
        if total is None:
            raise _invalid("outcomes", "must be a list if there is no totalCalls")
        return body
    for index, outcome in enumerate(body.outcomes):
        where = f"outcomes.{index}"
        if outcome.kind not in _KINDS:
            raise _invalid(f"{where}.kind", f"must be one of {', '.join(_KINDS)}")
        if outcome.position < 0:
            raise _invalid(f"{where}.position", "must be 0 or more")
        if any(at < 0 or count < 1 for at, count in outcome.chunks):
            raise _invalid(f"{where}.chunks", "must be pairs of seconds from 0 and a count from 1")
    parent = body.parent
    if parent is not None and not is_valid_id(parent.session_id):
        raise _invalid("parent.sessionId", "must be a session id")
    return body


def _outcomes_row(
    body: Outcomes, outcomes: Sequence[Outcome], modes: Mapping[_Flow, str]
) -> dict[str, Any]:
    parent = None if body.parent is None else body.parent.model_dump(by_alias=True)
    if parent is not None:
        stored_edits = [parent.pop("edited"), *parent.pop("alsoEdited")]
        edits = [each for each in stored_edits if each is not None]
        for edit, given in zip(edits, body.parent.all_edited if body.parent else (), strict=True):
            request = _captured_request(given.call.request, modes[_flow_of(given.call)])
            edit["call"]["request"] = request
        if edits:
            parent["edited"] = edits[0]
        if edits[1:]:
            parent["alsoEdited"] = edits[1:]
    stored = [_captured(outcome, modes[_flow_of(outcome.call)]) for outcome in outcomes]
    refused = dict.fromkeys(
        "/".join(part or "" for part in (call.org, call.project, call.slug))
        for call in (o.call for o in outcomes if o.execution_id is None)
    )
    flows = "\n".join(["", *(flow.replace("\n", " ") for flow in refused), ""])
    return {
        "body": to_column([outcome.model_dump(by_alias=True) for outcome in stored]),
        "parent": to_column(parent),
        "parent_id": None if parent is None else parent["sessionId"],
        "failed": any(outcome.error is not None for outcome in outcomes),
        "flows": flows.replace("\0", "") if refused else "",
        "total_calls": body.total_calls,
    }


def _flow_of(call: RecordedCall) -> _Flow:
    return call.org or "", call.project or "", call.slug or "", call.version


async def _capture_mode(flows: Flows, address: _Flow) -> str:
    try:
        flow = await flows.get(*address)
    except (FlowNotFoundError, FlowExecutionError, RequestError, ValueError):
        return "full"
    return flow.capture_mode


def _captured_request(request: dict[str, Any], mode: str) -> dict[str, Any]:
    return (captured(mode, request) or {}) if keeps_snapshots(mode) else {}


def _captured(outcome: Outcome, mode: str) -> Outcome:
    """Return the outcome as its flow's capture mode allows to store it."""
    call, error = outcome.call, outcome.error
    if mode == "full":
        return outcome
    request = _captured_request(call.request, mode)
    if error is not None:
        message = captured(mode, error.message) or ""
        details = captured(mode, error.details) or {}
        error = error.model_copy(update={"message": message, "details": details})
    call = call.model_copy(update={"request": request})
    return outcome.model_copy(update={"call": call, "error": error})


async def read_boundaries(request: Request, receiver: BodyReceiver) -> dict[str, Any] | None:
    """Read the calls of a session's recorded functions; return the columns of their row, None without any.

    They belong to no flow, so no capture mode decides about them: each function's ``redact=`` has.
    """
    async with receiver.received(request, MAX_BOUNDARIES_BYTES, "BODY_TOO_LARGE") as data:
        return await receiver.parse(_boundaries_row, data)


def _boundaries_row(data: bytes) -> dict[str, Any] | None:
    body = _parsed(data, Boundaries)
    if len(body.boundaries) > MAX_BOUNDARIES:
        raise _invalid("boundaries", f"must not be more than {MAX_BOUNDARIES}")
    if body.total is not None and not 0 <= body.total <= MAX_TOTAL_CALLS:
        raise _invalid("total", f"must be from 0 to {MAX_TOTAL_CALLS}")
    for index, boundary in enumerate(body.boundaries):
        where = f"boundaries.{index}"
        if not 1 <= len(boundary.name) <= MAX_NAME:
            raise _invalid(f"{where}.name", f"must have 1 to {MAX_NAME} characters")
        if boundary.position < 0:
            raise _invalid(f"{where}.position", "must be 0 or more")
        if any(at < 0 or count < 0 for at, count in boundary.chunks):
            raise _invalid(f"{where}.chunks", "must be pairs of seconds and a count, from 0")
    if not body.boundaries and body.total is None:
        return None
    stored = [each.model_dump(by_alias=True, exclude_defaults=True) for each in body.boundaries]
    return {"body": to_column(stored), "total": body.total}


async def read_report(request: Request, receiver: BodyReceiver, session_id: str) -> StoredReport:
    """Read the report of a replay."""
    async with receiver.received(request, MAX_BYTES, "BODY_TOO_LARGE") as data:
        return await receiver.parse(lambda data: _checked_report(data, session_id), data)


def _checked_report(data: bytes, session_id: str) -> StoredReport:
    report = _parsed(data, StoredReport)
    if not is_valid_id(report.replay_id):
        message = "must be 1 to 128 letters, digits, '-', '_' and '.'"
        raise _invalid("replayId", message)
    if report.state not in _STATES:
        raise _invalid("state", f"must be one of {', '.join(_STATES)}")
    if report.session_id is None:
        report = report.model_copy(update={"session_id": session_id})
    if report.sent is not None and report.sent.differences:
        masked = _masker.value(report.sent.differences)
        sent = report.sent.model_copy(update={"differences": tuple(masked)})
        report = report.model_copy(update={"sent": sent})
    return report


def without_details(body: str) -> str:
    """Return the JSON of a report without its entries, and without the values of its differences."""
    report = StoredReport.model_validate_json(body)
    sent = report.sent
    if sent is not None and sent.differences is not None:
        places = tuple({"where": each.get("where")} for each in sent.differences)
        sent = sent.model_copy(update={"differences": places})
    brief = report.model_copy(update={"report": {}, "sent": sent})
    return to_column(brief.model_dump(by_alias=True)) or ""


def merge_reports(stored: str | None, report: StoredReport) -> dict[str, Any]:
    """Return the columns of a report that replaces a stored one of the same id.

    The application and the sender of the request both report, in any order. So what the sender says is
    kept, and a finished report does not become a running one.
    """
    if stored is not None:
        before = StoredReport.model_validate_json(stored)
        sent = report.sent or before.sent
        if before.state == "finished" and report.state == "running":
            report = before
        report = report.model_copy(update={"sent": sent})
    sent = report.sent
    if report.verdict == "clean" and sent is not None and sent.result == "differs":
        # The calls are as recorded, but the response is not.
        report = report.model_copy(update={"verdict": "differs"})
    return _report_columns(report)


def ended_report(process_id: str, now: int, stored: str) -> dict[str, Any] | None:
    """Return the columns of a report whose process has died; None if it is not open, or of another one."""
    report = StoredReport.model_validate_json(stored)
    sent = report.sent
    if sent is None or sent.process_id != process_id or sent.result is not None:
        return None
    headline = "the process that ran the replay has died"
    update = {
        "sent": sent.model_copy(update={"result": "stopped", "headline": headline}),
        "state": "finished",
        "verdict": "failed",
        "completed_at": report.completed_at or iso(now),
    }
    return _report_columns(report.model_copy(update=update))


def _report_columns(report: StoredReport) -> dict[str, Any]:
    verdict = report.verdict if report.state == "finished" else "running"
    return {"body": to_column(report.model_dump(by_alias=True)), "verdict": verdict}
