"""The keyword arguments of flow calls: typed once, for both clients, and checked before any request."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from inspect import Parameter, Signature
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar

from .arguments import check_arguments, require_timeout
from .protocol.call import CallKind, FlowCall, FlowRef, Trail
from .protocol.requests import Version

if sys.version_info >= (3, 11):
    from typing import Unpack
else:  # pragma: no cover - Python 3.10
    from typing_extensions import Unpack

if TYPE_CHECKING:
    from .arguments import TimeoutInput
    from .function_tools import Tool
    from .models.results import ToolCall


JSONObject = dict[str, Any]
MethodT = TypeVar("MethodT", bound=Callable[..., Any])


class CallOptions(TypedDict, total=False):
    """The options of every call of a flow.

    Attributes:
        parameters: Extra inputs of the flow, by name.
        block_overrides: Settings of single steps, by step id: ``{"step-1": {"temperature": 0.5}}``.
        attachments: At most 10 files, ``{"url": "https://...", "mime_type": "image/png"}``.
        trace: Capture full inputs and outputs for the run's trace.
        version: ``"draft"`` or the number of a published version.
        timeout: Seconds for each request, or an ``httpx.Timeout``; None means the client's timeout.
        max_retries: How often a request is sent again at most; None means the client's number.
        session_id: The session to tag the call with. Inside a replay scope, the session to replay
            this call from.
        extra_headers: More headers for the requests of this call.
    """

    parameters: Mapping[str, Any] | None
    block_overrides: Mapping[str, Mapping[str, Any]] | None
    attachments: Sequence[Mapping[str, str]] | None
    trace: bool
    version: Version
    timeout: TimeoutInput
    max_retries: int | None
    session_id: str | None
    extra_headers: Mapping[str, str] | None


class ToolOptions(CallOptions, total=False):
    """The options of ``execute``, ``steps`` and ``events``.

    Attributes:
        tools: At most 64 tools: functions with the decorator :func:`noukai_sdk.tool`, which the client
            calls by itself, and dicts in OpenAI's form.
        tool_choice: ``"auto"``, ``"none"``, ``"required"`` or OpenAI's object form.
        tool_handler: Called with the pending calls of ``tools`` that are dicts; returns one result for
            each, as ``{"tool_call_id", "output"}`` or ``{"role": "tool", "tool_call_id", "content"}``.
            May be a coroutine function on the async client.
        max_tool_rounds: How often tools are called at most (default 10).
    """

    tools: Sequence[JSONObject | Tool[..., Any]] | None
    tool_choice: str | JSONObject | None
    tool_handler: Callable[[list[ToolCall]], Any] | Callable[[list[JSONObject]], Any] | None
    max_tool_rounds: int


class ExecuteOptions(ToolOptions, total=False):
    """The options of ``execute``.

    Attributes:
        idempotency_key: A service that supports idempotency keys starts one run for all calls with this
            key. Others ignore it.
    """

    idempotency_key: str | None


class JobOptions(CallOptions, total=False):
    """The options of ``execute_async``.

    Attributes:
        idempotency_key: See :class:`ExecuteOptions`.
    """

    idempotency_key: str | None


class StepOptions(ToolOptions, total=False):
    """The options of ``steps``.

    Attributes:
        input_overrides: Inputs of single steps, by step id. They replace the step's own.
    """

    input_overrides: Mapping[str, Any] | None


class EventOptions(StepOptions, total=False):
    """The options of ``events``.

    Attributes:
        run_remaining: Let the service run all steps in one stream, without a pause between them.
    """

    run_remaining: bool


# What every method takes before its options. An overload of the method requires one of the first two.
_INPUTS = {
    "message": "str | None",
    "messages": "Sequence[JSONObject] | None",
    "response_model": "type[OutputT] | None",
}

# The defaults that are not None.
_DEFAULTS: dict[str, Any] = {
    "trace": False,
    "version": "draft",
    "max_tool_rounds": 10,
    "run_remaining": False,
}

# Each argument's name in the body of the request.
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
            # The input may be passed by position.
            Parameter.POSITIONAL_OR_KEYWORD if name == "message" else Parameter.KEYWORD_ONLY,
            default=_DEFAULTS.get(name),
            annotation=getattr(kind, "__forward_arg__", kind),
        )
        for name, kind in {**_INPUTS, **options.__annotations__}.items()
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
    transport: Any,
    accepted: type,
    options: Mapping[str, Any],
    trail: Trail | None = None,
) -> FlowCall:
    """Build the call that these arguments mean. Raises ValueError or TypeError if they are not valid.

    ``accepted`` is the class of options that ``method`` takes, ``trail`` that of the call.
    """
    is_async = transport.is_async
    check_arguments(method, accepted.__annotations__, options, is_async=is_async)
    handler = options.get("tool_handler")
    tools = options.get("tools")
    if tools and not all(isinstance(each, Mapping) for each in tools):
        from .tool_runner import ToolRunner

        runner = ToolRunner(method, tools, handler, is_async=is_async)
        options = {**options, "tools": runner.definitions}
        handler = runner.handler
    request = {}
    for name, value in options.items():
        if name in _BODY and value is not None and value is not False:
            request[_BODY[name]] = value
    timeout = options.get("timeout")
    version = options.get("version", "draft")
    rounds = options.get("max_tool_rounds")
    return FlowCall(
        kind=kind,
        flow=flow if version == "draft" else flow._replace(version=version),
        service=transport.service,
        request=request,
        session_id=options.get("session_id"),
        timeout=None if timeout is None else require_timeout("timeout", timeout),
        max_retries=options.get("max_retries"),
        idempotency_key=options.get("idempotency_key"),
        extra_headers=options.get("extra_headers") or {},
        tool_handler=handler,
        max_tool_rounds=_DEFAULTS["max_tool_rounds"] if rounds is None else rounds,
        manual_tools=is_async and method == "events",
        trail=trail,
    )


__all__ = [
    "CallOptions",
    "EventOptions",
    "ExecuteOptions",
    "JobOptions",
    "StepOptions",
    "ToolOptions",
    "Unpack",
    "make_call",
    "takes",
]
