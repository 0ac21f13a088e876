"""The keyword arguments of flow calls: typed once, for both clients, and checked before any request."""

from __future__ import annotations

import functools
import inspect
import math
import sys
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, TypedDict

from .models.results import ToolCall
from .protocol.call import CallKind, FlowCall, FlowRef, Service
from .protocol.paths import Version, require_session_id, resolve_version
from .protocol.requests import PROTECTED_HEADERS

if sys.version_info >= (3, 11):
    from typing import Unpack
else:
    from typing_extensions import Unpack

MOST_ATTACHMENTS = 10  # WIRE.md, "POST execute"
MOST_TOOLS = 64

JSONObject = dict[str, Any]


class CallOptions(TypedDict, total=False):
    """What every way of calling a flow takes.

    Attributes:
        message: The input text. Exactly one of ``message`` and ``messages`` is needed.
        messages: Chat turns instead, ``{"role": "user" | "assistant" | "tool", "content"}``.
        parameters: Extra inputs of the flow, by name.
        block_overrides: Settings of single steps, by step id: ``{"step-1": {"temperature": 0.5}}``.
        attachments: At most 10 files, ``{"url": "https://...", "mime_type": "image/png"}``.
        trace: Capture full inputs and outputs for the run's trace.
        version: ``"draft"`` or the number of a published version.
        timeout: Seconds for each request; None takes the client's.
        session_id: The session to tag the call with. Inside a replay scope, the session to replay
            this one call from.
        extra_headers: More headers for the requests of this call.
    """

    message: str | None
    messages: Sequence[JSONObject] | None
    parameters: Mapping[str, Any] | None
    block_overrides: Mapping[str, Mapping[str, Any]] | None
    attachments: Sequence[Mapping[str, str]] | None
    trace: bool
    version: Version
    timeout: float | None
    session_id: str | None
    extra_headers: Mapping[str, str] | None


class ToolOptions(CallOptions, total=False):
    """What ``execute``, ``steps`` and ``events`` take on top.

    Attributes:
        tools: At most 64 function tools in OpenAI's form.
        tool_choice: ``"auto"``, ``"none"``, ``"required"`` or OpenAI's object form.
        tool_handler: Called with the pending tool calls; returns one result a call, as
            ``{"tool_call_id", "output"}`` or ``{"role": "tool", "tool_call_id", "content"}``. May be
            a coroutine function on the async client.
        max_tool_rounds: How often the handler is asked at most (default 10).
    """

    tools: Sequence[JSONObject] | None
    tool_choice: str | JSONObject | None
    tool_handler: Callable[[list[ToolCall]], Any] | None
    max_tool_rounds: int


class StepOptions(ToolOptions, total=False):
    """What ``steps`` takes on top.

    Attributes:
        input_overrides: Inputs of single steps, by step id, in place of what they would get.
    """

    input_overrides: Mapping[str, Any] | None


class EventOptions(StepOptions, total=False):
    """What ``events`` takes on top.

    Attributes:
        run_remaining: Let the service run all steps in one stream, without a pause between them.
    """

    run_remaining: bool


# Argument -> its name in the request's body.
_BODY = {
    "message": "message",
    "messages": "messages",
    "parameters": "parameters",
    "block_overrides": "blockOverrides",
    "attachments": "attachments",
    "tools": "tools",
    "tool_choice": "toolChoice",
    "trace": "trace",
    "input_overrides": "inputOverrides",
    "run_remaining": "runRemaining",
}


def make_call(
    method: str,
    kind: CallKind,
    flow: FlowRef,
    service: Service,
    accepted: Hashable,
    options: Mapping[str, Any],
    *,
    is_async: bool,
) -> FlowCall:
    """The call that these arguments mean. Raises ValueError or TypeError before anything is sent."""
    _refuse_unknown(method, accepted, options)
    _check_inputs(method, options)
    handler = options.get("tool_handler")
    if handler is not None and not is_async and is_async_callable(handler):
        raise TypeError(
            f"{method}() of the sync client takes a plain function as tool_handler, "
            "not an async one: use AsyncNoukai"
        )
    given = ((wire, options.get(name)) for name, wire in _BODY.items())
    body = {wire: value for wire, value in given if value is not None and value is not False}
    version = resolve_version(options.get("version", "draft"))
    session_id = options.get("session_id")
    return FlowCall(
        kind=kind,
        flow=FlowRef(flow.org, flow.project, flow.slug, version),
        service=service,
        request=body,
        session_id=None if session_id is None else require_session_id(session_id),
        timeout=check_seconds("timeout", options.get("timeout")),
        extra_headers=_checked_headers(options.get("extra_headers")),
        tool_handler=handler,
        max_tool_rounds=_checked_rounds(options.get("max_tool_rounds", 10)),
        manual_tools=is_async and method == "events",
    )


def _refuse_unknown(method: str, accepted: Hashable, options: Mapping[str, Any]) -> None:
    for name in options:
        if name not in _names(accepted):
            raise TypeError(f"{method}() got an unexpected keyword argument {name!r}")


@functools.cache
def _names(accepted: Hashable) -> frozenset[str]:
    return frozenset(accepted.__optional_keys__)  # type: ignore[attr-defined]  # a TypedDict class


def _check_inputs(method: str, options: Mapping[str, Any]) -> None:
    message, messages = options.get("message"), options.get("messages")
    if (message is None) == (messages is None):
        raise TypeError(f"{method}() needs exactly one of message= and messages=")
    if message is not None and not isinstance(message, str):
        raise TypeError(f"message must be a str, not {type(message).__name__}")
    attachments = options.get("attachments") or ()
    if len(attachments) > MOST_ATTACHMENTS:
        raise ValueError(f"{len(attachments)} attachments: at most {MOST_ATTACHMENTS} are allowed")
    for attachment in attachments:
        if not str(attachment.get("url", "")).startswith("https://"):
            raise ValueError("an attachment needs a 'url' that starts with https://")
    if len(options.get("tools") or ()) > MOST_TOOLS:
        raise ValueError(f"more than {MOST_TOOLS} tools: the service refuses them")


def check_seconds(name: str, value: float | None) -> float | None:
    """``value`` if it is a positive number of seconds, or None."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number of seconds, not {type(value).__name__}")
    if not (value > 0 and math.isfinite(value)):
        raise ValueError(f"{name} must be a positive number of seconds, not {value!r}")
    return float(value)


def _checked_rounds(rounds: int) -> int:
    if isinstance(rounds, bool) or not isinstance(rounds, int) or rounds < 0:
        raise ValueError(f"max_tool_rounds must be a number from 0, not {rounds!r}")
    return rounds


def _checked_headers(headers: Mapping[str, str] | None) -> Mapping[str, str]:
    for name in headers or {}:
        if name.lower() in PROTECTED_HEADERS:
            raise ValueError(f"extra_headers may not set {name}: the client sets it")
    return headers or {}


def is_async_callable(function: Any) -> bool:
    """True for coroutine functions, partials of them, and objects whose ``__call__`` is async."""
    while isinstance(function, functools.partial):
        function = function.func
    return inspect.iscoroutinefunction(function) or (
        callable(function) and inspect.iscoroutinefunction(type(function).__call__)
    )


__all__ = [
    "CallOptions",
    "EventOptions",
    "StepOptions",
    "ToolOptions",
    "Unpack",
    "check_seconds",
    "is_async_callable",
    "make_call",
]
