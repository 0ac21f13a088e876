"""The exception tree: its shape, its attributes, and its way through pickle and copy."""

from __future__ import annotations

import copy
import inspect
import pickle
import re
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

from noukai_sdk import errors
from noukai_sdk.models.reports import CallSite, ReplayReport

CLASSES = [getattr(errors, name) for name in errors.__all__]
SHARED = {
    "status_code": 500,
    "code": "X",
    "execution_id": "e",
    "request_id": "r",
    "response_body": {"detail": [1]},
}
# Arguments of single classes, beside the shared ones.
OWN: dict[str, dict[str, Any]] = {
    "APIConnectionError": {"request_sent": False},
    "APITimeoutError": {"request_sent": False},
    "AuthenticationError": {"www_authenticate": "Bearer"},
    "RateLimitError": {"retry_after": 1.5},
    "ReplayMissError": {
        "slug": "grade-3",
        "kind": "execute",
        "position": 2,
        "recorded": 2,
        "remaining": 0,
        "reason": "the code changed",
        "call_site": CallSite("app.py", 3, "grade"),
    },
    "ReplayLeftoverError": {"leftovers": (("grade-3", 0), (None, 1))},
}


def test_tree_matches_docstring_and_public_names() -> None:
    drawn: dict[str, str] = {}
    path: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        if match := re.match(r"    ([ │├└─]*)([A-Z]\w+Error)\b", line):
            depth = len(match[1]) // 4
            path[depth:] = [match[2]]
            drawn[match[2]] = path[depth - 1] if depth else "Exception"
    assert drawn == {kind.__name__: kind.__mro__[1].__name__ for kind in CLASSES}
    classes = inspect.getmembers(errors, inspect.isclass)
    assert {name for name, kind in classes if issubclass(kind, Exception)} == set(errors.__all__)


def test_error_without_details_has_message_and_defaults() -> None:
    for kind in CLASSES:
        error = kind("what happened")
        assert str(error) == error.message == "what happened"
        assert error.args == ("what happened",)
        assert [getattr(error, name) for name in SHARED] == [None] * 5
        assert str(kind()) == ""
        assert kind.__doc__
    assert errors.APIConnectionError().request_sent is True
    assert errors.AuthenticationError().www_authenticate is None
    assert errors.RateLimitError().retry_after is None
    assert errors.ReplayError().report is None
    assert errors.ReplayLeftoverError().leftovers == ()


def test_error_with_details_survives_pickle_and_copy() -> None:
    for kind in CLASSES:
        replay = {"report": ReplayReport()} if issubclass(kind, errors.ReplayError) else {}
        details = {**SHARED, **replay, **OWN.get(kind.__name__, {})}
        error = kind("what happened", **details)
        error.extra = "mine"
        for arrived in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
            assert type(arrived) is kind
            assert (str(arrived), arrived.args) == (str(error), error.args)
            assert vars(arrived) == vars(error)
            assert {name: getattr(arrived, name) for name in details} == details


class Own(errors.FlowExecutionError):
    """A subclass with its own signature."""

    def __init__(self, number: int) -> None:
        super().__init__(f"number {number}", code="OWN")
        self.number = number


def test_subclass_with_own_arguments_survives_pickle() -> None:
    arrived = pickle.loads(pickle.dumps(Own(5)))
    assert type(arrived) is Own
    assert (str(arrived), arrived.number, arrived.code) == ("number 5", 5, "OWN")


def fail() -> None:
    raise errors.RateLimitError("slow down", status_code=429, retry_after=2.0)


def test_error_in_process_pool_reaches_parent() -> None:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        error = pool.submit(fail).exception()
    assert isinstance(error, errors.RateLimitError)
    assert (str(error), error.status_code, error.retry_after) == ("slow down", 429, 2.0)
