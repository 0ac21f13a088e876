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
    if isinstance(error, NoukaiError):
        code, message = error.code or "MODEL_ERROR", error.message
    elif isinstance(error, UnresolvedReferenceError):
        code, message = "TEMPLATE_UNRESOLVED", f"step {node.id!r}: {error}"
    elif isinstance(error, StepTimeoutError):
        code = "STEP_TIMEOUT"
        message = f"step {node.id!r} took longer than its timeout of {node.timeout} seconds"
    else:
        logger.error("step %s failed", node.id, exc_info=error)
        code = "STEP_FAILED"
        message = f"step {node.id!r} failed: {error_text(error)}"
    return NodeError(node.name, code, message, error)


def sub_flow_error(node: Node, inner: NodeError) -> SubFlowError:
    """Return the error of a node whose sub-flow failed."""
    error = SubFlowError(f"step {node.id!r}: {inner.message}", code=inner.code)
    error.is_retryable = is_worth_retrying(inner.error)
    error.retry_after = getattr(inner.error, "retry_after", None)
    return error


def is_worth_retrying(error: Exception) -> bool:
    """Return whether another attempt may succeed. A wrong setting or key stays wrong."""
    if isinstance(error, UnresolvedReferenceError):
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
