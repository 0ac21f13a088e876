"""Match calls to recordings within one lane: the calls of one flow and kind, or of one recorded function.

Sequential calls match by position: the Nth call gets the Nth recording, whatever its input. If calls
overlap, in the recording or now, position is meaningless, so they match by input first and by position
second.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from weakref import ref

from ..models.reports import CallSite
from .recording import Recording, differing_fields, fingerprint, message_fingerprint

Redact = Callable[[Mapping[str, Any]], Mapping[str, Any]]

Address = tuple[str | None, str | None]
"""Organisation and project."""


class Claim:
    """The place of one call in its lane, taken when the method is called.

    Only the program that serves the call holds its claim. So a call that is dropped before it begins
    (a coroutine that is never awaited) takes no recording, just as it would send nothing.

    Attributes:
        assigned: Whether ``index`` is decided.
        index: The position of the call's recording, None for a miss.
        address: The call's organisation and project, None in a lane that has only one.
        order: The number of the call among all calls of a fork.
    """

    __slots__ = (
        "__weakref__",
        "address",
        "assigned",
        "index",
        "lane",
        "order",
        "position",
        "redact",
        "request",
        "site",
        "version",
    )

    def __init__(
        self,
        lane: Lane,
        position: int,
        request: Mapping[str, Any],
        version: int | None,
        site: CallSite | None,
        redact: Redact | None,
        address: Address | None = None,
    ) -> None:
        self.lane = lane
        self.position = position
        self.address = address
        self.order = 0
        self.request = request
        self.version = version
        self.site = site
        self.redact = redact
        self.assigned = False
        self.index: int | None = None

    @property
    def recording(self) -> Recording | None:
        """The recording that the call got, None for a miss."""
        return None if self.index is None else self.lane.recordings[self.index]

    def redacted_request(self) -> Mapping[str, Any]:
        """Return the request as a redacted recording of it would hold it."""
        return self.request if self.redact is None else self.redact(self.request)

    def changed_fields(self, recording: Recording) -> tuple[list[str], Mapping[str, Any]]:
        """Return the fields of the input that are known to differ from the recorded ones.

        Returns:
            The fields, and the redacted request that was compared.
        """
        request = self.redacted_request()
        if recording.request is None:
            return [], request
        if recording.message_only:
            differs = recording.request.get("message") != request.get("message")
            return (["message"] if differs else []), request
        changed = differing_fields(recording.request, request)
        same_version = recording.version == self.version
        return (changed if same_version else [*changed, "version"]), request


@dataclass
class Decision:
    """How overlapping calls were matched.

    Attributes:
        together: How many calls were matched at once.
        by_input: How many of them got the recording of their own input.
        ambiguous: How many of those have an input that other recordings have as well.
        reordered: The calls are known to overlap, or one did not get the recording at its position.
    """

    together: int
    by_input: int = 0
    ambiguous: int = 0
    reordered: bool = False

    def __str__(self) -> str:
        if self.ambiguous:
            return "some have the same input, so these were served in recorded order"
        if self.by_input == self.together:
            return "each got the recording of its own input"
        return "calls whose input was not recorded were matched by position"


class Lane:
    """The recordings of one flow and kind, and the calls that claimed them. Not thread-safe.

    Attributes:
        address: The organisation and project of the recordings; None if some have none.
        problem: Why there may be no recordings: the part of the session that has them cannot be read.
    """

    def __init__(
        self,
        slug: str | None,
        kind: str | None,
        recordings: Sequence[Recording] = (),
        address: Address | None = None,
    ) -> None:
        self.slug = slug
        self.kind = kind
        self.address = address
        self.problem: str | None = None
        self.recordings = recordings
        # Recordings of a known organisation among those of unknown ones never serve another one.
        self._is_mixed = address is None and any(each.org is not None for each in recordings)
        self.calls = 0
        self.under_way = 0
        self.skipped = 0
        self._waiting: list[ref[Claim]] = []
        self._played = bytearray(len(recordings))
        # A call was claimed while another one was under way. That alone may mean nothing: a stream
        # that is still being read is under way.
        self._crowded = False

    @property
    def name(self) -> str:
        """Its calls, for messages."""
        return f"{self.kind} calls of flow {self.slug!r}"

    @cached_property
    def _overlapping(self) -> bool:
        # Once calls have overlapped, the order of the later calls is meaningless too.
        return _overlap(self.recordings)

    def claim(
        self,
        request: Mapping[str, Any],
        version: int | None = None,
        site: CallSite | None = None,
        redact: Redact | None = None,
    ) -> Claim:
        """Take a place for a call that is made now."""
        position = self.calls + len(self._waiting)
        claim = Claim(self, position, request, version, site, redact)
        self._waiting.append(ref(claim))
        self._crowded = self._crowded or self.under_way > 0
        return claim

    def take_over(self, claim: Claim) -> None:
        """Take a place for a call that was made before this lane was there."""
        claim.lane, claim.position = self, self.calls + len(self._waiting)
        self._waiting.append(ref(claim))
        self._crowded = self._crowded or self.under_way > 0

    def extend(self, recordings: Sequence[Recording]) -> None:
        """Add recordings of another part of the session."""
        recordings = [*self.recordings, *recordings]
        if not any(self._played):
            recordings.sort(key=lambda each: each.started_at or 0.0)
        self.recordings = recordings
        self._played.extend(bytes(len(recordings) - len(self._played)))
        self._overlapping = self._overlapping or _overlap(recordings)
        self._is_mixed = self.address is None and any(each.org is not None for each in recordings)
        self.__dict__.pop("_positions_by_input", None)

    def assign(
        self, claim: Claim, *, by_input: bool = False, settled: bool = True
    ) -> Decision | None:
        """Give ``claim`` its recording, and all other waiting claims theirs.

        Args:
            claim: A claim of this lane.
            by_input: A call whose input was not recorded is a miss, even if its position has a
                recording.
            settled: The program can go no further, so all calls that are made together with this one
                have their claims. If not, an overlapping call whose input was not recorded gets nothing
                yet: the recording at its position may belong to a call that comes.

        Returns:
            The decision; None if order alone decided, or ``claim`` was assigned before or is not yet.
        """
        if claim.assigned:
            return None
        waiting = [each for place in self._waiting if (each := place()) is not None]
        self._waiting.clear()
        for each in waiting:
            each.position = self.calls
            self.calls += 1
        if len(waiting) > 1:
            self._overlapping = True
        if not (self._overlapping or self._crowded or by_input):
            position = claim.position
            self._take(claim, self._first_of(claim.address) if self._is_mixed else position)
            return None

        decision = Decision(0, reordered=self._overlapping)
        # All inputs come before any position: a call whose input was never recorded must not take
        # the recording of another waiting call.
        unmatched = [each for each in waiting if not self._match_input(each, decision)]
        decision.together = decision.by_input
        if claim.index is None and claim not in unmatched:
            unmatched.append(claim)  # it has waited until the program settled
        for each in unmatched:
            if not by_input and not (settled and each is claim):
                continue
            each.assigned = True
            decision.together += 1
            position = each.position
            if by_input and not self._has_unknown_input(position):
                continue
            if self._is_mixed:
                position = self._first_of(each.address)
            elif position >= len(self._played) or self._played[position]:
                position = self._played.find(0)
                decision.reordered = True
            self._take(each, position)
        waits = not settled and claim in unmatched
        return None if by_input or waits else decision

    def unplayed(self) -> list[int]:
        """Return the positions of the recordings that no call has taken, in order."""
        return [index for index, played in enumerate(self._played) if not played]

    @property
    def remaining(self) -> int:
        """How many recordings no call has taken."""
        return len(self.recordings) - sum(self._played)

    @property
    def unordered(self) -> bool:
        """Whether calls have overlapped, so that they match by input."""
        return self._overlapping or self._crowded

    def _take(self, claim: Claim, position: int) -> None:
        claim.assigned = True
        if 0 <= position < len(self._played):
            self._played[position] = 1
            claim.index = position

    def _first_of(self, address: Address | None) -> int:
        """Return the first unplayed position that may belong to the organisation; -1 if there is none."""
        for position, recording in enumerate(self.recordings):
            known = address_of(recording)
            if not self._played[position] and (known is None or known == address):
                return position
        return -1

    def _has_unknown_input(self, position: int) -> bool:
        return position < len(self.recordings) and self.recordings[position].request is None

    def _match_input(self, claim: Claim, decision: Decision) -> bool:
        request = claim.redacted_request()
        for key in (fingerprint(request, claim.version), message_fingerprint(request)):
            matches = self._positions_by_input.get(key, ())
            while matches and self._played[matches[0]]:
                matches.popleft()
            if matches and self._is_mixed:
                known = address_of(self.recordings[matches[0]])
                if known is not None and known != claim.address:
                    continue
            if matches:
                decision.by_input += 1
                decision.ambiguous += len(matches) > 1
                decision.reordered |= matches[0] != claim.position
                self._take(claim, matches.popleft())
                return True
        return False

    @cached_property
    def _positions_by_input(self) -> dict[str, deque[int]]:
        positions: dict[str, deque[int]] = {}
        for position, recording in enumerate(self.recordings):
            if recording.fingerprint is not None:
                positions.setdefault(recording.fingerprint, deque()).append(position)
        return positions


def address_of(recording: Recording) -> Address | None:
    """Return the organisation and project of a recording, None if the source does not tell them."""
    if recording.org is None or recording.project is None:
        return None
    return recording.org, recording.project


def _overlap(recordings: Sequence[Recording]) -> bool:
    latest = float("-inf")
    for recording in recordings:
        if recording.started_at is None:
            continue
        if recording.started_at < latest:
            return True
        latest = recording.completed_at or recording.started_at
    return False
