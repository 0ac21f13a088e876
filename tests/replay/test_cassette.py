"""Which recording serves which call, in any order of events: properties of a cassette."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from hypothesis import given
from hypothesis import strategies as st

from noukai_sdk.replay.cassette import Cassette
from noukai_sdk.replay.lanes import Claim
from noukai_sdk.replay.recording import Recording
from tests.support.stepping import make_call

MESSAGES = st.sampled_from("abcde")


def cassette_of(messages: Sequence[str], *, overlapping: bool = False) -> Cassette:
    """A cassette whose recordings were made one after the other, or all at once."""
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
    return Cassette(None, recordings)


class Call:
    """One call: claimed; then dropped, or begun, assigned and finished."""

    def __init__(self, cassette: Cassette, message: str) -> None:
        self.message = message
        self.position = -1
        self.got: str | None = None
        self.assigned = False
        self._cassette = cassette

    def steps(self) -> Iterator[None]:
        call = make_call(request={"message": self.message})
        claim: Claim | None = self._cassette.claim(call, None)
        yield
        assert claim is not None
        self._cassette.begin(claim)
        yield
        self._cassette.assign(claim)
        self.assigned, self.position = True, claim.position
        if claim.index is not None:
            request = claim.lane.recordings[claim.index].request
            self.got = request["message"] if request else None
        yield
        self._cassette.finish(claim)


@st.composite
def interleaved(
    draw: st.DrawFn, cassette: Cassette, messages: Sequence[str], *, may_drop: bool = True
) -> list[Call]:
    """Calls whose steps ran in any order; some never began."""
    calls = [Call(cassette, message) for message in messages]
    unclaimed = [call.steps() for call in calls]
    running: list[Iterator[None]] = []
    while unclaimed or running:
        if unclaimed and (not running or draw(st.booleans())):
            # Claims come in the order of the calls: that is what order means.
            running.append(unclaimed.pop(0))
            next(running[-1])
            continue
        number = draw(st.integers(0, len(running) - 1))
        if (may_drop and draw(st.integers(0, 9)) == 7) or next(running[number], "over") == "over":
            del running[number]
    return calls


@given(data=st.data(), recorded=st.lists(MESSAGES, max_size=8, unique=True))
def test_overlapping_calls_with_distinct_inputs_each_get_their_own_recording(
    data: st.DataObject, recorded: list[str]
) -> None:
    cassette = cassette_of(recorded, overlapping=True)
    calls = data.draw(interleaved(cassette, data.draw(st.permutations(recorded))))
    assigned = [call for call in calls if call.assigned]
    assert [call.got for call in assigned] == [call.message for call in assigned]


@given(data=st.data(), recorded=st.lists(MESSAGES, max_size=8))
def test_overlapping_calls_with_equal_inputs_get_recordings_of_that_input(
    data: st.DataObject, recorded: list[str]
) -> None:
    cassette = cassette_of(recorded, overlapping=True)
    calls = data.draw(interleaved(cassette, data.draw(st.permutations(recorded)), may_drop=False))
    assert [call.got for call in calls] == [call.message for call in calls]
    assert cassette.remaining == 0


@given(
    data=st.data(),
    recorded=st.lists(MESSAGES, max_size=6),
    called=st.lists(MESSAGES, max_size=8),
    overlapping=st.booleans(),
)
def test_calls_in_any_order_never_share_a_recording(
    data: st.DataObject, recorded: list[str], called: list[str], overlapping: bool
) -> None:
    cassette = cassette_of(recorded, overlapping=overlapping)
    calls = data.draw(interleaved(cassette, called))
    played = [call.got for call in calls if call.got is not None]
    assert all(played.count(each) <= recorded.count(each) for each in "abcde")
    # A call dropped between claim and turn may have been assigned by another one.
    assert cassette.remaining <= len(recorded) - len(played)
    assert cassette.remaining == len(cassette.close())
    missed = [call for call in calls if call.assigned and call.got is None]
    assert not missed or cassette.remaining == 0 or not overlapping


@given(
    recorded=st.lists(MESSAGES, max_size=6),
    called=st.lists(st.tuples(MESSAGES, st.booleans()), max_size=8),
)
def test_sequential_calls_match_by_position_and_dropped_ones_do_not_count(
    recorded: list[str], called: list[tuple[str, bool]]
) -> None:
    cassette = cassette_of(recorded)
    calls = []
    for message, dropped in called:
        call = Call(cassette, message)
        steps = call.steps()
        next(steps)
        if not dropped:
            list(steps)
            calls.append(call)
        del steps
    count = len(calls)
    assert [call.got for call in calls] == [*recorded, *([None] * count)][:count]
    assert [call.position for call in calls] == list(range(count))
    assert [index for _, index in cassette.close()] == list(range(len(recorded)))[count:]
