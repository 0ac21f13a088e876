"""The keyword arguments of flow calls: typed once, for both clients, and checked before any request."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from inspect import Parameter, Signature
from typing import Any, TypedDict, TypeVar

from .arguments import CHECKS, is_async_callable
from .protocol.call import CallKind, FlowCall, FlowRef, Service
from .protocol.paths import Version, resolve_version

if sys.version_info >= (3, 11):
    from typing import Unpack
else:  # pragma: no cover - Python 3.10
    from typing_extensions import Unpack


JSONObject = dict[str, Any]
MethodT = TypeVar("MethodT", bound=Callable[..., Any])


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
    _check(method, accepted, options)
    handler = options.get("tool_handler")
    if handler is not None and not is_async and is_async_callable(handler):
        raise TypeError(
            f"{method}() of the sync client takes a plain function as tool_handler, "
            "not an async one: use AsyncNoukai"
        )
    version = resolve_version(options.get("version", "draft"))
    rounds = options.get("max_tool_rounds")
    body = ((_BODY[name], value) for name, value in options.items() if name in _BODY)
    return FlowCall(
        kind=kind,
        flow=flow if version is None else replace(flow, version=version),
        service=service,
        request={name: value for name, value in body if value is not None and value is not False},
        session_id=options.get("session_id"),
        timeout=options.get("timeout"),
        extra_headers=options.get("extra_headers") or {},
        tool_handler=handler,
        max_tool_rounds=_DEFAULTS["max_tool_rounds"] if rounds is None else rounds,
        manual_tools=is_async and method == "events",
    )


def _check(method: str, accepted: type, options: Mapping[str, Any]) -> None:
    names = accepted.__annotations__
    for name, value in options.items():
        if name not in names:
            raise TypeError(f"{method}() got an unexpected keyword argument {name!r}")
        if value is not None and name in CHECKS:
            CHECKS[name](name, value)
    if (options.get("message") is None) == (options.get("messages") is None):
        raise TypeError(f"{method}() needs exactly one of message= and messages=")


__all__ = [
    "CallOptions",
    "EventOptions",
    "StepOptions",
    "ToolOptions",
    "Unpack",
    "is_async_callable",
    "make_call",
    "takes",
]
