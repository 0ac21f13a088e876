"""Addresses: the three forms of a flow, versions, ids."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noukai_sdk import ReplayInvalidSessionError
from noukai_sdk.protocol import requests as paths
from noukai_sdk.protocol.call import FlowRef

DEFAULTS = ("acme", "spelling")
FLOW = FlowRef("acme", "spelling", "grade-3")

segments = st.text(min_size=1, max_size=8).filter(
    lambda text: (
        "/" not in text and text not in (".", "..") and not re.search("[\ud800-\udfff]", text)
    )
)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"slug": "grade-3", "defaults": DEFAULTS}, FLOW),
        ({"slug": "acme/spelling/grade-3"}, FLOW),
        ({"slug": "other/x/grade-3", "defaults": DEFAULTS}, FlowRef("other", "x", "grade-3")),
        ({"slug": "other/x/grade-3", "org": "a", "project": "b"}, FlowRef("other", "x", "grade-3")),
        ({"slug": "grade-3", "org": "acme", "project": "spelling"}, FLOW),
        ({"slug": "s", "org": "a", "project": "b", "defaults": DEFAULTS}, FlowRef("a", "b", "s")),
    ],
)
def test_the_three_forms(given: dict[str, Any], expected: FlowRef) -> None:
    assert (
        paths.resolve_flow(**{"org": None, "project": None, "defaults": None, **given}) == expected
    )


@pytest.mark.parametrize(
    ("slug", "org", "project", "said"),
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
def test_bad_addresses(slug: Any, org: Any, project: Any, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        paths.resolve_flow(slug, org, project, None)


@given(segments, segments, segments, segments, segments)
def test_every_segment_is_encoded(org: str, project: str, slug: str, run: str, step: str) -> None:
    flow = paths.resolve_flow(f"{org}/{project}/{slug}", None, None, None)
    assert [unquote(part) for part in paths.flow_path(flow).split("/")] == [
        "",
        "seq",
        org,
        project,
        slug,
    ]
    for path in (paths.call_path("execute", flow), paths.flow_path(flow)):
        assert re.fullmatch(r"[/A-Za-z0-9_.~%-]+", path)
    if run.strip(".") and step.strip("."):
        parts = paths.step_trace_path(flow, run, step).split("/")[5:]
        assert [unquote(part) for part in parts] == ["runs", run, "steps", step, "trace"]


def test_the_paths_of_the_wire() -> None:
    base = "/seq/acme/spelling/grade-3"
    published = FlowRef("acme", "spelling", "grade-3", 3)
    assert [paths.call_path(kind, FLOW) for kind in ("execute", "step", "job")] == [
        f"{base}/execute",
        f"{base}/step",
        f"{base}/jobs",
    ]
    assert [paths.call_path(kind, published) for kind in ("execute", "step", "job")] == [
        f"{base}/v3/execute",
        f"{base}/v3/step",
        f"{base}/v3/jobs",
    ]
    assert paths.job_path(published, "e 1") == f"{base}/jobs/e%201"
    assert paths.trace_path(published, "e/1") == f"{base}/runs/e%2F1/trace"
    assert paths.trace_path(FLOW, "e", live=True) == f"{base}/runs/e/trace/stream"
    assert paths.step_trace_path(FLOW, "e", "s") == f"{base}/runs/e/steps/s/trace"
    assert paths.session_path("s-1") == "/seq/sessions/s-1"


@pytest.mark.parametrize(("version", "number"), [("draft", None), (1, 1), (30, 30)])
def test_versions(version: Any, number: int | None) -> None:
    assert paths.resolve_version(version) == number


@pytest.mark.parametrize("version", [0, -1, True, "3", "v3", 1.0, None])
def test_bad_versions(version: Any) -> None:
    with pytest.raises(ValueError, match="bad version"):
        paths.resolve_version(version)


def test_production_is_promised_for_later() -> None:
    with pytest.raises(NotImplementedError, match="not supported yet"):
        paths.resolve_version("production")


@given(st.from_regex(r"\A[A-Za-z0-9._-]{1,128}\Z").filter(lambda text: text.strip(".")))
def test_good_session_ids(session_id: str) -> None:
    assert paths.require_session_id(session_id) == session_id
    assert paths.session_path(session_id) == f"/seq/sessions/{session_id}"


@given(
    st.text(max_size=140).filter(lambda text: not re.fullmatch(r"[A-Za-z0-9._-]{1,128}", text))
    | st.sampled_from(
        [".", "..", "." * 128, "a" * 129, "a\n", "a/b", "a b", "ä", "", None, 5, b"a"]
    )
)
def test_hostile_session_ids(session_id: Any) -> None:
    with pytest.raises(ReplayInvalidSessionError, match="bad session id"):
        paths.require_session_id(session_id)


@pytest.mark.parametrize("value", ["", ".", "..", "...", "\udfff", None, 5])
def test_ids_that_a_path_cannot_hold(value: Any) -> None:
    with pytest.raises(ValueError, match="bad execution_id"):
        paths.job_path(FLOW, value)
