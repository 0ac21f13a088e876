"""The decoder: any cut, any line ending, any mark."""

from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from noukai_sdk.protocol.sse import Frame, SSEDecoder, _frame

ENDINGS = ("\n", "\r\n", "\r")
BOM = b"\xef\xbb\xbf"


def decoded(stream: bytes, cuts: list[int] | None = None) -> list[tuple[str | None, str]]:
    """All frames of ``stream``, which arrives cut at ``cuts``."""
    decoder = SSEDecoder()
    marks = [0, *sorted(cuts or []), len(stream)]
    frames: list[Frame] = []
    for start, end in itertools.pairwise(marks):
        frames += decoder.feed(stream[start:end])
    frames += decoder.flush()
    return [(name.decode() if name else None, data.decode()) for name, data in frames]


# What a line of data can hold: everything but line ends. U+2028 and U+0085 are no line ends here.
text = st.text(st.characters(exclude_characters="\r\n", exclude_categories=("Cs",)), max_size=12)
names = st.sampled_from([None, "", "step_output", "été"])
noise = st.sampled_from(["", ":", ": keep-alive", "id: 7", "retry: 500", "id", "unknown: x"])


@st.composite
def streams(draw: st.DrawFn) -> tuple[bytes, list[tuple[str | None, str]]]:
    """A stream in one of the line endings, and the frames that it holds."""
    ending = draw(st.sampled_from(ENDINGS))
    space = st.sampled_from([" ", ""])
    expected: list[tuple[str | None, str]] = []
    lines: list[str] = []
    for _ in range(draw(st.integers(0, 4))):
        name, data = draw(names), draw(st.lists(text, max_size=3))
        block = [draw(noise)] if draw(st.booleans()) else []
        block = [line for line in block if line]  # an empty line would end the block
        if name is not None:
            block.append(f"event:{draw(space)}{name}")
        block += [f"data: {line}" for line in data]
        lines += [*block, "", *[""] * draw(st.integers(0, 2))]
        if data:
            expected.append((name or None, "\n".join(data)))
    mark = BOM if draw(st.booleans()) else b""
    return mark + "".join(line + ending for line in lines).encode(), expected


@given(streams(), st.data())
def test_any_stream_in_any_pieces(
    stream_and_frames: tuple[bytes, list[tuple[str | None, str]]], data: st.DataObject
) -> None:
    stream, expected = stream_and_frames
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=8))
    assert decoded(stream, cuts) == expected


@given(st.binary(max_size=60), st.lists(st.integers(0, 60), max_size=6))
@example(b"\xef\xbb", [1])
@example(b"\r\n\r\n\r\r", [1, 2, 3])
def test_no_bytes_break_it_and_no_cut_changes_them(noise: bytes, cuts: list[int]) -> None:
    def frames(cuts: list[int]) -> list[Frame]:
        decoder = SSEDecoder()
        marks = [0, *sorted(min(cut, len(noise)) for cut in cuts), len(noise)]
        found: list[Frame] = []
        for start, end in itertools.pairwise(marks):
            found += decoder.feed(noise[start:end])
        return [(name or None, data) for name, data in found + decoder.flush()]

    assert frames(cuts) == frames([])


@given(st.lists(st.tuples(names, text), min_size=1, max_size=5))
def test_a_block_of_usual_frames_reads_as_each_frame_alone(
    frames: list[tuple[str | None, str]],
) -> None:
    parts = [
        ("" if name is None else f"event: {name}\n") + f"data: {data}\n\n" for name, data in frames
    ]
    alone = [_frame(part.rstrip("\n").encode() or b"data:") for part in parts]
    expected = [
        ((name or b"").decode() or None, data.decode()) for name, data in filter(None, alone)
    ]
    assert decoded("".join(parts).encode()) == expected


@pytest.mark.parametrize("size", [1, 2, 3, 7])
@pytest.mark.parametrize("ending", ENDINGS)
def test_cut_everywhere(ending: str, size: int) -> None:
    lines = [
        "event: step_output",
        'data: {"é": "\u2028", ',
        'data: "b": 1}',
        "",
        ": ping",
        "data: 2",
        "",
    ]
    stream = BOM + "".join(line + ending for line in lines).encode()
    assert decoded(stream, list(range(0, len(stream), size))) == [
        ("step_output", '{"é": "\u2028", \n"b": 1}'),
        (None, "2"),
    ]


def test_the_first_event_after_a_mark_is_not_lost() -> None:
    assert decoded(BOM + b"data: 1\n\n") == [(None, "1")]


def test_a_mark_later_on_is_data() -> None:
    assert decoded(b"data: 1\n\ndata: " + BOM + b"2\n\n") == [(None, "1"), (None, "\ufeff2")]


def test_a_block_without_data_is_no_event() -> None:
    assert decoded(b"retry: 1000\n\nevent: ping\n\n: hello\n\ndata: 1\n\n") == [(None, "1")]


def test_the_last_frame_needs_no_blank_line() -> None:
    assert decoded(b"data: 1\n\nevent: a\ndata: 2") == [(None, "1"), ("a", "2")]


def test_one_space_after_the_colon_is_left_out() -> None:
    assert decoded(b"data:  two\ndata:none\ndata\n\n") == [(None, " two\nnone\n")]


def test_a_large_frame_in_many_pieces() -> None:
    payload = json.dumps({"text": "x" * 300_000})
    stream = f"data: {payload}\n\n".encode()
    assert decoded(stream, list(range(0, len(stream), 1000))) == [(None, payload)]
