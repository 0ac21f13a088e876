"""Describe the error of a failed node, and decide whether to retry it."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass

from ...errors import FlowExecutionError, NoukaiError
from ..runtime.error_text import error_text
from ..workflow.node import Node
from ..workflow.templates import UnresolvedReferenceError

logger = logging.getLogger("noukai_sdk.local")

_MAX_DELAY = 30.0


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
    """Count the failed attempts of a node, or of one item of its loop.

    Args:
        retry: How many of them may be repeated.
    """

    def __init__(self, retry: int) -> None:
        self._retry = retry
        self._failed = 0

    def delay_after(self, error: Exception) -> float | None:
        """Count a failed attempt; return the seconds to wait before the next, None if there is none."""
        # A client has retried already: its attempts count, so that retries do not multiply.
        self._failed += getattr(error, "attempts", 1)
        if self._failed > self._retry or not is_worth_retrying(error):
            return None
        return delay_before(self._failed, error)


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


def node_error(node: Node, error: Exception) -> NodeError:
    """Describe an exception with a code and a message. An unexpected one is logged as well."""
    step = f"step {node.id!r}"
    if isinstance(error, ItemFailedError) and isinstance(error.__cause__, Exception):
        step, error = f"item {error.index} of {step}", error.__cause__
    if isinstance(error, SubFlowError):
        code, message = error.code or "STEP_FAILED", f"{step}: {error.message}"
    elif isinstance(error, NoukaiError):
        code, message = error.code or "MODEL_ERROR", error.message
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


def delay_before(attempt: int, error: Exception) -> float:
    """Return the seconds to wait before retry number ``attempt``, counted from 1."""
    retry_after = getattr(error, "retry_after", None)
    if isinstance(retry_after, int | float) and math.isfinite(retry_after):
        return float(min(max(retry_after, 0), _MAX_DELAY))
    return float(min(0.05 * 2 ** min(attempt, 10), _MAX_DELAY))
