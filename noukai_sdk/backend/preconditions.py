"""What must be true of a call before its flow runs: message, attachments, tools."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ..local.workflow.plan import Flow
from ..models.requests import StepRequest
from .errors import RequestError
from .run import Trigger

MOST_ATTACHMENTS = 10
MOST_TOOLS = 64

_TOOL_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")
_ROLES = ("user", "assistant", "tool")
_CHOICES = ("auto", "none", "required")


def check_fresh(flow: Flow, call: StepRequest, trigger: Trigger) -> None:
    """Refuse a first call that cannot start a run."""
    _check_cursor(call)
    _check_message(call)
    check_inputs(flow, call, trigger)


def check_inputs(flow: Flow, call: StepRequest, trigger: Trigger) -> None:
    """Refuse attachments and tools that the flow cannot take, in any call."""
    _check_attachments(call)
    _check_tools(flow, call, trigger)


def _check_cursor(call: StepRequest) -> None:
    if call.step_index != 0:
        raise RequestError(
            400,
            "INVALID_FIRST_CALL",
            f"a call without executionId starts a run at stepIndex 0, not {call.step_index}",
        )
    if call.paused_at_step is not None or call.tool_call_messages:
        raise RequestError(
            400, "EXECUTION_ID_INVALID", "to go on after a pause, send the pause's executionId"
        )


def _check_message(call: StepRequest) -> None:
    if call.message is not None and call.messages is not None:
        raise RequestError(400, "INVALID_FIRST_CALL", "send 'message' or 'messages', not both")
    if call.message is None and not call.messages:
        raise RequestError(400, "MISSING_MESSAGE", "send 'message', or 'messages' with chat turns")
    for place, turn in enumerate(call.messages or []):
        if turn.get("role") not in _ROLES:
            raise RequestError(
                400,
                "MESSAGES_ROLE_INVALID",
                f"messages[{place}]: the role is {turn.get('role')!r}, and must be one of "
                f"{', '.join(_ROLES)}",
            )


def _check_attachments(call: StepRequest) -> None:
    attachments = call.attachments or []
    if len(attachments) > MOST_ATTACHMENTS:
        message = f"{len(attachments)} attachments, and at most {MOST_ATTACHMENTS} are taken"
        raise RequestError(400, "ATTACHMENTS_INVALID", message)
    for place, attachment in enumerate(attachments):
        url = attachment.get("url")
        if not isinstance(url, str) or not url.startswith("https://"):
            message = f"attachments[{place}]: 'url' must be an HTTPS URL"
            raise RequestError(400, "ATTACHMENTS_INVALID", message)
        for name in ("mime_type", "mimeType"):
            if not isinstance(attachment.get(name, ""), str | None):
                message = f"attachments[{place}]: {name!r} must be a text"
                raise RequestError(400, "ATTACHMENTS_INVALID", message)


def _check_tools(flow: Flow, call: StepRequest, trigger: Trigger) -> None:
    if not call.tools:
        return
    if trigger == "job":
        raise RequestError(
            400,
            "TOOLS_REQUIRE_SYNC_EXECUTE",
            "a job has nobody to answer its tool calls: use execute or step",
        )
    if len(call.tools) > MOST_TOOLS:
        message = f"{len(call.tools)} tools, and at most {MOST_TOOLS} are taken"
        raise RequestError(400, "TOOLS_INVALID", message)
    names = [_tool_name(tool, place) for place, tool in enumerate(call.tools)]
    if len(set(names)) < len(names):
        raise RequestError(400, "TOOLS_INVALID", "two tools have the same name")
    _check_choice(call.tool_choice, names)
    if not any(step.tools for step in flow.steps):
        message = f"no step of {flow} allows tools: set 'tools: true' on one"
        raise RequestError(400, "TOOLS_NOT_ENABLED", message)


def _tool_name(tool: Mapping[str, Any], place: int) -> str:
    function = tool.get("function")
    if tool.get("type") != "function" or not isinstance(function, dict):
        message = f"tools[{place}] must be {{'type': 'function', 'function': {{'name': ...}}}}"
        raise RequestError(400, "TOOLS_INVALID", message)
    name = function.get("name")
    if not isinstance(name, str) or not _TOOL_NAME.match(name):
        message = f"tools[{place}]: a name is 1 to 64 letters, digits, '_' and '-', not {name!r}"
        raise RequestError(400, "TOOL_NAME_INVALID", message)
    if not isinstance(function.get("parameters", {}), dict):
        raise RequestError(400, "TOOLS_INVALID", f"tools[{place}]: 'parameters' must be an object")
    return name


def _check_choice(choice: str | dict[str, Any] | None, names: list[str]) -> None:
    if choice is None or choice in _CHOICES:
        return
    function = choice.get("function") if isinstance(choice, dict) else None
    if not isinstance(function, dict) or function.get("name") not in names:
        message = f"toolChoice must be one of {', '.join(_CHOICES)}, or name one of the tools"
        raise RequestError(400, "TOOLS_INVALID", message)
