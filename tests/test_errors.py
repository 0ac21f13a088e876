"""The exception tree: as drawn, complete, and fit to travel between processes."""

from __future__ import annotations

import copy
import inspect
import pickle
import re
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import pytest

from noukai_sdk import errors
from noukai_sdk.models.reports import CallSite, ReplayReport

CLASSES = [getattr(errors, name) for name in errors.__all__]
# What a class takes on top of what all errors take.
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
SHARED = {
    "status_code": 500,
    "code": "X",
    "execution_id": "e",
    "request_id": "r",
    "response_body": {"detail": [1]},
}


def details_of(kind: type[errors.NoukaiError]) -> dict[str, Any]:
    replay = {"report": ReplayReport()} if issubclass(kind, errors.ReplayError) else {}
    return {**SHARED, **replay, **OWN.get(kind.__name__, {})}


def pickled(error: Exception) -> Any:
    return pickle.loads(pickle.dumps(error))


def drawn() -> dict[str, str]:
    """Each class of the docstring's tree and the one above it."""
    parents: dict[str, str] = {}
    path: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        found = re.match(r"    ([ │├└─]*)([A-Z]\w+Error)\b", line)
        if found:
            depth = len(found[1]) // 4
            path[depth:] = [found[2]]
            parents[found[2]] = path[depth - 1] if depth else "Exception"
    return parents


def test_the_tree_is_as_drawn() -> None:
    real = {kind.__name__: kind.__mro__[1].__name__ for kind in CLASSES}
    assert drawn() == real


def test_every_class_is_public() -> None:
    defined = {
        name
        for name, kind in vars(errors).items()
        if inspect.isclass(kind) and issubclass(kind, Exception)
    }
    assert defined == set(errors.__all__)


@pytest.mark.parametrize("kind", CLASSES)
def test_an_error_without_details(kind: type[errors.NoukaiError]) -> None:
    error = kind("what happened")
    assert (str(error), error.message, error.args) == (
        "what happened",
        "what happened",
        ("what happened",),
    )
    assert [getattr(error, name) for name in SHARED] == [None] * 5
    assert str(kind()) == ""
    assert kind.__doc__


def test_the_defaults_of_what_only_some_have() -> None:
    assert errors.APIConnectionError().request_sent is True
    assert errors.AuthenticationError().www_authenticate is None
    assert errors.RateLimitError().retry_after is None
    assert errors.ReplayError().report is None
    assert errors.ReplayLeftoverError().leftovers == ()


@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize(
    "travel", [lambda error: pickle.loads(pickle.dumps(error)), copy.copy, copy.deepcopy]
)
def test_an_error_arrives_whole(kind: type[errors.NoukaiError], travel: Any) -> None:
    details = details_of(kind)
    error = kind("what happened", **details)
    error.extra = "mine"  # type: ignore[attr-defined]  # errors take attributes
    arrived = travel(error)
    assert type(arrived) is kind
    assert (str(arrived), arrived.args) == (str(error), error.args)
    assert vars(arrived) == vars(error)
    for name, value in details.items():
        assert getattr(arrived, name) == value


class Own(errors.FlowExecutionError):
    """Somebody's subclass, with another signature."""

    def __init__(self, number: int) -> None:
        super().__init__(f"number {number}", code="OWN")
        self.number = number


def test_a_subclass_with_its_own_arguments_arrives_too() -> None:
    arrived = pickled(Own(5))
    assert (type(arrived), str(arrived), arrived.number, arrived.code) == (
        Own,
        "number 5",
        5,
        "OWN",
    )


def fail() -> None:
    raise errors.RateLimitError("slow down", status_code=429, retry_after=2.0)


def test_through_a_process_pool() -> None:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        error = pool.submit(fail).exception()
    assert isinstance(error, errors.RateLimitError)
    assert (str(error), error.status_code, error.retry_after) == ("slow down", 429, 2.0)
