"""Which recording answers which call, whatever the order of events: properties of a lane."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from hypothesis import given
from hypothesis import strategies as st

from noukai_sdk.replay.cassette import Claim, Lane
from noukai_sdk.replay.recording import Recording

MESSAGES = st.sampled_from("abcde")


def lane_of(messages: Sequence[str], *, overlapping: bool = False) -> Lane:
    """A lane whose recordings were made one after the other, or all at once."""
    recordings = [
        Recording(
            slug="grade-3",
            kind="execute",
            request={"message": message},
            started_at=float(number),
            completed_at=1e9 if overlapping else number + 0.5,
        )
        for number, message in enumerate(messages)
    ]
    return Lane("grade-3", "execute", recordings)


class Call:
    """One call on its way: claimed; then dropped, or begun, settled and ended."""

    def __init__(self, lane: Lane, message: str) -> None:
        self.message = message
        self.position = -1
        self.got: str | None = None
        self.was_settled = False
        self._lane = lane

    def live(self) -> Iterator[None]:
        claim: Claim | None = self._lane.claim({"message": self.message}, None, None)
        yield
        assert claim is not None
        self._lane.begin()
        yield
        self._lane.settle(claim)
        self.was_settled, self.position = True, claim.position
        if claim.index is not None:
            request = self._lane.recordings[claim.index].request
            self.got = request["message"] if request else None
        yield
        self._lane.end()


@st.composite
def lived(
    draw: st.DrawFn, lane: Lane, messages: Sequence[str], *, may_drop: bool = True
) -> list[Call]:
    """Calls that were lived through, their steps in any order; some never begin."""
    calls = [Call(lane, message) for message in messages]
    lives = [call.live() for call in calls]
    waiting: list[Iterator[None]] = []
    while lives or waiting:
        if lives and (not waiting or draw(st.booleans())):
            # Claims come in the order of the calls: nothing else is what order means.
            waiting.append(lives.pop(0))
            next(waiting[-1])
            continue
        number = draw(st.integers(0, len(waiting) - 1))
        if (may_drop and draw(st.integers(0, 9)) == 7) or next(waiting[number], "over") == "over":
            del waiting[number]
    return calls


@given(data=st.data(), recorded=st.lists(MESSAGES, max_size=8, unique=True))
def test_of_overlapping_calls_each_gets_its_own(data: st.DataObject, recorded: list[str]) -> None:
    lane = lane_of(recorded, overlapping=True)
    order = data.draw(st.permutations(recorded))
    calls = data.draw(lived(lane, order))
    assert [call.got for call in calls if call.was_settled] == [
        call.message for call in calls if call.was_settled
    ]


@given(data=st.data(), recorded=st.lists(MESSAGES, max_size=8))
def test_equal_inputs_get_equal_inputs(data: st.DataObject, recorded: list[str]) -> None:
    lane = lane_of(recorded, overlapping=True)
    calls = data.draw(lived(lane, data.draw(st.permutations(recorded)), may_drop=False))
    assert [call.got for call in calls] == [call.message for call in calls]
    assert lane.remaining == 0


@given(
    data=st.data(),
    recorded=st.lists(MESSAGES, max_size=6),
    called=st.lists(MESSAGES, max_size=8),
    overlapping=st.booleans(),
)
def test_whatever_happens_no_recording_is_played_twice(
    data: st.DataObject, recorded: list[str], called: list[str], overlapping: bool
) -> None:
    lane = lane_of(recorded, overlapping=overlapping)
    calls = data.draw(lived(lane, called))
    played = [call.got for call in calls if call.got is not None]
    assert all(played.count(each) <= recorded.count(each) for each in "abcde")
    # Dropped between claim and turn, a call may have been settled by the one beside it.
    assert len(lane.unplayed()) == lane.remaining <= len(recorded) - len(played)
    missed = [call for call in calls if call.was_settled and call.got is None]
    assert not missed or lane.remaining == 0 or not overlapping


@given(recorded=st.lists(MESSAGES, max_size=6), called=st.lists(MESSAGES, max_size=8))
def test_one_after_the_other_the_nth_gets_the_nth(recorded: list[str], called: list[str]) -> None:
    lane = lane_of(recorded)
    calls = [Call(lane, message) for message in called]
    for call in calls:
        for _ in call.live():
            pass
    expected = [*recorded, *([None] * len(called))][: len(called)]
    assert [call.got for call in calls] == expected
    assert [call.position for call in calls] == list(range(len(called)))
    assert lane.unplayed() == list(range(min(len(called), len(recorded)), len(recorded)))


@given(
    recorded=st.lists(MESSAGES, min_size=1, max_size=6),
    dropped=st.lists(st.booleans(), min_size=12, max_size=12),
)
def test_calls_that_never_begin_do_not_count(recorded: list[str], dropped: list[bool]) -> None:
    lane = lane_of(recorded)
    got = []
    for is_dropped in dropped:
        life = (call := Call(lane, "x")).live()
        next(life)
        if not is_dropped:
            list(life)
            got.append(call.got)
        del life
    assert got == [*recorded, *([None] * 12)][: len(got)]
