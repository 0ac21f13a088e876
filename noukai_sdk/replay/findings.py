"""Find out what happened to the calls of a replay: which were added, removed, swapped or changed.

Recordings are served by position, so one call that was added or removed makes all later calls of its
lane differ. Aligning their inputs with the recorded ones shows which call it was.

This only explains. It runs when a replay has a miss, drift or leftovers, and changes nothing about which
recording is served.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

from ..models.reports import CallSite, Finding, printable
from .alignment import Input, Pair, align, input_text, same_input
from .drift import Sent, differing_parts, listed
from .lanes import Claim, Lane
from .recording import INPUT_FIELDS, Recording

METHODS = {
    "execute": "execute()",
    "step": "steps() or events()",
    "job": "execute_async()",
    "recorded": "a recorded function",
}

_MOST_FINDINGS = 100


class Made(NamedTuple):
    """A call that was made. ``sent`` is None if it has the input of its recording, or that is unknown."""

    claim: Claim
    sent: Sent | None


def align_lanes(
    lanes: Iterable[Lane],
    made: Iterable[Made],
    *,
    complete: bool,
    mask: Callable[[str], str],
) -> list[Finding]:
    """Return what happened to the calls, as far as the inputs tell.

    Args:
        lanes: The lanes that hold recordings.
        made: All calls so far, with the input of those that differ from their recording.
        complete: The program has come to its end. Otherwise calls that come after the last one are not
            taken for removed.
        mask: Masks the text of an input that is shown.
    """
    calls: dict[Lane, list[Made]] = {lane: [] for lane in lanes}
    for each in made:
        calls.setdefault(each.claim.lane, []).append(each)
    compared = [
        LaneAlignment(lane, of_lane)
        for lane, of_lane in calls.items()
        if lane.remaining or any(each.sent is not None for each in of_lane)
    ]
    describe = _Describe(mask, [each.lane for each in compared])
    found = _redirected(compared, describe)
    for alignment in compared:
        found += alignment.findings(describe, complete=complete)
    more = len(found) - _MOST_FINDINGS
    if more > 0:
        found[_MOST_FINDINGS:] = [Finding("more", f"and {more} more", None, None)]
    return found


class LaneAlignment:
    """The calls of one lane beside its recordings.

    Attributes:
        lane: The lane.
        removed, added: The positions without a partner.
        changed: Pairs of a recording and a call with another input.
        exchanged: Pairs of a recording and a call with its input, in another order.
    """

    def __init__(self, lane: Lane, calls: Sequence[Made]) -> None:
        self.lane = lane
        self.calls = sorted(calls, key=lambda each: each.claim.position)
        self.recorded = [_recorded_input(each) for each in lane.recordings]
        known = {each.key for each in self.recorded}
        self.made = [self._made_input(each, known) for each in self.calls]
        self.pairs = self._aligned()
        self.changed = [
            (index, other)
            for index, other in self.pairs
            if index is not None and other is not None
            if not same_input(self.recorded[index], self.made[other])
            if self.recorded[index].key is not None and self.made[other].key is not None
        ]
        self.removed = [index for index, other in self.pairs if other is None and index is not None]
        self.added = [other for index, other in self.pairs if index is None and other is not None]
        self.exchanged = [] if lane.unordered else self._exchanged()
        # The recordings after the last call that was made: a program that ended early never got there.
        reached = [index for index, other in self.pairs if None not in (index, other)]
        self.reached = max((index for index in reached if index is not None), default=-1)

    def _made_input(self, call: Made, known: set[Hashable]) -> Input:
        if call.sent is not None:
            whole, message = call.sent.keys
            key = message if message in known and whole not in known else whole
            return Input(key, input_text(call.sent.request))
        index = call.claim.index
        return Input(None) if index is None else self.recorded[index]

    def _aligned(self) -> list[Pair]:
        if not self.lane.unordered:
            return align(self.recorded, self.made)
        # Calls that overlap have no order. Those that got the recording of their own input are right.
        served = {
            call.claim.index: number for number, call in enumerate(self.calls) if call.sent is None
        }
        # Calls that are still on their way have theirs already, too.
        drifted = {call.claim.index for call in self.calls if call.sent is not None}
        unplayed = {*self.lane.unplayed()}
        indexes = [
            index
            for index in range(len(self.recorded))
            if index in drifted or (index in unplayed and index not in served)
        ]
        others = [number for number, call in enumerate(self.calls) if call.sent is not None]
        rest = align([self.recorded[i] for i in indexes], [self.made[i] for i in others])
        return [
            *((index, number) for index, number in served.items()),
            *(
                (None if a is None else indexes[a], None if b is None else others[b])
                for a, b in rest
            ),
        ]

    def _exchanged(self) -> list[tuple[int, int]]:
        """Pair the recordings and the calls with equal inputs that an alignment in order cannot pair."""
        recordings = [*self.removed, *(index for index, _ in self.changed)]
        calls = [*self.added, *(other for _, other in self.changed)]
        free: dict[Hashable, list[int]] = {}
        for other in sorted(calls, reverse=True):
            free.setdefault(self.made[other].key, []).append(other)
        pairs = []
        for index in sorted(recordings):
            key = self.recorded[index].key
            if key is not None and free.get(key):
                pairs.append((index, free[key].pop()))
        if not pairs:
            return []
        # A partner that is left alone by this was removed, or added.
        moved, taken = {index for index, _ in pairs}, {other for _, other in pairs}
        for index, other in self.changed:
            if index in moved and other not in taken:
                self.added.append(other)
            if other in taken and index not in moved:
                self.removed.append(index)
        self.changed = [
            pair for pair in self.changed if pair[0] not in moved and pair[1] not in taken
        ]
        self.removed = sorted({*self.removed} - moved)
        self.added = sorted({*self.added} - taken)
        return pairs

    def findings(self, describe: _Describe, *, complete: bool) -> list[Finding]:
        """Return what happened in this lane, in the order of the calls."""
        found: list[tuple[float, Finding]] = []
        left = dict(self.exchanged)
        for first, second in self._swaps():
            left.pop(first[0], None)
            left.pop(second[0], None)
            found.append((first[1], describe.swapped(self, first, second)))
        found += [(other, describe.moved(self, index, other)) for index, other in left.items()]
        found += [(run[0], describe.added(self, run)) for run in _runs(self.added, self._site)]
        found += [
            (run[0][1], describe.changed(self, run, parts)) for run, parts in self._changed_runs()
        ]
        gone = [i for i in self.removed if complete or i < self.reached]
        found += [
            (run[0] - 0.5, describe.removed(self, run)) for run in _runs(gone, lambda _: None)
        ]
        return [finding for _, finding in sorted(found, key=lambda each: each[0])]

    def _swaps(self) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
        """Yield two pairs of a recording and a call that stand in each other's place."""
        if not self.exchanged:
            return
        partner = {i: o for i, o in self.pairs if i is not None and o is not None}
        partner.update(self.changed)
        for index in self.removed:
            partner.pop(index, None)
        taken = {other for _, other in self.exchanged}
        partner = {i: o for i, o in partner.items() if o not in taken}
        partner.update(self.exchanged)
        # Their places among the calls of both sides: calls that were added or removed do not count.
        place = {index: number for number, index in enumerate(sorted(partner))}
        ordered = sorted(partner, key=partner.__getitem__)
        place_now = {index: number for number, index in enumerate(ordered)}
        done: set[int] = set()
        for index, other in self.exchanged:
            counterpart = ordered[place[index]]
            if index in done or place[counterpart] != place_now[index] or counterpart == index:
                continue
            if not same_input(self.recorded[counterpart], self.made[partner[counterpart]]):
                continue
            done |= {index, counterpart}
            pairs = (index, other), (counterpart, partner[counterpart])
            yield (min(pairs), max(pairs))

    def _changed_runs(self) -> Iterator[tuple[list[tuple[int, int]], tuple[str, ...]]]:
        parts = {}
        for index, other in self.changed:
            parts[other] = self._parts(index, other)

        def group(numbered: tuple[int, tuple[int, int]]) -> Hashable:
            number, (index, other) = numbered
            return other - number, index - number, parts[other], self._site(other)

        for _, run in groupby(enumerate(self.changed), group):
            pairs = [pair for _, pair in run]
            size = len(pairs) if len(pairs) > 2 else 1
            for at in range(0, len(pairs), size):
                yield pairs[at : at + size], parts[pairs[at][1]]

    def _parts(self, index: int, other: int) -> tuple[str, ...]:
        recording, sent = self.lane.recordings[index], self.calls[other].sent
        if recording.request is None or sent is None:
            # The call has the input of the recording that it was served from, which is another one.
            return ("input",)
        if recording.message_only:
            return ("message",)
        parts = differing_parts(recording.request, sent.request)
        if recording.version != sent.version:
            parts.append("version")
        return tuple(parts) or ("input",)

    def _site(self, other: int) -> CallSite | None:
        return self.calls[other].claim.site


def _runs(positions: Sequence[int], group: Callable[[int], Hashable]) -> Iterator[list[int]]:
    """Yield three and more positions in a row as one list, others alone."""
    numbered = enumerate(positions)
    for _, run in groupby(numbered, lambda each: (each[1] - each[0], group(each[1]))):
        row = [position for _, position in run]
        size = len(row) if len(row) > 2 else 1
        yield from (row[at : at + size] for at in range(0, len(row), size))


class _Describe:
    """Puts findings into words. Calls are counted within their flow and kind, from 1."""

    def __init__(self, mask: Callable[[str], str], lanes: Sequence[Lane]) -> None:
        self._mask = mask
        # A flow that is called in one way only needs no mention of it, nor a slug of one organisation.
        names = Counter((lane.slug, lane.kind) for lane in lanes)
        slugs = Counter(slug for slug, _ in names)
        self._several = {slug for slug, count in slugs.items() if count > 1}
        self._of_several = {slug for (slug, _), count in names.items() if count > 1}

    def added(self, of: LaneAlignment, calls: Sequence[int]) -> Finding:
        verb = "was" if len(calls) == 1 else "were"
        text = f"{_numbers('call', calls)} {verb} added {self._where(of, calls[0])}"
        return self._finding("added", text, of, made=calls)

    def removed(self, of: LaneAlignment, recordings: Sequence[int]) -> Finding:
        verb = "was" if len(recordings) == 1 else "were"
        numbers = _numbers("call", recordings)
        text = f"the recorded {numbers}{self._input(of, recordings[0])} {verb} removed {self._where(of)}"
        return self._finding("removed", text, of, recorded=recordings)

    def changed(
        self, of: LaneAlignment, pairs: Sequence[tuple[int, int]], parts: Sequence[str]
    ) -> Finding:
        calls = [other for _, other in pairs]
        recorded = [index for index, _ in pairs]
        note = "" if recorded == calls else f"recorded as {_numbers('call', recorded)}"
        names = self._mask(listed(parts))
        where = self._where(of, calls[0], note)
        text = f"{names} of {_numbers('call', calls)} changed {where}"
        return self._finding("changed", text, of, recorded=recorded, made=calls)

    def swapped(self, of: LaneAlignment, one: tuple[int, int], other: tuple[int, int]) -> Finding:
        first, second = sorted((one[1], other[1]))
        text = f"calls {first + 1} and {second + 1} look swapped {self._where(of, first)}"
        recorded = sorted((one[0], other[0]))
        return self._finding("swapped", text, of, recorded=recorded, made=(first, second))

    def moved(self, of: LaneAlignment, index: int, other: int) -> Finding:
        text = (
            f"the recorded call {index + 1}{self._input(of, index)} is made as call {other + 1} "
            f"{self._where(of, other)}"
        )
        return self._finding("moved", text, of, recorded=(index,), made=(other,))

    def redirected(self, of: LaneAlignment, other: int, old: LaneAlignment, index: int) -> Finding:
        if of.lane.slug == old.lane.slug and of.lane.kind != old.lane.kind:
            now = METHODS.get(str(of.lane.kind), of.lane.kind)
            then = METHODS.get(str(old.lane.kind), old.lane.kind)
            text = (
                f"call {other + 1} is made by {now}; it was recorded as call {index + 1} by {then} "
                f"{self._where(of, other)}"
            )
        else:
            text = (
                f"call {other + 1} goes to another flow; it was recorded as call {index + 1} of "
                f"{self._name(old.lane)} {self._where(of, other)}"
            )
        return self._finding("redirected", text, of, recorded=(index,), made=(other,))

    def crossed(self, one: tuple[LaneAlignment, int], other: tuple[LaneAlignment, int]) -> Finding:
        (of, call), (second, second_call) = one, other
        text = (
            f"the inputs of call {call + 1} of {self._name(of.lane)} and call {second_call + 1} of "
            f"{self._name(second.lane)} look swapped {self._where(of, call)}"
        )
        return self._finding("swapped", text, of, made=(call,))

    def _finding(
        self,
        what: str,
        text: str,
        of: LaneAlignment,
        recorded: Sequence[int] = (),
        made: Sequence[int] = (),
    ) -> Finding:
        site = of._site(made[0]) if made else None
        lane = of.lane
        return Finding(what, text, lane.slug, lane.kind, tuple(recorded), tuple(made), site)

    def _where(self, of: LaneAlignment, call: int | None = None, note: str = "") -> str:
        lane = of.lane
        name = self._name(lane)
        if lane.slug in self._several:
            name += f" [{lane.kind}]"
        site = None if call is None else of._site(call)
        parts = [name, *([printable(site.short, 80)] if site else []), *([note] if note else [])]
        return f"({', '.join(parts)})"

    def _name(self, lane: Lane) -> str:
        if lane.slug is None:
            return "(deleted flow)"
        if lane.slug in self._of_several and lane.address is not None:
            return printable("/".join(map(str, (*lane.address, lane.slug))), 80)
        return printable(lane.slug, 80)

    def _input(self, of: LaneAlignment, index: int) -> str:
        request = of.lane.recordings[index].request
        if request is None:
            return ""
        text = request.get("message")
        turns = request.get("messages")
        if text is None and turns and isinstance(turns, list):
            last = turns[-1]
            text = last.get("content") if isinstance(last, dict) else last
        if not text:
            text = {name: request[name] for name in INPUT_FIELDS if request.get(name)}
        if not isinstance(text, str):
            text = json.dumps(text, ensure_ascii=False)
        # Masked as a whole, not as the part that is shown: half a secret has another form.
        return f" ('{printable(self._mask(text[:10_000]), 40)}')"


def _redirected(lanes: Sequence[LaneAlignment], describe: _Describe) -> list[Finding]:
    """Find the calls that were recorded in another lane, and take them out of theirs."""
    found = []
    gone = [(lane, index) for lane in lanes for index in lane.removed]
    for lane in lanes:
        for other in list(lane.added):
            match = _recorded_elsewhere(lane, other, gone)
            if match is not None:
                old, index = match
                gone.remove(match)
                old.removed.remove(index)
                lane.added.remove(other)
                found.append(describe.redirected(lane, other, old, index))
    return found + _crossed(lanes, describe)


def _crossed(lanes: Sequence[LaneAlignment], describe: _Describe) -> list[Finding]:
    """Find the pairs of changed calls of two lanes that have each other's input."""
    found = []
    changed: dict[Hashable, list[tuple[LaneAlignment, int, int]]] = {}
    for lane in lanes:
        for index, other in lane.changed:
            changed.setdefault(lane.recorded[index].key, []).append((lane, index, other))
    for lane in lanes:
        for index, other in list(lane.changed):
            sent = lane.calls[other].sent
            if sent is None or lane.lane.kind == "recorded":
                continue
            for partner, at, call in [each for key in sent.keys for each in changed.get(key, ())]:
                back = partner.calls[call].sent
                if partner is lane or back is None or (at, call) not in partner.changed:
                    continue
                if lane.recorded[index].key in back.keys and (index, other) in lane.changed:
                    lane.changed.remove((index, other))
                    partner.changed.remove((at, call))
                    found.append(describe.crossed((lane, other), (partner, call)))
    return found


def _recorded_elsewhere(
    lane: LaneAlignment, other: int, gone: Sequence[tuple[LaneAlignment, int]]
) -> tuple[LaneAlignment, int] | None:
    sent = lane.calls[other].sent
    if sent is None or lane.lane.kind == "recorded":
        return None  # functions without arguments all have the same input
    for old, index in gone:
        if old is not lane and old.recorded[index].key in sent.keys:
            return old, index
    return None


def _recorded_input(recording: Recording) -> Input:
    request = recording.request
    return Input(None) if request is None else Input(recording.fingerprint, input_text(request))


def _numbers(noun: str, positions: Sequence[int]) -> str:
    if len(positions) == 1:
        return f"{noun} {positions[0] + 1}"
    return f"{noun}s {positions[0] + 1} to {positions[-1] + 1}"
