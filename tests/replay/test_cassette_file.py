"""Cassette files: a round trip, edits by hand, damage with a line number, atomic writes."""

from __future__ import annotations

import json
import math
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import noukai_sdk
from noukai_sdk import CassetteError, trace_scope_sync
from noukai_sdk.models.exchanges import (
    CapturedBody,
    CapturedRequest,
    CapturedResponse,
    Exchange,
)
from noukai_sdk.models.sessions import RecordedError, ToolRound
from noukai_sdk.replay.cassette_file import CassetteFile, read_cassette, write_cassette
from noukai_sdk.replay.recording import Recording
from noukai_sdk.replay.redaction import Redactor

fuzz = settings(max_examples=50)

# What a secret looks like is the business of test_redaction.
names = st.text("abcxyzü _", max_size=8)
texts = st.text(max_size=20)
numbers = st.integers() | st.floats(allow_nan=False)
values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=8,
)
objects = st.dictionaries(names, values, max_size=4)
seconds = st.floats(0, 2e9)
errors = st.builds(
    RecordedError,
    status_code=st.none() | st.integers(400, 599),
    code=st.none() | texts,
    message=texts,
    type=st.none() | st.just("RateLimitError"),
    details=objects,
)
rounds = st.builds(
    ToolRound, paused=objects, tool_results=st.none() | st.lists(objects, max_size=2)
)


def tuples(of: Any) -> Any:
    return st.lists(of, max_size=3).map(tuple)


recordings = st.builds(
    Recording,
    slug=st.none() | texts,
    kind=st.sampled_from([None, "execute", "step", "job"]),
    org=st.none() | texts,
    version=st.none() | st.integers(1, 99),
    execution_id=st.none() | texts,
    request=st.none() | objects,
    message_only=st.booleans(),
    started_at=st.none() | seconds,
    completed_at=st.none() | seconds,
    result=st.none() | objects,
    error=st.none() | errors,
    rounds=tuples(rounds),
    events=tuples(objects),
    closed=st.booleans(),
    chunks=tuples(st.tuples(seconds, st.integers(0, 9))),
    statuses=tuples(objects),
    poll_errors=tuples(st.tuples(st.integers(0, 9), errors)),
    truncated=st.booleans(),
    abandoned=st.booleans(),
    unavailable=st.none() | texts,
)


def example(number: int) -> Recording:
    return Recording(
        slug="grade-3",
        kind="execute",
        request={"message": f"text {number}"},
        result={"status": "completed", "result": number},
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cassettes" / "c.jsonl"


@pytest.fixture
def data(path: Path) -> bytes:
    """A cassette of four recordings, as bytes."""
    write_cassette(path, "s-1", [example(number) for number in range(4)])
    return path.read_bytes()


@fuzz
@given(session_id=st.none() | texts, kept=st.lists(recordings, max_size=4))
def test_cassette_file_written_and_read_is_equal(
    path: Path, session_id: str | None, kept: list[Recording]
) -> None:
    write_cassette(path, session_id, kept)
    assert read_cassette(path) == CassetteFile(session_id, kept)


def test_cassette_file_keeps_nan_and_replaces_half_surrogates(path: Path) -> None:
    odd = {"nan": math.nan, "inf": -math.inf, "half a pair": "\ud83d"}
    write_cassette(path, None, [Recording(slug="s", kind="execute", result=odd)])
    result = read_cassette(path).recordings[0].result
    assert result is not None
    assert math.isnan(result["nan"])
    assert (result["inf"], result["half a pair"]) == (-math.inf, "?")


def test_cassette_file_is_readable_json_in_a_stable_order(path: Path) -> None:
    write_cassette(path, "s-1", [example(1)], Redactor(["request.parameters"]))
    header, line = path.read_text().splitlines()
    assert json.loads(header) == {
        "noukai_cassette": 1,
        "session_id": "s-1",
        "sdk": noukai_sdk.__version__,
        "redacted": ["request.parameters"],
        "recordings": 1,
    }
    assert header.startswith('{"noukai_cassette": 1, "session_id": "s-1", "sdk"')
    assert line == (
        '{"slug": "grade-3", "kind": "execute", "request": {"message": "text 1"}, '
        '"result": {"status": "completed", "result": 1}}'
    )
    assert read_cassette(path).redacted == ("request.parameters",)


def test_cassette_file_of_an_earlier_version_is_read_and_its_seals_ignored(path: Path) -> None:
    """Written before 1.0: sealed lines, and other names for two fields."""
    path.parent.mkdir()
    path.write_text(
        '{"noukai_cassette": 1, "session_id": "s-1", "sdk": "0.2.0", "redacted": [], '
        '"recordings": 2, "sealed": true, "seal": "0000000000000000"}\n'
        '{"slug": "f", "kind": "job", "look_errors": [[0, {"message": "no"}]], "seal": "00"}\n'
        '{"slug": "f", "kind": "execute", "given_up": true, "seal": "0000000000000000"}\n'
    )
    job, abandoned = read_cassette(path).recordings
    assert [error.message for _, error in job.poll_errors] == ["no"]
    assert abandoned.abandoned
    write_cassette(path, "s-1", [job, abandoned])
    for old in ("look_errors", "given_up", "seal"):
        assert old not in path.read_text()
    assert read_cassette(path).recordings == [job, abandoned]


def test_cassette_file_edited_by_hand_is_read(path: Path, data: bytes) -> None:
    path.write_bytes(data.replace(b"text 1", b"text 9"))
    assert read_cassette(path).recordings[1].request == {"message": "text 9"}
    # Editors and git change the ends of lines, and the last one.
    for edited in (data.replace(b"\n", b"\r\n"), data.rstrip(b"\n"), data + b"\n\n"):
        path.write_bytes(edited)
        assert read_cassette(path).recordings == [example(number) for number in range(4)]


def test_cassette_file_with_line_added_or_removed_says_what_to_set(path: Path, data: bytes) -> None:
    lines = data.splitlines(keepends=True)
    for edited, count in ((lines[:-1], 3), ([*lines, lines[1]], 5)):
        path.write_bytes(b"".join(edited))
        with pytest.raises(CassetteError, match=f'set "recordings": {count} in line 1') as caught:
            read_cassette(path)
        assert caught.value.line == 1
        for correct in (b'"recordings": %d' % count, b'"merged": true'):
            path.write_bytes(b"".join(edited).replace(b'"recordings": 4', correct))
            assert len(read_cassette(path).recordings) == count


HEADER = (
    b'{"noukai_cassette": 1, "session_id": null, "sdk": "0.2.0", "redacted": [], "recordings": 1}'
)


@pytest.mark.parametrize(
    ("content", "line", "problem"),
    [
        (b'{"noukai_cassette": 4}\n', 1, "reads format version 3, not 4: update the package"),
        (b'{"noukai_cassette": "x"}\n', 1, "reads format version 3, not 'x'"),
        (b'{"noukai_cassette": 1}\n', 1, "the header is damaged: session_id: "),
        (b"interactions:\n- request:\n", 1, "not a cassette: the first line is not JSON"),
        (b'{"a": 1}\n', 1, "not a cassette: the first line has no 'noukai_cassette'"),
        (b"[]\n", 1, "not a cassette"),
        (b'{"noukai_c', 1, "not a cassette"),
        (b"\xff\xfe\n", 1, "not a cassette"),
        (b"", 1, "the file is empty"),
        (HEADER + b'\n{"slug": "f", "ki', 2, "this line is not a valid recording: "),
        (HEADER + b'\n{"slug": 5, "kind": null}', 2, "not a valid recording: slug: "),
        (b"<<<<<<< HEAD\n" + HEADER + b"\n=======\n", 1, "a git merge conflict is not resolved"),
        (HEADER + b"\n{}\n>>>>>>> branch\n", 3, "a git merge conflict is not resolved"),
    ],
)
def test_cassette_file_that_is_damaged_is_an_error_with_line(
    path: Path, content: bytes, line: int, problem: str
) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(CassetteError, match=problem) as caught:
        read_cassette(path)
    assert (caught.value.path, caught.value.line) == (str(path), line)
    assert str(caught.value).startswith(f"{path}:{line}: ")


def test_cassette_file_cut_anywhere_is_an_error_or_complete(path: Path, data: bytes) -> None:
    for end in range(len(data) - 1):
        path.write_bytes(data[:end])
        with pytest.raises(CassetteError):
            read_cassette(path)


@pytest.mark.parametrize("name", ["missing.jsonl", "", "a\0b"])
def test_cassette_file_that_cannot_be_opened_is_an_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(CassetteError, match="cannot be read") as caught:
        read_cassette(tmp_path / name)
    assert caught.value.__cause__ is not None
    assert caught.value.line is None


def test_write_replaces_file_behind_link_and_keeps_its_mode(path: Path, data: bytes) -> None:
    link, plain = path.with_name("link.jsonl"), path.with_name("plain")
    link.symlink_to(path)
    plain.write_text("")
    write_cassette(link, "s-2", [])
    assert link.is_symlink()
    assert read_cassette(path) == CassetteFile("s-2")
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)
    assert sorted(each.name for each in path.parent.iterdir()) == ["c.jsonl", "link.jsonl", "plain"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_write_that_fails_leaves_the_old_file(
    path: Path, data: bytes, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def fail(_: int) -> None:
        # The new data is there, but under another name: a crash here loses nothing either.
        assert path.read_bytes() == data
        raise error

    monkeypatch.setattr(os, "fsync", fail)
    kind = CassetteError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(kind):
        write_cassette(path, "s-2", [])
    assert path.read_bytes() == data
    assert [each.name for each in path.parent.iterdir()] == ["c.jsonl"]


def test_write_by_two_threads_at_once_never_leaves_a_mixed_file(path: Path) -> None:
    def write(session_id: str) -> None:
        recordings = [Recording(slug=session_id, kind="execute") for _ in range(50)]
        for _ in range(20):
            write_cassette(path, session_id, recordings)

    write_cassette(path, "a", [])
    with ThreadPoolExecutor(2) as threads:
        writers = [threads.submit(write, session_id) for session_id in ("a", "b")]
        while not all(writer.done() for writer in writers):
            file = read_cassette(path)
            assert {recording.slug for recording in file.recordings} <= {file.session_id}
        for writer in writers:
            writer.result()
    assert len(read_cassette(path).recordings) == 50
    assert [each.name for each in path.parent.iterdir()] == ["c.jsonl"]


@pytest.mark.parametrize("name", ["folder", "file.txt/c.jsonl"])
def test_record_to_path_that_cannot_be_written_fails_before_any_call(
    tmp_path: Path, name: str
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file.txt").write_text("")
    scope = trace_scope_sync(record=tmp_path / name)
    with pytest.raises(CassetteError, match="no file can be written there") as caught:
        scope.__enter__()
    assert caught.value.path == str(tmp_path / name)


@pytest.mark.parametrize("redact_path", ["events", "kind", "chunks[0]", "poll_errors[*][1]"])
def test_write_redaction_that_breaks_a_recording_is_an_error(path: Path, redact_path: str) -> None:
    recording = replace(
        example(1),
        events=({"a": 1},),
        chunks=((0.0, 1),),
        poll_errors=((0, RecordedError(message="x")),),
    )
    with pytest.raises(CassetteError, match=r"after redaction grade-3 .* is not a valid recording"):
        write_cassette(path, None, [recording], Redactor([redact_path]))
    assert not path.exists()


def test_file_keeps_captured_exchange(tmp_path: Path) -> None:
    request = CapturedRequest(method="POST", origin="http://a", path="/b", headers=(("c", "d"),))
    body = CapturedBody(text="é", size=2)
    exchange = Exchange(request=request, response=CapturedResponse(status=200, body=body))
    write_cassette(tmp_path / "a.jsonl", "s-1", [], exchange=exchange)
    assert read_cassette(tmp_path / "a.jsonl").exchange == exchange
    write_cassette(tmp_path / "a.jsonl", "s-1", [])
    assert read_cassette(tmp_path / "a.jsonl").exchange is None
