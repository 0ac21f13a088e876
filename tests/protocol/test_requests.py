"""Requests: addresses, paths, headers, bodies."""

from __future__ import annotations

import datetime
import json
import re
from typing import Any
from urllib.parse import unquote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from noukai_sdk import ReplayInvalidSessionError
from noukai_sdk.protocol import requests
from noukai_sdk.protocol.call import FlowRef
from noukai_sdk.protocol.requests import encode, get, post
from tests.support.stepping import FLOW, make_call, make_service

DEFAULTS = ("acme", "spelling")

segments = st.text(min_size=1, max_size=8).filter(
    lambda text: (
        "/" not in text and text not in (".", "..") and not re.search("[\ud800-\udfff]", text)
    )
)
texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=4)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"slug": "grade-3", "defaults": DEFAULTS}, FLOW),
        ({"slug": "acme/spelling/grade-3"}, FLOW),
        ({"slug": "other/x/grade-3", "defaults": DEFAULTS}, FlowRef("other", "x", "grade-3")),
        ({"slug": "grade-3", "org": "acme", "project": "spelling"}, FLOW),
        ({"slug": "s", "org": "a", "project": "b", "defaults": DEFAULTS}, FlowRef("a", "b", "s")),
    ],
)
def test_flow_address_of_each_form_resolves(arguments: dict[str, Any], expected: FlowRef) -> None:
    arguments = {"org": None, "project": None, "defaults": None, **arguments}
    assert requests.resolve_flow(**arguments) == expected


@pytest.mark.parametrize(
    ("slug", "org", "project", "problem"),
    [
        (None, None, None, "needs a slug"),
        ("", None, None, "needs a slug"),
        (5, None, None, "needs a slug"),
        ("grade-3", None, None, "needs an org and a project: write 'org/project/grade-3'"),
        ("a/b", None, None, "write 'slug' or 'org/project/slug'"),
        ("a/b/c/d", None, None, "write 'slug' or 'org/project/slug'"),
        ("a//c", None, None, "bad project ''"),
        ("/b/c", None, None, "bad org ''"),
        ("a/b/", None, None, "bad slug ''"),
        ("a/../c", None, None, "bad project '..'"),
        ("..", "a", "b", "bad slug '..'"),
        ("grade-3", "acme", None, "pass both or neither"),
        ("grade-3", None, "spelling", "pass both or neither"),
        ("grade-3", "", "", "bad org ''"),
        ("grade-3", "a/b", "c", "bad org 'a/b'"),
        ("grade-3", "a", 5, "bad project 5"),
        ("\ud800", "a", "b", r"bad slug '\ud800'"),
        ("a/\udfff/c", None, None, r"bad project '\udfff'"),
    ],
)
def test_flow_address_not_valid_raises(slug: Any, org: Any, project: Any, problem: str) -> None:
    with pytest.raises(ValueError, match=re.escape(problem)):
        requests.resolve_flow(slug, org, project, None)


@given(segments, segments, segments, segments, segments)
def test_path_segments_are_percent_encoded(
    org: str, project: str, slug: str, run: str, step: str
) -> None:
    flow = requests.resolve_flow(f"{org}/{project}/{slug}", None, None, None)
    parts = requests.flow_path(flow).split("/")
    assert [unquote(part) for part in parts] == ["", "seq", org, project, slug]
    assert re.fullmatch(r"[/A-Za-z0-9_.~%-]+", requests.call_path("execute", flow))
    if run.strip(".") and step.strip("."):
        parts = requests.step_trace_path(flow, run, step).split("/")[5:]
        assert [unquote(part) for part in parts] == ["runs", run, "steps", step, "trace"]


def test_paths_match_the_wire() -> None:
    base = "/seq/acme/spelling/grade-3"
    published = FLOW._replace(version=3)
    for kind, verb in (("execute", "execute"), ("step", "step"), ("job", "jobs")):
        assert requests.call_path(kind, FLOW) == f"{base}/{verb}"  # type: ignore[arg-type]  # a literal
        assert requests.call_path(kind, published) == f"{base}/v3/{verb}"  # type: ignore[arg-type]  # a literal
    assert requests.job_path(published, "e 1") == f"{base}/jobs/e%201"
    assert requests.trace_path(published, "e/1") == f"{base}/runs/e%2F1/trace"
    assert requests.trace_path(FLOW, "e", live=True) == f"{base}/runs/e/trace/stream"
    assert requests.step_trace_path(FLOW, "e", "s") == f"{base}/runs/e/steps/s/trace"
    for value in ("", ".", "..", "...", "\udfff", None, 5):
        with pytest.raises(ValueError, match="bad execution_id"):
            requests.job_path(FLOW, value)  # type: ignore[arg-type]  # some are not strings


@given(st.text(max_size=140) | st.from_regex(r"\A[A-Za-z0-9._-]{1,128}\Z"))
@example("." * 128)
@example("a" * 129)
@example("a\n")
def test_session_id_is_accepted_or_refused(session_id: str) -> None:
    if re.fullmatch(r"[A-Za-z0-9._-]{1,128}", session_id) and session_id.strip("."):
        assert requests.session_path(session_id) == f"/seq/sessions/{session_id}"
    else:
        with pytest.raises(ReplayInvalidSessionError, match="bad session id"):
            requests.session_path(session_id)


@given(json_values)
@example({"x": "NaN and Infinity"})
def test_body_is_json_or_raises(value: Any) -> None:
    constants: list[str] = []
    json.loads(json.dumps(value), parse_constant=constants.append)
    if constants:
        with pytest.raises(TypeError, match="cannot be sent as JSON"):
            encode(value)
    else:
        assert json.loads(encode(value)) == value


def test_body_values_without_json_form_raise() -> None:
    for value in (object(), float("inf"), {"x": [float("-inf")]}, "\ud800"):
        with pytest.raises(TypeError, match="cannot be sent as JSON"):
            encode({"x": value})
    assert encode({"x": datetime.date(2026, 5, 31)}) == b'{"x":"2026-05-31"}'


def test_extra_headers_never_replace_ours() -> None:
    extra = {"x-session-id": "mine", "ACCEPT": "x", "X-Mine": "1"}
    request = post(make_call(session_id="s1", extra_headers=extra), {}, accept="text/event-stream")
    assert request.headers == {
        "X-Mine": "1",
        "Content-Type": "application/json",
        "X-Session-Id": "s1",
        "Accept": "text/event-stream",
    }
    untagged = make_call(extra_headers={"x-session-id": "mine"})
    assert post(untagged, {}).headers["x-session-id"] == "mine"


def test_request_timeout_prefers_the_call() -> None:
    assert post(make_call(), {}).timeout == 300.0
    assert post(make_call(timeout=1.5), {}).timeout == 1.5
    assert get(make_service(timeout=7.0), "/x").timeout == 7.0
    assert get(make_service(), "/x", timeout=2.0).timeout == 2.0


def test_repr_shows_no_secrets() -> None:
    call = make_call(extra_headers={"X-Token": "hush"})
    for text in (repr(call), repr(call.service), str(call)):
        assert "nk_secret" not in text
        assert "hush" not in text
    assert str(FLOW) == "acme/spelling/grade-3"
