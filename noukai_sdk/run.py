"""A run of a flow, and its traces."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from typing import TYPE_CHECKING, Literal, overload

from .arguments import check_timeout
from .models.events import StreamEvent
from .models.traces import StepAttempts, StepTrace, Trace
from .protocol import fetching
from .protocol.call import FlowRef
from .protocol.fetching import Attempt
from .protocol.program import Program
from .protocol.requests import require_id
from .transport.drivers import AsyncTransport, SyncTransport

if TYPE_CHECKING:
    from .arguments import TimeoutInput


class _BaseRun:
    """Checks the arguments of both kinds of run, and makes the programs that read."""

    def __init__(
        self, flow: FlowRef, execution_id: str, transport: SyncTransport | AsyncTransport
    ) -> None:
        self.execution_id: str = require_id("execution_id", execution_id)
        self._flow = flow
        self._service = transport.service

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.execution_id!r})"

    def _trace(self, timeout: TimeoutInput) -> Program[Trace]:
        checked = check_timeout("timeout", timeout)
        return fetching.run_trace(self._service, self._flow, self.execution_id, checked)

    def _step_trace(
        self, step_id: str, attempt: Attempt, loop_index: int | None, timeout: TimeoutInput
    ) -> Program[StepTrace | StepAttempts]:
        known = attempt in ("latest", "all")
        if not known and (not isinstance(attempt, int) or isinstance(attempt, bool) or attempt < 1):
            raise ValueError(f'attempt must be "latest", "all" or a number ≥ 1, not {attempt!r}')
        if loop_index is not None and (not isinstance(loop_index, int) or loop_index < 0):
            raise ValueError(f"loop_index must be a number ≥ 0, not {loop_index!r}")
        return fetching.step_trace(
            self._service,
            self._flow,
            self.execution_id,
            require_id("step_id", step_id),
            attempt,
            loop_index,
            check_timeout("timeout", timeout),
        )

    def _live(self, timeout: TimeoutInput) -> Program[None]:
        checked = check_timeout("timeout", timeout)
        return fetching.live_trace(self._service, self._flow, self.execution_id, checked)


class Run(_BaseRun):
    """Read the traces of a run with the sync client. Get one from :meth:`Flow.run`.

    Example:
        >>> run = flow.run(result.execution_id)                             # doctest: +SKIP
        >>> run.trace().summary.duration_ms                                 # doctest: +SKIP
    """

    def __init__(self, flow: FlowRef, execution_id: str, transport: SyncTransport) -> None:
        super().__init__(flow, execution_id, transport)
        self._transport = transport

    def trace(self, *, timeout: TimeoutInput = None) -> Trace:
        """Read the trace of the whole run.

        Args:
            timeout: Seconds for the request; None means the client's timeout.

        Returns:
            The run in ``.summary``, and one attempt of each step in ``.steps``.

        Raises:
            RunNotFoundError: No such run.
            NoukaiError: As for ``execute``.

        Example:
            >>> for step in run.trace().steps:                              # doctest: +SKIP
            ...     print(step.step_id, step.duration_ms)
        """
        return self._transport.run(self._trace(timeout))

    @overload
    def step_trace(
        self,
        step_id: str,
        *,
        attempt: int | Literal["latest"] = "latest",
        loop_index: int | None = None,
        timeout: TimeoutInput = None,
    ) -> StepTrace: ...
    @overload
    def step_trace(
        self,
        step_id: str,
        *,
        attempt: Literal["all"],
        loop_index: int | None = None,
        timeout: TimeoutInput = None,
    ) -> StepAttempts: ...
    def step_trace(
        self,
        step_id: str,
        *,
        attempt: Attempt = "latest",
        loop_index: int | None = None,
        timeout: TimeoutInput = None,
    ) -> StepTrace | StepAttempts:
        """Read the trace of one step.

        Args:
            step_id: The id of the step.
            attempt: ``"latest"``, a number ≥ 1, or ``"all"`` for a list of attempts.
            loop_index: The iteration of a loop, counted from 0.
            timeout: Seconds for the request; None means the client's timeout.

        Returns:
            The attempt; for ``"all"`` a StepAttempts, with all of them in ``.attempts``.

        Raises:
            RunNotFoundError: No such run or step.
            ValueError: A bad argument; nothing was sent.
            NoukaiError: As for ``execute``.

        Example:
            >>> run.step_trace("step-1", attempt="all").attempts            # doctest: +SKIP
        """
        program = self._step_trace(step_id, attempt, loop_index, timeout)
        return self._transport.run(program)

    def live_trace(self, *, timeout: TimeoutInput = None) -> Generator[StreamEvent, None, None]:
        """Yield the run's events: stored ones first, then new ones until the run has ended.

        Leaving the loop early frees the connection, and does not touch the run.

        Args:
            timeout: Seconds to wait for the next event at most; None means the client's timeout.

        Raises:
            RunNotFoundError: No such run.
            NoukaiError: As for ``execute``.

        Example:
            >>> for event in run.live_trace():                              # doctest: +SKIP
            ...     print(event.type)
        """
        return self._transport.stream(self._live(timeout))


class AsyncRun(_BaseRun):
    """Read the traces of a run with the async client. The methods are those of :class:`Run`."""

    def __init__(self, flow: FlowRef, execution_id: str, transport: AsyncTransport) -> None:
        super().__init__(flow, execution_id, transport)
        self._transport = transport

    async def trace(self, *, timeout: TimeoutInput = None) -> Trace:
        """Read the trace of the whole run. See :meth:`Run.trace`."""
        return await self._transport.run(self._trace(timeout))

    @overload
    async def step_trace(
        self,
        step_id: str,
        *,
        attempt: int | Literal["latest"] = "latest",
        loop_index: int | None = None,
        timeout: TimeoutInput = None,
    ) -> StepTrace: ...
    @overload
    async def step_trace(
        self,
        step_id: str,
        *,
        attempt: Literal["all"],
        loop_index: int | None = None,
        timeout: TimeoutInput = None,
    ) -> StepAttempts: ...
    async def step_trace(
        self,
        step_id: str,
        *,
        attempt: Attempt = "latest",
        loop_index: int | None = None,
        timeout: TimeoutInput = None,
    ) -> StepTrace | StepAttempts:
        """Read the trace of one step. See :meth:`Run.step_trace`."""
        program = self._step_trace(step_id, attempt, loop_index, timeout)
        return await self._transport.run(program)

    def live_trace(self, *, timeout: TimeoutInput = None) -> AsyncGenerator[StreamEvent, None]:
        """Yield the run's events. See :meth:`Run.live_trace`; use ``async for``."""
        return self._transport.stream(self._live(timeout))
