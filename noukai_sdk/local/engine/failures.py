"""Describe the error of a failed node, and decide whether to retry it."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass

from ...errors import FlowExecutionError, NoukaiError
from ..llm.errors import LlmClosedError
from ..runtime.error_text import error_text
from ..workflow.fallbacks import stand_ins
from ..workflow.node import Node
from ..workflow.templates import UnresolvedReferenceError

logger = logging.getLogger("noukai_sdk.local")

_MAX_DELAY = 30.0
# Codes of errors that a fallback would have too, or that would be paid for twice.
_SHARED = {"PROMPT_TOO_LARGE", "RUN_TOO_LARGE", "OUTPUT_NOT_STORABLE"}


class StepTimeoutError(Exception):
    """An attempt took longer than the node's timeout."""


class SubFlowError(FlowExecutionError):
    """A node of a sub-flow failed."""

    is_retryable = False
    retry_after: float | None = None


class ItemFailedError(Exception):
    """An item of a loop failed for good; the cause says why."""

    def __init__(self, index: int) -> None:
        super().__init__(index)
        self.index = index


class Attempts:
    """Count the failed attempts at a node, or at one item of its loop; then those at its fallbacks.

    Args:
        node: The node.
        retry_of: Returns how many failed attempts at a node may be repeated.
        has_fallbacks: Whether the node's fallbacks are tried.

    Attributes:
        node: The node that the next attempt is at: a fallback, when all attempts at the node have failed.
        fallback: The name of the fallback, None for the node itself.
    """

    def __init__(
        self, node: Node, retry_of: Callable[[Node], int], *, has_fallbacks: bool = True
    ) -> None:
        self.node = node
        self.fallback: str | None = None
        self._retry_of = retry_of
        self._fallbacks = stand_ins(node) if has_fallbacks else iter(())
        self._failed = 0

    def delay_after(self, error: Exception) -> float | None:
        """Count a failed attempt; return the seconds to wait before the next, None if there is none."""
        # A client has retried already: its attempts count, so that retries do not multiply.
        self._failed += getattr(error, "attempts", 1)
        if self._failed <= self._retry_of(self.node) and is_worth_retrying(error):
            logger.warning("step %s failed and will be retried: %r", self.node.id, error)
            return delay_before(self._failed, error)
        following = next(self._fallbacks, None) if may_fall_back(error) else None
        if following is None:
            return None
        self.fallback, self.node = following
        self._failed = 0
        logger.warning("step %s failed, next is %r: %r", self.node.id, self.fallback, error)
        return 0.0


@dataclass(frozen=True)
class NodeError:
    """Why a node failed.

    Attributes:
        node: The node's name.
        code: Such as ``"STEP_TIMEOUT"``, ``"TEMPLATE_UNRESOLVED"`` or a provider's code.
        error: The exception.
    """

    node: str
    code: str
    message: str
    error: Exception

    def __str__(self) -> str:
        return f"{self.node}: {self.code}: {self.message}"


def node_error(node: Node, error: Exception, fallback: str | None = None) -> NodeError:
    """Describe an exception with a code and a message. An unexpected one is logged as well."""
    step = f"step {node.id!r}" if fallback is None else f"the fallback {fallback!r} of {node.id!r}"
    of_item = ""
    if isinstance(error, ItemFailedError) and isinstance(error.__cause__, Exception):
        of_item = f"item {error.index} of {step}: "
        step, error = f"item {error.index} of {step}", error.__cause__
    if isinstance(error, SubFlowError):
        code, message = error.code or "STEP_FAILED", f"{step}: {error.message}"
    elif isinstance(error, NoukaiError):
        code, message = error.code or "MODEL_ERROR", f"{of_item}{error.message}"
    elif isinstance(error, UnresolvedReferenceError):
        code, message = "TEMPLATE_UNRESOLVED", f"{step}: {error}"
    elif isinstance(error, StepTimeoutError):
        code = "STEP_TIMEOUT"
        message = f"{step} took longer than its timeout of {node.timeout} seconds"
    else:
        logger.error("%s failed", step, exc_info=error)
        code = "STEP_FAILED"
        message = f"{step} failed: {error_text(error)}"
    return NodeError(node.name, code, message, error)


def sub_flow_error(inner: NodeError) -> SubFlowError:
    """Return the error of a node whose sub-flow failed."""
    error = SubFlowError(inner.message, code=inner.code)
    error.is_retryable = is_worth_retrying(inner.error)
    error.retry_after = getattr(inner.error, "retry_after", None)
    return error


def is_worth_retrying(error: Exception) -> bool:
    """Return whether another attempt may succeed. A wrong setting or key stays wrong."""
    if isinstance(error, UnresolvedReferenceError | ItemFailedError):
        return False
    if isinstance(error, NoukaiError):
        return error.code == "OUTPUT_INVALID" or bool(getattr(error, "is_retryable", False))
    return True


def may_fall_back(error: Exception) -> bool:
    """Return whether a fallback may succeed. It shares the inputs of the node and the limits of the run."""
    if isinstance(error, UnresolvedReferenceError | LlmClosedError):
        return False
    return getattr(error, "code", None) not in _SHARED


def delay_before(attempt: int, error: Exception) -> float:
    """Return the seconds to wait before retry number ``attempt``, counted from 1."""
    retry_after = getattr(error, "retry_after", None)
    if isinstance(retry_after, int | float) and math.isfinite(retry_after):
        return float(min(max(retry_after, 0), _MAX_DELAY))
    return float(min(0.05 * 2 ** min(attempt, 10), _MAX_DELAY))
