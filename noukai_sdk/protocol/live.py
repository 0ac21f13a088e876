"""The live answer to a call: the service's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .call import CallKind, FlowCall
from .executing import execute
from .jobs import submit
from .program import Program
from .stepping import step

_PROGRAMS: dict[CallKind, Callable[[FlowCall], Program[Any]]] = {
    "execute": execute,
    "step": step,
    "job": submit,
}


def program_for(call: FlowCall) -> Program[Any]:
    """The program that puts ``call`` to the service.

    ``execute`` returns ExecuteResult or PausedResult; ``step`` yields events and returns None;
    ``job`` returns JobSubmission.
    """
    return _PROGRAMS[call.kind](call)
