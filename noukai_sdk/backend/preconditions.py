"""Check a call before its flow runs: message, attachments, tools."""

from __future__ import annotations

import re
from typing import Any

from ..local.workflow.plan import Flow
from ..models.requests import StepRequest
from .errors import RequestError
from .run import Trigger

MAX_ATTACHMENTS = 10
MAX_TOOLS = 64

_TOOL_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")
_ROLES = ("user", "assistant", "tool")
_CHOICES = ("auto", "none", "required")


def check_first_call(flow: Flow, call: StepRequest, trigger: Trigger) -> None:
    """Raise RequestError if the call cannot start a run."""
    if call.step_index != 0:
        message = f"a call without executionId starts a run at stepIndex 0, not {call.step_index}"
        raise RequestError(400, "INVALID_FIRST_CALL", message)
    if call.paused_at_step is not None or call.tool_call_messages:
        message = "to continue after a pause, send the pause's executionId"
        raise RequestError(400, "EXECUTION_ID_INVALID", message)
    if call.message is not None and call.messages is not None:
        raise RequestError(400, "INVALID_FIRST_CALL", "send 'message' or 'messages', not both")
    if call.message is None and not call.messages:
        raise RequestError(400, "MISSING_MESSAGE", "send 'message', or 'messages' with chat turns")
    for index, turn in enumerate(call.messages or []):
        if turn.get("role") not in _ROLES:
            message = (
                f"messages[{index}]: the role must be one of {', '.join(_ROLES)}, "
                f"not {turn.get('role')!r}"
            )
            raise RequestError(400, "MESSAGES_ROLE_INVALID", message)
    check_inputs(flow, call, trigger)


def check_inputs(flow: Flow, call: StepRequest, trigger: Trigger) -> None:
    """Raise RequestError if the flow cannot take the attachments or tools of a call."""
    attachments = call.attachments or []
    if len(attachments) > MAX_ATTACHMENTS:
        message = f"{len(attachments)} attachments, more than the limit of {MAX_ATTACHMENTS}"
        raise RequestError(400, "ATTACHMENTS_INVALID", message)
    for index, attachment in enumerate(attachments):
        url = attachment.get("url")
        if not isinstance(url, str) or not url.startswith("https://"):
            message = f"attachments[{index}]: 'url' must be an HTTPS URL"
            raise RequestError(400, "ATTACHMENTS_INVALID", message)
        for name in ("mime_type", "mimeType"):
            if not isinstance(attachment.get(name, ""), str | None):
                message = f"attachments[{index}]: {name!r} must be a string"
                raise RequestError(400, "ATTACHMENTS_INVALID", message)
    if call.tools:
        _check_tools(flow, call.tools, call.tool_choice, trigger)


def _check_tools(
    flow: Flow,
    tools: list[dict[str, Any]],
    choice: str | dict[str, Any] | None,
    trigger: Trigger,
) -> None:
    if trigger == "job":
        message = "a job cannot pause for tool results: use execute or step"
        raise RequestError(400, "TOOLS_REQUIRE_SYNC_EXECUTE", message)
    if len(tools) > MAX_TOOLS:
        message = f"{len(tools)} tools, more than the limit of {MAX_TOOLS}"
        raise RequestError(400, "TOOLS_INVALID", message)
    names = [_tool_name(tool, index) for index, tool in enumerate(tools)]
    if len(set(names)) < len(names):
        raise RequestError(400, "TOOLS_INVALID", "two tools have the same name")
    if choice is not None and choice not in _CHOICES:
        function = choice.get("function") if isinstance(choice, dict) else None
        if not isinstance(function, dict) or function.get("name") not in names:
            message = f"toolChoice must be one of {', '.join(_CHOICES)}, or name one of the tools"
            raise RequestError(400, "TOOLS_INVALID", message)
    if not any(step.tools for step in flow.steps):
        message = f"no step of {flow} allows tools: set 'tools: true' on one"
        raise RequestError(400, "TOOLS_NOT_ENABLED", message)


def _tool_name(tool: dict[str, Any], index: int) -> str:
    function = tool.get("function")
    if tool.get("type") != "function" or not isinstance(function, dict):
        message = f"tools[{index}] must be {{'type': 'function', 'function': {{'name': ...}}}}"
        raise RequestError(400, "TOOLS_INVALID", message)
    name = function.get("name")
    if not isinstance(name, str) or not _TOOL_NAME.match(name):
        message = f"tools[{index}]: a name is 1 to 64 letters, digits, '_' and '-', not {name!r}"
        raise RequestError(400, "TOOL_NAME_INVALID", message)
    if not isinstance(function.get("parameters", {}), dict):
        raise RequestError(400, "TOOLS_INVALID", f"tools[{index}]: 'parameters' must be an object")
    return name
