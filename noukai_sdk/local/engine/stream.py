"""The events of a running workflow, for ``async for`` and for ``for``."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator

from ...models.events import StreamEvent
from ..runtime.loop_thread import loop_thread
from .producer_stream import handed_over
from .result import WorkflowResult
from .step_context import Models

Take = Callable[[StreamEvent | None], Awaitable[None]]
Stream = Callable[[Models, Take], Awaitable[WorkflowResult]]


class EventStream:
    """Runs while it is iterated, once; leaving the loop early stops the run.

    Example:
        >>> for event in executor.execute_streaming(workflow):    # doctest: +SKIP
        ...     print(event.type)
    """

    def __init__(self, stream: Stream, models: Callable[[], Awaitable[Models]]) -> None:
        # The producer must not hold this object: one that is dropped ends when it is collected.
        results: list[WorkflowResult] = []

        async def produce(take: Take) -> None:
            results.append(await stream(await models(), take))

        self._results = results
        self._events: AsyncGenerator[StreamEvent, None] = handed_over(produce)

    @property
    def result(self) -> WorkflowResult | None:
        """The outcome, once the stream has ended; None before."""
        return self._results[0] if self._results else None

    def __aiter__(self) -> AsyncIterator[StreamEvent]:
        return self._events

    def __iter__(self) -> Iterator[StreamEvent]:
        return loop_thread.iterate(self._events)

    async def aclose(self) -> None:
        """Stop the run where it is; for a stream that is left before its end."""
        await self._events.aclose()
