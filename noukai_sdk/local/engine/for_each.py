"""Do a node's work for each item of a list.

Items fail, are retried and are kept one by one: what is finished is in the state of the run, where the next
attempt, or the resumed run, finds it.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import anyio
from anyio.lowlevel import checkpoint, checkpoint_if_cancelled

from ...errors import FlowExecutionError
from ..run_store.storage import RunStoreError
from .approval import ApprovalRequest, WaitingError
from .failures import Attempts, ItemFailedError, node_error
from .json_values import to_json
from .step_context import StepContext

logger = logging.getLogger("noukai_sdk.local")

# These end the run, whatever its loops keep.
_FATAL = {"RUN_TOO_LARGE", "OUTPUT_NOT_STORABLE"}


class ItemError(dict[str, Any]):
    """The error of a failed item, at its place in the output of a loop with ``on_error="keep"``.

    It is a dict that JSON can hold: ``{"error": {"index": 3, "code": ..., "message": ...}}``.

    Example:
        >>> error = ItemError.of(3, "STEP_FAILED", "too long")
        >>> error.index, error.code, error.message
        (3, 'STEP_FAILED', 'too long')
    """

    is_plain_json = True

    @classmethod
    def of(cls, index: int, code: str, message: str) -> ItemError:
        """Return the error of the item at this index."""
        return cls({"error": {"index": index, "code": code, "message": message}})

    @property
    def index(self) -> int:
        """The index of the item."""
        return int(self["error"]["index"])

    @property
    def code(self) -> str:
        """Such as ``"STEP_FAILED"`` or a provider's code."""
        return str(self["error"]["code"])

    @property
    def message(self) -> str:
        """What went wrong."""
        return str(self["error"]["message"])


class Loop:
    """One attempt at a node with ``for_each``.

    Args:
        context: The attempt at the node.
        run_once: Does the work for one item.
    """

    def __init__(
        self, context: StepContext, run_once: Callable[[StepContext], Awaitable[Any]]
    ) -> None:
        self._context = context
        self._run_once = run_once
        self._failure: ItemFailedError | None = None
        self._waiting: list[ApprovalRequest] = []

    async def run(self) -> list[Any]:
        """Run the items that are not finished yet; return the outputs of all items, in order.

        If an item fails for good, those that are under way are finished, and no others begin.

        Raises:
            FlowExecutionError: ``for_each`` does not lead to a list; code ``NOT_A_LIST``.
            ItemFailedError: An item failed, and the node does not keep errors.
            WaitingError: Items wait for decisions; all others are finished.
        """
        context, kept = self._context, self._context.kept
        items = self._items()
        self._outputs = [kept.get(str(index)) for index in range(len(items))]
        remaining = ((at, item) for at, item in enumerate(items) if str(at) not in kept)
        workers = min(context.node.concurrency, len(items) - len(kept))
        if context.timeout is not None:
            context.timeout.workers = max(workers, 1)
        async with anyio.create_task_group() as group:
            for _ in range(workers):
                group.start_soon(self._work, remaining)
        # A timeout may have ended these tasks alone.
        await checkpoint_if_cancelled()
        if self._failure is not None:
            raise self._failure from self._failure.__cause__
        if self._waiting:
            raise WaitingError(self._waiting)
        return self._outputs

    def _items(self) -> Sequence[Any]:
        node = self._context.node
        items = self._context.view.value(node.for_each)
        if isinstance(items, list | tuple):
            return items
        over, kind = node.for_each, type(items).__name__
        message = f"step {node.id!r} loops over {over}, which is not a list but of type {kind}"
        raise FlowExecutionError(message, code="NOT_A_LIST")

    async def _work(self, remaining: Iterator[tuple[int, Any]]) -> None:
        for index, item in remaining:
            # Work that never waits must still let other tasks run, and be cancelled.
            await checkpoint()
            await self._run_item(index, item)
            if self._failure is not None:
                break
        if self._context.timeout is not None:
            self._context.timeout.end_worker()

    async def _run_item(self, index: int, item: Any) -> None:
        context, node = self._context, self._context.node
        attempts = Attempts(node, context.retry_of)
        while self._failure is None:
            try:
                attempt = context.for_item(item, index).at(attempts)
                async with attempt.place() if attempt.takes_place else nullcontext():
                    output = await self._run_once(attempt)
                if context.budget is not None:
                    output = to_json(output)
                    context.budget.take_output(node.id, output, copies=1)
                output = context.checked(output)
            except WaitingError as waiting:  # the other items need not wait
                self._waiting += waiting.requests
                return
            except Exception as error:  # noqa: BLE001 - any exception of an item is its failure
                delay = attempts.delay_after(error)
                if delay is not None:
                    await anyio.sleep(delay)
                    continue
                failed = ItemFailedError(index)
                failed.__cause__ = error
                if node.on_error == "fail" or getattr(error, "code", None) in _FATAL:
                    self._failure = self._failure or failed
                    return
                problem = node_error(node, failed)
                output = ItemError.of(index, problem.code, problem.message)
            else:
                context.usage.use(attempts)
            self._outputs[index] = output
            context.state.inner.pop(attempt.path, None)
            try:
                await context.keep(index, output, is_error=isinstance(output, ItemError))
            except RunStoreError as error:
                # Not retried: the work is done.
                self._failure = self._failure or ItemFailedError(index)
                self._failure.__cause__ = self._failure.__cause__ or error
            return
