"""Count what runs use: tokens and cost of a node, and totals of an executor."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from ...models.events import TokenBreakdown
from ..llm.prices import cost_usd, decimal_text

if TYPE_CHECKING:
    from .failures import Attempts
    from .result import WorkflowResult


class Usage:
    """What one node has used, over all attempts, tool rounds, items of a loop and nodes of a sub-flow.

    Args:
        before: What it used before, as returned by :attr:`as_dict`.
        parent: That of the node whose sub-flow the node is a part of. It counts all of this one, too.
        node_id: The id of the node.
    """

    def __init__(
        self,
        before: Mapping[str, Any] | None = None,
        parent: Usage | None = None,
        node_id: str = "",
    ) -> None:
        before = before or {}
        tokens = before.get("tokens")
        self.model: str | None = before.get("model")
        self.tokens: TokenBreakdown | None = TokenBreakdown(**tokens) if tokens else None
        self.cost_usd: str | None = before.get("cost_usd")
        self.took_ms: float = before.get("took_ms", 0.0)
        self.fallbacks: list[str] = list(before.get("fallbacks") or ())
        self.node_id = node_id
        self._parent = parent

    @property
    def root(self) -> Usage:
        """The usage of the run's node that this one is a part of."""
        return self if self._parent is None else self._parent.root

    @property
    def is_used(self) -> bool:
        """Whether there is anything to count."""
        return bool(self.model or self.tokens or self.cost_usd or self.fallbacks)

    def add(self, model: str, tokens: TokenBreakdown | None) -> None:
        """Count one response of ``model``."""
        self.model = model
        self._add(tokens, cost_usd(model, tokens))

    def use(self, attempts: Attempts) -> None:
        """Note which fallback the output is from, if it is from one."""
        if attempts.fallback is not None and attempts.fallback not in self.fallbacks:
            self.fallbacks.append(attempts.fallback)

    def _add(self, tokens: TokenBreakdown | None, cost: str | None) -> None:
        if tokens is not None:
            self.tokens = add_tokens(self.tokens, tokens)
        self.cost_usd = total_cost([self.cost_usd, cost])
        if self._parent is not None:
            self._parent._add(tokens, cost)

    @property
    def as_dict(self) -> dict[str, Any]:
        """The usage as JSON values."""
        tokens = self.tokens and self.tokens.model_dump(exclude_none=True)
        return {
            "model": self.model,
            "tokens": tokens,
            "cost_usd": self.cost_usd,
            "took_ms": self.took_ms,
            "fallbacks": self.fallbacks,
        }


def add_tokens(one: TokenBreakdown | None, other: TokenBreakdown | None) -> TokenBreakdown | None:
    """Add two counts; a field that neither of them counts stays None."""
    if one is None or other is None:
        return one or other

    def add(a: int | None, b: int | None) -> int | None:
        return None if a is None and b is None else (a or 0) + (b or 0)

    return TokenBreakdown(
        prompt=add(one.prompt, other.prompt),
        completion=add(one.completion, other.completion),
        total=add(one.total, other.total),
        cached=add(one.cached, other.cached),
    )


def total_tokens(usages: Iterable[Usage]) -> TokenBreakdown | None:
    """Add the tokens of nodes; None if no model has counted any."""
    tokens: TokenBreakdown | None = None
    for usage in usages:
        tokens = add_tokens(tokens, usage.tokens)
    return tokens


def total_cost(costs: Iterable[str | None]) -> str | None:
    """Add decimal strings; None if there are none. Costs that are not known do not count."""
    known = [Decimal(cost) for cost in costs if cost is not None]
    return decimal_text(sum(known, Decimal(0))) if known else None


def _count(tokens: TokenBreakdown | None) -> int:
    return 0 if tokens is None else tokens.total or 0


@dataclass
class RunStats:
    """The totals of one executor, counted from any thread."""

    successful: int = 0
    failed: int = 0
    duration_ms: float = 0.0
    tokens: int = 0
    cost_usd: str | None = None

    def __post_init__(self) -> None:
        self._lock = threading.Lock()

    @contextmanager
    def counting(
        self, before: Collection[Usage] = ()
    ) -> Iterator[Callable[[WorkflowResult], WorkflowResult]]:
        """Count one run. Pass its result to the yielded function; a run without one has failed.

        Args:
            before: What the run has used before, which is counted already.
        """
        result: WorkflowResult | None = None

        def set_result(value: WorkflowResult) -> WorkflowResult:
            nonlocal result
            result = value
            return value

        started = time.perf_counter()
        try:
            yield set_result
        finally:
            with self._lock:
                self.duration_ms += (time.perf_counter() - started) * 1000
                if result is None or result.is_failed():
                    self.failed += 1
                else:
                    self.successful += 1
                if result is not None:
                    self.tokens += _count(result.tokens) - _count(total_tokens(before))
                    earlier = total_cost(usage.cost_usd for usage in before)
                    less = None if earlier is None else str(-Decimal(earlier))
                    self.cost_usd = total_cost([self.cost_usd, result.cost_usd, less])

    def as_dict(self) -> dict[str, Any]:
        """Return the counters as ``Executor.get_stats`` does."""
        with self._lock:
            total = self.successful + self.failed
            return {
                "total_executions": total,
                "successful_executions": self.successful,
                "failed_executions": self.failed,
                "success_rate": self.successful / total if total else 0.0,
                "total_duration_ms": self.duration_ms,
                "average_duration_ms": self.duration_ms / total if total else 0.0,
                "total_tokens": self.tokens,
                "total_cost_usd": self.cost_usd,
            }
