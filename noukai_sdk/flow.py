"""A flow of the service: execute it, stream it, queue it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Coroutine, Generator
from typing import TYPE_CHECKING, Any

from .errors import FlowExecutionError
from .options import CallOptions, EventOptions, StepOptions, ToolOptions, Unpack, make_call, takes
from .protocol.call import CallKind, FlowRef
from .protocol.program import Program
from .session.scope import admit, known_job

if TYPE_CHECKING:
    # Jobs, runs and events are imported at first use: the first call of most programs needs none.
    from .job import AsyncJob, Job
    from .models.events import StepCompleted, StreamEvent
    from .models.results import ExecuteResult, PausedResult
    from .protocol.jobs import JobBackend
    from .run import AsyncRun, Run
    from .transport.drivers import AsyncTransport, SyncTransport


class _BaseFlow:
    """Turns the arguments of both flows into programs."""

    def __init__(self, ref: FlowRef, transport: SyncTransport | AsyncTransport) -> None:
        self._ref = ref
        self._base_transport = transport

    @property
    def org(self) -> str:
        """The flow's organisation."""
        return self._ref.org

    @property
    def project(self) -> str:
        """The flow's project."""
        return self._ref.project

    @property
    def slug(self) -> str:
        """The flow's bare slug."""
        return self._ref.slug

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self._ref)!r})"

    def _begin(
        self, method: str, kind: CallKind, accepted: type, message: str | None, options: Any
    ) -> Program[Any]:
        if message is not None:
            if "message" in options:
                raise TypeError(f"{method}() got multiple values for argument 'message'")
            options["message"] = message
        # Runs when the method is called, not when its result is awaited: a replay claims the
        # call's position here, so that gathered calls keep the order they were written in.
        return admit(make_call(method, kind, self._ref, self._base_transport, accepted, options))

    def _known_job(self, execution_id: str) -> JobBackend:
        from .protocol.jobs import LiveJob
        from .protocol.requests import require_id

        execution_id = require_id("execution_id", execution_id)
        return known_job(LiveJob(self._base_transport.service, self._ref, execution_id))


class Flow(_BaseFlow):
    """Call a flow with blocking I/O. Get one from :meth:`Noukai.flow`.

    Every method takes the keyword arguments of :mod:`noukai_sdk.options`.
    """

    def __init__(self, ref: FlowRef, transport: SyncTransport) -> None:
        super().__init__(ref, transport)
        self._transport = transport

    @takes(ToolOptions)
    def execute(
        self, message: str | None = None, /, **options: Unpack[ToolOptions]
    ) -> ExecuteResult | PausedResult:
        """Run the flow and wait for its result.

        Args:
            message: The input text, by position or as ``message=``.
            **options: See :class:`~noukai_sdk.options.ToolOptions`.

        Returns:
            The finished run; or a :class:`PausedResult` if the flow asks for tools and there is no
            ``tool_handler``: continue with ``resume_sync``.

        Raises:
            NoukaiError: The tree in :mod:`noukai_sdk.errors`.
            ToolCallLimitError: ``max_tool_rounds`` is used up.
            TypeError, ValueError: Bad arguments; nothing was sent.

        Example:
            >>> with Noukai() as client:                                    # doctest: +SKIP
            ...     client.flow("acme/spelling/grade-3").execute(message="The cat sat.").result
        """
        program: Program[ExecuteResult | PausedResult] = self._begin(
            "execute", "execute", ToolOptions, message, options
        )
        return self._transport.run(program)

    @takes(StepOptions)
    def steps(
        self, message: str | None = None, /, **options: Unpack[StepOptions]
    ) -> Generator[StepCompleted, None, None]:
        """Run the flow step by step, and yield one event for each finished step.

        Leaving the loop early stops the run and frees the connection.

        Args:
            message: The input text, by position or as ``message=``.
            **options: See :class:`~noukai_sdk.options.StepOptions`.

        Raises:
            FlowExecutionError: A step failed.
            NoukaiError: As for ``execute``.

        Example:
            >>> for step in flow.steps(message="The cat sat."):             # doctest: +SKIP
            ...     print(step.name, step.output)
        """
        program = self._begin("steps", "step", StepOptions, message, options)
        return self._transport.stream(program, keep=_StepFilter())

    @takes(EventOptions)
    def events(
        self, message: str | None = None, /, **options: Unpack[EventOptions]
    ) -> Generator[StreamEvent, None, None]:
        """Run the flow step by step, and yield every event as it comes.

        Tool pauses need ``tool_handler=`` here; only the async client yields them.

        Args:
            message: The input text, by position or as ``message=``.
            **options: See :class:`~noukai_sdk.options.EventOptions`.

        Raises:
            ToolHandlerRequiredError: The flow asks for tools and there is no ``tool_handler``.
            NoukaiError: As for ``execute``.

        Example:
            >>> for event in flow.events(message="The cat sat."):           # doctest: +SKIP
            ...     print(event.type)
        """
        return self._transport.stream(self._begin("events", "step", EventOptions, message, options))

    @takes(CallOptions)
    def execute_async(self, message: str | None = None, /, **options: Unpack[CallOptions]) -> Job:
        """Put the flow into the service's queue and return at once.

        The call is async on the service's side: nothing is awaited here.

        Args:
            message: The input text, by position or as ``message=``.
            **options: See :class:`~noukai_sdk.options.CallOptions`. Jobs take no tools.

        Returns:
            The job: ``wait()`` for it, or ``poll()``.

        Raises:
            NoukaiError: As for ``execute``.
            TypeError, ValueError: Bad arguments; nothing was sent.

        Example:
            >>> flow.execute_async(message="A long text").wait().result     # doctest: +SKIP
        """
        from .job import Job

        program = self._begin("execute_async", "job", CallOptions, message, options)
        return Job(self._transport.run(program), self._transport)

    def job(self, execution_id: str) -> Job:
        """Return a job that was submitted before, by its ``execution_id``. Nothing is sent.

        Args:
            execution_id: The ``execution_id`` of the job.

        Raises:
            ValueError: It is not a valid id.

        Example:
            >>> flow.job("exec_abc123").poll().status                       # doctest: +SKIP
            'completed'
        """
        from .job import Job

        return Job(self._known_job(execution_id), self._transport)

    def run(self, execution_id: str) -> Run:
        """Return a past or present run of this flow, to read its traces. Nothing is sent.

        Args:
            execution_id: The ``execution_id`` of a result, a job or an error.

        Raises:
            ValueError: It is not a valid id.

        Example:
            >>> flow.run("exec_abc123").trace().steps                       # doctest: +SKIP
        """
        from .run import Run

        return Run(self._ref, execution_id, self._transport)


class AsyncFlow(_BaseFlow):
    """Call a flow with async I/O. Get one from :meth:`AsyncNoukai.flow`.

    The methods are those of :class:`Flow`: ``await`` those that return a value, iterate the others with
    ``async for``.
    """

    def __init__(self, ref: FlowRef, transport: AsyncTransport) -> None:
        super().__init__(ref, transport)
        self._transport = transport

    @takes(ToolOptions)
    def execute(
        self, message: str | None = None, /, **options: Unpack[ToolOptions]
    ) -> Coroutine[Any, Any, ExecuteResult | PausedResult]:
        """Run the flow and await its result. See :meth:`Flow.execute`; the ``tool_handler`` may be async.

        Example:
            >>> result = await flow.execute(message="The cat sat.")         # doctest: +SKIP
        """
        program: Program[ExecuteResult | PausedResult] = self._begin(
            "execute", "execute", ToolOptions, message, options
        )
        return self._transport.run(program)

    @takes(StepOptions)
    def steps(
        self, message: str | None = None, /, **options: Unpack[StepOptions]
    ) -> AsyncGenerator[StepCompleted, None]:
        """Run the flow step by step. See :meth:`Flow.steps`; use ``async for``.

        Leaving the loop early frees the connection at once. On trio wrap the stream in
        ``contextlib.aclosing`` for that, as trio requires for any async generator.

        Example:
            >>> async for step in flow.steps(message="The cat sat."):       # doctest: +SKIP
            ...     print(step.name, step.output)
        """
        program = self._begin("steps", "step", StepOptions, message, options)
        return self._transport.stream(program, keep=_StepFilter())

    @takes(EventOptions)
    def events(
        self, message: str | None = None, /, **options: Unpack[EventOptions]
    ) -> AsyncGenerator[StreamEvent, None]:
        """Run the flow step by step, and yield every event. See :meth:`Flow.events`; use ``async for``.

        A tool pause without a ``tool_handler`` is yielded as ToolCallsRequired: resume it with
        ``await event.resume(tool_results=...)`` and continue the loop.

        Example:
            >>> async for event in flow.events(message="The cat sat."):     # doctest: +SKIP
            ...     print(event.type)
        """
        return self._transport.stream(self._begin("events", "step", EventOptions, message, options))

    @takes(CallOptions)
    def execute_async(
        self, message: str | None = None, /, **options: Unpack[CallOptions]
    ) -> Coroutine[Any, Any, AsyncJob]:
        """Put the flow into the service's queue. See :meth:`Flow.execute_async`; ``await`` it.

        Example:
            >>> job = await flow.execute_async(message="A long text")       # doctest: +SKIP
            >>> status = await job.wait()                                   # doctest: +SKIP
        """
        from .job import AsyncJob

        program = self._begin("execute_async", "job", CallOptions, message, options)

        async def submitted() -> AsyncJob:
            return AsyncJob(await self._transport.run(program), self._transport)

        return submitted()

    def job(self, execution_id: str) -> AsyncJob:
        """Return a job that was submitted before. See :meth:`Flow.job`."""
        from .job import AsyncJob

        return AsyncJob(self._known_job(execution_id), self._transport)

    def run(self, execution_id: str) -> AsyncRun:
        """Return a run of this flow. See :meth:`Flow.run`."""
        from .run import AsyncRun

        return AsyncRun(self._ref, execution_id, self._transport)


class _StepFilter:
    """Keeps finished steps. A failed step raises, because the loop would end as if all were well."""

    def __init__(self) -> None:
        self._execution_id: str | None = None

    def __call__(self, event: StreamEvent) -> bool:
        if event.type == "run_started":
            self._execution_id = event.execution_id or event.run_id
        elif event.type == "step_error":
            code = event.error.code if event.error else None
            message = event.error.message if event.error else None
            raise FlowExecutionError(
                f"step {event.step_id} failed: {message or code or 'no reason given'}",
                code=code,
                execution_id=self._execution_id,
            )
        return event.type == "step_completed"
