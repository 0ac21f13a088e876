"""Wait for the decisions of people.

A node that waits raises :class:`WaitingError`. Each loop, sub-flow and run around it first goes on with
whatever does not depend on it. The decisions come with the call that resumes the run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..runtime.hidden_keys import shown, type_name
from ..workflow.kinds import Approval
from ..workflow.plan import Plan
from .step_context import StepContext, path_of

_FIELDS = {"approved", "comment", "value"}

ApprovalDecision = bool | Mapping[str, Any]
"""True, False, or ``{"approved": ..., "comment": ..., "value": ...}``; the last two may be missing."""


@dataclass(frozen=True)
class ApprovalRequest:
    """What a person is asked.

    Attributes:
        node: The key of the decision: the node's id; in a sub-flow or a loop its path, as in
            ``"reviews[3]/check"``.
        name: The node's name.
        prompt: What is asked.
        value: What is to be approved: the input of the node.
    """

    node: str
    name: str
    prompt: str
    value: Any


class WaitingError(Exception):
    """The node waits for decisions."""

    def __init__(self, requests: Sequence[ApprovalRequest]) -> None:
        super().__init__(*(request.node for request in requests))
        self.requests = list(requests)


async def ask_for_approval(context: StepContext, work: Approval) -> dict[str, Any]:
    """Return the decision.

    Raises:
        WaitingError: There is none yet.
    """
    view, decision = context.view, context.state.approvals.get(context.path)
    if decision is None:
        prompt, name = view.text(work.prompt), context.node.name
        raise WaitingError([ApprovalRequest(context.path, name, prompt, view.input)])
    await context.emit_input(view.input)
    return {"value": view.input, **decision}


def decisions_of(
    plan: Plan,
    given: Any,
    waiting: Sequence[ApprovalRequest] | None,
) -> dict[str, dict[str, Any]]:
    """Return the decisions of a call, by the paths of their nodes.

    Args:
        plan: The workflow.
        given: The decisions by name, id or path of the node.
        waiting: What the run waits for, None if that is not known.

    Raises:
        TypeError: A decision is neither a bool nor a mapping.
        ValueError: A key is not that of a node which waits, or a decision is not complete.
    """
    if given is not None and not isinstance(given, Mapping):
        message = f"approvals must be a dict, as in {{'Review': True}}, not {type_name(given)}"
        raise TypeError(message)
    decisions: dict[str, dict[str, Any]] = {}
    for key, value in (given or {}).items():
        path = _path_of(plan, key, waiting)
        decision: Any = {"approved": value} if isinstance(value, bool) else value
        if not isinstance(decision, Mapping):
            message = (
                f"the decision on {key!r} must be True, False or a dict, not {type_name(decision)}"
            )
            raise TypeError(message)
        unknown = sorted(map(str, set(decision) - _FIELDS))
        if unknown or not isinstance(decision.get("approved"), bool):
            problem = f"not {', '.join(unknown)}" if unknown else "'approved' is missing"
            message = "a decision has 'approved' (True or False), 'comment' and 'value'"
            raise ValueError(f"the decision on {key!r}: {message}; {problem}")
        decisions[path] = {"comment": None, **decision}
    return decisions


def _path_of(plan: Plan, key: str, waiting: Sequence[ApprovalRequest] | None) -> str:
    node = plan.names.get(key)
    path = key if node is None else path_of(node, None)
    if waiting is not None and path not in [request.node for request in waiting]:
        listed = ", ".join(repr(request.node) for request in waiting) or "none"
        message = f"the run does not wait for a decision on {shown(key)}; it waits for {listed}"
        raise ValueError(message)
    return path
