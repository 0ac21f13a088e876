"""Comparing captured responses with received ones, and sending captured requests again."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from noukai_sdk import CapturedRequestError
from noukai_sdk.models.exchanges import CapturedBody, CapturedRequest, CapturedResponse, Exchange
from noukai_sdk.replay.resending import sent_again
from noukai_sdk.replay.response_diff import ReceivedResponse, compare_responses

MASK = "[redacted]"
SSE = "text/event-stream"

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4)
    ),
    max_leaves=12,
)


def captured(
    body: str | bytes | None, kind: str = "application/json", **fields: Any
) -> CapturedResponse:
    if isinstance(body, bytes):
        fields = {"encoding": "base64", **fields}
        body = base64.b64encode(body).decode()
    content = None if body is None else CapturedBody(text=body, **fields)
    return CapturedResponse(status=200, headers=(("content-type", kind),), body=content)


def received(
    body: str | bytes, kind: str = "application/json", status: int = 200
) -> ReceivedResponse:
    content = body if isinstance(body, bytes) else body.encode("utf-8", "surrogatepass")
    return ReceivedResponse(status, [("Content-Type", kind)], content)


def places(a: CapturedResponse, b: ReceivedResponse) -> list[str]:
    found = compare_responses(a, b)
    json.dumps([each.as_dict() for each in found])
    assert all(str(each) for each in found)
    return [each.where for each in found]


@given(values, st.booleans())
def test_json_is_compared_by_value(value: Any, indent: bool) -> None:
    text = json.dumps(value, indent=2 if indent else None, sort_keys=indent)
    other = json.dumps(value, separators=(",", ":"))
    assert places(captured(text), received(other)) == []


@given(values, values)
@example("nan", float("nan"))
@example("True", True)
def test_json_differs_exactly_if_the_values_do(a: Any, b: Any) -> None:
    def canonical(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: canonical(item) for name, item in value.items()}
        if isinstance(value, list):
            return [canonical(item) for item in value]
        # As tuples, which equal no text ("nan") and no number (1).
        if isinstance(value, bool) or value is None:
            return (str(value),)
        return ("nan",) if value != value else value

    differ = canonical(a) != canonical(b)
    assert bool(places(captured(json.dumps(a)), received(json.dumps(b)))) == differ


@given(st.data(), values)
def test_masked_values_match_anything(data: st.DataObject, value: Any) -> None:
    def masked(value: Any) -> Any:
        if data.draw(st.integers(0, 3)) == 0:
            return MASK
        if isinstance(value, dict):
            return {name: masked(item) for name, item in value.items()}
        if isinstance(value, list):
            return [masked(item) for item in value]
        return value

    assert places(captured(json.dumps(masked(value))), received(json.dumps(value))) == []


@given(st.lists(st.text(alphabet="ab \n", max_size=6), max_size=5), st.data())
def test_masked_texts_match_any_text_in_place_of_the_mask(
    parts: list[str], data: st.DataObject
) -> None:
    text = "".join(part + data.draw(st.text(alphabet="ab\n", max_size=3)) for part in parts) + "end"
    pattern = MASK.join([*parts, "end"])
    assert places(captured(pattern, "text/plain"), received(text, "text/plain")) == []
    assert places(captured(pattern + "!", "text/plain"), received(text, "text/plain")) == ["body"]


@given(values, st.integers(1, 400))
def test_cut_body_equals_the_whole_one(value: Any, size: int) -> None:
    text = json.dumps({"v": value, "w": [value]})
    for kind in ("application/json", "text/plain", SSE, "application/x-ndjson"):
        whole = (
            f"data: {text}\n\n" * 2 if kind == SSE else f"{text}\n{text}" if "nd" in kind else text
        )
        for fields in ({"truncated": True}, {"complete": False}):
            assert places(captured(whole[:size], kind, **fields), received(whole, kind)) == []


@pytest.mark.parametrize(
    ("a", "b", "where"),
    [
        ('{"a": {"b c": [1, 2, 3]}}', '{"a": {"b c": [1, 9, 3]}}', ['$.a["b c"][1]']),
        ('{"a": 1}', '{"b": 1}', ["$.a", "$.b"]),
        ("[1, 2, 3]", "[1, 3]", ["$[1]"]),
        ("[1, 3]", "[0, 1, 3]", ["$[0]"]),
        ('{"n": 1}', '{"n": true}', ["$.n"]),
        ('{"n": 1}', '{"n": 1.0}', []),
        ('{"n": "1"}', '{"n": 1}', ["$.n"]),
        ('{"n": NaN}', '{"n": NaN}', []),
        (f'{{"[redacted]": {{"x": "{MASK}"}}}}', '{"sk-1": {"x": {}}}', []),
        (f'{{"n": "a {MASK} c"}}', '{"n": "a b"}', ["$.n"]),
        ("not JSON", "{}", ["body"]),
        ("[" * 100_000, "[" * 99_999, ["body"]),
        ("[[1], 1]", "[[1, 2]]", ["$[0][1]", "$[1]"]),
    ],
)  # fmt: skip
def test_json_names_the_paths_that_differ(a: str, b: str, where: list[str]) -> None:
    assert places(captured(a), received(b)) == where


def test_json_nested_lists_of_other_lengths_are_compared_in_time() -> None:
    a: Any = [0]
    b: Any = [1, 2]
    for _ in range(150):
        a, b = {"x": [a, 1]}, {"x": [b, 1, 1]}
    assert places(captured(json.dumps(a)), received(json.dumps(b)))


@pytest.mark.parametrize(
    ("a", "b", "where"),
    [
        ('data: {"a": 1}\n\n', 'data:{"a":1}\r\n\r\n: ping\r\n\r\n', []),
        ("data: a\n\ndata: b\n\n", "data: a\n\ndata: c\n\n", ["event 2"]),
        ('event: x\ndata: {"a": 1}\n\n', 'event: x\ndata: {"a": 2}\n\n', ["event 1, $.a"]),
        ("event: x\ndata: 1\n\n", "event: y\ndata: 1\n\n", ["event 1, its type"]),
        ("data: a\n\n", "data: a\n\ndata: b\n\n", ["event 2"]),
        ("data: a\n\ndata: b\n\n", "data: a\n\n", ["event 2"]),
        (f"data: key {MASK}\n\n", "data: key 17\n\n", []),
    ],
)
def test_event_streams_are_compared_event_by_event(a: str, b: str, where: list[str]) -> None:
    assert places(captured(a, f"{SSE}; charset=utf-8"), received(b, SSE)) == where


def test_texts_differ_as_a_diff() -> None:
    [difference] = compare_responses(
        captured("one\ntwo\nthree", "text/html"), received("one\n2\nthree", "text/html")
    )
    assert "-two\n+2" in difference.diff
    assert "-two" in str(difference)


def test_texts_of_many_lines_differ_without_a_diff() -> None:
    text = "\n".join("ab"[number % 2] for number in range(200_000))
    [found] = compare_responses(captured(text, "text/plain"), received(f"c\n{text}", "text/plain"))
    assert (found.where, found.diff) == ("body", "")


def test_binary_bodies_are_compared_by_bytes() -> None:
    a, b = b"\xff\x00abc", b"\xff\x00abd"
    assert places(captured(a, "image/png"), received(a, "image/png")) == []
    assert places(captured(a, "image/png"), received(b, "image/png")) == ["body, from byte 4"]
    secret = b"\xffkey=[redacted];"
    assert places(captured(secret, "image/png"), received(b"\xffkey=17;", "image/png")) == []


def test_status_and_media_type_count_and_other_headers_do_not() -> None:
    a = captured("x", "text/plain; charset=utf-8")
    assert (
        places(a, ReceivedResponse(200, [("content-type", "Text/Plain"), ("etag", "1")], b"x"))
        == []
    )
    assert places(a, ReceivedResponse(500, [], b"x")) == ["status", "content-type"]
    never_started = CapturedResponse()
    assert places(never_started, received("boom", status=500)) == []
    assert places(never_started, received("gone", status=410)) == []
    assert places(never_started, received("fine")) == ["status"]
    assert places(captured(None), received("anything")) == []


@pytest.mark.parametrize(
    ("location", "where"),
    [
        ("http://localhost:8000/items/1?key=k", []),
        ("https://shop.example/items/2?key=k", ["location"]),
        (None, ["location"]),
    ],
)
def test_location_is_compared_without_its_origin(location: str | None, where: list[str]) -> None:
    target = "https://shop.example/items/1?key=[redacted]"
    redirect = CapturedResponse(status=307, headers=(("location", target),))
    headers = [] if location is None else [("Location", location)]
    response = ReceivedResponse(307, headers)
    assert [each.where for each in compare_responses(redirect, response)] == where


def test_request_is_sent_again_with_its_masks() -> None:
    request = CapturedRequest(
        method="POST",
        origin="http://test",
        path="/a%20b",
        query=f"token={MASK}&q=1",
        headers=(("content-type", "application/json"), ("content-length", "99")),
        body=CapturedBody(text=f'{{"pin": "{MASK}"}}', size=15),
        redacted=("query token", "body $.pin"),
    )
    again = sent_again(Exchange(request=request, response=CapturedResponse()))
    assert again.target == "/a%20b?token=%5Bredacted%5D&q=1"
    assert again.headers == (("content-type", "application/json"),)
    assert again.content == b'{"pin": "[redacted]"}'
    assert again.masked == ("query token", "body $.pin")


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (CapturedBody(text="abc", size=9_000_000, truncated=True), "only the first part"),
        (CapturedBody(size=9, truncated=True), "left out"),
        (CapturedBody(text="ab", size=2, complete=False), "only the first 2 bytes"),
    ],
)
def test_request_without_its_whole_body_cannot_be_sent_again(
    body: CapturedBody, problem: str
) -> None:
    request = CapturedRequest(method="POST", origin="http://test", path="/a", body=body)
    with pytest.raises(CapturedRequestError, match=problem):
        sent_again(Exchange(request=request, response=CapturedResponse()))
