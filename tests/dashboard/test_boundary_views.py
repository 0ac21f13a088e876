"""Test what the page makes of recorded functions, without a browser."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from noukai_sdk.boundaries.failures import encode_error
from noukai_sdk.boundaries.values import encode, encode_arguments
from noukai_sdk.dashboard.export import session_html
from noukai_sdk.dashboard.views.boundary_rows import BoundaryRow
from noukai_sdk.dashboard.views.comparison import ComparedSession, compare_sessions
from noukai_sdk.dashboard.views.session_view import SessionView, file_session, service_session
from noukai_sdk.models.boundaries import Boundary
from noukai_sdk.models.session_lists import SessionCalls
from noukai_sdk.replay.boundary_recordings import boundary_recordings
from noukai_sdk.replay.cassette_file import CassetteFile
from noukai_sdk.replay.recording import Recording

from .test_session_views import HOSTILE, JSON, TAGS, Tags


def time(second: float) -> str:
    return datetime.fromtimestamp(1_000 + second, timezone.utc).isoformat()


def called(name: str, start: float, end: float | None, **values: Any) -> Boundary:
    completed = None if end is None else time(end)
    fields = {"name": name, "position": 0, "started_at": time(start), "completed_at": completed}
    return Boundary(**{**fields, **values})


def flow(number: int, start: float, end: float) -> dict[str, Any]:
    return {
        "executionId": f"run-{number}",
        "number": number,
        "slug": f"flow-{number}",
        "status": "completed",
        "startedAt": time(start),
        "completedAt": time(end),
    }


def shown(boundaries: list[Boundary], *, calls: int = 2, **options: Any) -> SessionView:
    body = {
        "sessionId": "s",
        "calls": [flow(number, number, number + 0.5) for number in range(1, calls + 1)],
        "counts": {"completed": calls},
        "startedAt": time(1),
        "completedAt": time(calls + 0.5),
        "boundaries": [each.model_dump(mode="json", by_alias=True) for each in boundaries],
    }
    return service_session(SessionCalls.model_validate(body), None, (), limit=100, **options)


def names(view: SessionView) -> list[str]:
    return [line.name for line in view.lines]


def test_recorded_functions_stand_among_calls_by_their_start_without_numbers() -> None:
    view = shown(
        [
            called("shop.load", 0.5, 0.75, arguments={"isbn": "7"}, result=encode({"price": 5})),
            called("rate", 1.25, 1.5, error=encode_error(KeyError("EUR"))),
            called("slow", 1.3, 1.5, abandoned=True),
            called("late", 2.25, None),
            called("items", 3.0, 3.1, items=["a", "b"]),
            called("big", 3.2, 3.3, unavailable="its result cannot be kept", live=True),
        ]
    )
    assert names(view) == [
        "shop.load", "flow-1", "rate", "slow", "flow-2", "late", "items", "big",
    ]  # fmt: skip
    assert [row.number for row in view.calls.rows] == [1, 2]
    load, rate, slow, late, items, big = view.recorded.rows
    assert (load.function, load.module, load.arguments) == ("load", "shop", "isbn='7'")
    assert load.result == "{'price': 5}"
    assert (load.start, load.milliseconds, view.calls.rows[0].start) == (0.0, 250.0, 500.0)
    assert (rate.status, rate.problem) == ("failed", "KeyError: 'EUR'")
    assert (slow.status, late.status) == ("abandoned", "unfinished")
    assert items.result == "2 yielded: ['a', 'b']"
    assert (big.problem, big.is_live) == ("not kept: its result cannot be kept", True)
    assert view.calls.axis.start == 0.0
    assert all(line.bar is not None for line in view.lines)


def test_many_recorded_functions_are_hidden_until_the_reader_asks() -> None:
    many = [called("now", 1 + number / 1000, 1.5) for number in range(201)]
    view = shown(many)
    assert names(view) == ["flow-1", "flow-2"]
    assert (view.recorded.is_hidden, view.recorded.total, view.recorded.more) == (True, 201, 0)
    view = shown(many, shows_all=True)
    assert len(view.recorded.rows) == 201
    view = shown(many * 10, shows_all=True)
    assert (len(view.recorded.rows), view.recorded.more) == (2000, 10)


def test_each_page_of_calls_has_the_functions_that_began_while_its_calls_did() -> None:
    functions = [called(str(start), start, start) for start in (0.5, 1.5, 2.5, 3.5)]
    assert names(shown(functions, calls=3, most=2)) == ["0.5", "flow-1", "1.5", "flow-2", "2.5"]
    assert names(shown(functions, calls=3, is_first=False)) == [
        "flow-1", "1.5", "flow-2", "2.5", "flow-3", "3.5",
    ]  # fmt: skip
    assert names(shown(functions, shows_functions=False)) == ["flow-1", "flow-2"]


def test_exported_file_has_recorded_functions_in_their_place() -> None:
    clock = {"started_at": 1_001.0, "completed_at": 1_002.0}
    call = Recording(slug="grade", kind="execute", **clock)  # type: ignore[arg-type]  # two kinds of values
    loaded = called("books.load", 0, 0.5, result=encode((1, 2)), site="main.py:41")
    file = CassetteFile("s", [call], boundaries=[loaded])
    view = file_session(file, "", limit=None)
    assert names(view) == ["books.load", "grade"]
    html = session_html(file)
    assert html.index("<b>load</b>") < html.index("<b>grade</b>")
    assert "main.py:41" in html
    assert "(1, 2)" in html


KEYS = HOSTILE | st.sampled_from(
    ["$type", "$items", "$value", "$object", "$1", "${", "name", "args"]
)
VALUES = st.recursive(
    JSON, lambda inner: st.dictionaries(KEYS, inner, max_size=3) | st.lists(inner, max_size=3)
)


@given(
    HOSTILE,
    VALUES,
    VALUES,
    st.none() | st.dictionaries(KEYS, VALUES, max_size=4),
    st.none() | st.lists(VALUES, max_size=3),
    HOSTILE,
)
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
def test_hostile_recorded_functions_are_escaped(
    name: str, arguments: Any, result: Any, error: Any, items: Any, text: str
) -> None:
    values = {"arguments": arguments, "result": result, "error": error, "items": items}
    html = session_html(
        CassetteFile("s", boundaries=[called(name, 1, 2, site=text, unavailable=text, **values)])
    )
    found = Tags()
    found.feed(html)
    assert set(found.tags) <= TAGS
    assert not [key for key, _ in found.attributes if key.startswith("on")]


def test_comparison_aligns_recorded_functions_apart_from_calls() -> None:
    one = [
        called("load", 1, 2, arguments=encode_arguments({"isbn": "1"}), result=encode({"a": (1,)})),
        called("rate", 3, 4, arguments={}, error=encode_error(KeyError("EUR"))),
        called("now", 4, 4, result="same"),
    ]
    other = [
        called("load", 1, 2, arguments=encode_arguments({"isbn": "1"}), result=encode({"a": (2,)})),
        called("rate", 3, 4, arguments={}, result=1.1),
        called("now", 4, 4, result="same"),
        called("extra", 5, 6, arguments=encode_arguments({"x": {3}}), result=None),
    ]
    sides = [
        ComparedSession(name, (), None, boundary_recordings(each))
        for name, each in (("a", one), ("b", other))
    ]
    found = compare_sessions(*sides)
    assert found.summary == "no calls"
    assert found.summary_of_functions == "1 call added, 2 calls changed, 1 call unchanged"
    assert not found.is_equal
    texts = {
        call.title: [line.text for part in call.parts for line in part.lines]
        for call in found.functions
    }
    assert texts["load, call 1"] == ["- {'a': (1,)}", "+ {'a': (2,)}"]
    assert texts["rate, call 1"] == ["+ 1.1", "- KeyError: 'EUR'"]
    assert texts["extra, call 1"] == ["+ {'x': {3}}"]
    assert isinstance(found.functions[0].preview, str)


def test_lines_without_times_come_last() -> None:
    boundary = Boundary(name="f", position=0)
    (row,) = shown([boundary]).recorded.rows
    assert isinstance(row, BoundaryRow)
    assert (row.start, row.bar) == (None, None)
    assert names(shown([boundary])) == ["flow-1", "flow-2", "f"]
