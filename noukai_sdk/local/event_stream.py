"""The events of a running workflow, for ``async for`` and for ``for``."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing

from ..models.events import StreamEvent
from .handoff import handed_over
from .job import Models
from .loop_thread import loop_thread
from .result import WorkflowResult

Take = Callable[[StreamEvent | None], Awaitable[None]]
Stream = Callable[[Models, Take], Awaitable[WorkflowResult]]


class EventStream:
    """Runs while it is iterated, once; leaving the loop early stops the run.

    Attributes:
        result: The outcome, once the stream has ended; None before.

    Example:
        >>> for event in executor.execute_streaming(workflow):    # doctest: +SKIP
        ...     print(event.type)
    """

    def __init__(self, stream: Stream, models: Callable[[], Awaitable[Models]]) -> None:
        self.result: WorkflowResult | None = None
        self._stream = stream
        self._models = models
        self._events = self._run()

    def __aiter__(self) -> AsyncIterator[StreamEvent]:
        return self._events

    def __iter__(self) -> Iterator[StreamEvent]:
        return loop_thread.iterate(self._events)

    async def aclose(self) -> None:
        """Stop the run where it is; for a stream that is left before its end."""
        await self._events.aclose()

    async def _run(self) -> AsyncGenerator[StreamEvent, None]:
        models = await self._models()

        async def produce(take: Take) -> None:
            self.result = await self._stream(models, take)

        async with aclosing(handed_over(produce)) as events:
            async for event in events:
                if event is not None:
                    yield event
