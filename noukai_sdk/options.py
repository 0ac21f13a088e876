"""The keyword arguments of flow calls: typed once, for both clients, and checked before any request."""

from __future__ import annotations

import functools
import inspect
import math
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from inspect import Parameter, Signature
from typing import Any, TypedDict, TypeVar

from .protocol.call import CallKind, FlowCall, FlowRef, Service
from .protocol.paths import Version, require_session_id, resolve_version

if sys.version_info >= (3, 11):
    from typing import Unpack
else:  # pragma: no cover - Python 3.10
    from typing_extensions import Unpack

MOST_ATTACHMENTS = 10  # WIRE.md, "POST execute"
MOST_TOOLS = 64
# The client's own: a call may not change them (WIRE.md, "Headers").
PROTECTED_HEADERS = frozenset(
    {
        "authorization",
        "x-noukai-api-version",
        "user-agent",
        "x-request-id",
        "content-type",
        "cookie",
    }
)

JSONObject = dict[str, Any]
MethodT = TypeVar("MethodT", bound=Callable[..., Any])

_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e]*\Z")


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
    tool_handler: Callable[[list[JSONObject]], Any] | None
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


# What is not None where the caller says nothing.
_DEFAULTS: dict[str, Any] = {
    "trace": False,
    "version": "draft",
    "max_tool_rounds": 10,
    "run_remaining": False,
}

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
_OBJECTS = ("parameters", "block_overrides", "input_overrides")
_LISTS = ("messages", "attachments", "tools")


def takes(options: type) -> Callable[[MethodT], MethodT]:
    """Show the keyword arguments of ``options`` in a method's signature.

    Type checkers read them from ``Unpack``, but ``help()``, notebooks and documentation tools would
    see ``**options`` only.
    """
    self = Parameter("self", Parameter.POSITIONAL_OR_KEYWORD)
    keywords = [
        Parameter(
            name,
            Parameter.KEYWORD_ONLY,
            default=_DEFAULTS.get(name),
            annotation=getattr(kind, "__forward_arg__", kind),
        )
        for name, kind in options.__annotations__.items()
    ]

    def shown(method: MethodT) -> MethodT:
        returns = method.__annotations__["return"]
        signature = Signature([self, *keywords], return_annotation=returns)
        method.__signature__ = signature  # type: ignore[attr-defined]  # what inspect looks for
        return method

    return shown


def make_call(
    method: str,
    kind: CallKind,
    flow: FlowRef,
    service: Service,
    accepted: type,
    options: Mapping[str, Any],
    *,
    is_async: bool,
) -> FlowCall:
    """The call that these arguments mean. Raises ValueError or TypeError before anything is sent."""
    _refuse_unknown(method, accepted, options)
    _check_inputs(method, options)
    version = resolve_version(options.get("version", "draft"))
    session_id = options.get("session_id")
    given = ((_BODY[name], value) for name, value in options.items() if name in _BODY)
    return FlowCall(
        kind=kind,
        flow=FlowRef(flow.org, flow.project, flow.slug, version) if version else flow,
        service=service,
        request={name: value for name, value in given if value is not None and value is not False},
        session_id=None if session_id is None else require_session_id(session_id),
        timeout=check_seconds("timeout", options.get("timeout")),
        extra_headers=_checked_headers(options.get("extra_headers")),
        tool_handler=_checked_handler(method, options.get("tool_handler"), is_async=is_async),
        max_tool_rounds=_checked_rounds(options.get("max_tool_rounds", 10)),
        manual_tools=is_async and method == "events",
    )


def _refuse_unknown(method: str, accepted: type, options: Mapping[str, Any]) -> None:
    for name in options.keys() - accepted.__annotations__.keys():
        raise TypeError(f"{method}() got an unexpected keyword argument {name!r}")


def _check_inputs(method: str, options: Mapping[str, Any]) -> None:
    message, messages = options.get("message"), options.get("messages")
    if (message is None) == (messages is None):
        raise TypeError(f"{method}() needs exactly one of message= and messages=")
    if message is not None and not isinstance(message, str):
        raise TypeError(f"message must be a str, not {type(message).__name__}")
    for name in options.keys() & _OBJECTS:
        if not isinstance(options[name], (Mapping, type(None))):
            raise TypeError(f"{name} must be a dict, not {type(options[name]).__name__}")
    for name in options.keys() & _LISTS:
        _check_list(name, options[name])
    for attachment in options.get("attachments") or ():
        if not str(attachment.get("url", "")).startswith("https://"):
            raise ValueError("an attachment needs a 'url' that starts with https://")


def _check_list(name: str, items: Any) -> None:
    if items is None:
        return
    is_list = isinstance(items, Sequence) and not isinstance(items, (str, bytes))
    if not is_list or not all(isinstance(item, Mapping) for item in items):
        raise TypeError(f"{name} must be a list of dicts")
    most = {"attachments": MOST_ATTACHMENTS, "tools": MOST_TOOLS}.get(name)
    if most is not None and len(items) > most:
        raise ValueError(f"{len(items)} {name}: at most {most} are allowed")


def check_seconds(name: str, value: float | None) -> float | None:
    """``value`` if it is a positive number of seconds, or None."""
    return None if value is None else require_seconds(name, value)


def require_seconds(name: str, value: float) -> float:
    """``value`` if it is a positive number of seconds."""
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
    for name, value in (headers or {}).items():
        if not isinstance(name, str) or not _HEADER_NAME.match(name):
            raise ValueError(f"extra_headers: {name!r} is no header name")
        if name.lower() in PROTECTED_HEADERS:
            raise ValueError(f"extra_headers may not set {name}: the client sets it")
        if not isinstance(value, str) or not _HEADER_VALUE.match(value):
            raise ValueError(f"extra_headers: the value of {name} must be a str of printable ASCII")
    return headers or {}


def _checked_handler(method: str, handler: Any, *, is_async: bool) -> Any:
    if handler is None:
        return None
    if not callable(handler):
        raise TypeError(f"tool_handler must be a function, not {type(handler).__name__}")
    if not is_async and is_async_callable(handler):
        raise TypeError(
            f"{method}() of the sync client takes a plain function as tool_handler, "
            "not an async one: use AsyncNoukai"
        )
    return handler


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
    "require_seconds",
    "takes",
]
