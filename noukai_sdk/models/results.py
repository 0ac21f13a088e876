"""What a flow answers: a finished run, a run that waits for tools, and the state of a job."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, PrivateAttr

from .base import WireModel

if TYPE_CHECKING:
    from ..protocol.program import Program

ToolCall = dict[str, Any]
ToolResult = dict[str, Any]


class ExecuteResult(WireModel):
    """A run that has ended.

    Attributes:
        status: ``"completed"`` or ``"failed"``.
        result: What the last step produced, of any JSON type.
        flow_id, block_count, execution_id: The service's names for the flow and this run.
        session_id: The session that the call was captured in or replayed from, None outside of one.
    """

    status: Literal["completed", "failed"]
    result: Any = None
    flow_id: str | None = None
    block_count: int | None = None
    execution_id: str | None = None
    session_id: str | None = None

    @property
    def output(self) -> Any:
        """The same as ``result``."""
        return self.result

    @property
    def requires_tool_calls(self) -> Literal[False]:
        """False: the run has ended."""
        return False


class PausedResult(WireModel):
    """A run that waits for tool results; answer with ``resume`` (async) or ``resume_sync``.

    Attributes:
        tool_calls: What the model asks for, in OpenAI's form
            ``{"id", "type": "function", "function": {"name", "arguments"}}``.
        tool_call_messages: The conversation of the paused step so far.
        paused_at_step, iterations_used, accumulated_outputs: Where the run stands.
    """

    status: Literal["tool_calls_required"]
    execution_id: str
    paused_at_step: str
    iterations_used: int = 0
    tool_call_messages: list[dict[str, Any]] = Field(default_factory=list)
    tool_calls: list[ToolCall] = Field(default_factory=list)
    accumulated_outputs: dict[str, Any] = Field(default_factory=dict)
    flow_id: str | None = None
    block_count: int | None = None
    session_id: str | None = None

    # Set by the client: how this run goes on, and the transport that does the I/O.
    _resume: Callable[[Sequence[ToolResult]], Program[Any]] | None = PrivateAttr(None)
    _transport: Any = PrivateAttr(None)

    @property
    def result(self) -> None:
        """None: there is no result yet."""
        return None

    @property
    def output(self) -> None:
        """None: there is no result yet."""
        return None

    @property
    def requires_tool_calls(self) -> Literal[True]:
        """True: answer ``tool_calls`` with ``resume`` or ``resume_sync``."""
        return True

    async def resume(self, *, tool_results: Sequence[ToolResult]) -> ExecuteResult | PausedResult:
        """Send the tools' results and run on, on an async client.

        Args:
            tool_results: One result a tool call, as ``{"tool_call_id", "output"}`` or
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

    def resume_sync(self, *, tool_results: Sequence[ToolResult]) -> ExecuteResult | PausedResult:
        """Send the tools' results and run on, on a sync client. As ``resume``, without ``await``.

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


class JobSubmission(WireModel):
    """The answer to ``POST .../jobs``."""

    execution_id: str
    status: str = "pending"
    flow_id: str | None = None
    block_count: int | None = None


class JobStatus(WireModel):
    """One look at a job: ``"pending"``, ``"running"``, ``"completed"`` or ``"failed"``."""

    execution_id: str
    status: Literal["pending", "running", "completed", "failed"]
    result: Any = None
    error: Any = None
    session_id: str | None = None

    @property
    def is_done(self) -> bool:
        """True once the job has completed or failed."""
        return self.status in ("completed", "failed")
