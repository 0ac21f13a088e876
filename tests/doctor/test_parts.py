"""The parts of the doctor: instrumented code means the same, and runs are compared as replays compare."""

from __future__ import annotations

import base64
from typing import Any

from noukai_sdk.doctor.completion import reordered
from noukai_sdk.doctor.instrumented_code import instrumented
from noukai_sdk.doctor.observation import MadeCall, Observation, Response
from noukai_sdk.doctor.run_comparison import changes_of, live_changes
from noukai_sdk.doctor.set_order import SetOrder
from noukai_sdk.doctor.source_reads import Plan, Sources
from tests.doctor.apps import overlapping, recording

CODE = """
from __future__ import annotations
from dataclasses import dataclass, field

shared = {}

@dataclass
class Item:
    name: str = "a" + "b"
    tags: set[str] | None = field(default_factory=set)

    def pop(self):
        return "popped"

def id(value):
    return "own id"

def kind(value: int | str, /, *more: int, last=hash("x") == hash("x")) -> str:
    match value:
        case 1 | -1 | 1 - 2j:
            return "number"
        case {"a": [first, *rest]} if rest:
            return f"{first!r:>4}{rest=} %s" % more
    return "%s %(" % value if value else "none"

async def later(x):
    global shared
    shared["x"] = x
    shared["y"], shared["z"] = {x: 1}, [*range(x)]
    shared["n"] = 0
    shared["n"] += 1
    return [i async for i in gen()]

def result():
    letters = sorted({c for c in "hello"} | {"z"})
    total = sum(i for i in (1, 2)) + len({*"ab", *"bc"})
    return [letters, total, kind(1), kind({"a": [1, 2]}, 7), id(3), Item().pop(), [3, 4].pop(),
            "-".join(["a", "b"]), dict.fromkeys("ab"), max({"x"}), Item.__annotations__["tags"]]
"""


def run(code: Any, plan: Plan | None = None) -> dict[str, Any]:
    sources = Sources()
    sources.begin(plan or Plan())
    names: dict[str, Any] = {"__name__": "instrumented", **SetOrder(sources).helpers()}
    exec(code, names)
    return names


def test_instrumented_code_returns_the_same() -> None:
    import sys
    import types

    sys.modules["instrumented"] = types.ModuleType("instrumented")
    try:
        plain = run(compile(CODE, "main.py", "exec"))
        other = run(instrumented(CODE, "main.py"))
        assert other["result"]() == plain["result"]()
    finally:
        del sys.modules["instrumented"]


def test_instrumented_code_iterates_sets_in_other_orders() -> None:
    code = instrumented(
        """
letters = set("abcdef")
orders = [
    [c for c in letters],
    [*letters],
    list(letters),
    "".join(letters),
    letters.copy().pop(),
    f"{frozenset(letters)}",
]
first, *_ = letters
orders.append(first)
""",
        "main.py",
    )
    base = run(code)["orders"]
    varied = run(code, Plan("set"))["orders"]
    assert all(one != other for one, other in zip(base, varied, strict=True))
    assert run(code, Plan("set", 1))["orders"][:4] != base[:4]
    assert run(code, Plan("time"))["orders"] == base


def test_instrumented_addresses_are_the_same_in_all_runs_but_those_that_change_them() -> None:
    code = instrumented(
        """
class Item:
    id: int = 7

one, other = object(), object()
same = id(one) == id(one) != id(other)
numbers = [id(one), hash(other)]
""",
        "main.py",
    )
    runs = [run(code), run(code), run(code, Plan("random"))]  # all objects are alive
    assert all(each["same"] for each in runs)
    base, again, varied = (each["numbers"] for each in runs)
    assert base == again
    assert all(one != other for one, other in zip(base, varied, strict=True))


def test_reordered_calls_keep_what_follows_what() -> None:
    calls = [recording(*each) for each in [*overlapping("abc", 0), ("d", 6, 7), ("e", 6, 8)]]
    order = sorted(calls, key=lambda each: each.completed_at or 0)
    moved = sorted(reordered(calls, 0), key=lambda each: each.completed_at or 0)
    texts = ["".join(each.request["message"] for each in some) for some in (order, moved)]  # type: ignore[index]  # all have requests
    assert texts == ["cbade", "abced"]


def call(text: str, *, overlapped: bool = False, output: str = "x") -> MadeCall:
    return MadeCall("a/p/f", "execute", {"message": text}, ("m.py", 3), overlapped, output)


def observed(*calls: MadeCall, body: bytes = b"{}") -> Observation:
    encoded = base64.b64encode(body).decode()
    response = Response(200, [("content-type", "application/json")], encoded)
    return Observation(calls=list(calls), response=response)


def test_runs_are_compared_by_position_or_by_input_if_calls_overlapped() -> None:
    swapped = observed(call("a"), call("b")), observed(call("b"), call("a"))
    assert [each.where for each in changes_of(*swapped)] == [
        "message of call 1 (a/p/f)",
        "message of call 2 (a/p/f)",
    ]
    for each in (*swapped[0].calls, *swapped[1].calls):
        each.overlapped = True
    assert changes_of(*swapped) == []
    (added,) = changes_of(observed(call("a")), observed(call("a"), call("b")))
    assert (added.where, added.before) == ("a call to a/p/f", "not made")


def test_masked_and_ignored_parts_of_responses_do_not_count() -> None:
    one, other = (
        observed(body=b'{"token": "%s", "id": %d}' % (b"k" * 20 + n, int(n))) for n in (b"1", b"2")
    )
    assert [each.where for each in changes_of(one, other)] == ["response, $.id"]
    assert changes_of(one, other, ["$.id"]) == []


def test_live_runs_are_compared_up_to_the_first_other_output() -> None:
    one = observed(call("a"), call("b"), body=b"1")
    assert live_changes(one, observed(call("a", output="y"), call("c"), body=b"2")) == []
    (change,) = live_changes(one, observed(call("a"), call("c", output="y"), body=b"2"))
    assert change.where == "message of call 2 (a/p/f)"
    (change,) = live_changes(one, observed(call("a"), call("b"), body=b"2"))
    assert change.where.startswith("response")
