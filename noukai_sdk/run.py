"""A run of a flow, and its traces."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from typing import Literal, overload

from .arguments import check_seconds
from .models.events import StreamEvent
from .models.traces import RunTrace, StepAttempts, StepTrace
from .protocol import fetching as reading
from .protocol.call import FlowRef
from .protocol.fetching import Attempt
from .protocol.paths import require_id
from .protocol.program import Program
from .transport.drivers import AsyncTransport, SyncTransport


class _BaseRun:
    """What both kinds of run share: checked arguments, and the programs that read."""

    def __init__(
        self, flow: FlowRef, execution_id: str, transport: SyncTransport | AsyncTransport
    ) -> None:
        self.execution_id: str = require_id("execution_id", execution_id)
        self._flow = flow
        self._service = transport.service

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.execution_id!r})"

    def _trace(self, timeout: float | None) -> Program[RunTrace]:
        timeout = check_seconds("timeout", timeout)
        return reading.run_trace(self._service, self._flow, self.execution_id, timeout)

    def _step_trace(
        self, step_id: str, attempt: Attempt, loop_index: int | None, timeout: float | None
    ) -> Program[StepTrace | StepAttempts]:
        known = attempt in ("latest", "all")
        if not known and (not isinstance(attempt, int) or isinstance(attempt, bool) or attempt < 1):
            raise ValueError(f'attempt must be "latest", "all" or a number from 1, not {attempt!r}')
        if loop_index is not None and (not isinstance(loop_index, int) or loop_index < 0):
            raise ValueError(f"loop_index must be a number from 0, not {loop_index!r}")
        return reading.step_trace(
            self._service,
            self._flow,
            self.execution_id,
            require_id("step_id", step_id),
            attempt,
            loop_index,
            check_seconds("timeout", timeout),
        )

    def _live(self, timeout: float | None) -> Program[None]:
        timeout = check_seconds("timeout", timeout)
        return reading.live_trace(self._service, self._flow, self.execution_id, timeout)


class Run(_BaseRun):
    """A run, on the sync client. Get one from :meth:`Flow.run`.

    Example:
        >>> run = flow.run(result.execution_id)                             # doctest: +SKIP
        >>> run.trace().summary.duration_ms                                 # doctest: +SKIP
    """

    def __init__(self, flow: FlowRef, execution_id: str, transport: SyncTransport) -> None:
        super().__init__(flow, execution_id, transport)
        self._transport = transport

    def trace(self, *, timeout: float | None = None) -> RunTrace:
        """Read the trace of the whole run.

        Args:
            timeout: Seconds for the request; None takes the client's.

        Returns:
            ``.summary``, and one attempt a step in ``.steps``.

        Raises:
            FlowNotFoundError: No such run.
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
        timeout: float | None = None,
    ) -> StepTrace: ...
    @overload
    def step_trace(
        self,
        step_id: str,
        *,
        attempt: Literal["all"],
        loop_index: int | None = None,
        timeout: float | None = None,
    ) -> StepAttempts: ...
    def step_trace(
        self,
        step_id: str,
        *,
        attempt: Attempt = "latest",
        loop_index: int | None = None,
        timeout: float | None = None,
    ) -> StepTrace | StepAttempts:
        """Read the trace of one step.

        Args:
            step_id: The step.
            attempt: ``"latest"``, a number from 1, or ``"all"`` for a list of attempts.
            loop_index: Which turn of a loop, from 0.
            timeout: Seconds for the request; None takes the client's.

        Returns:
            The attempt; for ``"all"`` a StepAttempts with all of them in ``.attempts``.

        Raises:
            FlowNotFoundError: No such run or step.
            ValueError: A bad argument; nothing was sent.
            NoukaiError: As for ``execute``.

        Example:
            >>> run.step_trace("step-1", attempt="all").attempts            # doctest: +SKIP
        """
        program = self._step_trace(step_id, attempt, loop_index, timeout)
        return self._transport.run(program)

    def live_trace(self, *, timeout: float | None = None) -> Generator[StreamEvent, None, None]:
        """The run's events: stored ones first, then new ones until the run has ended.

        Leaving the loop early frees the connection, and does not touch the run.

        Args:
            timeout: Seconds to wait for the next event at most; None takes the client's.

        Raises:
            FlowNotFoundError: No such run.
            NoukaiError: As for ``execute``.

        Example:
            >>> for event in run.live_trace():                              # doctest: +SKIP
            ...     print(event.type)
        """
        return self._transport.stream(self._live(timeout))


class AsyncRun(_BaseRun):
    """A run, on the async client: as :class:`Run`, awaited."""

    def __init__(self, flow: FlowRef, execution_id: str, transport: AsyncTransport) -> None:
        super().__init__(flow, execution_id, transport)
        self._transport = transport

    async def trace(self, *, timeout: float | None = None) -> RunTrace:
        """As :meth:`Run.trace`."""
        return await self._transport.run(self._trace(timeout))

    @overload
    async def step_trace(
        self,
        step_id: str,
        *,
        attempt: int | Literal["latest"] = "latest",
        loop_index: int | None = None,
        timeout: float | None = None,
    ) -> StepTrace: ...
    @overload
    async def step_trace(
        self,
        step_id: str,
        *,
        attempt: Literal["all"],
        loop_index: int | None = None,
        timeout: float | None = None,
    ) -> StepAttempts: ...
    async def step_trace(
        self,
        step_id: str,
        *,
        attempt: Attempt = "latest",
        loop_index: int | None = None,
        timeout: float | None = None,
    ) -> StepTrace | StepAttempts:
        """As :meth:`Run.step_trace`."""
        program = self._step_trace(step_id, attempt, loop_index, timeout)
        return await self._transport.run(program)

    def live_trace(self, *, timeout: float | None = None) -> AsyncGenerator[StreamEvent, None]:
        """As :meth:`Run.live_trace`, with ``async for``."""
        return self._transport.stream(self._live(timeout))
