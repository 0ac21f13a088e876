"""What a failed node's error is called, and whether another attempt can help."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass

from ...errors import NoukaiError
from ..workflow.node import Node
from ..workflow.templates import UnresolvedReferenceError

logger = logging.getLogger("noukai_sdk.local")

_MOST_DELAY = 30.0


class StepTimeoutError(Exception):
    """An attempt took longer than the node's timeout."""


@dataclass(frozen=True)
class NodeError:
    """Why a node failed.

    Attributes:
        node: The node's name.
        code: Such as ``"STEP_TIMEOUT"``, ``"TEMPLATE_UNRESOLVED"`` or a provider's code.
        error: What was raised.
    """

    node: str
    code: str
    message: str
    error: Exception

    def __str__(self) -> str:
        return f"{self.node}: {self.code}: {self.message}"


def failure(node: Node, error: Exception) -> NodeError:
    """The error as it is told."""
    code, message = _told(node, error)
    return NodeError(node.name, code, message, error)


def _told(node: Node, error: Exception) -> tuple[str, str]:
    if isinstance(error, NoukaiError):
        return error.code or "MODEL_ERROR", error.message
    if isinstance(error, UnresolvedReferenceError):
        return "TEMPLATE_UNRESOLVED", f"step {node.id!r}: {error}"
    if isinstance(error, StepTimeoutError):
        message = f"step {node.id!r} took longer than its timeout of {node.timeout} seconds"
        return "STEP_TIMEOUT", message
    logger.error("step %s failed", node.id, exc_info=error)
    return "STEP_FAILED", f"step {node.id!r} failed: {type(error).__name__}: {error}"


def is_worth_retrying(error: Exception) -> bool:
    """Whether the same attempt may come out better: not where a setting or a key is wrong."""
    if isinstance(error, UnresolvedReferenceError):
        return False
    if isinstance(error, NoukaiError):
        return error.code == "OUTPUT_INVALID" or bool(getattr(error, "is_retryable", False))
    return True


def delay_before(attempt: int, error: Exception) -> float:
    """Seconds to wait before attempt number ``attempt`` (the first retry is 1)."""
    asked = getattr(error, "retry_after", None)
    if isinstance(asked, int | float) and math.isfinite(asked):
        return float(min(max(asked, 0), _MOST_DELAY))
    return float(min(0.05 * 2 ** min(attempt, 10), _MOST_DELAY))
