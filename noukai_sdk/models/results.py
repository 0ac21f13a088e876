"""The results of a flow: a finished run, a run that waits for tools, and the state of a job."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, Literal, NoReturn

from pydantic import Field, PrivateAttr
from typing_extensions import TypedDict, TypeVar

from ..errors import NoukaiError, OutputError
from .base import DecimalText, WireModel
from .usage import RunStep, TokenBreakdown

if TYPE_CHECKING:
    from typing_extensions import Self

    from ..protocol.program import Program

OutputT = TypeVar("OutputT", default=Any)
ToolResult = dict[str, Any]


class FunctionCall(TypedDict):
    """The function that a model calls. ``arguments`` is a JSON object, as text."""

    name: str
    arguments: str


class ToolCall(TypedDict):
    """A tool call of a model, in OpenAI's form."""

    id: str
    type: Literal["function"]
    function: FunctionCall


if TYPE_CHECKING:
    ToolCalls = list[ToolCall]
else:
    # Not validated further: a service may add fields, and they must reach the handler.
    ToolCalls = list[dict[str, Any]]


class OutputModel(WireModel, Generic[OutputT]):
    """Has a result as it was on the wire, and as a value of ``response_model``."""

    result: Any = None

    @property
    def output(self) -> OutputT:
        """The result as the call's ``response_model``; without one, the same as ``result``.

        Raises:
            OutputError: With a ``response_model``: the run has not completed, so it has no output.
        """
        output = self.__dict__.get("output", self.result)
        if isinstance(output, NoukaiError):
            raise output
        return output  # type: ignore[no-any-return]  # with_output() has set it

    def with_output(self, output: Any) -> Self:
        """Set ``output``, or the error that reading it raises. Returns this object."""
        # Beside the fields, so that neither the wire nor a cassette has it.
        self.__dict__["output"] = output
        return self

    def _repr_html_(self) -> str:
        from .notebooks import result_html

        return result_html(self)  # type: ignore[arg-type]  # its subclasses


class ExecuteResult(OutputModel[OutputT]):
    """A run that has ended.

    Attributes:
        status: ``"completed"`` or ``"failed"``.
        result: The output of the last step, of any JSON type.
        flow_id, block_count, execution_id: The service's names for the flow and this run.
        session_id: The session that the call was captured in or replayed from, if any.
        request_id: The response's ``X-Request-ID``, to quote to support.
        duration_ms, tokens, cost_usd, steps: What the run took, and its finished steps; None if the
            service does not say. The cost is an estimate, as a decimal string.
    """

    status: Literal["completed", "failed"]
    flow_id: str | None = None
    block_count: int | None = None
    execution_id: str | None = None
    session_id: str | None = None
    # Of one response, not of the run: a replay of a session returns an equal result without it.
    request_id: str | None = Field(default=None, exclude=True)
    duration_ms: int | float | None = None
    tokens: TokenBreakdown | None = None
    cost_usd: DecimalText | None = None
    steps: list[RunStep] | None = None

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and {**self.__dict__, "request_id": None} == {
            **other.__dict__,
            "request_id": None,
        }

    __hash__ = None  # type: ignore[assignment]  # models can change, as pydantic's own

    @property
    def requires_tool_calls(self) -> Literal[False]:
        """False: the run has ended."""
        return False


class PausedResult(WireModel, Generic[OutputT]):
    """A run that waits for tool results; continue it with ``resume`` (async) or ``resume_sync``.

    Attributes:
        tool_calls: The calls that the model asks for, in OpenAI's form
            ``{"id", "type": "function", "function": {"name", "arguments"}}``.
        tool_call_messages: The conversation of the paused step so far.
        paused_at_step, iterations_used, accumulated_outputs: Where the run stands.
    """

    status: Literal["tool_calls_required"]
    execution_id: str
    paused_at_step: str
    iterations_used: int = 0
    tool_call_messages: list[dict[str, Any]] = Field(default_factory=list)
    tool_calls: ToolCalls = Field(default_factory=list)
    accumulated_outputs: dict[str, Any] = Field(default_factory=dict)
    flow_id: str | None = None
    block_count: int | None = None
    session_id: str | None = None

    # Set by the program that paused: how the run continues, and the driver that runs it.
    _resume: Callable[[Sequence[ToolResult]], Program[Any]] | None = PrivateAttr(None)
    _transport: Any = PrivateAttr(None)
    _is_typed: bool = PrivateAttr(False)  # the call has a response_model

    @property
    def result(self) -> Any:
        """None: there is no result yet. Typed Any, so calls that never pause need no check for None."""
        return None

    @property
    def output(self) -> NoReturn:
        """None: there is no output yet. Typed so that ``result.output`` has the type of an ExecuteResult's.

        Raises:
            OutputError: The call has a ``response_model``.
        """
        if self._is_typed:
            raise OutputError(
                "the run waits for tool results, so it has no output yet: see resume()",
                execution_id=self.execution_id,
            )
        return None  # type: ignore[misc]  # see above

    @property
    def duration_ms(self) -> None:
        """None: the run has not ended."""
        return None

    tokens = cost_usd = steps = duration_ms

    @property
    def requires_tool_calls(self) -> Literal[True]:
        """True: continue with ``resume`` or ``resume_sync``."""
        return True

    def _repr_html_(self) -> str:
        from .notebooks import result_html

        return result_html(self)

    async def resume(
        self, *, tool_results: Sequence[ToolResult]
    ) -> ExecuteResult[OutputT] | PausedResult[OutputT]:
        """Send the results of the tools and continue the run, on an async client.

        Args:
            tool_results: One result for each tool call, as ``{"tool_call_id", "output"}`` or
                ``{"role": "tool", "tool_call_id", "content"}``.

        Returns:
            The finished run, or the next pause.

        Raises:
            TypeError: The call came from the sync client: use ``resume_sync``.
            NoukaiError: As for ``execute``.

        Example:
            >>> while result.status == "tool_calls_required":           # doctest: +SKIP
            ...     result = await result.resume(tool_results=run(result.tool_calls))
        """
        program = self._continue(tool_results, is_async=True)
        return await self._transport.run(program)  # type: ignore[no-any-return]  # set by the client

    def resume_sync(
        self, *, tool_results: Sequence[ToolResult]
    ) -> ExecuteResult[OutputT] | PausedResult[OutputT]:
        """Send the results of the tools and continue the run, on a sync client. See ``resume``.

        Raises:
            TypeError: The call came from the async client: use ``await result.resume(...)``.
        """
        program = self._continue(tool_results, is_async=False)
        return self._transport.run(program)  # type: ignore[no-any-return]  # set by the client

    def _continue(self, tool_results: Sequence[ToolResult], *, is_async: bool) -> Program[Any]:
        if self._resume is None or self._transport is None:
            raise TypeError("this PausedResult did not come from a client: it cannot be resumed")
        if self._transport.is_async != is_async:
            right = "await result.resume(...)" if self._transport.is_async else "resume_sync(...)"
            raise TypeError(f"this result came from the other client: use {right}")
        return self._resume(tool_results)


class JobAccepted(WireModel):
    """The response to ``POST .../jobs``."""

    execution_id: str
    status: str = "pending"
    flow_id: str | None = None
    block_count: int | None = None


class JobStatus(OutputModel[OutputT]):
    """The state of a job: ``"pending"``, ``"running"``, ``"completed"`` or ``"failed"``.

    A cancelled job is ``"failed"``, and ``is_cancelled`` is True.
    """

    execution_id: str = ""
    status: Literal["pending", "running", "completed", "failed"]
    error: Any = None
    session_id: str | None = None

    @property
    def is_done(self) -> bool:
        """True once the job has completed, failed or been cancelled."""
        return self.status in ("completed", "failed")

    @property
    def is_cancelled(self) -> bool:
        """True if the job was cancelled: it has failed with the code CANCELLED."""
        code = self.error.get("code") if isinstance(self.error, dict) else None
        return self.status == "failed" and code == "CANCELLED"


def tool_turns(results: Any, write: Callable[[Any], str]) -> list[dict[str, Any]]:
    """Convert tool results to ``{"role": "tool", "tool_call_id", "content"}``.

    Args:
        results: Each ``{"tool_call_id", "output"}`` or ``{"role": "tool", "tool_call_id", "content"}``.
            ``toolCallId`` is accepted as well.
        write: Returns the text of an output that is not a str.

    Raises:
        TypeError: The results are not a list of dicts.
        ValueError: A result has no id of its call, or no output.
    """
    if not isinstance(results, Sequence) or isinstance(results, (str, bytes)):
        raise TypeError(f"tool results must be a list of dicts, not {type(results).__name__}")
    turns = []
    for result in results:
        if not isinstance(result, Mapping):
            raise TypeError(f"a tool result must be a dict, not {type(result).__name__}")
        call_id = result.get("tool_call_id", result.get("toolCallId"))
        if not isinstance(call_id, str):
            raise ValueError("a tool result needs the 'tool_call_id' of its tool call")
        if "output" not in result and "content" not in result:
            raise ValueError(f"the result of tool call {call_id!r} needs 'output' or 'content'")
        content = result["output"] if "output" in result else result["content"]
        text = content if isinstance(content, str) else write(content)
        turns.append({"role": "tool", "tool_call_id": call_id, "content": text})
    return turns
