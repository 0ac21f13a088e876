"""A flow of the service: execute it, stream it, queue it."""

from __future__ import annotations

from collections.abc import Coroutine, Sequence
from typing import TYPE_CHECKING, Any, overload

from .options import (
    EventOptions,
    ExecuteOptions,
    JobOptions,
    JSONObject,
    StepOptions,
    Unpack,
    make_call,
    takes,
)
from .protocol.call import CallKind, FlowRef, Trail
from .protocol.program import Program
from .session.scope import admit, known_job

if TYPE_CHECKING:
    # Jobs, runs and events are imported at first use: the first call of most programs needs none.
    from .job import AsyncJob, Job
    from .models.events import StepCompleted, StreamEvent
    from .models.results import ExecuteResult, OutputT, PausedResult
    from .protocol.jobs import JobBackend
    from .protocol.outputs import Parse
    from .raw_responses import AsyncRawFlow, RawFlow
    from .run import AsyncRun, Run
    from .streams import AsyncStream, Stream
    from .transport.drivers import AsyncTransport, SyncTransport

    Model = type[OutputT] | None
    Turns = Sequence[JSONObject]


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
        self,
        method: str,
        kind: CallKind,
        accepted: type,
        message: str | None,
        options: Any,
        trail: Trail | None = None,
    ) -> Program[Any]:
        if message is not None:
            options["message"] = message
        # Runs when the method is called, not when its result is awaited: a replay claims the
        # call's position here, so that gathered calls keep the order they were written in.
        transport = self._base_transport
        return admit(make_call(method, kind, self._ref, transport, accepted, options, trail))

    def _execution(
        self, message: str | None, options: Any
    ) -> Program[ExecuteResult | PausedResult]:
        parse = parser_of(options)
        program = self._begin("execute", "execute", ExecuteOptions, message, options)
        if parse is None:
            return program
        from .protocol.outputs import with_output

        return with_output(program, parse)

    def _submission(
        self, message: str | None, options: Any
    ) -> tuple[Program[JobBackend], Parse | None]:
        parse = parser_of(options)
        return self._begin("execute_async", "job", JobOptions, message, options), parse

    def _known_job(self, execution_id: str) -> JobBackend:
        from .protocol.jobs import LiveJob
        from .protocol.requests import require_id

        execution_id = require_id("execution_id", execution_id)
        return known_job(LiveJob(self._base_transport.service, self._ref, execution_id))


def parser_of(options: dict[str, Any]) -> Parse | None:
    """Return what sets the ``output`` of the call's result, None without a ``response_model``."""
    response_model = options.pop("response_model", None)
    if response_model is None:
        return None
    from .protocol.outputs import output_parser

    return output_parser(response_model)


class Flow(_BaseFlow):
    """Call a flow with blocking I/O. Get one from :meth:`Noukai.flow`.

    Every method takes the keyword arguments of :mod:`noukai_sdk.options`.
    """

    def __init__(self, ref: FlowRef, transport: SyncTransport) -> None:
        super().__init__(ref, transport)
        self._transport = transport

    @property
    def with_raw_response(self) -> RawFlow:
        """Call ``execute`` or ``execute_async`` of this for a result with the response's headers."""
        from .raw_responses import RawFlow

        return RawFlow(self)

    @overload
    def execute(
        self,
        message: str,
        *,
        response_model: Model[OutputT] = None,
        **options: Unpack[ExecuteOptions],
    ) -> ExecuteResult[OutputT] | PausedResult[OutputT]: ...
    @overload
    def execute(
        self,
        *,
        messages: Turns,
        response_model: Model[OutputT] = None,
        **options: Unpack[ExecuteOptions],
    ) -> ExecuteResult[OutputT] | PausedResult[OutputT]: ...
    @takes(ExecuteOptions)
    def execute(
        self, message: str | None = None, **options: Any
    ) -> ExecuteResult[Any] | PausedResult[Any]:
        """Run the flow and wait for its result.

        Args:
            message: The input text, by position or as ``message=``. Pass it or ``messages``.
            messages: Chat turns, ``{"role": "user" | "assistant" | "tool", "content"}``.
            response_model: The type that ``.output`` of the result has: a pydantic model, a dataclass, a
                TypedDict, or any other type that pydantic validates. A text result is parsed as JSON,
                in a code fence or not.
            **options: See :class:`~noukai_sdk.options.ExecuteOptions`.

        Returns:
            The finished run; or a :class:`PausedResult` if the flow asks for tools and there is no
            ``tool_handler``: continue with ``resume_sync``.

        Raises:
            NoukaiError: The tree in :mod:`noukai_sdk.errors`.
            OutputError: The result does not fit the ``response_model``.
            ToolCallLimitError: ``max_tool_rounds`` is used up.
            TypeError, ValueError: Bad arguments; nothing was sent.

        Example:
            >>> with Noukai() as client:                                    # doctest: +SKIP
            ...     client.flow("acme/spelling/grade-3").execute(message="The cat sat.").result
        """
        return self._transport.run(self._execution(message, options))

    @overload
    def steps(
        self, message: str, *, response_model: Model[OutputT] = None, **options: Unpack[StepOptions]
    ) -> Stream[StepCompleted, OutputT]: ...
    @overload
    def steps(
        self,
        *,
        messages: Turns,
        response_model: Model[OutputT] = None,
        **options: Unpack[StepOptions],
    ) -> Stream[StepCompleted, OutputT]: ...
    @takes(StepOptions)
    def steps(self, message: str | None = None, **options: Any) -> Stream[StepCompleted, Any]:
        """Run the flow step by step, and yield one event for each finished step.

        Leaving the loop early stops the run and frees the connection.

        Args:
            message: The input text, by position or as ``message=``. Pass it or ``messages``.
            messages: Chat turns, ``{"role": "user" | "assistant" | "tool", "content"}``.
            response_model: The type of the output: see :meth:`execute`.
            **options: See :class:`~noukai_sdk.options.StepOptions`.

        Raises:
            FlowExecutionError: A step failed.
            NoukaiError: As for ``execute``.

        Example:
            >>> for step in flow.steps(message="The cat sat."):             # doctest: +SKIP
            ...     print(step.name, step.output)
        """
        from .streams import StepFilter, Stream

        parse, trail, keep = parser_of(options), Trail(), StepFilter()
        program = self._begin("steps", "step", StepOptions, message, options, trail)
        return Stream(self._transport.stream(program, keep), trail, parse, keep)

    @overload
    def events(
        self,
        message: str,
        *,
        response_model: Model[OutputT] = None,
        **options: Unpack[EventOptions],
    ) -> Stream[StreamEvent, OutputT]: ...
    @overload
    def events(
        self,
        *,
        messages: Turns,
        response_model: Model[OutputT] = None,
        **options: Unpack[EventOptions],
    ) -> Stream[StreamEvent, OutputT]: ...
    @takes(EventOptions)
    def events(self, message: str | None = None, **options: Any) -> Stream[StreamEvent, Any]:
        """Run the flow step by step, and yield every event as it comes.

        Tool pauses need ``tool_handler=`` here; only the async client yields them.

        Args:
            message: The input text, by position or as ``message=``. Pass it or ``messages``.
            messages: Chat turns, ``{"role": "user" | "assistant" | "tool", "content"}``.
            response_model: The type of the output: see :meth:`execute`.
            **options: See :class:`~noukai_sdk.options.EventOptions`.

        Raises:
            ToolHandlerRequiredError: The flow asks for tools and there is no ``tool_handler``.
            NoukaiError: As for ``execute``.

        Example:
            >>> for event in flow.events(message="The cat sat."):           # doctest: +SKIP
            ...     print(event.type)
        """
        from .streams import Stream

        parse, trail = parser_of(options), Trail()
        program = self._begin("events", "step", EventOptions, message, options, trail)
        return Stream(self._transport.stream(program), trail, parse)

    @overload
    def execute_async(
        self, message: str, *, response_model: Model[OutputT] = None, **options: Unpack[JobOptions]
    ) -> Job[OutputT]: ...
    @overload
    def execute_async(
        self,
        *,
        messages: Turns,
        response_model: Model[OutputT] = None,
        **options: Unpack[JobOptions],
    ) -> Job[OutputT]: ...
    @takes(JobOptions)
    def execute_async(self, message: str | None = None, **options: Any) -> Job[Any]:
        """Put the flow into the service's queue and return at once.

        The call is async on the service's side: nothing is awaited here.

        Args:
            message: The input text, by position or as ``message=``. Pass it or ``messages``.
            messages: Chat turns, ``{"role": "user" | "assistant" | "tool", "content"}``.
            response_model: The type of the output: see :meth:`execute`.
            **options: See :class:`~noukai_sdk.options.JobOptions`. Jobs take no tools.

        Returns:
            The job: ``wait()`` for it, or ``poll()``.

        Raises:
            NoukaiError: As for ``execute``.
            TypeError, ValueError: Bad arguments; nothing was sent.

        Example:
            >>> flow.execute_async(message="A long text").wait().result     # doctest: +SKIP
        """
        from .job import Job

        program, parse = self._submission(message, options)
        return Job(self._transport.run(program), self._transport, parse)

    def job(
        self, execution_id: str, *, response_model: type[OutputT] | None = None
    ) -> Job[OutputT]:
        """Return a job that was submitted before, by its ``execution_id``. Nothing is sent.

        Args:
            execution_id: The ``execution_id`` of the job.
            response_model: The type of the output, see :meth:`execute`.

        Raises:
            ValueError: It is not a valid id.

        Example:
            >>> flow.job("exec_abc123").poll().status                       # doctest: +SKIP
            'completed'
        """
        from .job import Job

        parse = parser_of({"response_model": response_model})
        return Job(self._known_job(execution_id), self._transport, parse)

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

    @property
    def with_raw_response(self) -> AsyncRawFlow:
        """Call ``execute`` or ``execute_async`` of this for a result with the response's headers."""
        from .raw_responses import AsyncRawFlow

        return AsyncRawFlow(self)

    @overload
    def execute(
        self,
        message: str,
        *,
        response_model: Model[OutputT] = None,
        **options: Unpack[ExecuteOptions],
    ) -> Coroutine[Any, Any, ExecuteResult[OutputT] | PausedResult[OutputT]]: ...
    @overload
    def execute(
        self,
        *,
        messages: Turns,
        response_model: Model[OutputT] = None,
        **options: Unpack[ExecuteOptions],
    ) -> Coroutine[Any, Any, ExecuteResult[OutputT] | PausedResult[OutputT]]: ...
    @takes(ExecuteOptions)
    def execute(
        self, message: str | None = None, **options: Any
    ) -> Coroutine[Any, Any, ExecuteResult[Any] | PausedResult[Any]]:
        """Run the flow and await its result. See :meth:`Flow.execute`; the ``tool_handler`` may be async.

        Example:
            >>> result = await flow.execute(message="The cat sat.")         # doctest: +SKIP
        """
        return self._transport.run(self._execution(message, options))

    @overload
    def steps(
        self, message: str, *, response_model: Model[OutputT] = None, **options: Unpack[StepOptions]
    ) -> AsyncStream[StepCompleted, OutputT]: ...
    @overload
    def steps(
        self,
        *,
        messages: Turns,
        response_model: Model[OutputT] = None,
        **options: Unpack[StepOptions],
    ) -> AsyncStream[StepCompleted, OutputT]: ...
    @takes(StepOptions)
    def steps(self, message: str | None = None, **options: Any) -> AsyncStream[StepCompleted, Any]:
        """Run the flow step by step. See :meth:`Flow.steps`; use ``async for``.

        Leaving the loop early frees the connection at once. On trio wrap the stream in
        ``contextlib.aclosing`` for that, as trio requires for any async generator.

        Example:
            >>> async for step in flow.steps(message="The cat sat."):       # doctest: +SKIP
            ...     print(step.name, step.output)
        """
        from .streams import AsyncStream, StepFilter

        parse, trail, keep = parser_of(options), Trail(), StepFilter()
        program = self._begin("steps", "step", StepOptions, message, options, trail)
        return AsyncStream(self._transport.stream(program, keep), trail, parse, keep)

    @overload
    def events(
        self,
        message: str,
        *,
        response_model: Model[OutputT] = None,
        **options: Unpack[EventOptions],
    ) -> AsyncStream[StreamEvent, OutputT]: ...
    @overload
    def events(
        self,
        *,
        messages: Turns,
        response_model: Model[OutputT] = None,
        **options: Unpack[EventOptions],
    ) -> AsyncStream[StreamEvent, OutputT]: ...
    @takes(EventOptions)
    def events(self, message: str | None = None, **options: Any) -> AsyncStream[StreamEvent, Any]:
        """Run the flow step by step, and yield every event. See :meth:`Flow.events`; use ``async for``.

        A tool pause without a ``tool_handler`` is yielded as ToolCallsRequired: resume it with
        ``await event.resume(tool_results=...)`` and continue the loop.

        Example:
            >>> async for event in flow.events(message="The cat sat."):     # doctest: +SKIP
            ...     print(event.type)
        """
        from .streams import AsyncStream

        parse, trail = parser_of(options), Trail()
        program = self._begin("events", "step", EventOptions, message, options, trail)
        return AsyncStream(self._transport.stream(program), trail, parse)

    @overload
    def execute_async(
        self, message: str, *, response_model: Model[OutputT] = None, **options: Unpack[JobOptions]
    ) -> Coroutine[Any, Any, AsyncJob[OutputT]]: ...
    @overload
    def execute_async(
        self,
        *,
        messages: Turns,
        response_model: Model[OutputT] = None,
        **options: Unpack[JobOptions],
    ) -> Coroutine[Any, Any, AsyncJob[OutputT]]: ...
    @takes(JobOptions)
    def execute_async(
        self, message: str | None = None, **options: Any
    ) -> Coroutine[Any, Any, AsyncJob[Any]]:
        """Put the flow into the service's queue. See :meth:`Flow.execute_async`; ``await`` it.

        Example:
            >>> job = await flow.execute_async(message="A long text")       # doctest: +SKIP
            >>> status = await job.wait()                                   # doctest: +SKIP
        """
        from .job import AsyncJob

        program, parse = self._submission(message, options)

        async def submitted() -> AsyncJob[Any]:
            return AsyncJob(await self._transport.run(program), self._transport, parse)

        return submitted()

    def job(
        self, execution_id: str, *, response_model: type[OutputT] | None = None
    ) -> AsyncJob[OutputT]:
        """Return a job that was submitted before. See :meth:`Flow.job`."""
        from .job import AsyncJob

        parse = parser_of({"response_model": response_model})
        return AsyncJob(self._known_job(execution_id), self._transport, parse)

    def run(self, execution_id: str) -> AsyncRun:
        """Return a run of this flow. See :meth:`Flow.run`."""
        from .run import AsyncRun

        return AsyncRun(self._ref, execution_id, self._transport)
