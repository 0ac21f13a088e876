"""A flow of the service, as an object: execute it, stream it, queue it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Coroutine, Generator
from typing import Any

from .errors import FlowExecutionError
from .job import AsyncJob, Job
from .models.events import StepCompleted, StepFailed, StreamEvent
from .models.results import ExecuteResult, PausedResult
from .options import CallOptions, EventOptions, StepOptions, ToolOptions, Unpack, make_call, takes
from .protocol.call import CallKind, FlowRef
from .protocol.jobs import JobBackend, LiveJob
from .protocol.paths import require_id
from .protocol.program import Program
from .run import AsyncRun, Run
from .session.scope import admit, known_job
from .transport.drivers import AsyncTransport, SyncTransport


class _BaseFlow:
    """What both flows share: from arguments to the program that answers the call."""

    def __init__(self, ref: FlowRef, transport: SyncTransport | AsyncTransport) -> None:
        self._ref = ref
        self._base_transport = transport

    @property
    def slug(self) -> str:
        """The flow's bare slug."""
        return self._ref.slug

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self._ref)!r})"

    def _begin(self, method: str, kind: CallKind, accepted: type, options: Any) -> Program[Any]:
        # Runs when the method is called, not when its result is awaited: a replay claims the
        # call's position here, so that gathered calls keep the order they were written in.
        transport = self._base_transport
        call = make_call(
            method,
            kind,
            self._ref,
            transport.service,
            accepted,
            options,
            is_async=transport.is_async,
        )
        return admit(call)

    def _execution(self, options: Any) -> Program[ExecuteResult | PausedResult]:
        program = self._begin("execute", "execute", ToolOptions, options)
        return _resumable(program, self._base_transport)

    def _submission(self, options: Any) -> Program[JobBackend]:
        return self._begin("execute_async", "job", CallOptions, options)

    def _known_job(self, execution_id: str) -> JobBackend:
        execution_id = require_id("execution_id", execution_id)
        return known_job(LiveJob(self._base_transport.service, self._ref, execution_id))


class Flow(_BaseFlow):
    """A flow, called with blocking I/O. Get one from :meth:`Noukai.flow`.

    Every method takes the keyword arguments of :mod:`noukai_sdk.options`.
    """

    def __init__(self, ref: FlowRef, transport: SyncTransport) -> None:
        super().__init__(ref, transport)
        self._transport = transport

    @takes(ToolOptions)
    def execute(self, **options: Unpack[ToolOptions]) -> ExecuteResult | PausedResult:
        """Run the flow and wait for its result.

        Args:
            **options: See :class:`~noukai_sdk.options.ToolOptions`; ``message=`` is the input.

        Returns:
            The finished run; or a :class:`PausedResult` where the flow asks for tools and there is
            no ``tool_handler``: go on with ``resume_sync``.

        Raises:
            NoukaiError: The tree in :mod:`noukai_sdk.errors`.
            ToolCallLimitError: ``max_tool_rounds`` is used up.
            TypeError, ValueError: Bad arguments; nothing was sent.

        Example:
            >>> with Noukai() as client:                                    # doctest: +SKIP
            ...     client.flow("acme/spelling/grade-3").execute(message="The cat sat.").result
        """
        return self._transport.run(self._execution(options))

    @takes(StepOptions)
    def steps(self, **options: Unpack[StepOptions]) -> Generator[StepCompleted, None, None]:
        """Run the flow step by step; one event for each finished step.

        Leaving the loop early stops the run and frees the connection.

        Args:
            **options: See :class:`~noukai_sdk.options.StepOptions`.

        Raises:
            FlowExecutionError: A step failed.
            NoukaiError: As for ``execute``.

        Example:
            >>> for step in flow.steps(message="The cat sat."):             # doctest: +SKIP
            ...     print(step.name, step.output)
        """
        program = self._begin("steps", "step", StepOptions, options)
        return self._transport.stream(program, keep=_FinishedSteps())

    @takes(EventOptions)
    def events(self, **options: Unpack[EventOptions]) -> Generator[StreamEvent, None, None]:
        """Run the flow step by step; every event as it comes.

        Tool pauses need ``tool_handler=`` here; only the async client gives them to the loop.

        Args:
            **options: See :class:`~noukai_sdk.options.EventOptions`.

        Raises:
            ToolHandlerRequiredError: The flow asks for tools and there is no handler.
            NoukaiError: As for ``execute``.

        Example:
            >>> for event in flow.events(message="The cat sat."):           # doctest: +SKIP
            ...     print(event.type)
        """
        return self._transport.stream(self._begin("events", "step", EventOptions, options))

    @takes(CallOptions)
    def execute_async(self, **options: Unpack[CallOptions]) -> Job:
        """Put the flow into the service's queue and return at once.

        Named for the service's side: nothing here is awaited.

        Args:
            **options: See :class:`~noukai_sdk.options.CallOptions`. Jobs take no tools.

        Returns:
            The job: ``wait()`` for it, or ``poll()``.

        Raises:
            NoukaiError: As for ``execute``.
            TypeError, ValueError: Bad arguments; nothing was sent.

        Example:
            >>> flow.execute_async(message="A long text").wait().result     # doctest: +SKIP
        """
        return Job(self._transport.run(self._submission(options)), self._transport)

    def job(self, execution_id: str) -> Job:
        """A job that was submitted before, by its ``execution_id``. Nothing is sent.

        Args:
            execution_id: As ``job.execution_id`` gave it.

        Raises:
            ValueError: It cannot be an id.

        Example:
            >>> flow.job("exec_abc123").poll().status                       # doctest: +SKIP
            'completed'
        """
        return Job(self._known_job(execution_id), self._transport)

    def run(self, execution_id: str) -> Run:
        """A past or present run of this flow, for its traces. Nothing is sent.

        Args:
            execution_id: As a result, a job or an error gave it.

        Raises:
            ValueError: It cannot be an id.

        Example:
            >>> flow.run("exec_abc123").trace().steps                       # doctest: +SKIP
        """
        return Run(self._ref, execution_id, self._transport)


class AsyncFlow(_BaseFlow):
    """A flow, called with async I/O. Get one from :meth:`AsyncNoukai.flow`.

    The same surface as :class:`Flow`: ``await`` what returns a value, ``async for`` what iterates.
    """

    def __init__(self, ref: FlowRef, transport: AsyncTransport) -> None:
        super().__init__(ref, transport)
        self._transport = transport

    @takes(ToolOptions)
    def execute(
        self, **options: Unpack[ToolOptions]
    ) -> Coroutine[Any, Any, ExecuteResult | PausedResult]:
        """Run the flow and await its result. As :meth:`Flow.execute`; a ``tool_handler`` may be async.

        Example:
            >>> result = await flow.execute(message="The cat sat.")         # doctest: +SKIP
        """
        return self._transport.run(self._execution(options))

    @takes(StepOptions)
    def steps(self, **options: Unpack[StepOptions]) -> AsyncGenerator[StepCompleted, None]:
        """As :meth:`Flow.steps`, with ``async for``.

        Leaving the loop early frees the connection at once. On trio wrap the stream in
        ``contextlib.aclosing`` for that, as trio asks for with any async generator.

        Example:
            >>> async for step in flow.steps(message="The cat sat."):       # doctest: +SKIP
            ...     print(step.name, step.output)
        """
        program = self._begin("steps", "step", StepOptions, options)
        return self._transport.stream(program, keep=_FinishedSteps())

    @takes(EventOptions)
    def events(self, **options: Unpack[EventOptions]) -> AsyncGenerator[StreamEvent, None]:
        """As :meth:`Flow.events`, with ``async for``.

        A tool pause without a ``tool_handler`` is yielded as ToolCallsRequired: answer it with
        ``await event.resume(tool_results=...)`` and go on with the loop.

        Example:
            >>> async for event in flow.events(message="The cat sat."):     # doctest: +SKIP
            ...     print(event.type)
        """
        return self._transport.stream(self._begin("events", "step", EventOptions, options))

    @takes(CallOptions)
    def execute_async(self, **options: Unpack[CallOptions]) -> Coroutine[Any, Any, AsyncJob]:
        """Put the flow into the service's queue. As :meth:`Flow.execute_async`, awaited.

        Example:
            >>> job = await flow.execute_async(message="A long text")       # doctest: +SKIP
            >>> status = await job.wait()                                   # doctest: +SKIP
        """
        return self._submitted(self._submission(options))

    async def _submitted(self, program: Program[JobBackend]) -> AsyncJob:
        return AsyncJob(await self._transport.run(program), self._transport)

    def job(self, execution_id: str) -> AsyncJob:
        """As :meth:`Flow.job`."""
        return AsyncJob(self._known_job(execution_id), self._transport)

    def run(self, execution_id: str) -> AsyncRun:
        """As :meth:`Flow.run`."""
        return AsyncRun(self._ref, execution_id, self._transport)


def _resumable(
    program: Program[ExecuteResult | PausedResult], transport: SyncTransport | AsyncTransport
) -> Program[ExecuteResult | PausedResult]:
    """``program``, whose pause knows the transport to go on with, and so does the next one."""
    answer = yield from program
    if answer.status == "tool_calls_required":
        go_on = answer._resume
        assert go_on is not None  # every program that returns a pause says how to resume it
        answer._resume = lambda results: _resumable(go_on(results), transport)
        answer._transport = transport
    return answer


class _FinishedSteps:
    """Keeps finished steps; a failed one must not end the loop in silence."""

    def __init__(self) -> None:
        self._execution_id: str | None = None

    def __call__(self, event: StreamEvent) -> bool:
        if event.type == "run_started":
            self._execution_id = event.execution_id or event.run_id
        elif event.type == "step_error":
            raise self._failure(event)
        return event.type == "step_completed"

    def _failure(self, event: StepFailed) -> FlowExecutionError:
        code, message = (event.error.code, event.error.message) if event.error else (None, None)
        return FlowExecutionError(
            f"step {event.step_id} failed: {message or code or 'no reason given'}",
            code=code,
            execution_id=self._execution_id,
        )
