"""Cassette files: what is written is what is read, and damage of any kind is an error with a place."""

from __future__ import annotations

import gc
import json
import math
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from noukai_sdk import CassetteError, trace_scope_sync
from noukai_sdk.models.sessions import RecordedError, ToolRound
from noukai_sdk.replay.cassette_file import CassetteFile, read_cassette, write_cassette
from noukai_sdk.replay.recording import Recording
from noukai_sdk.replay.redaction import Redactor
from tests.support.servers import ROOT

fuzz = settings(
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

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
    look_errors=tuples(st.tuples(st.integers(0, 9), errors)),
    truncated=st.booleans(),
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


@fuzz
@given(session_id=st.none() | texts, kept=st.lists(recordings, max_size=4))
def test_any_cassette_is_read_as_it_was_written(
    path: Path, session_id: str | None, kept: list[Recording]
) -> None:
    write_cassette(path, session_id, kept)
    assert read_cassette(path) == CassetteFile(session_id, kept)


def test_numbers_that_are_none_and_texts_that_are_none(path: Path) -> None:
    odd = {"nan": math.nan, "inf": -math.inf, "half a pair": "\ud83d"}
    write_cassette(path, None, [Recording(slug="s", kind="execute", result=odd)])
    result = read_cassette(path).recordings[0].result
    assert result is not None
    assert math.isnan(result["nan"])
    assert (result["inf"], result["half a pair"]) == (-math.inf, "?")


def test_a_file_is_readable_and_has_one_order(path: Path) -> None:
    write_cassette(path, "s-1", [example(1)], Redactor(["request.parameters"]))
    header, line = path.read_text().splitlines()
    assert list(json.loads(header)) == [
        "noukai_cassette",
        "session_id",
        "sdk",
        "redacted",
        "recordings",
        "sealed",
        "seal",
    ]
    assert line.startswith('{"slug": "grade-3", "kind": "execute", "request": {"message"')
    assert "rounds" not in line
    assert read_cassette(path).redacted == ("request.parameters",)


def damaged(path: Path, data: bytes) -> CassetteError:
    """The error that damaged data gives, which must name the place."""
    other = path.with_name("damaged.jsonl")
    other.write_bytes(data)
    with pytest.raises(CassetteError) as caught:
        read_cassette(other)
    error = caught.value
    assert error.path == str(other)
    assert error.line is not None
    assert str(error).startswith(f"{other}:{error.line}: ")
    assert 1 <= error.line <= data.count(b"\n") + 1
    return error


def parent(path: Path) -> list[str]:
    return [each.name for each in path.parent.iterdir()]


@pytest.fixture
def whole(path: Path) -> bytes:
    """A cassette of four recordings."""
    write_cassette(path, "s-1", [example(number) for number in range(4)])
    return path.read_bytes()


def test_a_file_that_was_cut_anywhere(path: Path, whole: bytes) -> None:
    for end in range(len(whole)):
        damaged(path, whole[:end])
        damaged(path, whole[end + 1 :])


@fuzz
@given(data=st.data())
def test_bytes_that_changed(path: Path, whole: bytes, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(whole) - 1))
    new = data.draw(st.binary(min_size=1, max_size=4))
    changed = whole[:at] + new + whole[at + len(new) :]
    assume(changed.replace(b"\r\n", b"\n") != whole)
    damaged(path, changed)


@fuzz
@given(data=st.data())
def test_bytes_that_came_and_went(path: Path, whole: bytes, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(whole)))
    end = data.draw(st.integers(start, len(whole)))
    new = data.draw(st.binary(max_size=4))
    changed = whole[:start] + new + whole[end:]
    assume(changed.replace(b"\r\n", b"\n") != whole)
    damaged(path, changed)


@fuzz
@given(order=st.lists(st.integers(0, 4), max_size=7))
def test_lines_that_were_moved_dropped_or_doubled(
    path: Path, whole: bytes, order: list[int]
) -> None:
    assume(order != [0, 1, 2, 3, 4])
    lines = whole.splitlines(keepends=True)
    damaged(path, b"".join(lines[number] for number in order))


def test_the_line_that_is_named_is_the_damaged_one(path: Path, whole: bytes) -> None:
    lines = whole.splitlines(keepends=True)
    changed = lines[2].replace(b"text 1", b"text 9")
    error = damaged(path, b"".join([*lines[:2], changed, *lines[3:]]))
    assert error.line == 3
    assert "was changed or moved since it was recorded" in str(error)
    assert damaged(path, b"".join([lines[0], lines[2], lines[1], *lines[3:]])).line == 2
    assert damaged(path, b"".join(lines[:3])).line == 3
    assert "ends after 2 recordings of 4" in str(damaged(path, b"".join(lines[:3])))
    assert damaged(path, b"".join(lines)[:-20]).line == 5


def test_git_may_change_the_ends_of_lines(path: Path, whole: bytes) -> None:
    kept = read_cassette(path)
    path.write_bytes(whole.replace(b"\n", b"\r\n"))
    assert read_cassette(path) == kept


def test_an_edit_by_hand_must_say_so(path: Path, whole: bytes) -> None:
    edited = whole.replace(b"text 1", b"text 9").replace(b'"sealed": true', b'"sealed": false')
    path.write_bytes(edited)
    assert read_cassette(path).recordings[1].request == {"message": "text 9"}
    path.write_bytes(edited.replace(b'"request": {"message": "text 9"}', b'"request": 5'))
    with pytest.raises(CassetteError, match="this line is no recording: request: ") as caught:
        read_cassette(path)
    assert caught.value.line == 3


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b'{"noukai_cassette": 2}\n', "format version 2 is unknown to noukai-sdk"),
        (b'{"noukai_cassette": "x"}\n', "format version 'x' is unknown"),
        (b'{"noukai_cassette": 1}\n', "the header is damaged: session_id: "),
        (b"interactions:\n- request:\n", "this is no cassette: the header is no JSON"),
        (b'{"a": 1}\n', "this is no cassette: the header has no 'noukai_cassette'"),
        (b"[]\n", "this is no cassette"),
        (b'{"a": 1}', "this is no cassette"),
        (b'{"noukai_c', "the last line has no end: the file was cut"),
        (b"\xff\xfe\n", "this is no cassette"),
        (b"", "the file is empty"),
        (b"\n", "this is no cassette"),
        (b"{", "the last line has no end"),
    ],
)
def test_foreign_files(path: Path, line: bytes, said: str) -> None:
    path.parent.mkdir()
    path.write_bytes(line)
    with pytest.raises(CassetteError, match=said) as caught:
        read_cassette(path)
    assert (caught.value.path, caught.value.line) == (str(path), 1)


@pytest.mark.parametrize("name", ["missing.jsonl", "", "a\0b"])
def test_files_that_cannot_be_read(tmp_path: Path, name: str) -> None:
    with pytest.raises(CassetteError, match="cannot be read") as caught:
        read_cassette(tmp_path / name)
    assert caught.value.__cause__ is not None
    assert caught.value.line is None


def test_the_collector_is_left_as_it_was(path: Path, whole: bytes) -> None:
    read_cassette(path)
    assert gc.isenabled()
    gc.disable()
    try:
        read_cassette(path)
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_an_old_file_is_replaced_and_nothing_is_left_beside_it(path: Path, whole: bytes) -> None:
    write_cassette(path, "s-2", [])
    assert read_cassette(path) == CassetteFile("s-2")
    assert parent(path) == ["c.jsonl"]


def test_others_may_read_what_they_may_read(path: Path, whole: bytes) -> None:
    plain = path.with_name("plain")
    plain.write_text("")
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)


def test_a_link_stays_a_link(path: Path, whole: bytes) -> None:
    link = path.with_name("link.jsonl")
    link.symlink_to(path)
    write_cassette(link, "s-2", [])
    assert link.is_symlink()
    assert read_cassette(path).session_id == "s-2"


def test_a_failed_write_leaves_the_old_file(
    path: Path, whole: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CassetteError, match=r"cannot be written: .*No space left"):
        write_cassette(path, "s-2", [])
    assert path.read_bytes() == whole
    assert parent(path) == ["c.jsonl"]


@pytest.mark.parametrize("place", ["folder", "file.txt/c.jsonl"])
def test_a_place_that_cannot_be_written_is_refused_before_any_call(
    tmp_path: Path, place: str
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file.txt").write_text("")
    scope = trace_scope_sync(record=tmp_path / place)
    with pytest.raises(CassetteError, match="no file can be written there") as caught:
        scope.__enter__()
    assert caught.value.path == str(tmp_path / place)


WRITER = """
import os, signal, sys
from noukai_sdk.replay.files import write_cassette
from noukai_sdk.replay.recording import Recording
path, session_id, number, crash = sys.argv[1:]
if crash:
    os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)
recordings = [Recording(slug=session_id, kind="execute", result={"i": i}) for i in range(200)]
for _ in range(int(number)):
    write_cassette(path, session_id, recordings)
"""


def writer(path: Path, session_id: str, number: int, crash: str = "") -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", WRITER, str(path), session_id, str(number), crash]
    return subprocess.Popen(command, cwd=ROOT)


def test_two_processes_that_write_at_once_never_leave_a_torn_file(path: Path) -> None:
    write_cassette(path, "a", [])
    writers = [writer(path, "a", 25), writer(path, "b", 25)]
    seen = set()
    while any(process.poll() is None for process in writers):
        found = read_cassette(path)
        assert {recording.slug for recording in found.recordings} <= {found.session_id}
        seen.add((found.session_id, len(found.recordings)))
    assert [process.returncode for process in writers] == [0, 0]
    assert seen <= {("a", 0), ("a", 200), ("b", 200)}
    assert len(read_cassette(path).recordings) == 200
    assert parent(path) == ["c.jsonl"]


def test_a_crash_in_mid_write_leaves_the_old_file(path: Path, whole: bytes) -> None:
    assert writer(path, "b", 1, crash="yes").wait(60) == -9
    assert path.read_bytes() == whole


@pytest.mark.parametrize("redact_path", ["events", "kind", "chunks[0]", "look_errors[*][1]"])
def test_redaction_that_leaves_no_recording_is_refused(path: Path, redact_path: str) -> None:
    recording = example(1).model_copy(
        update={
            "events": ({"a": 1},),
            "chunks": ((0.0, 1),),
            "look_errors": ((0, RecordedError(message="x")),),
        }
    )
    with pytest.raises(CassetteError, match="redaction leaves no valid recording of grade-3"):
        write_cassette(path, None, [recording], Redactor([redact_path]))
    assert not path.exists()
