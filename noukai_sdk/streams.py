"""The streams that ``steps()`` and ``events()`` return."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Generic

from typing_extensions import TypeVar

from .errors import FlowExecutionError, ToolHandlerRequiredError
from .models.events import (
    FlowCompleted,
    RunStarted,
    StepCompleted,
    StepFailed,
    StepOutput,
    StreamEvent,
    ToolCallsRequired,
)
from .models.results import ExecuteResult, OutputT
from .models.usage import RunStep, sum_of_costs, sum_of_tokens

if TYPE_CHECKING:
    from typing_extensions import Self

    from .protocol.call import Trail
    from .protocol.outputs import Parse

EventT = TypeVar("EventT", default=StreamEvent)
EventsT = TypeVar("EventsT")


def result_of(trail: Trail, parse: Parse | None) -> Any:
    """Return the result of a run whose stream has ended. Raises the error that it ended with."""
    started = next((each for each in trail if isinstance(each, RunStarted)), RunStarted())
    run = started.execution_id or started.run_id
    last = trail[-1] if trail else None
    if isinstance(last, StepFailed):
        raise error_of(last, run)
    if isinstance(last, ToolCallsRequired):
        raise ToolHandlerRequiredError(
            "the flow asks for tools: pass tool_handler=, or read the events and resume them",
            execution_id=run,
        )
    if not isinstance(last, FlowCompleted):
        raise FlowExecutionError(
            "the stream was closed before the run's end, so there is no result",
            code="STREAM_INCOMPLETE",
            execution_id=run,
        )
    names = RunStep.model_fields
    steps = [
        RunStep(**{name: getattr(event, name) for name in names})
        for event in trail
        if isinstance(event, StepCompleted)
    ]
    result = ExecuteResult(
        status="completed",
        result=last.result,
        flow_id=started.flow_id,
        block_count=started.step_count,
        execution_id=run or last.execution_id or last.run_id,
        session_id=trail.session_id,
        request_id=trail.request_id,
        tokens=sum_of_tokens(steps),
        cost_usd=sum_of_costs(steps),
        steps=steps,
    )
    return result if parse is None else parse(result)


class StepFilter:
    """Keeps finished steps. A failed step raises, because the loop would end as if all were well."""

    def __init__(self) -> None:
        self._keeps_texts = False
        self._execution_id: str | None = None

    @contextmanager
    def with_texts(self) -> Iterator[None]:
        """Keep the chunks of outputs too, while a text is read."""
        self._keeps_texts = True
        try:
            yield
        finally:
            self._keeps_texts = False

    def __call__(self, event: StreamEvent) -> bool:
        """Return whether the caller gets this event."""
        if isinstance(event, RunStarted):
            self._execution_id = event.execution_id or event.run_id
        elif isinstance(event, StepFailed):
            raise error_of(event, self._execution_id)
        return isinstance(event, StepCompleted) or (
            self._keeps_texts and isinstance(event, StepOutput)
        )


def error_of(event: StepFailed, execution_id: str | None) -> FlowExecutionError:
    """Return the error for the event of a failed step."""
    code = event.error.code if event.error else None
    message = event.error.message if event.error else None
    return FlowExecutionError(
        f"step {event.step_id} failed: {message or code or 'no reason given'}",
        code=code,
        execution_id=execution_id,
    )


def _text_of(event: Any) -> str | None:
    """Return the text of an event, None if it has none. A failed step raises."""
    if isinstance(event, StepFailed):
        raise error_of(event, None)
    is_text = isinstance(event, StepOutput) and isinstance(event.output_data, str)
    return event.output_data if is_text else None


class _BaseStream(Generic[EventsT, OutputT]):
    """What both kinds of stream hold: the events, and what is known of the run so far."""

    def __init__(
        self, events: EventsT, trail: Trail, parse: Parse | None, keep: StepFilter | None = None
    ) -> None:
        self._events = events
        self._trail = trail
        self._parse = parse
        self._filter = keep or StepFilter()  # events() keeps all

    def _result(self) -> ExecuteResult[OutputT]:
        return result_of(self._trail, self._parse)  # type: ignore[no-any-return]  # parsed as OutputT


class Stream(
    _BaseStream[Generator[EventT, None, None], OutputT], Iterator[EventT], Generic[EventT, OutputT]
):
    """The events of a run, or its steps, as they come. Iterate it once.

    Leaving the loop, or the end of a ``with`` block, stops the run and frees the connection.

    Example:
        >>> with flow.events(message="The cat sat.") as stream:             # doctest: +SKIP
        ...     for text in stream.text_stream:
        ...         print(text, end="")
        ...     print(stream.final_result().tokens)
    """

    def __iter__(self) -> Iterator[EventT]:  # noqa: PYI034 - the generator itself is faster
        return self._events

    def __next__(self) -> EventT:
        return next(self._events)

    @property
    def text_stream(self) -> Iterator[str]:
        """The texts that the steps produce, chunk by chunk, instead of the events.

        The chunks of all steps, in the order in which they come. A failed step raises FlowExecutionError.
        """
        while True:
            with self._filter.with_texts():
                event = next(self._events, None)
            if event is None:
                return
            if (text := _text_of(event)) is not None:
                yield text

    def final_result(self) -> ExecuteResult[OutputT]:
        """Read the stream to its end, and return the result as ``execute`` does.

        May be called in the middle of the stream or after it.

        Raises:
            FlowExecutionError: A step failed, or the stream was closed before its end.
            OutputError: The result does not fit the ``response_model``.
            NoukaiError: As for ``execute``.
        """
        for _ in self._events:
            pass
        return self._result()

    def close(self) -> None:
        """Stop the run and free the connection. May be called any number of times."""
        self._events.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncStream(
    _BaseStream[AsyncGenerator[EventT, None], OutputT],
    AsyncIterator[EventT],
    Generic[EventT, OutputT],
):
    """The events of a run on the async client. See :class:`Stream`; use it with ``async``."""

    def __aiter__(self) -> AsyncIterator[EventT]:  # noqa: PYI034 - as above
        return self._events

    async def __anext__(self) -> EventT:
        return await anext(self._events)

    @property
    def text_stream(self) -> AsyncIterator[str]:
        """The texts that the steps produce. See :attr:`Stream.text_stream`."""
        return _Texts(self._events, self._filter)

    async def final_result(self) -> ExecuteResult[OutputT]:
        """Read the stream to its end, and return the result. See :meth:`Stream.final_result`."""
        async for _ in self._events:
            pass
        return self._result()

    async def aclose(self) -> None:
        """Stop the run and free the connection. May be called any number of times."""
        await self._events.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


class _Texts(AsyncIterator[str]):
    """No generator: on trio each that is left halfway would have to be closed."""

    def __init__(self, events: AsyncGenerator[Any, None], steps: StepFilter) -> None:
        self._events = events
        self._filter = steps

    async def __anext__(self) -> str:
        text = None
        while text is None:
            with self._filter.with_texts():
                event = await anext(self._events)
            text = _text_of(event)
        return text
